// Labelled texts: as training data, how well a classifier tells their classes apart, and the classifier's place in files.
//
//   kvt.classes string[]              names, in the order of the scores
//   kvt.classify.text string          what is read: "{text}" is the text, cut to
//   kvt.classify.length u32           as many tokens as all may have together
//   kvt.classify.pooling string       of the head: "mean", "first", "last";  tensors kvt.head.weight W [n, C], kvt.head.bias b [n]
//   kvt.classify.words string[]       or words, one for each class: the first token of each counts
//
// They stand in an adapter's file of any kind, in one of kind "head" that has nothing else, and in models.
#pragma once
#include <optional>

#include "engine/classify.h"
#include "engine/fusion.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "engine/train.h"
#include "models/text_classifier.h"

namespace kvt {

const char* name(Pooling pooling);
Pooling pooling(const std::string& name);                  // throws, listing the names there are

struct ClassSettings {
  std::vector<std::string> names;
  std::string text = "{text}";
  int64_t length = 256;
  Pooling pooling = Pooling::mean;
  std::vector<std::string> words;                          // one for each class, or none: a head
};
std::optional<ClassSettings> read_classes(const Gguf& file);      // none where the file has no classes; throws for what is inconsistent
void write_classes(Gguf& file, const ClassSettings& settings, const TextClassifier& classifier);
// Gives `classifier` the head of `file` (null = a new one, of zeros), or the tokens of the words. Throws an Error naming the word whose
// token is another's, too.
void prepare(TextClassifier& classifier, const ClassSettings& settings, const Tokenizer& tokenizer, const Gguf* file);

// The head's numbers from a file into a layer of its shape; classes and head of one file, if there are any, into another.
void load_head(Linear& head, const Gguf& file);
void copy_classes(const Gguf& from, Gguf& to);

struct LabelledText { std::string label, text; };

class LabelledTexts {
 public:
  // As the classifier reads them. Throws an Error for a label that is no class's name, an empty text, and a `text` setting that leaves no
  // room for one.
  LabelledTexts(const std::vector<LabelledText>& texts, const ClassSettings& settings, const Tokenizer& tokenizer);

  int64_t size() const { return int64_t(classes_.size()); }
  int64_t truncated() const { return truncated_; }
  int64_t tokens() const;                                  // of all together
  const std::vector<int32_t>& classes() const { return classes_; }
  const Examples& texts() const { return texts_; }         // their labels for next-token prediction are all ignored
  TextBatch batch(std::span<const int64_t> indices) const;
  uint64_t fingerprint() const;                            // of tokens and classes, in order

 private:
  Examples texts_;
  std::vector<int32_t> classes_;
  int64_t truncated_ = 0;
};

// loss = cross-entropy of the classes' scores
class TextClassTask : public Task {
 public:
  TextClassTask(const TextClassifier& classifier, const LabelledTexts& data) : classifier_(classifier), data_(data) {}
  int64_t size() const override { return data_.size(); }
  Extent extent(std::span<const int64_t> indices) const override;
  Tensor loss(std::span<const int64_t> indices, const Pass& pass) const override;

 private:
  const TextClassifier& classifier_;
  const LabelledTexts& data_;
};

// What the head would get for each text, [N, C]: for training it alone, without running the model again. Empty if cancelled() said so.
Tensor features(const TextClassifier& classifier, const LabelledTexts& data, int64_t batch, const std::function<bool()>& cancelled = {});
// As for language models (engine/fusion.h).
std::vector<FusionLoss> fusion_losses(const TextClassifier& classifier, const LabelledTexts& data, int64_t batch, const std::vector<Fusion>& candidates,
                                      const std::function<bool()>& cancelled = {});
// `more` is asked after each batch.
Accuracy accuracy(const TextClassifier& classifier, const LabelledTexts& data, int64_t batch, const std::function<bool(const Accuracy&)>& more = {});

}  // namespace kvt
