// kvt adapt --task language: next tokens of a text, or of the completions of pairs.
#include "engine/fingerprint.h"
#include "engine/kvt_adapter.h"
#include "tools/adapt.h"
#include "tools/commands.h"
#include "tools/training_data.h"

namespace kvt {

namespace {

// A task of a model that it keeps alive
struct OwningTask : CausalTask {
  std::shared_ptr<CausalLm> model;
  OwningTask(std::shared_ptr<CausalLm> m, const Examples& data) : CausalTask(*m, data), model(std::move(m)) {}
};

class LanguageGoal : public Goal {
 public:
  explicit LanguageGoal(const AdaptOptions& o) : length_(o.length), loaded_(open_model(o.model, false)), data_(read_examples(o.data, *loaded_.tokenizer, o.length)) {
    gguf = loaded_.gguf;
    base = kvt::fingerprint(gguf);
    if (!o.valid.empty()) validation_ = read_examples(o.valid, *loaded_.tokenizer, o.length);
    else if (in_rounds(o) && o.valid_split == 0) validation_ = data_.split(0.2);      // its rounds are judged on it
    else if (o.valid_split > 0) validation_ = data_.split(o.valid_split);
    split_ = o.valid.empty();
  }

  Model& model() const override { return *loaded_.model; }
  CausalLm* language_model() const override { return loaded_.model.get(); }
  bool has_validation() const override { return validation_.has_value(); }
  std::unique_ptr<Task> task(Part part, const std::shared_ptr<CausalLm>& made, const std::optional<Fusion>& fusion) const override {
    std::shared_ptr<CausalLm> model = made ? made : unowned(*loaded_.model);
    if (fusion) model = std::make_shared<Fused>(model, *fusion);
    return std::make_unique<OwningTask>(model, examples(part));
  }
  const Examples& texts() const override { return data_; }
  std::vector<Tensor> knowledge_states(int64_t texts, int64_t layer) const override { return kvt::knowledge_states(*loaded_.model, data_, texts, layer); }
  uint64_t fingerprint(Part part) const override { return part == Part::validation && !validation_ ? 0 : examples(part).fingerprint(); }

  void print(Report& report) const override {
    report.line("data        " + std::to_string(data_.size()) + " examples of at most " + std::to_string(length_) + " tokens, " + in_thousands(data_.learned()) +
                " labels" + (validation_ ? "; validation " + std::to_string(validation_->size()) + " examples, " + in_thousands(validation_->learned()) + " labels" : "") +
                (validation_ && split_ ? " (from the end of the data)" : ""));
    if (data_.truncated() > 0)
      report.line("warning     " + std::to_string(data_.truncated()) + " pairs are longer than " + std::to_string(length_) + " tokens and were cut; " +
                  std::to_string(data_.dropped()) + " of them had nothing left to learn");
  }
  nlohmann::json plan() const override {
    return {{"examples", data_.size()}, {"labels", data_.learned()}, {"truncated", data_.truncated()}, {"dropped", data_.dropped()},
            {"validation_labels", validation_ ? validation_->learned() : 0}};
  }
  std::vector<FusionLoss> fusion_losses(const std::shared_ptr<CausalLm>& made, int64_t batch) const override {
    return kvt::fusion_losses(made ? made : unowned(*loaded_.model), *validation_, batch, fusion_grid(), interrupted);
  }

 private:
  const Examples& examples(Part part) const { return part == Part::training ? data_ : *validation_; }

  int64_t length_;
  bool split_ = false;
  LoadedModel loaded_;
  Examples data_;
  std::optional<Examples> validation_;
};

}  // namespace

std::unique_ptr<Goal> language_goal(const AdaptOptions& o) { return std::make_unique<LanguageGoal>(o); }

}  // namespace kvt
