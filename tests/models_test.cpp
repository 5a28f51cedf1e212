// Each architecture against PyTorch: published files converted, loaded, run; scores, loss and the gradient of every weight.
#include "tests/main.h"

#include <numeric>

#include "engine/adapter.h"
#include "engine/convert.h"
#include "engine/load.h"
#include "engine/load_encoder.h"
#include "engine/train.h"
#include "ops/quant.h"
#include "tests/check.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

std::string folder(const std::string& architecture) { return project_path("tests/golden/" + architecture + "/"); }

Gguf converted(const std::string& architecture, const char* file = "model.safetensors", DType type = DType::F32) {
  return convert(PublishedModel::open(folder(architecture) + file), {"", type});
}

struct Expected {
  explicit Expected(const std::string& architecture) : file(Safetensors::open(folder(architecture) + "expected.safetensors")) {}
  Ids ids(const char* name) const {
    const Tensor x = file.tensor(name);
    const auto* p = reinterpret_cast<const int32_t*>(x.raw());
    return {p, p + x.size()};
  }
  Safetensors file;
};

// Gradients of PyTorch go through the same change of names and layout as the weights, so they must be equal to ours.
void check_all_gradients(Model& model, const std::string& architecture) {
  const Gguf expected = converted(architecture, "gradients.safetensors");
  int64_t checked = 0;
  model.each_parameter([&](const std::string& name, Parameter& p) {
    INFO(architecture, ": ", name);
    const Tensor want = expected.tensor(name).clone();
    if (architecture == "gemma3" && name.ends_with("norm.weight"))
      for (float& g : want.values()) g -= 1;                             // the converter's 1 + w
    REQUIRE(p.tensor.has_grad());
    // What is added to all keys cancels in the softmax: the gradient of that bias is rounding alone, there and here.
    if (name.ends_with("attn_k.bias") && architecture != "qwen2")
      for (int64_t i = 0; i < want.size(); ++i) CHECK(std::fabs(p.tensor.grad()[i]) < 1e-6);
    else
      CHECK(max_relative_error({p.tensor.grad(), size_t(p.tensor.size())}, want.values()) < 2e-4);
    ++checked;
  });
  CHECK(checked == int64_t(expected.tensors().size()) - (expected.find_tensor("rope_freqs.weight") ? 1 : 0));
}

// Labels of a text whose every token is to be predicted from those before: shifted by one.
Ids next_tokens(const Ids& ids, int64_t T) {
  Ids labels;
  for (size_t i = 0; i < ids.size(); ++i) labels.push_back(int64_t(i + 1) % T == 0 ? ignored_label : ids[i + 1]);
  return labels;
}

constexpr const char* causal[] = {"llama", "qwen2", "qwen3", "gpt2", "phi3", "gemma3"};

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("language models: scores, loss and every gradient are PyTorch's") {
  for (const std::string architecture : causal) {
    INFO(architecture);
    const Gguf gguf = converted(architecture);
    const auto model = load_model(gguf);
    const TrainedSet trained = all_weights(*model);
    const Expected expected(architecture);
    const Ids ids = expected.ids("ids");
    const int64_t B = 2, T = int64_t(ids.size()) / B;
    for (const bool recompute : {false, true}) {
      for (const Trained& t : trained) t.tensor.drop_grad();
      Tape tape;
      const Tensor hidden = model->hidden(ids, B, T, {.cache = nullptr, .recompute = recompute});
      CHECK(max_relative_error(model->logits(hidden).values(), expected.file.tensor("logits").values()) < 1e-5);
      const Tensor loss = model->loss(hidden, next_tokens(ids, T));
      CHECK(loss.item() == doctest::Approx(double(expected.file.tensor("loss").item())).epsilon(1e-5));
      tape.backward(loss);
      check_all_gradients(*model, architecture);
    }
  }
}

TEST_CASE("language models: decoding with a cache gives the scores of reading at once") {
  for (const std::string architecture : causal)
    for (const DType type : {DType::F32, DType::F16}) {
      INFO(architecture, " ", type);
      const Gguf gguf = converted(architecture);
      const auto model = load_model(gguf);
      const Ids ids = [&] { Ids all = Expected(architecture).ids("ids"); all.resize(12); return all; }();
      const Tensor whole = model->logits(model->hidden(ids, 1, 12, {}));
      KvCache cache = model->make_cache(12, type);
      const int64_t V = whole.dim(2);
      int64_t at = 0;
      for (const int64_t n : {5, 1, 1, 4, 1}) {
        const Tensor part = model->logits(model->hidden(std::span(ids).subspan(size_t(at), size_t(n)), 1, n, {.cache = &cache}));
        CHECK(max_relative_error(part.values(), {whole.data() + at * V, size_t(n * V)}) < (type == DType::F32 ? 1e-5 : 1e-2));
        at += n;
      }
    }
}

TEST_CASE("a cache of Q8_0 takes 34 bytes for 32 numbers and gives nearly the same scores; heads that do not fill blocks are refused") {
  const SmallLlama shape{.layers = 2, .channels = 64, .hidden = 96, .heads = 2, .kv_heads = 1, .vocabulary = 40};
  const auto model = load_model(shape.gguf());
  Ids ids(50);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i * i % 40);
  const Tensor whole = model->logits(model->hidden(ids, 1, 50, {}));
  KvCache cache = model->make_cache(50, DType::Q8_0);
  CHECK(cache.bytes() == 2 * 2 * 50 * 34);
  int64_t at = 0;
  for (const int64_t n : {30, 1, 1, 17, 1}) {
    const Tensor part = model->logits(model->hidden(std::span(ids).subspan(size_t(at), size_t(n)), 1, n, {.cache = &cache}));
    CHECK(max_relative_error(part.values(), {whole.data() + at * 40, size_t(n * 40)}) < 3e-2);
    at += n;
  }
  const auto narrow = load_model(SmallLlama{.layers = 1, .channels = 16, .hidden = 16, .heads = 2, .kv_heads = 1, .vocabulary = 40}.gguf());
  CHECK_THROWS_WITH_AS(narrow->make_cache(4, DType::Q8_0), "kv cache: heads of 8 numbers do not fill whole blocks of Q8_0", Error);
  CHECK_THROWS_WITH_AS(model->make_cache(4, DType::Q4_0), "kv cache: expected F32, F16 or Q8_0, got Q4_0", Error);
}

TEST_CASE("language models: a fresh LoRA on every linear layer changes nothing, and all its factors learn") {
  for (const std::string architecture : causal) {
    INFO(architecture);
    const Gguf gguf = converted(architecture);
    const auto model = load_model(gguf);
    const Ids ids = Expected(architecture).ids("ids");
    const Tensor before = model->logits(model->hidden(ids, 2, 12, {}));
    const LoraSet set = attach_lora(*model, {.rank = 2, .alpha = 4});
    CHECK(set.layers.size() >= 8);
    Tape tape;
    const Tensor hidden = model->hidden(ids, 2, 12, {});
    CHECK(max_relative_error(model->logits(hidden).values(), before.values()) < 1e-6);
    tape.backward(model->loss(hidden, next_tokens(ids, 12)));
    for (const auto& layer : set.layers) CHECK(layer.lora->b.has_grad());
  }
}

TEST_CASE("language models: quantized and half-precision files stay close to the float ones") {
  for (const std::string architecture : causal) {
    INFO(architecture);
    const Gguf exact = converted(architecture), half = converted(architecture, "model.safetensors", DType::F16), eight = converted(architecture, "model.safetensors", DType::Q8_0);
    CHECK(half.tensor("blk.0.ffn_down.weight").dtype() == DType::F16);
    const Tensor down = eight.tensor("blk.0.ffn_down.weight");
    CHECK(down.dtype() == (down.dim(1) % 32 == 0 ? DType::Q8_0 : DType::F16));
    CHECK(eight.tensor("blk.0.attn_norm.weight").dtype() == DType::F32);
    const Ids ids = Expected(architecture).ids("ids");
    const auto logits = [&](const Gguf& g) { const auto m = load_model(g); return m->logits(m->hidden(ids, 2, 12, {})); };
    CHECK(max_relative_error(logits(half).values(), logits(exact).values()) < 1e-2);
    CHECK(max_relative_error(logits(eight).values(), logits(exact).values()) < 5e-2);
  }
}

TEST_CASE("BERT: embeddings of texts of several lengths, and every gradient, are PyTorch's") {
  Gguf gguf = converted("bert");
  gguf.set("bert.pooling_type", uint32_t(1));
  const auto model = load_bert(gguf);
  all_weights(*model);
  const Expected expected("bert");
  const Ids lengths = expected.ids("lengths");
  Tape tape;
  const Tensor embedding = model->pooled(model->hidden(expected.ids("ids"), lengths, 9), lengths);
  CHECK(max_relative_error(embedding.values(), expected.file.tensor("embedding").values()) < 1e-5);
  const Tensor loss = sum(embedding * expected.file.tensor("direction"));
  CHECK(loss.item() == doctest::Approx(double(expected.file.tensor("loss").item())).epsilon(1e-5));
  tape.backward(loss);
  check_all_gradients(*model, "bert");
}

TEST_CASE("BERT: what stands behind a text does not change it; cls pooling takes the first state") {
  Gguf gguf = converted("bert");
  gguf.set("bert.pooling_type", uint32_t(2));
  const auto model = load_bert(gguf);
  const std::vector<int32_t> one = {4}, padded = {4, 7};
  const Tensor alone = model->pooled(model->hidden(Ids{3, 1, 4, 1}, one, 4), one);
  const Tensor beside = model->pooled(model->hidden(Ids{3, 1, 4, 1, 39, 38, 37, 2, 7, 1, 8, 2, 8, 1}, padded, 7), padded);
  CHECK(max_relative_error({beside.data(), 16}, alone.values()) < 1e-5);
  const Tensor states = model->hidden(Ids{3, 1, 4, 1}, one, 4);
  double norm = 0;
  for (int i = 0; i < 16; ++i) norm += double(states.data()[i]) * double(states.data()[i]);
  for (int i = 0; i < 16; ++i) CHECK(alone.data()[i] == doctest::Approx(double(states.data()[i]) / std::sqrt(norm)).epsilon(1e-5));
}

TEST_CASE("ViT: class scores, loss and every gradient are PyTorch's") {
  const Gguf gguf = converted("vit");
  const auto model = load_vit(gguf);
  all_weights(*model);
  const Expected expected("vit");
  Tape tape;
  const Tensor logits = model->logits(expected.file.tensor("images"));
  CHECK(max_relative_error(logits.values(), expected.file.tensor("logits").values()) < 1e-5);
  const Tensor loss = cross_entropy(logits, expected.ids("labels"));
  CHECK(loss.item() == doctest::Approx(double(expected.file.tensor("loss").item())).epsilon(1e-5));
  tape.backward(loss);
  check_all_gradients(*model, "vit");
}

TEST_CASE("ViT: every size and both poolings have the parameters they should; adapters attach") {
  for (const auto& size : std::map<std::string, int64_t>{{"tiny", 5717416}, {"small", 22050664}, {"base", 86567656}, {"large", 304326632}, {"huge", 632045800}}) {
    const std::string name = size.first;
    VitConfig c;
    c.image_size = 224, c.patch_size = name == "huge" ? 14 : 16, c.image_channels = 3, c.classes = 1000;
    c.set_size(name);
    c.check("test");
    Vit model(c);
    int64_t total = 0;
    model.each_parameter([&](const std::string&, Parameter& p) { total += p.shape.numel(); });
    INFO(name);
    CHECK(total == size.second);
  }
  VitConfig c;
  CHECK_THROWS_AS(c.set_size("enormous"), Error);
  c.image_size = 8, c.patch_size = 2, c.image_channels = 1, c.channels = 8, c.layers = 2, c.heads = 2, c.head_size = 4, c.hidden = 12, c.classes = 3;
  c.cls_token = c.qkv_bias = false;
  Vit model(c);
  Rng rng(3);
  model.init(rng);
  model.each_parameter([&](const std::string&, Parameter& p) { if (p.shape.rank() == 2) p.tensor = randn(p.shape, rng, 0.4f); });
  const Tensor images = randn({2, 1, 8, 8}, rng);
  const Tensor before = model.logits(images);
  attach_lora(model, {.rank = 2, .alpha = 4});
  CHECK(max_relative_error(model.logits(images).values(), before.values()) < 1e-6);
  std::vector<Tensor> weights;
  for (const Trained& t : all_weights(model)) weights.push_back(t.tensor);
  check_gradients("vit", [&](const std::vector<Tensor>& w) {
    size_t i = 0;
    model.each_parameter([&](const std::string&, Parameter& p) { p.tensor = w[i++]; });
    return model.logits(images);
  }, weights, rng, 3e-2, 1e-3f);
}

TEST_CASE("hostile hyperparameters are refused by name") {
  struct Case { const char *architecture, *key; Gguf::Value value; const char* why; };
  const Case cases[] = {
      {"gpt2", "gpt2.attention.head_count", uint32_t(3), "16 channels do not divide into 3 heads"},
      {"gpt2", "gpt2.attention.head_count_kv", uint32_t(1), "gpt2 with 2 query and 1 key heads"},
      {"gpt2", "gpt2.block_count", uint32_t(1000000), "'gpt2.block_count' is 1000000, expected 1 to 1024"},
      {"gpt2", "gpt2.block_count", uint32_t(3), "tensor 'blk.2.attn_norm.weight' of shape [16] is missing"},
      {"gpt2", "gpt2.context_length", uint32_t(33), "tensor 'position_embd.weight' has shape [32, 16], expected [33, 16]"},
      {"gpt2", "gpt2.attention.layer_norm_epsilon", -1.f, "expected a positive number"},
      {"qwen3", "qwen3.attention.key_length", uint32_t(4), "keys and values of different sizes"},
      {"phi3", "phi3.attention.sliding_window", int32_t(-4), "'phi3.attention.sliding_window' is -4"},
      {"phi3", "phi3.expert_count", uint32_t(8), "a mixture of experts"},
      {"gemma3", "gemma3.attention.sliding_window", uint32_t(0), "is 0, expected 1 to"},
      {"gemma3", "gemma3.attention.sliding_window_pattern", uint32_t(0), "is 0, expected 1 to 1024"},
      {"gemma3", "gemma3.final_logit_softcapping", 30.f, "soft caps"},
      {"gemma3", "gemma3.rope.scaling.type", std::string("yarn"), "is 'yarn'; known: none, linear"},
  };
  for (const Case& c : cases) {
    Gguf gguf = converted(c.architecture);
    gguf.set(c.key, c.value);
    const std::string message = error_of([&] { load_model(gguf); });
    INFO(c.key, " → ", message);
    CHECK(message.find(c.why) != std::string::npos);
  }
  const Case encoders[] = {
      {"bert", "bert.attention.head_count", uint32_t(5), "do not divide into 5 heads"},
      {"bert", "bert.pooling_type", uint32_t(9), "'bert.pooling_type' is 9"},
      {"bert", "bert.attention.causal", true, "causal"},
      {"bert", "bert.context_length", uint32_t(512), "tensor 'position_embd.weight' has shape"},
      {"vit", "vit.patch_size", uint32_t(3), "8 pixels do not divide into patches of 3"},
      {"vit", "vit.patch_size", uint32_t(0), "'vit.patch_size' is 0, expected 1 to"},
      {"vit", "vit.image_size", uint32_t(4000000000), "expected 1 to 4096"},
      {"vit", "vit.pooling", std::string("max"), "known: cls, mean"},
      {"vit", "vit.activation", std::string("tanh"), "known: gelu, gelu_tanh, relu"},
      {"vit", "vit.class_count", uint32_t(6), "tensor 'output.weight' has shape [5, 16], expected [6, 16]"},
  };
  for (const Case& c : encoders) {
    Gguf gguf = converted(c.architecture);
    gguf.set(c.key, c.value);
    const std::string message = error_of([&] { if (std::string(c.architecture) == "vit") load_vit(gguf); else load_bert(gguf); });
    INFO(c.key, " → ", message);
    CHECK(message.find(c.why) != std::string::npos);
  }
  const Gguf bert = converted("bert");
  CHECK(error_of([&] { load_model(bert); }).find("architecture 'bert' is not known") != std::string::npos);
  CHECK(error_of([&] { load_vit(bert); }).find("expected 'vit'") != std::string::npos);
  const auto gpt2_file = converted("gpt2");
  const auto gpt2 = load_model(gpt2_file);
  CHECK(error_of([&] { gpt2->hidden(Ids(33, 0), 1, 33, {}); }) == "gpt2: 33 tokens, the model has 32 positions");
}

TEST_CASE("conversion refuses what it does not know") {
  PublishedModel m = PublishedModel::open(folder("qwen2") + "model.safetensors");
  CHECK(error_of([&] { convert(m, {"bert", DType::F32}); }).find("'hidden_act' is \"silu\"; known: gelu") != std::string::npos);
  CHECK(error_of([&] { convert(m, {"rwkv", DType::F32}); }).find("architecture 'rwkv' is not converted; known: bert, gpt2") != std::string::npos);
  CHECK(error_of([&] { convert(m, {"qwen2", DType::I32}); }) != "");
  Safetensors& file = m.files[0];
  file.add("model.layers.0.surprise.weight", Tensor::zeros({2}));
  CHECK(error_of([&] { convert(m, {}); }).find("tensor 'model.layers.0.surprise.weight' is not one that architecture 'qwen2' has") != std::string::npos);
}
