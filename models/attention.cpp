#include "models/attention.h"

#include <algorithm>

#include "models/together.h"
#include "ops/quant.h"

namespace kvt {

KvCache::KvCache(int64_t layers, int64_t capacity, int64_t kv_heads, int64_t head_size, DType dtype, int64_t twins_from) : capacity_(capacity) {
  require(capacity > 0, "kv cache: capacity ", capacity);
  require(dtype == DType::F32 || dtype == DType::F16 || dtype == DType::Q8_0, "kv cache: expected F32, F16 or Q8_0, got ", dtype);
  require(head_size % info(dtype).block == 0, "kv cache: heads of ", head_size, " numbers do not fill whole blocks of ", dtype);
  const Shape shape{capacity, kv_heads, head_size};
  const auto fresh = [&] { return Tensor(shape, dtype, Storage::allocate_owned(size_t(byte_size(dtype, shape.numel())))); };
  for (int64_t i = 0; i < layers; ++i) {
    layers_.emplace_back();
    for (int rows = twins_from >= 0 && i >= twins_from ? 2 : 1; rows > 0; --rows) layers_.back().push_back({fresh(), fresh()});
  }
}

int64_t KvCache::bytes() const {
  int64_t total = notes_ ? notes_.bytes() : 0;
  for (const auto& rows : layers_)
    for (const Pair& row : rows) total += row.k.bytes() + row.v.bytes();
  return total;
}

// The first `n` rows of `cached`, the last of them fresh from `x` [1, T, Hkv, D].
static Tensor store(const Tensor& cached, int64_t length, const Tensor& x) {
  const int64_t row = cached.dim(1) * cached.dim(2), n = length + x.dim(1), bytes = byte_size(cached.dtype(), row);
  const Tensor fresh = cached.dtype() == DType::F32 ? x : pack(x, cached.dtype());
  std::copy_n(fresh.raw(), fresh.bytes(), cached.raw() + length * bytes);
  return Tensor({1, n, cached.dim(1), cached.dim(2)}, cached.dtype(), cached.storage().part(0, size_t(n * bytes)));
}

KvCache::Pair KvCache::append(int64_t layer, int64_t row, const Tensor& k, const Tensor& v) {
  require(k.dim(0) == 1, "kv cache: one sequence at a time, got ", k.shape());
  require(length_ + k.dim(1) <= capacity_, "kv cache: ", length_, " + ", k.dim(1), " tokens exceed its capacity of ", capacity_);
  const Pair& pair = layers_.at(size_t(layer)).at(size_t(row));
  return {store(pair.k, length_, k), store(pair.v, length_, v)};
}

bool KvCache::same_form(const KvCache& other) const {
  const auto row = [](const Tensor& x) { return x ? x.bytes() / x.dim(0) : 0; };
  if (layers_.size() != other.layers_.size() || row(notes_) != row(other.notes_)) return false;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::vector<Pair>&mine = layers_[i], &theirs = other.layers_[i];
    if (mine.size() != theirs.size()) return false;
    for (size_t r = 0; r < mine.size(); ++r)
      if (mine[r].k.dtype() != theirs[r].k.dtype() || row(mine[r].k) != row(theirs[r].k) || row(mine[r].v) != row(theirs[r].v)) return false;
  }
  return true;
}

void KvCache::keep_notes(int64_t numbers) {
  const Shape shape{capacity_, numbers};
  notes_ = Tensor(shape, DType::F32, Storage::allocate_owned(size_t(byte_size(DType::F32, shape.numel()))));
}

void KvCache::advance(int64_t tokens) { length_ += tokens; }

void KvCache::truncate(int64_t length) {
  require(length >= 0 && length <= length_, "kv cache: cannot truncate ", length_, " tokens to ", length);
  length_ = length;
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options, KvCache* cache, int64_t layer) {
  if (!cache) return attention(q, k, v, options);
  require(q.dim(0) == (AdapterPass::current().rows == AdapterPass::Rows::twins ? 2 : 1), "attention: a cache holds one sequence, got ", q.shape());
  ArenaVector<KeysAndValues> rows;
  rows.reserve(size_t(q.dim(0)));
  for (int64_t b = 0; b < q.dim(0); ++b) {
    const auto row = [b](const Tensor& x) { return slice(x, 0, b, b + 1); };
    rows.push_back(cache->append(layer, b, row(k), row(v)));
  }
  return attention(q, rows, options);
}

Tensor Attention::operator()(const Tensor& x, std::span<const int32_t> positions, KvCache* cache, int64_t layer) const {
  const int64_t B = x.dim(0), T = x.dim(1), D = head_size;
  const ArenaVector<Tensor> qkv = together(x, {&attn_q, &attn_k, &attn_v});
  const auto turned = [&](const Tensor& y, const RmsNorm& norm, int64_t n) {
    const Tensor h = y.view({B, T, n, D});
    return rope(normalised() ? norm(h) : h, positions, rope_options);
  };
  const Tensor q = turned(qkv[0], attn_q_norm, heads);
  const Tensor k = turned(qkv[1], attn_k_norm, kv_heads), v = qkv[2].view({B, T, kv_heads, D});
  const AttentionOptions options = {.causal = true, .scale = scale, .lengths = {}, .window = window};
  return attn_output(attention(q, k, v, options, cache, layer).view({B, T, heads * D}));
}

}  // namespace kvt
