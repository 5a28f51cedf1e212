#include "models/seq2seq.h"

#include <algorithm>
#include <cmath>

namespace kvt {

void Seq2SeqConfig::check(const std::string& source) const {
  require(channels >= 2 && channels % 2 == 0, source, ": ", channels, " channels, expected an even number of at least 2");
  require(heads >= 1 && channels % heads == 0 && channels / heads <= 256, source, ": ", channels, " channels do not divide into ", heads,
          " heads of at most 256");
  require(source_vocabulary >= 1 && target_vocabulary >= 1, source, ": vocabularies of ", source_vocabulary, " and ", target_vocabulary, " tokens");
  require(hidden >= 1 && encoder_layers >= 1 && decoder_layers >= 1 && context >= 1, source, ": hidden size ", hidden, ", ", encoder_layers, " + ",
          decoder_layers, " layers, context ", context, "; expected at least 1 of each");
  require(!shared_embeddings || source_vocabulary == target_vocabulary, source, ": shared embeddings for vocabularies of ", source_vocabulary,
          " and ", target_vocabulary, " tokens");
  require(positions != Positions::halves || channels >= 4, source, ": positions in halves need at least 4 channels");
  require(norm_eps > 0 && std::isfinite(norm_eps) && dropout >= 0 && dropout < 1, source, ": norm epsilon ", norm_eps, ", dropout ", dropout);
}

// Rows first … first + T − 1 of the table, made when they are needed: a file's context_length is a number, and what it holds may be less.
static Tensor sinusoids(const Seq2SeqConfig& c, int64_t first, int64_t T) {
  const Tensor table({T, c.channels});
  const int64_t pairs = c.channels / 2;
  const bool halves = c.positions == Seq2SeqConfig::Positions::halves;
  for (int64_t i = 0; i < pairs; ++i) {
    const double frequency = std::pow(10000.0, -double(i) / double(halves ? pairs - 1 : pairs));
    float* at = table.data() + (halves ? i : 2 * i);
    for (int64_t t = first; t < first + T; ++t, at += c.channels) {
      const double angle = double(t + halves) * frequency;
      at[0] = float(std::sin(angle));
      at[halves ? pairs : 1] = float(std::cos(angle));
    }
  }
  return table;
}

MultiHead::MultiHead(int64_t channels, int64_t heads_)
    : q(channels, channels, true), k(channels, channels, true), v(channels, channels, true), output(channels, channels, true), heads(heads_) {}

MultiHead::KeysValues MultiHead::keys_values(const Tensor& x) const {
  const Shape split{x.dim(0), x.dim(1), heads, x.dim(2) / heads};
  return {k(x).view(split), v(x).view(split)};
}

Tensor MultiHead::operator()(const Tensor& x, const KeysValues& kv, const AttentionOptions& options) const {
  const Shape split{x.dim(0), x.dim(1), heads, x.dim(2) / heads};
  return output(attention(q(x).view(split), kv.k, kv.v, options).view(x.shape()));
}

Tensor FeedForward::operator()(const Tensor& x) const {
  const Tensor h = up(x);
  return down(activation == Seq2SeqConfig::Activation::relu ? relu(h) : gelu(h));
}

EncoderBlock::EncoderBlock(const Seq2SeqConfig& c)
    : attention(c.channels, c.heads), feed_forward{Linear(c.channels, c.hidden, true), Linear(c.hidden, c.channels, true), c.activation},
      attn_norm(c.channels, c.norm_eps), ffn_norm(c.channels, c.norm_eps) {}

Tensor EncoderBlock::operator()(const Tensor& x, const AttentionOptions& padding, const Residual& add) const {
  const Tensor h = add(x, attn_norm, [&](const Tensor& n) { return attention(n, attention.keys_values(n), padding); });
  return add(h, ffn_norm, feed_forward);
}

DecoderBlock::DecoderBlock(const Seq2SeqConfig& c)
    : attention(c.channels, c.heads), cross(c.channels, c.heads),
      feed_forward{Linear(c.channels, c.hidden, true), Linear(c.hidden, c.channels, true), c.activation},
      attn_norm(c.channels, c.norm_eps), cross_attn_norm(c.channels, c.norm_eps), ffn_norm(c.channels, c.norm_eps) {}

MultiHead::KeysValues Memory::keys_values(const MultiHead& cross) const {
  const AdapterPass::Scope scope(pass);
  return cross.keys_values(states);
}

Tensor DecoderBlock::operator()(const Tensor& x, const Memory& memory, const Residual& add) const {
  const AttentionOptions causal{.causal = true}, padding{.lengths = memory.lengths};
  const Tensor h = add(x, attn_norm, [&](const Tensor& n) { return attention(n, attention.keys_values(n), causal); });
  const Tensor g = add(h, cross_attn_norm, [&](const Tensor& n) { return cross(n, memory.keys_values(cross), padding); });
  return add(g, ffn_norm, feed_forward);
}

Tensor DecoderBlock::step(const Tensor& x, DecoderCache& cache, int64_t layer, const Residual& add) const {
  const auto sentences = int64_t(cache.lengths_.size());
  const AttentionOptions past{.lengths = std::vector<int32_t>(size_t(x.dim(0)), int32_t(cache.length_ + 1))};
  const AttentionOptions padding{.lengths = cache.lengths_};
  const Tensor h = add(x, attn_norm, [&](const Tensor& n) { return attention(n, cache.append(layer, attention.keys_values(n)), past); });
  // The beams of a sentence are queries to the same memory.
  const Tensor g = add(h, cross_attn_norm, [&](const Tensor& n) {
    return cross(n.view({sentences, cache.beams_, n.dim(2)}), cache.layers_[size_t(layer)].memory, padding).view(n.shape());
  });
  return add(g, ffn_norm, feed_forward);
}

MultiHead::KeysValues DecoderCache::append(int64_t layer, const MultiHead::KeysValues& one) {
  const MultiHead::KeysValues& past = layers_[size_t(layer)].past;
  const int64_t row = past.k.dim(2) * past.k.dim(3);
  for (int64_t r = 0; r < rows(); ++r) {
    std::copy_n(one.k.data() + r * row, row, past.k.data() + (r * capacity_ + length_) * row);
    std::copy_n(one.v.data() + r * row, row, past.v.data() + (r * capacity_ + length_) * row);
  }
  return past;
}

void DecoderCache::reorder(std::span<const int64_t> from) {
  require(int64_t(from.size()) == rows(), "decoder cache: ", from.size(), " rows to reorder, expected ", rows());
  for (size_t i = 0; i < from.size(); ++i)
    require(from[i] / beams_ == int64_t(i) / beams_ && from[i] >= 0, "decoder cache: row ", i, " cannot continue row ", from[i], " of another sentence");
  for (Layer& layer : layers_)
    for (Tensor* x : {&layer.past.k, &layer.past.v}) {
      const Tensor old = *x;
      const int64_t stride = old.size() / rows(), used = length_ * old.dim(2) * old.dim(3);
      *x = Tensor(old.shape(), DType::F32, Storage::allocate_owned(size_t(old.bytes())));
      for (size_t i = 0; i < from.size(); ++i) std::copy_n(old.data() + from[i] * stride, used, x->data() + int64_t(i) * stride);
    }
}

template <class Block>
static void build(Stack<Block>& side, const Seq2SeqConfig& c, int64_t vocabulary, int64_t layers) {
  side.token_embd = Embedding(vocabulary, c.channels);
  side.learned = c.positions == Seq2SeqConfig::Positions::learned;
  if (side.learned) side.position_embd = Parameter(Shape{c.context, c.channels});
  for (int64_t i = 0; i < layers; ++i) side.blk.emplace_back(c);
  side.output_norm = LayerNorm(c.channels, c.norm_eps);
  side.final_norm = c.pre_norm;
}

const std::string& Seq2Seq::architecture() const {
  static const std::string name = "seq2seq";
  return name;
}

Seq2Seq::Seq2Seq(const Seq2SeqConfig& config) : output(config.channels, config.target_vocabulary, config.output_bias), config_(config) {
  config.check("seq2seq");
  build(enc, config, config.source_vocabulary, config.encoder_layers);
  build(dec, config, config.target_vocabulary, config.decoder_layers);
  dec.own_embedding = !config.shared_embeddings;
}

void Seq2Seq::init(Rng& rng) {
  each_parameter([&](const std::string& name, Parameter& p) {
    const auto part = [&](const char* text) { return name.find(text) != std::string::npos; };
    if (part("_embd")) p.tensor = randn(p.shape, rng, 1 / std::sqrt(float(config_.channels)));
    else if (p.shape.rank() == 2) {
      const float a = std::sqrt(6 / float(p.shape[0] + p.shape[1]));
      p.tensor = rand_uniform(p.shape, rng, -a, a);
    } else p.tensor = Tensor::filled(p.shape, part("norm.weight") ? 1.f : 0.f);
  });
}

void Seq2Seq::load(const std::map<std::string, Tensor>& tensors, const std::string& source) { load_parameters(*this, tensors, source); }

template <class Block>
Tensor Seq2Seq::placed(const Stack<Block>& side, const Tensor& tokens, int64_t first, const Residual& add) const {
  const int64_t T = tokens.dim(1);
  require(first + T <= config_.context, "seq2seq: ", first + T, " tokens exceed the context of ", config_.context);
  const Tensor positions = side.learned ? slice(side.position_embd.tensor, 0, first, first + T) : sinusoids(config_, first, T);
  return add.drop((config_.scale_embedding ? scale(tokens, std::sqrt(float(config_.channels))) : tokens) + positions);
}

Memory Seq2Seq::encode(std::span<const int32_t> ids, std::span<const int32_t> lengths, int64_t S, Rng* random, int64_t blocks) const {
  const auto B = int64_t(lengths.size());
  require(S >= 1 && int64_t(ids.size()) == B * S, "seq2seq: ", ids.size(), " ids for ", B, " × ", S);
  for (int32_t n : lengths) require(n >= 1 && n <= S, "seq2seq: a sentence of ", n, " tokens among rows of ", S);
  const Residual add = residual(random);
  const AttentionOptions padding{.lengths = {lengths.begin(), lengths.end()}};
  const Tensor tokens = embedding(ids, {B, S}, enc.token_embd.weight);
  const AdapterPass pass = pass_with(tokens, padding.lengths);
  const AdapterPass::Scope scope(pass);
  Tensor x = placed(enc, tokens, 0, add);
  for (int64_t i = 0; i < (blocks < 0 ? config_.encoder_layers : blocks); ++i) x = enc.blk.at(size_t(i))(x, padding, add);
  return {enc.final_norm ? enc.output_norm(x) : x, padding.lengths, pass};
}

Tensor Seq2Seq::decode(std::span<const int32_t> ids, int64_t T, const Memory& memory, Rng* random) const {
  const int64_t B = memory.states.dim(0);
  require(T >= 1 && int64_t(ids.size()) == B * T, "seq2seq: ", ids.size(), " ids for ", B, " × ", T);
  const Residual add = residual(random);
  const Tensor tokens = embedding(ids, {B, T}, target_embedding());
  const AdapterPass::Scope scope(pass_with(tokens, {}, &memory.pass));
  Tensor x = placed(dec, tokens, 0, add);
  for (const DecoderBlock& block : dec.blk) x = block(x, memory, add);
  return dec.final_norm ? dec.output_norm(x) : x;
}

Tensor Seq2Seq::logits(const Tensor& hidden) const { return linear(hidden, output_matrix(), output.bias); }

Tensor Seq2Seq::loss(const Tensor& hidden, std::span<const int32_t> targets, float smoothing) const {
  return linear_cross_entropy(hidden, output_matrix(), targets, {.smoothing = smoothing, .bias = output.bias});
}

DecoderCache Seq2Seq::start(const Memory& memory, int64_t beams, int64_t capacity) const {
  require(beams >= 1 && capacity >= 1 && capacity <= config_.context, "seq2seq: ", beams, " beams of ", capacity, " tokens; the context is ", config_.context);
  DecoderCache cache;
  cache.lengths_ = memory.lengths;
  cache.source_ = memory.pass;
  cache.beams_ = beams;
  cache.capacity_ = capacity;
  const Shape past{cache.rows(), capacity, config_.heads, config_.channels / config_.heads};
  for (const DecoderBlock& block : dec.blk) cache.layers_.push_back({memory.keys_values(block.cross), {Tensor::zeros(past), Tensor::zeros(past)}});
  return cache;
}

Tensor Seq2Seq::step(std::span<const int32_t> ids, DecoderCache& cache) const {
  require(int64_t(ids.size()) == cache.rows(), "seq2seq: ", ids.size(), " ids for ", cache.rows(), " rows");
  require(cache.length_ < cache.capacity_, "seq2seq: the cache's ", cache.capacity_, " tokens are full");
  const Residual add = residual(nullptr);
  const Tensor tokens = embedding(ids, {cache.rows(), 1}, target_embedding());
  const AdapterPass::Scope scope(pass_with(tokens.view({int64_t(cache.lengths_.size()), cache.beams_, tokens.dim(2)}), {}, &cache.source_));      // beams of a sentence lie together
  Tensor x = placed(dec, tokens, cache.length_, add);
  for (size_t i = 0; i < dec.blk.size(); ++i) x = dec.blk[i].step(x, cache, int64_t(i), add);
  ++cache.length_;
  return logits(dec.final_norm ? dec.output_norm(x) : x).view({cache.rows(), config_.target_vocabulary});
}

}  // namespace kvt
