#include "engine/seq2seq_file.h"

#include <array>

namespace kvt {

namespace {

// A key whose value is one of a few names; the place of the name in the list is the enumerator.
template <class Enum, size_t N>
Enum choice(const Gguf& gguf, const char* key, const std::array<const char*, N>& names) {
  const std::string value = gguf.string(key);
  std::string known;
  for (size_t i = 0; i < N; ++i) {
    if (value == names[i]) return Enum(i);
    known += known.empty() ? names[i] : std::string(", ") + names[i];
  }
  fail(gguf.path(), ": key '", key, "' is '", value, "'; known: ", known);
}

constexpr std::array positions{"sinusoidal", "halves", "learned"};
constexpr std::array activations{"relu", "gelu"};
constexpr std::array normalizations{"post", "pre"};
constexpr std::array units{"character", "word"};

int64_t count(const Gguf& gguf, const char* key, int64_t most) {
  const int64_t n = gguf.integer(key);
  require(n >= 1 && n <= most, gguf.path(), ": key '", key, "' is ", n, ", expected 1 to ", most);
  return n;
}

int64_t rows(const Gguf& gguf, const char* name) {
  const Tensor t = gguf.tensor(name);
  require(t.rank() == 2, gguf.path(), ": tensor '", name, "' has shape ", t.shape(), ", expected two axes");
  return t.dim(0);
}

std::unordered_map<std::string, int32_t> index(const Gguf& gguf, const char* key) {
  const auto& tokens = gguf.array<std::string>(key);
  std::unordered_map<std::string, int32_t> ids;
  for (size_t i = 0; i < tokens.size(); ++i)
    require(ids.emplace(tokens[i], int32_t(i)).second, gguf.path(), ": key '", key, "': token ", i, " '", tokens[i], "' is there twice");
  return ids;
}

// Bytes of the UTF-8 character at the front of a text; a stray byte is a character of its own.
size_t character_size(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t n = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  return std::min(n, text.size());
}

}  // namespace

std::unique_ptr<Seq2Seq> load_seq2seq(const Gguf& gguf) {
  const std::string& architecture = gguf.string("general.architecture");
  require(architecture == "seq2seq", gguf.path(), ": architecture '", architecture, "', expected 'seq2seq'");
  Seq2SeqConfig c;
  c.channels = count(gguf, "seq2seq.embedding_length", 1 << 17);
  c.hidden = count(gguf, "seq2seq.feed_forward_length", 1 << 20);
  c.heads = count(gguf, "seq2seq.attention.head_count", 1024);
  c.encoder_layers = count(gguf, "seq2seq.encoder.block_count", 1024);
  c.decoder_layers = count(gguf, "seq2seq.decoder.block_count", 1024);
  c.context = count(gguf, "seq2seq.context_length", 1 << 16);
  c.norm_eps = float(gguf.real("seq2seq.attention.layer_norm_epsilon"));
  c.dropout = float(gguf.real("seq2seq.dropout", 0));
  c.positions = choice<Seq2SeqConfig::Positions>(gguf, "seq2seq.positions", positions);
  c.activation = choice<Seq2SeqConfig::Activation>(gguf, "seq2seq.activation", activations);
  c.pre_norm = choice<int>(gguf, "seq2seq.normalization", normalizations) == 1;
  c.scale_embedding = gguf.boolean("seq2seq.embedding_scale", true);
  c.source_vocabulary = rows(gguf, "enc.token_embd.weight");
  c.shared_embeddings = !gguf.find_tensor("dec.token_embd.weight");
  c.target_vocabulary = c.shared_embeddings ? c.source_vocabulary : rows(gguf, "dec.token_embd.weight");
  c.tied_output = !gguf.find_tensor("output.weight");
  c.output_bias = bool(gguf.find_tensor("output.bias"));
  c.check(gguf.path());
  for (const Gguf::Entry& e : gguf.tensors())
    require(e.tensor.dtype() != DType::I8 && e.tensor.dtype() != DType::I32, gguf.path(), ": tensor '", e.name, "' is ", e.tensor.dtype());
  auto model = std::make_unique<Seq2Seq>(c);
  model->load(gguf.tensor_map(), gguf.path());
  return model;
}

void store_seq2seq(Gguf& gguf, Seq2Seq& model) {
  const Seq2SeqConfig& c = model.config();
  gguf.set("general.architecture", std::string("seq2seq"));
  gguf.set("seq2seq.embedding_length", uint32_t(c.channels));
  gguf.set("seq2seq.feed_forward_length", uint32_t(c.hidden));
  gguf.set("seq2seq.attention.head_count", uint32_t(c.heads));
  gguf.set("seq2seq.encoder.block_count", uint32_t(c.encoder_layers));
  gguf.set("seq2seq.decoder.block_count", uint32_t(c.decoder_layers));
  gguf.set("seq2seq.context_length", uint32_t(c.context));
  gguf.set("seq2seq.attention.layer_norm_epsilon", c.norm_eps);
  gguf.set("seq2seq.dropout", c.dropout);
  gguf.set("seq2seq.positions", std::string(positions.at(size_t(c.positions))));
  gguf.set("seq2seq.activation", std::string(activations.at(size_t(c.activation))));
  gguf.set("seq2seq.normalization", std::string(normalizations.at(c.pre_norm)));
  gguf.set("seq2seq.embedding_scale", c.scale_embedding);
  model.each_parameter([&](const std::string& name, Parameter& p) { gguf.add(name, p.tensor); });
}

Sentences::Sentences(const Gguf& gguf) {
  source_end_ = gguf.boolean("seq2seq.source_end", false);
  start_ = int32_t(gguf.integer("seq2seq.start_token_id"));
  end_ = int32_t(gguf.integer("seq2seq.end_token_id"));
  if (gguf.has("seq2seq.source_tokens")) {
    words_ = choice<int>(gguf, "seq2seq.token_unit", units) == 1;
    source_ = index(gguf, "seq2seq.source_tokens");
    target_ = index(gguf, "seq2seq.target_tokens");
    target_text_ = gguf.array<std::string>("seq2seq.target_tokens");
  } else {
    tokenizer_ = Tokenizer::from(gguf);
  }
  for (int32_t id : {start_, end_})
    require(id >= 0 && id < target_size(), gguf.path(), ": start or end token ", id, " lies outside of the vocabulary of ", target_size());
}

Ids Sentences::split(std::string_view text, const std::unordered_map<std::string, int32_t>& ids) const {
  Ids result;
  while (!text.empty()) {
    if (words_ && text[0] == ' ') {
      text.remove_prefix(1);
      continue;
    }
    const std::string token(text.substr(0, words_ ? text.find(' ') : character_size(text)));
    auto found = ids.find(token);
    if (found == ids.end()) found = ids.find("<unk>");
    require(found != ids.end(), "translate: no token of the model stands for '", token, "'");
    result.push_back(found->second);
    text.remove_prefix(token.size());
  }
  return result;
}

Ids Sentences::source(std::string_view text) const {
  Ids ids = tokenizer_ ? tokenizer_->encode(text, {.add_special = false, .parse_special = false}) : split(text, source_);
  if (source_end_) ids.push_back(end_);
  return ids;
}

Ids Sentences::target(std::string_view text) const {
  return tokenizer_ ? tokenizer_->encode(text, {.add_special = false, .parse_special = false}) : split(text, target_);
}

std::string Sentences::text(const Ids& target) const {
  if (tokenizer_) return tokenizer_->decode(target);
  std::string joined;
  for (int32_t id : target) {
    require(id >= 0 && id < target_size(), "translate: no token ", id);
    if (words_ && !joined.empty()) joined += ' ';
    joined += target_text_[size_t(id)];
  }
  return joined;
}

}  // namespace kvt
