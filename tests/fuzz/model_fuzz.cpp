// Models of every architecture: hyperparameters and tensors, then one pass over three tokens (or one image).
#include "engine/load.h"
#include "engine/load_encoder.h"
#include "engine/seq2seq_file.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/gguf_mutator.h"

using namespace kvt;

KVT_GGUF_MUTATOR(nullptr)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::works_or_refuses([&] {
    const Gguf file = Gguf::parse(fuzz::storage(data, size), "f.gguf");
    const std::string architecture = file.string("general.architecture");
    const auto ids = [](int64_t vocabulary) { return Ids{0, int32_t(vocabulary / 2), int32_t(vocabulary - 1)}; };
    if (architecture == "bert") {
      const auto model = load_bert(file);
      model->pooled(model->hidden(ids(model->config().vocabulary), {3}, 3), {3});
    } else if (architecture == "vit") {
      const auto model = load_vit(file);
      vit_normalisation(file, model->config().image_channels);
      const VitConfig& c = model->config();
      if (c.image_size * c.image_size * c.image_channels <= 4096) model->logits(Tensor::zeros({1, c.image_channels, c.image_size, c.image_size}));
    } else if (architecture == "seq2seq") {
      const auto model = load_seq2seq(file);
      const int32_t lengths[] = {3};
      const Memory memory = model->encode(ids(model->config().source_vocabulary), lengths, 3);
      model->logits(model->decode(ids(model->config().target_vocabulary), 3, memory));
      const Sentences sentences(file);
      sentences.text(sentences.target("a b"));
      sentences.source("b a");
    } else {
      const auto model = load_model(file);
      KvCache cache = model->make_cache(8, DType::F16);
      const Ids three = ids(model->config().vocabulary);
      model->hidden(three, 1, 3, {.cache = &cache});
      model->logits(model->hidden(std::span(three).first(1), 1, 1, {.cache = &cache}));
    }
  });
  return 0;
}
