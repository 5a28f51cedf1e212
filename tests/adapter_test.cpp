#include "tests/main.h"

#include "engine/adapter.h"
#include "engine/compress.h"
#include "engine/fingerprint.h"
#include "tests/check.h"
#include "ops/svd.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

const Ids ids = {1, 5, 9, 2, 30, 31, 7, 7};

Tensor logits_of(const CausalLm& model) { return model.logits(model.hidden(ids, 2, 4, {})); }

LoraOptions options_for(std::vector<std::string> targets) {
  return {.rank = 4, .alpha = 6, .targets = std::move(targets), .first_layer = 0, .last_layer = -1, .seed = 3};
}

// A LoRA whose B is not zero.
LoraSet some_lora(CausalLm& model, uint64_t seed, std::vector<std::string> targets = {"all"}) {
  LoraSet set = attach_lora(model, options_for(std::move(targets)));
  Rng rng(seed);
  for (const auto& layer : set.layers)
    for (float& x : layer.lora->b.values()) x = 0.1f * rng.normal();
  return set;
}

bool equal(const Tensor& a, const Tensor& b) { return std::equal(a.data(), a.data() + a.size(), b.data()); }

struct Base {
  Gguf file;
  std::unique_ptr<CausalLm> model;
  std::string id;
  explicit Base(const SmallLlama& small = {}) : file(small.gguf()), model(load_model(file)), id(fingerprint(file)) {}
};

}  // namespace

TEST_CASE("a fresh LoRA changes nothing; its layers and factors are those asked for") {
  Base base;
  const Tensor before = logits_of(*base.model);
  LoraOptions options = options_for({"attn_q", "ffn_down"});
  options.first_layer = options.last_layer = 1;
  const LoraSet set = attach_lora(*base.model, options);
  REQUIRE(set.layers.size() == 2);
  CHECK(set.layers[0].name == "blk.1.attn_q");
  CHECK(set.layers[1].name == "blk.1.ffn_down");
  CHECK(set.layers[1].lora->a.shape() == Shape{4, 64});
  CHECK(set.layers[1].lora->b.shape() == Shape{32, 4});
  CHECK(set.layers[0].lora->scale == 1.5f);
  CHECK(equal(logits_of(*base.model), before));
  CHECK(attach_lora(*base.model, options_for({"all"})).layers.size() == 14);
  CHECK_THROWS_WITH_AS(attach_lora(*base.model, options_for({"attn_q", "atn_v"})),
                       "lora: no layer is called 'atn_v'; there are: all attn_k attn_output attn_q attn_v ffn_down ffn_gate ffn_up output", Error);
  options.last_layer = 2;
  CHECK_THROWS_WITH_AS(attach_lora(*base.model, options), "lora: blocks 1 to 2 of 2", Error);
  options = options_for({"attn_k"});
  options.rank = 17;
  CHECK_THROWS_AS(attach_lora(*base.model, options), Error);
}

TEST_CASE("an adapter written and read is the same adapter; scales multiply; adapters stack") {
  const TemporaryFolder folder;
  Base trained({.tied = false}), plain({.tied = false});
  const LoraSet set = some_lora(*trained.model, 4, {"all", "output"});
  const Tensor want = logits_of(*trained.model), without = logits_of(*plain.model);
  CHECK(max_relative_error(without.values(), want.values()) > 1e-2);

  adapter_file(set, "llama", trained.id, DType::F32).write(folder / "a.gguf");
  const Gguf file = Gguf::open(folder / "a.gguf");
  CHECK(file.string("general.type") == "adapter");
  CHECK(file.string("adapter.type") == "lora");
  CHECK(std::get<float>(*file.find("adapter.lora.alpha")) == 6.f);
  CHECK(file.tensors()[0].name == "blk.0.attn_q.weight.lora_a");
  CHECK(file.tensor("output.weight.lora_b").shape() == Shape{40, 4});
  load_adapter(*plain.model, file, 1, plain.id);
  CHECK(equal(logits_of(*plain.model), want));
  load_adapter(*plain.model, file, -1, plain.id);                    // undone by its negative
  CHECK(max_relative_error(logits_of(*plain.model).values(), without.values()) < 1e-5);

  Base half({.tied = false}), halves({.tied = false});
  load_adapter(*half.model, file, 1, half.id);
  for (int i = 0; i < 2; ++i) load_adapter(*halves.model, file, 0.5f, halves.id);
  CHECK(max_relative_error(logits_of(*halves.model).values(), logits_of(*half.model).values()) < 1e-5);
}

TEST_CASE("factors of other types, α = 0, norms that are passed over") {
  Base trained;
  const LoraSet set = some_lora(*trained.model, 5, {"ffn_gate"});
  const Gguf exact = adapter_file(set, "llama", trained.id, DType::F32);
  for (DType type : {DType::F16, DType::BF16, DType::Q8_0}) {
    Gguf file;
    for (const auto& [name, value] : exact.keys()) file.set(name, value);
    for (const auto& e : exact.tensors()) {      // B's rows of 4 do not fill Q8_0 blocks: only A is stored so
      file.add(e.name, type == DType::Q8_0 && e.tensor.dim(1) % 32 ? e.tensor : pack(e.tensor, type));
    }
    file.add("blk.0.attn_norm.weight", Tensor::filled({32}, 7.f));
    Base base;
    load_adapter(*base.model, file, 1, base.id);
    const double error = max_relative_error(logits_of(*base.model).values(), logits_of(*trained.model).values());
    CHECK(error < (type == DType::F16 ? 1e-3 : 1e-2));
    CHECK(error > 0);
  }
  CHECK(adapter_file(set, "llama", trained.id, DType::F16).tensors()[0].tensor.dtype() == DType::F16);
  Gguf no_alpha = exact;
  no_alpha.set("adapter.lora.alpha", 0.f);
  Base a, b;
  load_adapter(*a.model, no_alpha, 0.75f, a.id);      // s = 0.75
  load_adapter(*b.model, exact, 0.5f, b.id);          // s = 0.5 · 6/4
  CHECK(equal(logits_of(*a.model), logits_of(*b.model)));
}

TEST_CASE("truncated adapters: the nearest of their rank, more where there is more energy, no more numbers than asked for") {
  Base base;
  LoraSet set = attach_lora(*base.model, {.rank = 6, .alpha = 12, .targets = {"attn_q", "ffn_down"}, .first_layer = 0, .last_layer = -1, .seed = 1});
  Rng rng(2);
  std::vector<Tensor> before;
  int64_t at_rank_3 = 0;
  for (size_t i = 0; i < set.layers.size(); ++i) {
    Lora& lora = *set.layers[i].lora;
    for (float& x : lora.b.values()) x = (i == 0 ? 1.f : 0.01f) * rng.normal();      // nearly all energy in the first
    before.push_back(scale(matmul(lora.b, lora.a), lora.scale));
    at_rank_3 += 3 * (lora.a.dim(1) + lora.b.dim(0));
  }
  const Tensor logits = logits_of(*base.model);
  LoraSet whole = set;
  for (auto& layer : whole.layers) layer.lora = std::make_shared<Lora>(*layer.lora);
  CHECK(truncate(whole, 6) == doctest::Approx(1));
  for (size_t i = 0; i < set.layers.size(); ++i) {
    const Lora& lora = *whole.layers[i].lora;
    CHECK(lora.scale == 1);
    CHECK(max_relative_error(matmul(lora.b, lora.a).values(), before[i].values()) < 1e-5);
  }
  const double kept = truncate(set, 3);
  CHECK(set.layers[0].lora->rank() == 6);
  double energy = 0, left = 0;
  int64_t numbers = 0;
  for (size_t i = 0; i < set.layers.size(); ++i) {
    const Lora& lora = *set.layers[i].lora;
    numbers += lora.a.size() + lora.b.size();
    CHECK(lora.rank() >= 1);
    // Eckart–Young: what is missing has the energy of the singular values left out.
    double missing = 0, tail = 0;
    const Tensor rest = before[i] - matmul(lora.b, lora.a);
    for (float x : rest.values()) missing += double(x) * double(x);
    const Svd all = svd(before[i]);
    for (int64_t j = 0; j < all.rank(); ++j) (j < lora.rank() ? energy : tail) += double(all.s.data()[j]) * double(all.s.data()[j]);
    CHECK(missing == doctest::Approx(tail).epsilon(1e-3).scale(1e-6));
    left += tail;
  }
  CHECK(numbers <= at_rank_3);
  CHECK(kept == doctest::Approx(energy / (energy + left)));
  CHECK_THROWS_WITH_AS(truncate(set, 0.5), "adapter: a mean rank of 0.5, expected 1 or more", Error);

  // Rounded as stored: the file read again computes the same bits.
  round_to(set, DType::Q8_0);
  const Gguf file = adapter_file(set, "llama", base.id, DType::Q8_0);
  CHECK(file.tensor(set.layers[0].name + ".weight.lora_a").dtype() == DType::Q8_0);
  CHECK(file.tensor(set.layers[0].name + ".weight.lora_b").dtype() == DType::F16);
  Base other;
  load_adapter(*other.model, file, 1, other.id);
  CHECK(equal(logits_of(*other.model), logits_of(*base.model)));
  CHECK(max_relative_error(logits_of(*base.model).values(), logits.values()) < 0.02);
}

TEST_CASE("merged weights compute what base and adapters compute") {
  const TemporaryFolder folder;
  set_activations(Activations::f32);      // what differs is then the rounding of merged weights alone
  for (const auto& [type, tolerance] : std::map<DType, double>{{DType::F32, 1e-5}, {DType::F16, 2e-3}, {DType::Q8_0, 3e-2}}) {
    const std::string type_name = info(type).name;
    INFO(type_name);
    Base base({.tied = false, .matrices = type});
    const Tensor plain = logits_of(*base.model);
    some_lora(*base.model, 6);
    some_lora(*base.model, 7, {"attn_v", "output"});
    const Tensor want = logits_of(*base.model);
    merged_model(base.file, *base.model, {}).write(folder / "m.gguf");
    const Gguf merged = Gguf::open(folder / "m.gguf");
    CHECK(max_relative_error(logits_of(*load_model(merged)).values(), want.values()) < tolerance);
    CHECK(max_relative_error(plain.values(), want.values()) > 3 * tolerance);
    CHECK(merged.tensor("blk.0.attn_q.weight").dtype() == type);
    CHECK(merged.tensor("output_norm.weight").dtype() == DType::F32);
    CHECK(merged.integer("llama.context_length") == 64);
    CHECK(merged.tensors().size() == base.file.tensors().size());
    const Tensor kept = merged.tensor("token_embd.weight"), source = base.file.tensor("token_embd.weight");
    CHECK(std::equal(source.raw(), source.raw() + source.bytes(), kept.raw()));

    const Gguf as_f32 = merged_model(base.file, *base.model, DType::F32);
    CHECK(max_relative_error(logits_of(*load_model(as_f32)).values(), want.values()) < (type == DType::Q8_0 ? 3e-2 : 1e-4));
    CHECK(as_f32.integer("general.file_type") == 0);
  }
  Base base;
  CHECK_THROWS_AS(merged_model(base.file, *base.model, DType::Q4_K), Error);      // rows of 32 fill no block of 256
}

TEST_CASE("a whole model written has the trained weights and the base's metadata") {
  Base base({.matrices = DType::F16});
  const TrainedSet weights = all_weights(*base.model);
  CHECK(weights.size() == 2 + 2 * 9);
  for (const Trained& t : weights) {
    CHECK(t.decay == (t.name.find("norm") == std::string::npos));
    t.tensor.data()[0] += 1;
  }
  const Gguf written = model_file(base.file, *base.model, DType::F32);
  CHECK(equal(logits_of(*load_model(written)), logits_of(*base.model)));
  CHECK(written.integer("llama.block_count") == 2);
  CHECK(model_file(base.file, *base.model, DType::F16).tensor("token_embd.weight").dtype() == DType::F16);
}

TEST_CASE("adapters that do not fit are refused, with names, and leave the model as it was") {
  Base base;
  const Tensor before = logits_of(*base.model);
  Base trained;
  const LoraSet set = some_lora(*trained.model, 8);
  const Gguf good = adapter_file(set, "llama", base.id, DType::F32);
  const auto with = [&](const std::function<void(Gguf&)>& change, const std::string& leave_out = "", Tensor replaced = {}) {
    Gguf file;
    for (const auto& [name, value] : good.keys()) file.set(name, value);
    for (const auto& e : good.tensors()) {
      if (e.name != leave_out) file.add(e.name, e.tensor);
      else if (replaced) file.add(e.name, replaced);
    }
    if (change) change(file);
    return file;
  };
  const auto message = [&](const Gguf& file) -> std::string {
    try {
      load_adapter(*base.model, file, 1, base.id);
    } catch (const Error& e) { return e.what(); }
    return "accepted";
  };
  CHECK(message(with([](Gguf& f) { f.set("general.architecture", std::string("qwen2")); })) == ": an adapter for architecture 'qwen2', the base is 'llama'");
  CHECK(message(with([](Gguf& f) { f.set("adapter.type", std::string("dora")); })) == ": no adapter of type 'lora' (general.type 'adapter', adapter.type 'dora')");
  CHECK(message(with({}, "blk.1.ffn_up.weight.lora_b")) == ": 'blk.1.ffn_up.weight.lora_b' is missing");
  CHECK(message(with({}, "blk.1.ffn_up.weight.lora_a")) == ": 'blk.1.ffn_up.weight.lora_a' is missing");
  CHECK(message(with({}, "blk.0.attn_k.weight.lora_a", Tensor::zeros({4, 31}))) ==
        ": 'blk.0.attn_k': factors A [4, 31] and B [16, 4] do not fit weights [16, 32]");
  CHECK(message(with({}, "blk.0.attn_k.weight.lora_b", Tensor::zeros({16, 3}))) ==
        ": 'blk.0.attn_k': factors A [4, 32] and B [16, 3] do not fit weights [16, 32]");
  const auto added = [&](const char* name) { return message(with([&](Gguf& f) { f.add(name, Tensor::zeros({4, 32})); })); };
  CHECK(added("blk.2.attn_q.weight.lora_a") == ": tensor 'blk.2.attn_q.weight.lora_a': the base has no linear layer 'blk.2.attn_q'");
  CHECK(added("token_embd.weight.lora_a") == ": tensor 'token_embd.weight.lora_a': adapters of the token embedding are not supported");
  CHECK(added("blk.0.attn_q.weight") == ": tensor 'blk.0.attn_q.weight' is no factor of a LoRA pair (….weight.lora_a, ….weight.lora_b)");
  const Gguf elsewhere = with([](Gguf& f) { f.set("kvt.base.fingerprint", std::string("0123456789abcdef")); });
  CHECK(message(elsewhere) == ": trained on another base model (fingerprint 0123456789abcdef, this base has " + base.id + ")");
  CHECK(equal(logits_of(*base.model), before));
  load_adapter(*base.model, elsewhere, 1, base.id, true);      // on request
  CHECK(equal(logits_of(*base.model), logits_of(*trained.model)));
}

TEST_CASE("fingerprints: of the weights, not of the metadata") {
  const std::string id = fingerprint(SmallLlama().gguf());
  CHECK(id == fingerprint(SmallLlama().gguf()));
  CHECK(id.size() == 16);
  Gguf renamed = SmallLlama().gguf();
  renamed.set("general.name", std::string("another name"));
  CHECK(fingerprint(renamed) == id);
  CHECK(fingerprint(SmallLlama{.seed = 6}.gguf()) != id);
  CHECK(fingerprint(SmallLlama{.matrices = DType::F16}.gguf()) != id);
  CHECK(fingerprint(SmallLlama{.tied = false}.gguf()) != id);
}

TEST_CASE("a frozen LoRA adds what it did before but for rounding to F16, for few tokens and many; in training it takes the way that learns") {
  Base base;
  const LoraSet set = some_lora(*base.model, 6);
  const Ids text = {1, 5, 9, 2, 30, 31, 7, 7, 12, 13};
  const Tensor before = logits_of(*base.model), one = base.model->hidden(std::span(text).first(1), 1, 1, {}), many = base.model->hidden(text, 1, 10, {});
  for (const auto& layer : set.layers) layer.lora->freeze();
  CHECK(max_relative_error(logits_of(*base.model).values(), before.values()) < 1e-3);
  CHECK(max_relative_error(base.model->hidden(std::span(text).first(1), 1, 1, {}).values(), one.values()) < 1e-3);
  CHECK(max_relative_error(base.model->hidden(text, 1, 10, {}).values(), many.values()) < 1e-3);
  Tape tape;
  tape.backward(sum(logits_of(*base.model)));
  CHECK(set.layers[0].lora->b.has_grad());
}
