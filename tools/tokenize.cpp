// kvt tokenize: the tokens of a text.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/unicode.h"
#include "tools/commands.h"
#include "tools/common.h"

namespace kvt {

namespace {

struct Options {
  std::string model, prompt, file;
  bool ids = false, no_bos = false, no_special = false, json = false;
};

// One line of print: control characters, invalid UTF-8 and backslashes as escapes.
std::string escaped(const std::string& piece) {
  std::string out;
  for (size_t at = 0; at < piece.size();) {
    const size_t begin = at;
    const uint32_t code = unicode::next(piece, at);
    char hex[8];
    if (code == '\n') out += "\\n";
    else if (code == '\t') out += "\\t";
    else if (code == '\r') out += "\\r";
    else if (code == '\\') out += "\\\\";
    else if (code < 0x20 || code == 0x7F || code >= unicode::invalid_byte) {
      std::snprintf(hex, sizeof hex, "\\x%02X", unsigned(static_cast<unsigned char>(piece[begin])));
      out += hex;
    } else out += piece.substr(begin, at - begin);
  }
  return out;
}

void run(const Options& o) {
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::from(Gguf::open(o.model));
  const std::string text = o.file.empty() ? o.prompt : read_text(o.file);
  const std::vector<int32_t> ids = tokenizer->encode(text, {.add_special = !o.no_bos, .parse_special = !o.no_special});
  if (o.json) {
    nlohmann::json tokens = nlohmann::json::array();
    for (const int32_t id : ids) tokens.push_back({{"id", id}, {"piece", tokenizer->piece(id, true)}});
    std::printf("%s\n", nlohmann::json{{"count", ids.size()}, {"tokens", tokens}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else if (o.ids) {
    for (size_t i = 0; i < ids.size(); ++i) std::printf(i ? " %d" : "%d", ids[i]);
    std::printf("\n");
  } else {
    for (const int32_t id : ids) std::printf("%6d %s\n", id, escaped(tokenizer->piece(id, true)).c_str());
  }
  std::fprintf(stderr, "%zu tokens\n", ids.size());
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("tokenize", "the tokens of a text");
  c->add_option("-m,--model", o->model, "GGUF file with the vocabulary")->required();
  auto* prompt = c->add_option("-p,--prompt", o->prompt, "the text");
  auto* file = c->add_option("-f,--file", o->file, "read the text from a file, - for standard input")->excludes(prompt);
  auto* ids = c->add_flag("--ids", o->ids, "print the ids alone, on one line");
  c->add_flag("--json", o->json, "print one JSON object: count, tokens [{id, piece}]; bytes that are no text show as U+FFFD")->excludes(ids);
  c->add_flag("--no-bos", o->no_bos, "do not add the tokens that begin (and end) a text");
  c->add_flag("--no-special", o->no_special, "control tokens spelled in the text are its letters");
  c->footer("Examples:\n  kvt tokenize -m model.gguf -p \"Hello, world\"\n  kvt tokenize -m model.gguf -f text.txt --ids --no-bos");
  c->callback([o, prompt, file] {
    if (prompt->count() + file->count() == 0) throw CLI::RequiredError("--prompt or --file");
    run(*o);
  });
}

}  // namespace kvt
