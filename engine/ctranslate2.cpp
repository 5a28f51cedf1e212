#include "engine/ctranslate2.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "engine/seq2seq_file.h"

namespace kvt {

namespace {

struct Variable {
  Shape shape;
  int item = 4;
  const std::byte* data = nullptr;
  size_t offset = 0;
};

// Walks model.bin; every length is checked against the bytes that remain.
class Reader {
 public:
  Reader(Storage bytes, std::string path) : bytes_(std::move(bytes)), path_(std::move(path)) {}

  template <class T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what), sizeof(T));
    return value;
  }
  std::string string(const char* what) {
    const size_t at = offset_, n = number<uint16_t>(what);
    const auto* text = reinterpret_cast<const char*>(take(n, what));
    require(n >= 2 && std::memchr(text, 0, n) == text + n - 1, path_, ": offset ", at, ": ", what, " is no text closed by one NUL");
    return std::string(text, n - 1);
  }
  const std::byte* take(size_t n, const std::string& what) {
    require(n <= bytes_.size() - offset_, path_, ": offset ", offset_, ": ", what, " of ", n, " bytes exceeds the file's ", bytes_.size());
    const std::byte* p = bytes_.data() + offset_;
    offset_ += n;
    return p;
  }
  size_t offset() const { return offset_; }
  bool at_end() const { return offset_ == bytes_.size(); }

 private:
  Storage bytes_;
  std::string path_;
  size_t offset_ = 0;
};

class Binary {
 public:
  explicit Binary(const std::string& path) : path_(path) {
    Reader in(Storage::read_file(path), path);
    const auto version = in.number<uint32_t>("version");
    require(version == 2, path, ": offset 0: version ", version, ", expected 2");
    specification_ = in.string("specification");
    in.number<uint32_t>("revision");
    const auto count = in.number<uint32_t>("number of variables");
    for (uint32_t i = 0; i < count; ++i) {
      const size_t at = in.offset();
      const std::string name = in.string("name of a variable");
      const auto rank = in.number<uint8_t>("axes");
      require(rank <= 2, path, ": offset ", at, ": variable '", name, "' has ", int(rank), " axes, expected at most 2");
      Variable v;
      v.offset = at;
      for (uint8_t a = 0; a < rank; ++a) v.shape.push_back(in.number<uint32_t>("extent"));
      v.item = in.number<uint8_t>("size of an item");
      require(v.item == 1 || v.item == 2 || v.item == 4, path, ": offset ", at, ": variable '", name, "' has items of ", v.item, " bytes, expected 1, 2 or 4");
      const auto items = in.number<uint32_t>("number of items");
      require(v.shape.numel() == int64_t(items), path, ": offset ", at, ": variable '", name, "' has ", items, " items for shape ", v.shape);
      v.data = in.take(size_t(items) * size_t(v.item), "variable '" + name + "'");
      require(variables_.emplace(name, v).second, path, ": offset ", at, ": variable '", name, "' is there twice");
    }
    require(in.at_end(), path, ": offset ", in.offset(), ": bytes behind the last variable");
    bytes_ = std::move(in);
  }

  const std::string& specification() const { return specification_; }
  bool has(const std::string& name) const { return variables_.contains(name); }
  const Variable& variable(const std::string& name) const {
    const auto found = variables_.find(name);
    require(found != variables_.end(), path_, ": variable '", name, "' is missing");
    return found->second;
  }

  // Its numbers as F32.
  Tensor operator()(const std::string& name) {
    const Variable& v = variable(name);
    used_.insert(name);
    const Tensor result(v.shape);
    const int64_t rows = v.shape.rank() == 2 ? v.shape[0] : 1, cols = rows ? result.size() / rows : 0;
    if (v.item == 4) {
      std::memcpy(result.data(), v.data, size_t(result.bytes()));
    } else {
      const Variable& scale = variable(name + "_scale");
      used_.insert(name + "_scale");
      const int64_t scales = scale.shape.numel();
      require(scale.item == 4 && (scales == 1 || scales == rows), path_, ": offset ", scale.offset, ": variable '", name, "_scale' of shape ", scale.shape,
              " does not fit ", v.shape);
      for (int64_t i = 0; i < result.size(); ++i) {
        float s;
        std::memcpy(&s, scale.data + 4 * (scales == 1 ? 0 : i / cols), 4);
        require(std::isfinite(s) && s != 0, path_, ": offset ", scale.offset, ": variable '", name, "_scale' holds ", s);
        int16_t wide;
        std::memcpy(&wide, v.data + v.item * i, v.item == 2 ? 2 : 1);
        result.data()[i] = float(v.item == 2 ? wide : int16_t(int8_t(v.data[i]))) / s;
      }
    }
    for (float x : result.values()) require(std::isfinite(x), path_, ": offset ", v.offset, ": variable '", name, "' holds ", x);
    return result;
  }

  void check_all_used() const {
    for (const auto& [name, v] : variables_)
      require(used_.contains(name), path_, ": offset ", v.offset, ": variable '", name, "' is not one of ", specification_);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_, specification_;
  std::map<std::string, Variable> variables_;
  std::set<std::string> used_;
  Reader bytes_{Storage(), ""};                  // keeps the data alive
};

std::vector<std::string> read_lines(const std::string& path) {
  const Storage bytes = Storage::read_file(path);
  std::vector<std::string> lines;
  std::string line;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char c = char(bytes.data()[i]);
    if (c != '\n') line += c;
    else lines.push_back(std::exchange(line, {}));
  }
  if (!line.empty()) lines.push_back(line);
  return lines;
}

Tensor part(const Tensor& x, int64_t index, int64_t parts) {
  const int64_t n = x.dim(0) / parts, row = x.size() / x.dim(0);
  Shape shape{n};
  if (x.rank() == 2) shape.push_back(x.dim(1));
  return Tensor::from(shape, std::span<const float>(x.data() + index * n * row, size_t(n * row)));
}

// x, or one of `parts` equal pieces of its rows, under our name.
void add(TensorMap& to, const std::string& ours, Binary& from, const std::string& theirs, std::initializer_list<const char*> pieces) {
  const std::string names[2][2] = {{".weight", "/weight"}, {".bias", "/bias"}};
  for (const auto& [suffix, their_suffix] : names) {
    const Tensor x = from(theirs + their_suffix);
    const auto n = int64_t(pieces.size());
    require(x.rank() >= 1 && x.dim(0) > 0 && x.dim(0) % n == 0, from.path(), ": variable '", theirs, their_suffix, "' of shape ", x.shape(), " is not made of ", n, " parts");
    int64_t i = 0;
    for (const char* piece : pieces) to.emplace(ours + piece + suffix, part(x, i++, n));
  }
}

void add_norm(TensorMap& to, const std::string& ours, Binary& from, const std::string& theirs) {
  to.emplace(ours + ".weight", from(theirs + "/layer_norm/gamma"));
  to.emplace(ours + ".bias", from(theirs + "/layer_norm/beta"));
}

int64_t add_side(TensorMap& to, const std::string& ours, Binary& from, const std::string& theirs) {
  to.emplace(ours + ".token_embd.weight", from(theirs + "/embeddings/weight"));
  to.emplace(ours + ".output_norm.weight", from(theirs + "/layer_norm/gamma"));
  to.emplace(ours + ".output_norm.bias", from(theirs + "/layer_norm/beta"));
  int64_t layers = 0;
  for (;; ++layers) {
    const std::string block = ours + ".blk." + std::to_string(layers) + ".", layer = theirs + "/layer_" + std::to_string(layers) + "/";
    if (!from.has(layer + "self_attention/linear_0/weight")) return layers;
    add_norm(to, block + "attn_norm", from, layer + "self_attention");
    add(to, block, from, layer + "self_attention/linear_0", {"attn_q", "attn_k", "attn_v"});
    add(to, block, from, layer + "self_attention/linear_1", {"attn_output"});
    if (ours == "dec") {
      add_norm(to, block + "cross_attn_norm", from, layer + "attention");
      add(to, block, from, layer + "attention/linear_0", {"cross_attn_q"});
      add(to, block, from, layer + "attention/linear_1", {"cross_attn_k", "cross_attn_v"});
      add(to, block, from, layer + "attention/linear_2", {"cross_attn_output"});
    }
    add_norm(to, block + "ffn_norm", from, layer + "ffn");
    add(to, block, from, layer + "ffn/linear_0", {"ffn_up"});
    add(to, block, from, layer + "ffn/linear_1", {"ffn_down"});
  }
}

const std::string unknown_token = "<unk>";

uint32_t find_token(const std::vector<std::string>& tokens, const char* token, const std::string& path) {
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] == token) return uint32_t(i);
  fail(path, ": token '", token, "' is missing");
}

}  // namespace

Gguf read_ctranslate2(const std::string& folder) {
  Binary model(folder + "/model.bin");
  const bool base = model.specification() == "TransformerBase";
  require(base || model.specification() == "TransformerBig", model.path(), ": specification '", model.specification(),
          "' is not known; known: TransformerBase, TransformerBig");
  TensorMap tensors;
  Seq2SeqConfig c;
  c.encoder_layers = add_side(tensors, "enc", model, "encoder");
  c.decoder_layers = add_side(tensors, "dec", model, "decoder");
  add(tensors, "", model, "decoder/projection", {"output"});
  model.check_all_used();

  const std::string source_path = folder + "/source_vocabulary.txt", target_path = folder + "/target_vocabulary.txt";
  std::vector<std::string> source = read_lines(source_path), target = read_lines(target_path);
  const Shape source_shape = tensors.at("enc.token_embd.weight").shape(), target_shape = tensors.at("dec.token_embd.weight").shape();
  // A vocabulary without an unknown token leaves that to the last row.
  for (const auto& [tokens, shape] : {std::pair(&source, source_shape), std::pair(&target, target_shape)})
    if (shape.rank() == 2 && int64_t(tokens->size()) + 1 == shape[0] && std::count(tokens->begin(), tokens->end(), unknown_token) == 0) tokens->push_back(unknown_token);
  require(source_shape.rank() == 2 && int64_t(source.size()) == source_shape[0], source_path, ": ", source.size(), " tokens for embeddings ", source_shape);
  require(target_shape.rank() == 2 && int64_t(target.size()) == target_shape[0], target_path, ": ", target.size(), " tokens for embeddings ", target_shape);
  c.source_vocabulary = source_shape[0];
  c.target_vocabulary = target_shape[0];
  c.channels = source_shape[1];
  c.heads = base ? 8 : 16;
  c.context = 512;
  c.positions = Seq2SeqConfig::Positions::halves;
  c.output_bias = true;
  require(c.encoder_layers > 0, model.path(), ": no layer of an encoder");
  c.hidden = tensors.at("enc.blk.0.ffn_up.bias").size();
  c.check(model.path());

  Gguf gguf;
  Seq2Seq seq2seq(c);
  seq2seq.load(tensors, model.path());
  store_seq2seq(gguf, seq2seq);
  // Tokens of one character each, beside those in angle brackets, come from text without spaces between them.
  const auto one_character = [](const std::string& token) {
    if (token.size() > 1 && token.front() == '<' && token.back() == '>') return true;
    return std::count_if(token.begin(), token.end(), [](char b) { return (b & 0xc0) != 0x80; }) <= 1;
  };
  const bool characters = std::all_of(source.begin(), source.end(), one_character) && std::all_of(target.begin(), target.end(), one_character);
  gguf.set("seq2seq.token_unit", std::string(characters ? "character" : "word"));
  gguf.set("seq2seq.start_token_id", find_token(target, "<s>", target_path));
  gguf.set("seq2seq.end_token_id", find_token(target, "</s>", target_path));
  gguf.set("seq2seq.source_end", false);
  gguf.set("seq2seq.source_tokens", source);
  gguf.set("seq2seq.target_tokens", target);
  return gguf;
}

}  // namespace kvt
