#include "engine/load.h"

#include <cmath>

#include "models/llama.h"

namespace kvt {

namespace {

// Reads `<architecture>.<key>` and checks it against a range that no real model leaves.
class Hyperparameters {
 public:
  explicit Hyperparameters(const Gguf& gguf) : gguf_(gguf), architecture_(gguf.string("general.architecture")) {}

  const std::string& architecture() const { return architecture_; }
  std::string key(const char* name) const { return architecture_ + "." + name; }

  int64_t count(const char* name, int64_t most) const { return checked(name, gguf_.integer(key(name)), most); }
  int64_t count(const char* name, int64_t most, int64_t fallback) const { return checked(name, gguf_.integer(key(name), fallback), most); }
  float positive(const char* name, double fallback) const {
    const double x = gguf_.real(key(name), fallback);
    require(std::isfinite(x) && x > 0, gguf_.path(), ": key '", key(name), "' is ", x, ", expected a positive number");
    return float(x);
  }
  void absent(const char* name, const char* what) const {
    const Gguf::Value* value = gguf_.find(key(name));
    require(!value || gguf_.integer(key(name)) == 0, gguf_.path(), ": key '", key(name), "' asks for ", what, ", which this engine does not compute");
  }

 private:
  int64_t checked(const char* name, int64_t n, int64_t most) const {
    require(n >= 1 && n <= most, gguf_.path(), ": key '", key(name), "' is ", n, ", expected 1 to ", most);
    return n;
  }

  const Gguf& gguf_;
  std::string architecture_;
};

RopeOptions rope_options(const Gguf& gguf, const Hyperparameters& h, int64_t head_size, RopeOptions::Pairing pairing) {
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
void read_common(LmConfig& c, const Gguf& gguf, const Hyperparameters& h) {
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

std::unique_ptr<CausalLm> load_llama(const Gguf& gguf, const Hyperparameters& h) {
  const bool qwen2 = h.architecture() == "qwen2";
  LlamaConfig c;
  read_common(c, gguf, h);
  h.absent("expert_count", "a mixture of experts");
  c.rms_eps = h.positive("attention.layer_norm_rms_epsilon", 1e-5);
  c.qkv_bias = qwen2;
  c.rope = rope_options(gguf, h, c.head_size, qwen2 ? RopeOptions::halves : RopeOptions::interleaved);
  return std::make_unique<Llama>(c, gguf.tensor_map(), gguf.path());
}

struct Architecture {
  const char* name;
  std::unique_ptr<CausalLm> (*load)(const Gguf&, const Hyperparameters&);
};
constexpr Architecture architectures[] = {
    {"llama", load_llama},
    {"qwen2", load_llama},
};

}  // namespace

std::unique_ptr<CausalLm> load_model(const Gguf& gguf) {
  const Hyperparameters h(gguf);
  std::string known;
  for (const Architecture& a : architectures) {
    if (h.architecture() == a.name) return a.load(gguf, h);
    known += known.empty() ? a.name : std::string(", ") + a.name;
  }
  fail(gguf.path(), ": architecture '", h.architecture(), "' is not known; known: ", known);
}

}  // namespace kvt
