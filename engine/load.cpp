#include "engine/load.h"

#include <cmath>

#include "engine/hyperparameters.h"
#include "models/gemma3.h"
#include "models/gpt2.h"
#include "models/llama.h"
#include "models/phi3.h"

namespace kvt {

namespace {

[[maybe_unused]] RopeOptions rope_options(const Gguf& gguf, const Hyperparameters& h, int64_t head_size, RopeOptions::Pairing pairing) {
  RopeOptions rope;
  rope.pairing = pairing;
  rope.dims = h.count("rope.dimension_count", head_size, head_size);
  require(rope.dims % 2 == 0, gguf.path(), ": key '", h.key("rope.dimension_count"), "' is ", rope.dims, ", expected an even number");
  rope.base = h.positive("rope.freq_base", 10000);
  const std::string scaling = gguf.string(h.key("rope.scaling.type"), "none");
  if (scaling == "linear") rope.freq_scale = 1 / h.positive("rope.scaling.factor", 1);
  else require(scaling == "none", gguf.path(), ": key '", h.key("rope.scaling.type"), "' is '", scaling, "'; known: none, linear");
  rope.factors = gguf.find_tensor("rope_freqs.weight");
  require(!rope.factors || rope.factors.shape() == Shape{rope.dims / 2}, gguf.path(), ": tensor 'rope_freqs.weight' has shape ",
          rope.factors ? rope.factors.shape() : Shape{}, ", expected ", Shape{rope.dims / 2});
  return rope;
}

// The keys that all causal models share.
[[maybe_unused]] void read_common(LmConfig& c, const Gguf& gguf, const Hyperparameters& h) {
  c.architecture = h.architecture();
  c.layers = h.count("block_count", 1024);
  c.channels = h.count("embedding_length", 1 << 17);
  c.hidden = h.count("feed_forward_length", 1 << 20);
  c.context = h.count("context_length", int64_t(1) << 31);
  c.heads = h.count("attention.head_count", 1024);
  c.kv_heads = h.count("attention.head_count_kv", 1024, c.heads);
  require(c.heads % c.kv_heads == 0, gguf.path(), ": ", c.heads, " query heads are not a multiple of ", c.kv_heads, " key/value heads");
  require(gguf.has(h.key("attention.key_length")) || c.channels % c.heads == 0, gguf.path(), ": ", c.channels, " channels do not divide into ", c.heads, " heads");
  c.head_size = h.count("attention.key_length", 256, c.channels / c.heads);
  require(h.count("attention.value_length", 256, c.head_size) == c.head_size, gguf.path(), ": keys and values of different sizes are not supported");
  const Tensor embedding = gguf.tensor("token_embd.weight");
  require(embedding.rank() == 2, gguf.path(), ": tensor 'token_embd.weight' has shape ", embedding.shape(), ", expected two axes");
  c.vocabulary = embedding.dim(0);
  require(h.count("vocab_size", int64_t(1) << 31, c.vocabulary) == c.vocabulary, gguf.path(), ": key '", h.key("vocab_size"),
          "' disagrees with the ", c.vocabulary, " rows of 'token_embd.weight'");
  c.tied_output = !gguf.find_tensor("output.weight");
}

#ifdef KVT_MODEL_LLAMA
std::unique_ptr<CausalLm> load_llama(const Gguf& gguf, const Hyperparameters& h) {
  const bool qwen = h.architecture() != "llama";
  LlamaConfig c;
  read_common(c, gguf, h);
  h.absent("expert_count", "a mixture of experts");
  c.rms_eps = h.positive("attention.layer_norm_rms_epsilon", 1e-5);
  c.qkv_bias = h.architecture() == "qwen2";
  c.qk_norm = h.architecture() == "qwen3";
  c.rope = rope_options(gguf, h, c.head_size, qwen ? RopeOptions::halves : RopeOptions::interleaved);
  return std::make_unique<Llama>(c, gguf.tensor_map(), gguf.path());
}
#endif

#ifdef KVT_MODEL_GPT2
std::unique_ptr<CausalLm> load_gpt2(const Gguf& gguf, const Hyperparameters& h) {
  Gpt2Config c;
  read_common(c, gguf, h);
  require(c.kv_heads == c.heads && c.heads * c.head_size == c.channels, gguf.path(), ": gpt2 with ", c.heads, " query and ", c.kv_heads,
          " key heads of ", c.head_size, " numbers for ", c.channels, " channels");
  c.norm_eps = h.positive("attention.layer_norm_epsilon", 1e-5);
  return std::make_unique<Gpt2>(c, gguf.tensor_map(), gguf.path());
}
#endif

#ifdef KVT_MODEL_PHI3
std::unique_ptr<CausalLm> load_phi3(const Gguf& gguf, const Hyperparameters& h) {
  Phi3Config c;
  read_common(c, gguf, h);
  h.absent("expert_count", "a mixture of experts");
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"})
    require(!gguf.find_tensor(name), gguf.path(), ": tensor '", name, "' asks for rotary factors by length (LongRoPE), which this engine does not compute");
  c.rms_eps = h.positive("attention.layer_norm_rms_epsilon", 1e-5);
  c.window = gguf.integer(h.key("attention.sliding_window"), 0);
  require(c.window >= 0, gguf.path(), ": key '", h.key("attention.sliding_window"), "' is ", c.window);
  c.rope = rope_options(gguf, h, c.head_size, RopeOptions::halves);
  return std::make_unique<Phi3>(c, gguf.tensor_map(), gguf.path());
}
#endif

#ifdef KVT_MODEL_GEMMA3
std::unique_ptr<CausalLm> load_gemma3(const Gguf& gguf, const Hyperparameters& h) {
  Gemma3Config c;
  read_common(c, gguf, h);
  for (const char* name : {"attn_logit_softcapping", "final_logit_softcapping"})
    require(gguf.real(h.key(name), 0) == 0, gguf.path(), ": key '", h.key(name), "' asks for soft caps of scores, which this engine does not compute");
  c.rms_eps = h.positive("attention.layer_norm_rms_epsilon", 1e-6);
  c.window = h.count("attention.sliding_window", int64_t(1) << 31);
  c.pattern = h.count("attention.sliding_window_pattern", 1024, 6);
  // The 27B model, the only one of 62 layers, scales by the channels of a head as they would be without a head size of its own.
  if (c.layers == 62) c.scale = 1 / std::sqrt(float(c.channels) / float(c.heads));
  c.rope = rope_options(gguf, h, c.head_size, RopeOptions::halves);
  c.local_rope = c.rope;                          // without what stretches the global layers' context
  c.local_rope.freq_scale = 1;
  c.local_rope.base = h.positive("rope.freq_base_swa", 10000);
  return std::make_unique<Gemma3>(c, gguf.tensor_map(), gguf.path());
}
#endif

// A build may have some of them alone (-Dmodels=…).
struct Architecture {
  const char* name;
  std::unique_ptr<CausalLm> (*load)(const Gguf&, const Hyperparameters&);
};
constexpr Architecture architectures[] = {
#ifdef KVT_MODEL_LLAMA
    {"llama", load_llama},
    {"qwen2", load_llama},
    {"qwen3", load_llama},
#endif
#ifdef KVT_MODEL_GPT2
    {"gpt2", load_gpt2},
#endif
#ifdef KVT_MODEL_PHI3
    {"phi3", load_phi3},
#endif
#ifdef KVT_MODEL_GEMMA3
    {"gemma3", load_gemma3},
#endif
    {nullptr, nullptr},
};

}  // namespace

std::unique_ptr<CausalLm> load_model(const Gguf& gguf) {
  const Hyperparameters h(gguf);
  std::string known;
  for (const Architecture* a = architectures; a->name; ++a) {
    if (h.architecture() == a->name) return a->load(gguf, h);
    known += known.empty() ? a->name : std::string(", ") + a->name;
  }
  fail_as(Trouble::unsupported, gguf.path(), ": architecture '", h.architecture(), "' is not known; known in this build: ", known);
}

}  // namespace kvt
