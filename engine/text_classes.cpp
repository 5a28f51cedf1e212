#include "engine/text_classes.h"

#include <algorithm>
#include <numeric>

#include "engine/adapter.h"
#include "engine/fingerprint.h"
#include "ops/quant.h"

namespace kvt {

static constexpr const char *names_key = "kvt.classes", *text_key = "kvt.classify.text", *length_key = "kvt.classify.length",
                            *pooling_key = "kvt.classify.pooling", *words_key = "kvt.classify.words";
static const std::string weight_name = std::string(head_prefix) + "weight", bias_name = std::string(head_prefix) + "bias";

const char* name(Pooling pooling) { return pooling == Pooling::mean ? "mean" : pooling == Pooling::first ? "first" : "last"; }

Pooling pooling(const std::string& text) {
  for (const Pooling p : {Pooling::mean, Pooling::first, Pooling::last})
    if (text == name(p)) return p;
  fail("no pooling '", text, "'; there are mean, first and last");
}

std::optional<ClassSettings> read_classes(const Gguf& file) {
  if (!file.has(names_key)) return std::nullopt;
  ClassSettings s;
  s.names = file.array<std::string>(names_key);
  s.text = file.string(text_key);
  s.length = file.integer(length_key);
  require(s.names.size() >= 2 && s.length >= 1 && s.length <= int64_t(1) << 31, file.path(), ": ", s.names.size(), " classes, texts of ", s.length, " tokens");
  if (file.has(words_key)) {
    s.words = file.array<std::string>(words_key);
    require(s.words.size() == s.names.size(), file.path(), ": ", s.words.size(), " words for ", s.names.size(), " classes");
  } else {
    s.pooling = pooling(file.string(pooling_key));
  }
  return s;
}

void write_classes(Gguf& file, const ClassSettings& s, const TextClassifier& classifier) {
  file.set(names_key, s.names);
  file.set(text_key, s.text);
  file.set(length_key, uint32_t(s.length));
  if (!s.words.empty()) return file.set(words_key, s.words);
  file.set(pooling_key, std::string(name(s.pooling)));
  file.add(weight_name, classifier.head.weight);
  file.add(bias_name, classifier.head.bias);
}

void load_head(Linear& head, const Gguf& file) {
  for (auto* p : {&head.weight, &head.bias}) {
    const std::string& name = p == &head.weight ? weight_name : bias_name;
    const Tensor stored = file.tensor(name);
    require(stored.shape() == p->shape && is_float(stored.dtype()), file.path(), ": tensor '", name, "' is ", stored.dtype(), " ", stored.shape(), ", expected ", p->shape);
    p->tensor = unpack(stored);
  }
}

void copy_classes(const Gguf& from, Gguf& to) {
  for (const auto& [name, value] : from.keys())
    if (name == names_key || name.starts_with("kvt.classify.")) to.set(name, value);
  for (const Gguf::Entry& e : from.tensors())
    if (e.name.starts_with(head_prefix)) to.add(e.name, e.tensor);
}

void prepare(TextClassifier& classifier, const ClassSettings& s, const Tokenizer& tokenizer, const Gguf* file) {
  if (s.words.empty()) {
    const int64_t n = int64_t(s.names.size()), C = classifier.channels();
    classifier.pooling = s.pooling;
    classifier.head = Linear(C, n, true);
    classifier.head.weight.tensor = Tensor::zeros({n, C});
    classifier.head.bias.tensor = Tensor::zeros({n});
    if (file) load_head(classifier.head, *file);
    return;
  }
  classifier.words.clear();
  for (size_t c = 0; c < s.words.size(); ++c) {
    const Ids ids = tokenizer.encode(s.words[c], {.add_special = false, .parse_special = false});
    require(!ids.empty(), "classes: the word of class '", s.names[c], "' is empty");
    const auto found = std::find(classifier.words.begin(), classifier.words.end(), ids[0]);
    require(found == classifier.words.end(), "classes: the words '", s.words[size_t(found - classifier.words.begin())], "' and '", s.words[c],
            "' begin with the same token; choose others");
    classifier.words.push_back(ids[0]);
  }
}

LabelledTexts::LabelledTexts(const std::vector<LabelledText>& texts, const ClassSettings& s, const Tokenizer& tokenizer) : texts_(s.length) {
  static constexpr std::string_view slot = "{text}";
  const size_t at = s.text.find(slot);
  require(at != std::string::npos && s.text.find(slot, at + 1) == std::string::npos, "classes: '", s.text, "' must have {text} in it, once");
  const auto encode = [&](std::string_view part) { return tokenizer.encode(part, {.add_special = false, .parse_special = true}); };
  // What the tokenizer puts around every text: [CLS] and [SEP], or a language model's BOS. An end token of the latter has no place here.
  Ids before = tokenizer.encode("", {.add_special = true, .parse_special = false}), after = encode(std::string_view(s.text).substr(at + slot.size()));
  const Vocab& vocab = tokenizer.vocab();
  const bool encoder = before.size() == 2 && before[1] == vocab.separator;
  if (encoder) after.push_back(before[1]);
  before.resize(std::min<size_t>(before.size(), encoder || vocab.add_bos ? 1 : 0));
  for (const int32_t id : encode(std::string_view(s.text).substr(0, at))) before.push_back(id);
  const int64_t room = s.length - int64_t(before.size() + after.size());
  require(room >= 1, "classes: '", s.text, "' takes ", before.size() + after.size(), " of ", s.length, " tokens");

  for (size_t i = 0; i < texts.size(); ++i) {
    const auto found = std::find(s.names.begin(), s.names.end(), texts[i].label);
    require(found != s.names.end(), "classes: text ", i + 1, " is of class '", texts[i].label, "', which there is not");
    Ids body = tokenizer.encode(texts[i].text, {.add_special = false, .parse_special = false});
    require(!body.empty(), "classes: text ", i + 1, " is empty");
    truncated_ += int64_t(body.size()) > room;
    body.resize(std::min(body.size(), size_t(room)));
    body.insert(body.begin(), before.begin(), before.end());
    body.insert(body.end(), after.begin(), after.end());
    const Ids ignored(body.size(), ignored_label);
    texts_.add({std::move(body), ignored});
    classes_.push_back(int32_t(found - s.names.begin()));
  }
}

int64_t LabelledTexts::tokens() const {
  int64_t n = 0;
  for (int64_t i = 0; i < size(); ++i) n += int64_t(texts_[i].tokens.size());
  return n;
}

TextBatch LabelledTexts::batch(std::span<const int64_t> indices) const {
  Batch b = texts_.batch(indices);
  TextBatch batch{std::move(b.tokens), {}, b.T};
  for (const int64_t i : indices) batch.lengths.push_back(int32_t(texts_[i].tokens.size()));
  return batch;
}

uint64_t LabelledTexts::fingerprint() const {
  Hash64 hash;
  hash.add(texts_.fingerprint());
  hash.add(classes_.data(), classes_.size() * sizeof(int32_t));
  return hash.value();
}

Task::Extent TextClassTask::extent(std::span<const int64_t> indices) const {
  return {int64_t(indices.size()), data_.batch(indices).T * int64_t(indices.size())};
}

static Ids classes_of(const LabelledTexts& data, std::span<const int64_t> indices) {
  Ids classes;
  for (const int64_t i : indices) classes.push_back(data.classes()[size_t(i)]);
  return classes;
}

Tensor TextClassTask::loss(std::span<const int64_t> indices, const Pass& pass) const {
  return cross_entropy(classifier_.scores(data_.batch(indices), pass.recompute), classes_of(data_, indices));
}

// f(indices) for all texts, a batch at a time, until it says false.
template <class F>
static bool each_batch(const LabelledTexts& data, int64_t batch, F f) {
  require(data.size() > 0, "classes: there are no texts");
  const Tape::Pause inference;
  std::vector<int64_t> indices;
  for (int64_t begin = 0; begin < data.size(); begin += batch) {
    indices.resize(size_t(std::min(batch, data.size() - begin)));
    std::iota(indices.begin(), indices.end(), begin);
    if (!f(indices)) return false;
  }
  return true;
}

Tensor features(const TextClassifier& classifier, const LabelledTexts& data, int64_t batch, const std::function<bool()>& cancelled) {
  std::vector<Tensor> rows;
  const bool done = each_batch(data, batch, [&](const std::vector<int64_t>& indices) {
    if (cancelled && cancelled()) return false;
    rows.push_back(classifier.features(data.batch(indices)));
    return true;
  });
  const Tape::Pause inference;
  return done ? concat(rows, 0) : Tensor();
}

std::vector<FusionLoss> fusion_losses(const TextClassifier& classifier, const LabelledTexts& data, int64_t batch, const std::vector<Fusion>& candidates,
                                      const std::function<bool()>& cancelled) {
  const auto scores = [&](std::span<const int64_t> indices) { return classifier.twin_scores(data.batch(indices)); };
  return fusion_losses(data.classes(), batch, scores, candidates, cancelled);
}

Accuracy accuracy(const TextClassifier& classifier, const LabelledTexts& data, int64_t batch, const std::function<bool(const Accuracy&)>& more) {
  Accuracy a(classifier.classes());
  each_batch(data, batch, [&](const std::vector<int64_t>& indices) {
    const Tensor z = classifier.scores(data.batch(indices));
    for (size_t i = 0; i < indices.size(); ++i)
      a.add({z.data() + int64_t(i) * z.dim(1), size_t(z.dim(1))}, data.classes()[size_t(indices[i])]);
    return !more || more(a);
  });
  return a;
}

}  // namespace kvt
