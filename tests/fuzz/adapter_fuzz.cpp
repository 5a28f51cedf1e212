// Adapter files of every kind (LoRA, IA3, KVT, bank, head) on a small Llama, which then reads three tokens with what was accepted.
#include "engine/adapter.h"
#include "engine/bank.h"
#include "engine/ia3.h"
#include "engine/kvt_adapter.h"
#include "engine/text_classes.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/gguf_mutator.h"
#include "tests/fuzz/small_models.h"
#include "tests/fuzz/vocabularies.h"

using namespace kvt;

KVT_GGUF_MUTATOR(nullptr)

// The base's tensors, and the model as it was before any adapter
static std::shared_ptr<CausalLm> fresh_model() {
  static const Gguf base = fuzz::adapter_base().gguf();
  return load_model(base);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::shared_ptr<CausalLm> plain = fresh_model();
  static const auto tokenizer = Tokenizer::from(fuzz::bpe_vocabulary("gpt-2"));
  fuzz::works_or_refuses([&] {
    const Gguf file = Gguf::parse(fuzz::storage(data, size), "f.gguf");
    const std::string kind = file.string("adapter.type", "");
    std::shared_ptr<CausalLm> model = plain;
    struct Detach { ~Detach() { plain->each_linear([](const std::string&, Linear& l) { l.adapters.clear(); }); } } detach;
    std::optional<Fusion> fusion;
    if (kind == "ia3") {
      fusion = load_ia3(*plain, file, 1, fuzz::adapter_base_id).fusion;
    } else if (kind == "kvt") {
      const KvtSet set = load_kvt(*plain, file, 1, fuzz::adapter_base_id);
      fusion = set.fusion;
      if (set.kvt->config().per_token()) model = std::make_shared<KvtLm>(model, set.kvt);
    } else if (kind == "kvt-bank") {
      bank_domains(file);
      model = std::make_shared<BankLm>(model, load_bank(*plain, file, 1, fuzz::adapter_base_id).bank);
    } else if (kind == "head") {
      require_adapter(file, "head", *plain, fuzz::adapter_base_id, false);
    } else {
      fusion = load_adapter(*plain, file, 1, fuzz::adapter_base_id).fusion;
    }
    if (const auto classes = read_classes(file)) {
      TextClassifier classifier(*model);
      prepare(classifier, *classes, *tokenizer, &file);
      const LabelledTexts texts({{classes->names[0], "the text"}}, *classes, *tokenizer);
      const int64_t first = 0;
      if (classes->length <= 64) classifier.scores(texts.batch({&first, 1}));
    }
    if (fusion) model = std::make_shared<Fused>(model, *fusion);
    const int32_t ids[] = {1, 2, 3};
    model->logits(model->hidden(ids, 1, 3, {}));
  });
  return 0;
}
