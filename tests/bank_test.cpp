// Several domains in one file: what one of them computes is the same to the bit whatever the others are.
#include "tests/main.h"

#include "engine/adapter.h"
#include "engine/bank.h"
#include "engine/fingerprint.h"
#include "models/fusion.h"
#include "tests/check.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

const Ids ids = {1, 5, 9, 2, 30, 31, 7, 7};
const Gguf& base() {
  static const Gguf file = SmallLlama().gguf();
  return file;
}
const std::string& base_id() {
  static const std::string id = fingerprint(base());
  return id;
}
std::shared_ptr<CausalLm> plain() { return load_model(base()); }
Tensor logits_of(const CausalLm& model, const Ids& of = ids, int64_t B = 2) { return model.logits(model.hidden(of, B, int64_t(of.size()) / B, {})); }
bool equal(std::span<const float> a, std::span<const float> b) { return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin()); }

Gguf adapter(uint64_t seed, std::vector<std::string> targets = {"all"}) {
  const auto model = plain();
  LoraSet set = attach_lora(*model, {.rank = 4, .alpha = 6, .targets = std::move(targets), .first_layer = 0, .last_layer = -1, .seed = seed});
  Rng rng(seed);
  for (const auto& layer : set.layers)
    for (float& x : layer.lora->b.values()) x = 0.1f * rng.normal();
  return adapter_file(set, "llama", base_id(), DType::F32);
}
// As for inference.
void load_frozen(CausalLm& model, const Gguf& file) {
  for (const auto& layer : load_adapter(model, file, 1, base_id()).layers) layer.lora->freeze();
}
Tensor center(const Ids& text) { return domain_center(embedding(text, {int64_t(text.size())}, base().tensor("token_embd.weight"))); }

const Ids law_text = {1, 5, 9, 2}, bio_text = {30, 31, 7, 8};
Gguf law_bank() { return bank_with(nullptr, "law", adapter(1), center(law_text)); }
Gguf both_banks() {
  const Gguf law = law_bank();
  return bank_with(&law, "bio", adapter(2, {"attn_q", "ffn_down"}), center(bio_text));
}

struct Opened {
  std::shared_ptr<CausalLm> inner = plain();
  LoadedBank loaded;
  std::shared_ptr<BankLm> model;
  explicit Opened(const Gguf& file, int64_t fixed = -1, Bank::Level level = Bank::Level::sentence) : loaded(load_bank(*inner, file, 1, base_id())) {
    loaded.bank->fixed = fixed;
    loaded.bank->level = level;
    model = std::make_shared<BankLm>(inner, loaded.bank);
  }
};

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) { return e.what(); }
  return "";
}

}  // namespace

TEST_CASE("a domain that is chosen computes what its adapter does alone, to the bit, however many others there are") {
  const auto alone = plain(), bio_alone = plain();
  load_frozen(*alone, adapter(1));
  load_frozen(*bio_alone, adapter(2, {"attn_q", "ffn_down"}));
  const Tensor law = logits_of(*alone), bio = logits_of(*bio_alone);
  CHECK(max_relative_error(law.values(), bio.values()) > 1e-2);
  CHECK(equal(logits_of(*Opened(law_bank(), 0).model).values(), law.values()));
  const Gguf two = both_banks(), three = bank_with(&two, "third", adapter(3), center({11, 12}));
  for (const Gguf* bank : {&two, &three}) {
    CHECK(equal(logits_of(*Opened(*bank, 0).model).values(), law.values()));
    CHECK(equal(logits_of(*Opened(*bank, 1).model).values(), bio.values()));
  }
  CHECK(equal(logits_of(*Opened(bank_without(three, "law"), 0).model).values(), bio.values()));
}

TEST_CASE("texts choose their domain; the first of two domains' texts reads as with that domain alone, to the bit") {
  const Opened open(both_banks());
  const Tensor rows = embedding(ids, {2, 4}, base().tensor("token_embd.weight"));
  const Tensor choice = open.loaded.bank->choose(rows, nullptr);
  for (int64_t t = 0; t < 4; ++t) CHECK(choice.data()[t] == 0);
  CHECK(choice.data()[7] == 1);
  const auto alone = plain();
  load_frozen(*alone, adapter(1));
  const Tensor mixed = logits_of(*open.model), law = logits_of(*alone);
  CHECK(equal({mixed.data(), 4 * 40}, {law.data(), 4 * 40}));
  CHECK(max_relative_error({mixed.data() + 7 * 40, 40}, {law.data() + 7 * 40, 40}) > 1e-3);
  // Word by word: each by its own embedding.
  const Opened words(both_banks(), -1, Bank::Level::word);
  const Ids sorted = {1, 30, 5, 31, 9, 7, 2, 8};
  const Tensor own = words.loaded.bank->choose(embedding(sorted, {1, 8}, base().tensor("token_embd.weight")), nullptr);
  for (int64_t t = 0; t < 8; ++t) CHECK(own.data()[t] == float(t % 2));
}

TEST_CASE("with a cache, and fused with the base") {
  const Opened open(both_banks());
  const Fused fused(open.model, {Fusion::Form::residual, 0.7f});
  for (const CausalLm* each : {static_cast<const CausalLm*>(open.model.get()), static_cast<const CausalLm*>(&fused)}) {
    const Ids text = {1, 30, 31, 5, 7, 30, 8, 31};           // the running mean changes its domain on the way
    const Tensor whole = logits_of(*each, text, 1);
    KvCache cache = each->make_cache(8, DType::F32);
    int64_t at = 0;
    for (const int64_t n : {3, 1, 2, 1, 1}) {
      const Tensor part = each->logits(each->hidden(std::span(text).subspan(size_t(at), size_t(n)), 1, n, {.cache = &cache}));
      CHECK(max_relative_error(part.values(), {whole.data() + at * 40, size_t(n * 40)}) < 1e-5);
      at += n;
    }
  }
  const Tensor want = scale(logits_of(*plain()) + scale(logits_of(*open.model), 0.7f), 1 / 1.7f);
  CHECK(max_relative_error(logits_of(fused).values(), want.values()) < 1e-5);
}

TEST_CASE("bank files: written, read, and refused with names") {
  const TemporaryFolder folder;
  both_banks().write(folder / "bank.gguf");
  const Gguf bank = Gguf::open(folder / "bank.gguf");
  const auto domains = bank_domains(bank);
  REQUIRE(domains.size() == 2);
  CHECK(domains[0].name == "law");
  CHECK(domains[0].layers == 14);
  CHECK(domains[1].layers == 4);
  CHECK(domains[1].alpha == 6);
  bank_without(bank, "bio").write(folder / "bank.gguf");       // over the file that is open
  law_bank().write(folder / "law.gguf");
  CHECK(bytes_of(folder / "bank.gguf") == bytes_of(folder / "law.gguf"));

  const Gguf law = law_bank();
  CHECK(error_of([&] { bank_with(&law, "law", adapter(2), center({3})); }) == ": there is a domain 'law' already");
  CHECK(error_of([&] { bank_with(&law, "a b", adapter(2), center({3})); }) == "bank: 'a b' is no name of a domain: 1 to 16 letters, digits, - and _");
  CHECK(error_of([&] { bank_without(law, "bio"); }) == ": there is no domain 'bio'");
  CHECK(error_of([&] { bank_without(law, "law"); }) == ": 'law' is the only domain; a bank keeps at least one");
  CHECK(error_of([&] { bank_domains(adapter(1)); }) == ": not a bank of domains");
  CHECK(error_of([&] { bank_with(nullptr, "x", adapter(3, {"output"}), center({3})); }) == ": tensor 'output.weight.lora_a' adapts the output matrix, which sees no choice of a domain");
  CHECK(error_of([&] { bank_with(nullptr, "x", law, center({3})); }) == ": a bank takes LoRA adapters, this is 'kvt-bank'");
  Gguf elsewhere = adapter(2);
  elsewhere.set("kvt.base.fingerprint", std::string("0123"));
  CHECK(error_of([&] { bank_with(&law, "bio", elsewhere, center({3})); }) == ": kvt.base.fingerprint is 0123, the bank's is " + base_id());
  const auto model = plain();
  CHECK(error_of([&] { load_bank(*model, bank_with(nullptr, "x", adapter(1), Tensor::zeros({31})), 1, base_id()); }) ==
        ": the center of 'x' is F32 [31], expected F32 [32]");
  CHECK(equal(logits_of(*model).values(), logits_of(*plain()).values()));
}
