// tokenizer.json of Hugging Face's tokenizers, or BERT's vocab.txt, → tokenizer.ggml.* keys, for WordPiece and byte-level BPE.
//
// WordPiece files mark the later pieces of a word ("##ing"), GGUF the first ("▁walk", then "ing"); names in brackets stay.
#include <filesystem>
#include <fstream>

#include "engine/convert.h"

namespace kvt {

namespace {

namespace fs = std::filesystem;

enum Type : int32_t { normal = 1, control = 3, user_defined = 4, unused = 5 };

struct Tokens {
  std::vector<std::string> text;
  std::vector<int32_t> type;

  void put(int64_t id, std::string token, Type t, const std::string& source) {
    require(id >= 0 && id < 1 << 24, source, ": token '", token, "' has id ", id);
    if (size_t(id) >= text.size()) text.resize(size_t(id) + 1), type.resize(size_t(id) + 1, unused);
    text[size_t(id)] = std::move(token);
    type[size_t(id)] = t;
  }
  int64_t find(const std::string& token) const {
    const auto at = std::find(text.begin(), text.end(), token);
    return at == text.end() || token.empty() ? -1 : at - text.begin();
  }
};

std::string word_piece(const std::string& token) {
  if (token.starts_with('[') && token.ends_with(']')) return token;
  return token.starts_with("##") ? token.substr(2) : std::string("\u2581").append(token);
}

const Json::Array& array_of(Fields& f, std::string_view name) {
  const Json* found = f.any(name);
  const auto* items = found ? std::get_if<Json::Array>(&found->value) : nullptr;
  require(items, f.at(name), " is no array");
  return *items;
}

void set_id(Gguf& out, const char* name, int64_t id) {
  if (id >= 0) out.set(std::string("tokenizer.ggml.") + name + "_token_id", uint32_t(id));
}

void write(Gguf& out, const Tokens& tokens, const char* model, const char* pre) {
  for (size_t i = 0; i < tokens.text.size(); ++i) require(!tokens.text[i].empty(), "tokenizer: no token has id ", i);
  out.set("tokenizer.ggml.model", std::string(model));
  out.set("tokenizer.ggml.pre", std::string(pre));
  out.set("tokenizer.ggml.tokens", tokens.text);
  out.set("tokenizer.ggml.token_type", tokens.type);
}

void write_word_pieces(Gguf& out, Tokens tokens, const std::string& source) {
  for (size_t i = 0; i < tokens.text.size(); ++i)
    if (const std::string& t = tokens.text[i]; t == "[PAD]" || t == "[UNK]" || t == "[CLS]" || t == "[SEP]" || t == "[MASK]") tokens.type[i] = control;
  require(tokens.find("[UNK]") >= 0 && tokens.find("[CLS]") >= 0 && tokens.find("[SEP]") >= 0, source, ": a vocabulary without [UNK], [CLS] or [SEP]");
  set_id(out, "unknown", tokens.find("[UNK]"));
  set_id(out, "seperator", tokens.find("[SEP]"));          // so spelled in GGUF
  set_id(out, "padding", tokens.find("[PAD]"));
  set_id(out, "cls", tokens.find("[CLS]"));
  set_id(out, "mask", tokens.find("[MASK]"));
  for (std::string& t : tokens.text) t = word_piece(t);
  write(out, tokens, "bert", "default");
}

// Which splitter of words a byte-level BPE was trained with: tokenizer.json holds its regular expression, GGUF a name.
const char* pre_tokenizer(const std::string& architecture, const std::string& text, const std::string& source) {
  if (architecture == "gpt2") return "gpt-2";
  if (architecture == "qwen2" || architecture == "qwen3") return "qwen2";
  if (text.find("\\p{N}{1,3}") != std::string::npos) return "llama-bpe";
  if (text.find("\"Digits\"") != std::string::npos) return "smollm";
  fail(source, ": which pre-tokenizer this byte-level BPE needs is not known");
}

// The text of a special token in tokenizer_config.json: a string, or an object with its content
std::string special_text(const Json* j) {
  if (j && std::holds_alternative<Json::Object>(j->value)) j = j->find("content");
  const auto* s = j ? std::get_if<std::string>(&j->value) : nullptr;
  return s ? *s : "";
}

void write_bpe(Gguf& out, Fields& model, const Tokens& tokens, const PublishedModel& published, const std::string& architecture, const Json& whole,
               const std::string& source) {
  std::vector<std::string> merges;
  for (const Json& item : array_of(model, "merges")) {
    const auto* joined = std::get_if<std::string>(&item.value);
    const auto* pair = std::get_if<Json::Array>(&item.value);
    const auto* left = pair && pair->size() == 2 ? std::get_if<std::string>(&(*pair)[0].value) : nullptr;
    const auto* right = left ? std::get_if<std::string>(&(*pair)[1].value) : nullptr;
    require(joined || right, source, ": a merge that is neither \"a b\" nor [\"a\", \"b\"]");
    merges.push_back(joined ? *joined : *left + " " + *right);
  }
  const Json* splitter = whole.find("pre_tokenizer");
  write(out, tokens, "gpt2", pre_tokenizer(architecture, splitter ? splitter->dump() : "", source));
  out.set("tokenizer.ggml.merges", merges);
  if (const fs::path path = fs::path(published.folder) / "tokenizer_config.json"; fs::exists(path)) {
    Fields c(Json::read(path.string()), path.string());
    set_id(out, "bos", tokens.find(special_text(c.any("bos_token"))));
    set_id(out, "eos", tokens.find(special_text(c.any("eos_token"))));
    set_id(out, "padding", tokens.find(special_text(c.any("pad_token"))));
    if (c.has("add_bos_token")) out.set("tokenizer.ggml.add_bos_token", c.boolean("add_bos_token", false));
    if (const Json* chat = c.any("chat_template"); chat && std::holds_alternative<std::string>(chat->value))
      out.set("tokenizer.chat_template", std::get<std::string>(chat->value));
  }
}

}  // namespace

bool convert_tokenizer(Gguf& out, const PublishedModel& published, const std::string& architecture) {
  const fs::path folder = published.folder, json = folder / "tokenizer.json", list = folder / "vocab.txt";
  Tokens tokens;
  if (fs::exists(json)) {
    const std::string source = json.string();
    const Json whole = Json::read(source);
    Fields f(whole, source);
    Fields model = f.object("model");
    const std::string kind = model.string("type", "BPE");
    Fields vocab = model.object("vocab");
    for (const auto& [token, id] : std::get<Json::Object>(model.any("vocab")->value)) {
      const auto* n = std::get_if<int64_t>(&id.value);
      require(n, vocab.at(token), " is ", id.type_name(), ", expected an id");
      tokens.put(*n, token, normal, source);
    }
    if (f.has("added_tokens"))
      for (const Json& item : array_of(f, "added_tokens")) {
        Fields t(item, source, "added_tokens");
        tokens.put(t.integer("id", 0, 1 << 24), t.string("content"), t.boolean("special", false) ? control : user_defined, source);
      }
    if (kind == "WordPiece") return write_word_pieces(out, std::move(tokens), source), true;
    const Json* decoder = whole.find("decoder");
    require(kind == "BPE" && decoder && decoder->dump().find("\"ByteLevel\"") != std::string::npos, source, ": a tokenizer of type ", kind,
            " that is neither WordPiece nor byte-level BPE is not converted");
    write_bpe(out, model, tokens, published, architecture, whole, source);
    return true;
  }
  if (architecture != "bert" || !fs::exists(list)) return false;
  std::ifstream in(list);
  std::string line;
  for (int64_t id = 0; std::getline(in, line); ++id) {
    if (line.ends_with('\r')) line.pop_back();
    tokens.put(id, line, normal, list.string());
  }
  write_word_pieces(out, std::move(tokens), list.string());
  return true;
}

}  // namespace kvt
