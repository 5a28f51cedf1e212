// Embedding and classifying, of the C interface.
#include "engine/adapted.h"
#include "engine/c_api.h"
#include "engine/embed.h"
#include "engine/text_classes.h"

using namespace kvt;
using namespace kvt::c_api;

struct kvt_classifier {
  Shared model;
  std::shared_ptr<CausalLm> lm;          // one of the two, with the adapter
  std::shared_ptr<Bert> encoder;
  std::optional<TextClassifier> classifier;
  ClassSettings settings;
};

static std::vector<std::string> strings(const kvt_text* texts, size_t count) {
  expect(texts != nullptr || count == 0, "texts is NULL, count ", count);
  std::vector<std::string> all;
  for (size_t i = 0; i < count; ++i) all.emplace_back(text_of(texts[i].data, texts[i].size));
  return all;
}

// f(begin, end) over a few texts at a time, with progress
template <class F>
static void in_parts(size_t count, kvt_progress_fn progress, void* user, F&& f) {
  constexpr size_t part = 8 * size_t(encode_batch);
  Reporter report(progress, user);
  for (size_t begin = 0; begin < count; begin += part) {
    report(KVT_STAGE_ENCODING, begin, count);
    report.stop_if_cancelled();
    const size_t end = std::min(begin + part, count);
    f(begin, end);
  }
  report(KVT_STAGE_ENCODING, count, count);
}

kvt_status kvt_embed(const kvt_model* model, const kvt_text* texts, size_t count, kvt_progress_fn progress, void* user, float* vectors) {
  return guard({.model = model ? model->state.get() : nullptr, .otherwise = KVT_INVALID_ARGUMENT}, [&] {
    const ModelState& m = *given(model, "model").state;
    expect(vectors != nullptr || count == 0, "vectors is NULL");
    if (!m.encoder) refuse(KVT_UNSUPPORTED, "embed: a model of architecture '", m.architecture, "' is no encoder");
    const std::vector<std::string> all = strings(texts, count);
    const int64_t most = most_tokens(m.gguf, *m.encoder);
    const auto C = size_t(m.encoder->config().channels);
    in_parts(count, progress, user, [&](size_t begin, size_t end) {
      size_t i = begin;
      for (const TextEmbedding& e : embed(*m.encoder, *m.tokenizer, std::span(all).subspan(begin, end - begin), most, encode_batch))
        std::copy_n(e.vector.data(), C, vectors + i++ * C);
    });
  });
}

kvt_status kvt_classifier_new(kvt_model* model, kvt_adapter* adapter, kvt_classifier** classifier) {
  return guard({.model = model ? model->state.get() : nullptr, .otherwise = KVT_BAD_FILE}, [&] {
    given(model, "model");
    given(classifier, "classifier");
    auto c = std::make_unique<kvt_classifier>();
    c->model = model->state;
    const ModelState& m = *c->model;
    const Gguf& classes = adapter && adapter->state->file.has("kvt.classes") ? adapter->state->file : m.gguf;
    const std::optional<ClassSettings> settings = read_classes(classes);
    require(settings.has_value(), (adapter ? adapter->state->file : m.gguf).path(), ": names no classes");
    c->settings = *settings;
    std::vector<AdapterUse> uses;
    if (adapter) uses.push_back({&adapter->state->file, 1});
    std::optional<Fusion> fusion;
    if (m.encoder) {
      c->encoder = m.encoder_view();
      fusion = attach_adapters(*c->encoder, uses, m.fingerprint);
      c->classifier.emplace(*c->encoder);
    } else {
      AdaptedLm lm = with_adapters(m.view(), uses, m.fingerprint);
      c->lm = lm.model, fusion = lm.fusion;
      c->classifier.emplace(*c->lm);
    }
    c->classifier->fusion = fusion;
    prepare(*c->classifier, c->settings, *m.tokenizer, &classes);
    *classifier = c.release();
  });
}

void kvt_classifier_free(kvt_classifier* classifier) { release(classifier); }
size_t kvt_classifier_count(const kvt_classifier* classifier) { return classifier ? classifier->settings.names.size() : 0; }
const char* kvt_classifier_name(const kvt_classifier* classifier, size_t index) {
  return classifier && index < classifier->settings.names.size() ? classifier->settings.names[index].c_str() : nullptr;
}

kvt_status kvt_classify(const kvt_classifier* classifier, const kvt_text* texts, size_t count, kvt_progress_fn progress, void* user, float* probabilities) {
  return guard({.model = classifier ? classifier->model.get() : nullptr, .otherwise = KVT_INVALID_ARGUMENT}, [&] {
    const kvt_classifier& c = given(classifier, "classifier");
    expect(probabilities != nullptr || count == 0, "probabilities is NULL");
    std::vector<LabelledText> labelled;
    for (std::string& text : strings(texts, count)) labelled.push_back({c.settings.names[0], std::move(text)});      // the label is of no account
    const LabelledTexts data(labelled, c.settings, *c.model->tokenizer);
    const Tape::Pause inference;
    in_parts(count, progress, user, [&](size_t begin, size_t end) {
      for (; begin < end; begin += size_t(encode_batch)) {
        std::vector<int64_t> some;
        for (size_t i = begin; i < std::min(end, begin + size_t(encode_batch)); ++i) some.push_back(int64_t(i));
        const Tensor p = softmax(c.classifier->scores(data.batch(some)));
        std::copy_n(p.data(), p.size(), probabilities + begin * c.settings.names.size());
      }
    });
  });
}
