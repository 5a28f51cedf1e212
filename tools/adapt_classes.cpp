// kvt adapt --task classify: labelled texts by a head on pooled states, or by words that a language model scores.
#include <algorithm>
#include <cmath>
#include <set>

#include "engine/fingerprint.h"
#include "engine/kvt_adapter.h"
#include "tools/adapt.h"
#include "tools/commands.h"
#include "tools/text_model.h"
#include "tools/training_data.h"

namespace kvt {

namespace {

// A task of a classifier of its own, with the head of another.
struct OwningTask : Task {
  std::shared_ptr<CausalLm> model;
  TextClassifier classifier;
  TextClassTask task;
  OwningTask(std::shared_ptr<CausalLm> m, TextClassifier c, const LabelledTexts& data) : model(std::move(m)), classifier(std::move(c)), task(classifier, data) {}
  int64_t size() const override { return task.size(); }
  Extent extent(std::span<const int64_t> indices) const override { return task.extent(indices); }
  Tensor loss(std::span<const int64_t> indices, const Pass& pass) const override { return task.loss(indices, pass); }
};

class ClassGoal : public Goal {
 public:
  explicit ClassGoal(const AdaptOptions& o) : loaded_(open_text_model(o.model, true)), classifier_(loaded_.classifier()) {
    gguf = loaded_.gguf;
    base = kvt::fingerprint(gguf);
    require(loaded_.lm || !o.train.recompute, "adapt: --recompute is for language models; the base is an encoder");
    require(loaded_.lm || o.label_words.empty(), "adapt: --label-words is for language models; the base is an encoder");
    std::vector<LabelledText> texts = read_labelled(o.data), held_out;
    if (!o.valid.empty()) held_out = read_labelled(o.valid);
    else if (const double share = o.valid_split > 0 ? o.valid_split : in_rounds(o) ? 0.2 : 0; share > 0) held_out = split(texts, share, o.train.seed);

    std::set<std::string> names;
    for (const LabelledText& t : texts) names.insert(t.label);
    settings_.names.assign(names.begin(), names.end());
    require(names.size() >= 2, o.data, ": ", names.size(), " class(es) among ", texts.size(), " texts, expected 2 or more");
    settings_.length = loaded_.encoder ? std::min(o.length, loaded_.encoder->config().context) : o.length;
    settings_.text = o.text;
    settings_.pooling = pooling(o.pooling);
    if (!o.label_words.empty()) settings_.words = parse_words(o.label_words, settings_.names, settings_.text);
    prepare(classifier_, settings_, *loaded_.tokenizer, nullptr);
    for (const Trained& t : head()) t.tensor.want_grad();
    data_.emplace(texts, settings_, *loaded_.tokenizer);
    if (!held_out.empty()) validation_.emplace(held_out, settings_, *loaded_.tokenizer);
  }

  Model& model() const override { return loaded_.model(); }
  CausalLm* language_model() const override { return loaded_.lm.get(); }
  bool has_validation() const override { return validation_.has_value(); }
  std::unique_ptr<Task> task(Part part, const std::shared_ptr<CausalLm>& made, const std::optional<Fusion>& fusion) const override {
    return std::make_unique<OwningTask>(made, classifier(made, fusion), data(part));
  }
  const Examples& texts() const override { return data_->texts(); }
  std::vector<Tensor> knowledge_states(int64_t n, int64_t layer) const override {
    return loaded_.lm ? kvt::knowledge_states(*loaded_.lm, texts(), n, layer) : kvt::knowledge_states(*loaded_.encoder, texts(), n, layer);
  }
  uint64_t fingerprint(Part part) const override { return part == Part::validation && !validation_ ? 0 : data(part).fingerprint(); }
  std::map<std::string, std::string> identity() const override {
    std::string words = settings_.words.empty() ? name(settings_.pooling) : "";
    for (const std::string& word : settings_.words) words += word + ";";
    return {{"task", "classify"}, {"text", settings_.text}, {"classes", words}};
  }
  void print(Report& report) const override {
    report.line("data        " + std::to_string(data_->size()) + " texts of " + std::to_string(settings_.names.size()) + " classes, " + in_thousands(data_->tokens()) + " tokens" +
                (validation_ ? "; validation " + std::to_string(validation_->size()) + " texts" : "") +
                (data_->truncated() > 0 ? "; " + std::to_string(data_->truncated()) + " were cut to " + std::to_string(settings_.length) + " tokens" : ""));
  }
  nlohmann::json plan() const override {
    return {{"examples", data_->size()}, {"labels", data_->size()}, {"classes", settings_.names}, {"truncated", data_->truncated()},
            {"validation_labels", validation_ ? validation_->size() : 0}};
  }
  std::vector<FusionLoss> fusion_losses(const std::shared_ptr<CausalLm>& made, int64_t batch) const override {
    return kvt::fusion_losses(classifier(made, {}), *validation_, batch, fusion_grid(), interrupted);
  }

  TrainedSet head() const override {
    if (!settings_.words.empty()) return {};
    return {{"kvt.head.weight", classifier_.head.weight, true}, {"kvt.head.bias", classifier_.head.bias, false}};
  }
  std::unique_ptr<Task> head_task(Part part) const override {
    const Tensor rows = features(classifier_, data(part), 8, interrupted);
    if (!rows) throw Interrupted();
    return std::make_unique<FeatureTask>(classifier_.head, rows, data(part).classes());
  }
  // Every method with a head starts from the linear probe.
  double fit_head(Report& report, const TrainOptions& o) override {
    if (!settings_.words.empty()) return 0;
    TrainOptions options;
    options.steps = 300, options.batch = 32, options.lr = 1e-2f, options.eval_every = 20, options.patience = 5, options.seed = o.seed;
    const auto task = head_task(Part::training), held_out = has_validation() ? head_task(Part::validation) : nullptr;
    TrainState state;
    TrainCallbacks callbacks;
    callbacks.cancelled = interrupted;
    if (train(*task, head(), options, held_out.get(), state, callbacks) == TrainEnd::cancelled) throw Interrupted();
    report.line("head        fitted on the states of the model as it is" + (held_out ? ": validation loss " + std::to_string(state.best_loss) : std::string()));
    return 1;
  }
  void store(Gguf& file) const override { write_classes(file, settings_, classifier_); }
  void restore(const Gguf& file) override {
    for (const Trained& t : head()) {
      const Tensor stored = file.tensor(t.name);
      require(stored.shape() == t.tensor.shape() && stored.dtype() == DType::F32, file.path(), ": tensor '", t.name, "' is ", stored.dtype(), " ", stored.shape());
      std::copy_n(stored.data(), stored.size(), t.tensor.data());
    }
  }

 private:
  const LabelledTexts& data(Part part) const { return part == Part::training ? *data_ : *validation_; }
  TextClassifier classifier(const std::shared_ptr<CausalLm>& made, const std::optional<Fusion>& fusion) const {
    TextClassifier c = made ? TextClassifier(*made) : loaded_.classifier();
    c.pooling = classifier_.pooling, c.head = classifier_.head, c.words = classifier_.words, c.fusion = fusion;      // a Tensor is a handle: the same head
    return c;
  }
  // ⌈share · n⌉ of the texts, drawn by the seed: files are often sorted by class.
  static std::vector<LabelledText> split(std::vector<LabelledText>& texts, double share, uint64_t seed) {
    require(texts.size() >= 2, "data: cannot split ", texts.size(), " text(s) into training and validation");
    Rng rng(seed);
    for (size_t i = texts.size(); i > 1; --i) std::swap(texts[i - 1], texts[rng.below(i)]);
    const auto n = std::min(size_t(std::ceil(share * double(texts.size()))), texts.size() - 1);
    std::vector<LabelledText> part(texts.end() - int64_t(n), texts.end());
    texts.resize(texts.size() - n);
    return part;
  }

  TextModel loaded_;
  TextClassifier classifier_;
  ClassSettings settings_;
  std::optional<LabelledTexts> data_, validation_;
};

}  // namespace

std::unique_ptr<Goal> class_goal(const AdaptOptions& o) { return std::make_unique<ClassGoal>(o); }

}  // namespace kvt
