#include "engine/tokenizer.h"

#include <algorithm>
#include <cmath>

#include "engine/pretokenize.h"
#include "engine/tokenizer_models.h"
#include "tensor/error.h"

namespace kvt {

static int32_t special_id(const Gguf& gguf, const char* name, int32_t size) {
  const std::string key = std::string("tokenizer.ggml.") + name + "_token_id";
  const int64_t id = gguf.integer(key, -1);
  if (id == -1 || id == int64_t(UINT32_MAX)) return -1;            // both spell "none"
  require(id >= 0 && id < size, gguf.path(), ": ", key, " = ", id, " is outside of the vocabulary of ", size);
  return int32_t(id);
}

Vocab Vocab::from(const Gguf& gguf) {
  Vocab v;
  v.text = gguf.array<std::string>("tokenizer.ggml.tokens");
  require(!v.text.empty() && v.text.size() <= size_t(INT32_MAX), gguf.path(), ": tokenizer.ggml.tokens has ", v.text.size(), " tokens");
  const auto check_length = [&](const char* key, size_t length) {
    require(length == v.text.size(), gguf.path(), ": ", key, " has ", length, " items for ", v.text.size(), " tokens");
  };

  if (gguf.has("tokenizer.ggml.scores")) {
    v.score = gguf.array<float>("tokenizer.ggml.scores");
    check_length("tokenizer.ggml.scores", v.score.size());
    for (size_t i = 0; i < v.score.size(); ++i)
      require(std::isfinite(v.score[i]), gguf.path(), ": tokenizer.ggml.scores: token ", i, " has ", v.score[i]);
  }
  v.kind.assign(v.text.size(), Kind::normal);
  if (gguf.has("tokenizer.ggml.token_type")) {
    const auto& types = gguf.array<int32_t>("tokenizer.ggml.token_type");
    check_length("tokenizer.ggml.token_type", types.size());
    for (size_t i = 0; i < types.size(); ++i) {
      require(types[i] >= 1 && types[i] <= 6, gguf.path(), ": tokenizer.ggml.token_type: token ", i, " has type ", types[i], ", not one of 1…6");
      v.kind[i] = Kind(types[i]);
    }
  }
  v.id.reserve(v.text.size());
  for (size_t i = 0; i < v.text.size(); ++i)
    if (!v.text[i].empty()) v.id.try_emplace(v.text[i], int32_t(i));

  v.bos = special_id(gguf, "bos", v.size());
  v.eos = special_id(gguf, "eos", v.size());
  v.eot = special_id(gguf, "eot", v.size());
  v.eom = special_id(gguf, "eom", v.size());
  v.unknown = special_id(gguf, "unknown", v.size());
  v.separator = special_id(gguf, "seperator", v.size());           // so spelled in the files
  v.padding = special_id(gguf, "padding", v.size());
  v.cls = special_id(gguf, "cls", v.size());
  v.mask = special_id(gguf, "mask", v.size());
  return v;
}

int32_t Vocab::find(std::string_view token) const {
  const auto found = id.find(token);
  return found == id.end() ? -1 : found->second;
}

std::unique_ptr<Tokenizer> Tokenizer::from(const Gguf& gguf) {
  const std::string model = gguf.string("tokenizer.ggml.model");
  const bool spm = model == "llama", bpe = model == "gpt2", wordpiece = model == "bert";
  require(spm || bpe || wordpiece, gguf.path(), ": unknown tokenizer.ggml.model = '", model, "'; known are llama, gpt2, bert");

  Vocab v = Vocab::from(gguf);
  const auto or_text = [&](int32_t& id, const char* text) { if (id < 0) id = v.find(text); };
  if (spm) {
    or_text(v.bos, "<s>");
    or_text(v.eos, "</s>");
    or_text(v.unknown, "<unk>");
    v.add_bos = v.bos >= 0;
  }
  if (wordpiece) {
    or_text(v.cls, "[CLS]");
    or_text(v.separator, "[SEP]");
    or_text(v.unknown, "[UNK]");
    v.bos = v.cls;
    v.eos = v.separator;
    v.add_bos = v.bos >= 0;
    v.add_eos = v.eos >= 0;
  }
  if (bpe) v.add_bos = v.bos >= 0 && PreTokenizer::named(gguf.string("tokenizer.ggml.pre", "default"), gguf.path()).adds_bos;
  v.add_bos = gguf.boolean("tokenizer.ggml.add_bos_token", v.add_bos);
  v.add_eos = gguf.boolean("tokenizer.ggml.add_eos_token", v.add_eos);
  v.add_space_prefix = wordpiece || (spm && gguf.boolean("tokenizer.ggml.add_space_prefix", true));
  require(!v.add_bos || v.bos >= 0, gguf.path(), ": tokenizer.ggml.add_bos_token is true, but there is no tokenizer.ggml.bos_token_id");
  require(!v.add_eos || v.eos >= 0, gguf.path(), ": tokenizer.ggml.add_eos_token is true, but there is no tokenizer.ggml.eos_token_id");

  if (spm) return make_spm(std::move(v), gguf.path());
  if (bpe) return make_bpe(std::move(v), gguf);
  return make_wordpiece(std::move(v), gguf.path());
}

Tokenizer::Tokenizer(Vocab vocab) : vocab_(std::move(vocab)) {
  for (int32_t i = 0; i < vocab_.size(); ++i) {
    const Vocab::Kind kind = vocab_.kind[size_t(i)];
    const std::string& text = vocab_.text[size_t(i)];
    if ((kind != Vocab::Kind::control && kind != Vocab::Kind::unknown && kind != Vocab::Kind::user_defined) || text.empty()) continue;
    specials_.push_back(i);
    special_starts_[static_cast<unsigned char>(text[0])] = true;
  }
  std::sort(specials_.begin(), specials_.end(), [this](int32_t a, int32_t b) {
    const int order = vocab_.text[size_t(a)].compare(vocab_.text[size_t(b)]);
    return order != 0 ? order < 0 : a < b;
  });

  for (const int32_t id : {vocab_.eos, vocab_.eot, vocab_.eom})
    if (id >= 0) ends_.push_back(id);
  // Files often name but one end; models write these too.
  for (const char* text : {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|EOT|>",
                           "<｜end▁of▁sentence｜>"})
    if (const int32_t id = vocab_.find(text); id >= 0 && vocab_.kind[size_t(id)] == Vocab::Kind::control) ends_.push_back(id);
}

bool Tokenizer::ends_generation(int32_t id) const { return std::find(ends_.begin(), ends_.end(), id) != ends_.end(); }

// The longest special token that `text` begins with, or −1. Narrows the sorted list byte by byte.
int32_t Tokenizer::find_special(std::string_view text, bool parse_special) const {
  if (!special_starts_[static_cast<unsigned char>(text[0])]) return -1;
  int32_t longest = -1;
  auto begin = specials_.begin(), end = specials_.end();
  for (size_t k = 0; k < text.size() && begin != end; ++k) {
    // All of [begin, end) share text[0, k); those of length k stand first and sort below any byte.
    const auto byte = [&](int32_t id) { return k < vocab_.text[size_t(id)].size() ? int(static_cast<unsigned char>(vocab_.text[size_t(id)][k])) : -1; };
    const int wanted = static_cast<unsigned char>(text[k]);
    begin = std::lower_bound(begin, end, wanted, [&](int32_t id, int b) { return byte(id) < b; });
    end = std::upper_bound(begin, end, wanted, [&](int b, int32_t id) { return b < byte(id); });
    for (auto i = begin; i != end && vocab_.text[size_t(*i)].size() == k + 1; ++i)
      if (parse_special || vocab_.kind[size_t(*i)] == Vocab::Kind::user_defined) {
        longest = *i;
        break;
      }
  }
  return longest;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, Options options) const {
  require(text.size() <= size_t(INT32_MAX) / 4, "tokenizer: a text of ", text.size(), " bytes is too long; split it");
  std::vector<int32_t> ids;
  if (options.add_special && vocab_.add_bos) ids.push_back(vocab_.bos);
  bool first = true;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const int32_t special = find_special(text.substr(at), options.parse_special);
    if (special < 0) {
      ++at;
      continue;
    }
    if (at > begin) encode_text(text.substr(begin, at - begin), first, ids);
    ids.push_back(special);
    begin = at += vocab_.text[size_t(special)].size();
    first = true;
  }
  if (begin < text.size()) encode_text(text.substr(begin), first, ids);
  if (options.add_special && vocab_.add_eos) ids.push_back(vocab_.eos);
  return ids;
}

std::string Tokenizer::piece(int32_t id, bool control) const {
  require(id >= 0 && id < vocab_.size(), "tokenizer: token id ", id, " is outside of the vocabulary of ", vocab_.size());
  switch (vocab_.kind[size_t(id)]) {
    case Vocab::Kind::control:
    case Vocab::Kind::unknown: return control ? vocab_.text[size_t(id)] : std::string();
    case Vocab::Kind::user_defined: return vocab_.text[size_t(id)];
    default: return piece_text(id);
  }
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool control) const {
  std::string text;
  bool first = true;
  for (const int32_t id : ids) {
    const std::string p = piece(id, control);
    const Vocab::Kind kind = vocab_.kind[size_t(id)];
    const bool special = kind == Vocab::Kind::control || kind == Vocab::Kind::unknown || kind == Vocab::Kind::user_defined;
    text.append(p, first && !special && vocab_.add_space_prefix && p.starts_with(' ') ? 1 : 0);
    first = special;
  }
  return text;
}

Gguf tokenizer_of(const Gguf& file) {
  Gguf keys;
  for (const Gguf::Key& k : file.keys())
    if (k.name.starts_with("tokenizer.")) keys.set(k.name, k.value);
  return keys;
}

}  // namespace kvt
