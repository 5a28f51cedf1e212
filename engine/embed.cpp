#include "engine/embed.h"

#include <algorithm>

#include "tensor/order.h"

namespace kvt {

std::vector<int32_t> cut_ids(std::vector<int32_t> ids, int64_t most) {
  require(most >= 2, "embed: texts of at most ", most, " tokens, expected 2 or more");
  if (int64_t(ids.size()) > most) {
    ids[size_t(most) - 1] = ids.back();
    ids.resize(size_t(most));
  }
  return ids;
}

int64_t most_tokens(const Gguf& gguf, const Bert& model) {
  const int64_t most = gguf.integer("kvt.embed.max_tokens", model.config().context);
  require(most >= 2 && most <= model.config().context, gguf.path(), ": key 'kvt.embed.max_tokens' is ", most, ", expected 2 to ", model.config().context);
  return most;
}

std::vector<TextEmbedding> embed(const Bert& model, const Tokenizer& tokenizer, std::span<const std::string> texts, int64_t most, int64_t batch) {
  const Tape::Pause pause;
  std::vector<TextEmbedding> result;
  for (const std::string& text : texts) result.push_back({cut_ids(tokenizer.encode(text, {.add_special = true, .parse_special = false}), most), {}});
  const std::vector<int64_t> order = stable_order(int64_t(result.size()), [&](int64_t a, int64_t b) { return result[size_t(a)].ids.size() < result[size_t(b)].ids.size(); });

  for (size_t begin = 0; begin < order.size(); begin += size_t(batch)) {
    const auto rows = std::span(order).subspan(begin, std::min(size_t(batch), order.size() - begin));
    const size_t T = result[rows.back()].ids.size();
    require(T > 0, "embed: the tokenizer gives a text no tokens");
    Ids ids;
    std::vector<int32_t> lengths;
    for (const size_t i : rows) {
      lengths.push_back(int32_t(result[i].ids.size()));
      ids.insert(ids.end(), result[i].ids.begin(), result[i].ids.end());
      ids.resize(lengths.size() * T, 0);
    }
    const Tensor vectors = model.pooled(model.hidden(ids, lengths, int64_t(T)), lengths);
    const auto C = size_t(vectors.dim(1));
    for (size_t r = 0; r < rows.size(); ++r) result[rows[r]].vector.assign(vectors.data() + r * C, vectors.data() + (r + 1) * C);
  }
  return result;
}

}  // namespace kvt
