// kvt embed: one unit vector for each line of a text; or the lines nearest to a query, by the cosine of their vectors.
#include <algorithm>
#include <cstdio>
#include <numeric>

#include "engine/embed.h"
#include "engine/json.h"
#include "engine/load_encoder.h"
#include "ops/quant.h"
#include "tensor/parallel.h"
#include "tools/commands.h"
#include "tools/common.h"

namespace kvt {

namespace {

struct Options {
  ModelOptions model;
  std::string file;
  std::string query;
  int64_t most = 0, batch = 8, top = 10;
  bool json = false;
};

void print(const TextEmbedding& e, bool json) {
  if (json) {
    Json::Array ids, vector;
    for (const int32_t id : e.ids) ids.emplace_back(int64_t(id));
    for (const float x : e.vector) vector.emplace_back(double(x));
    std::printf("%s\n", Json(Json::Object{{"ids", std::move(ids)}, {"embedding", std::move(vector)}}).dump().c_str());
    return;
  }
  for (size_t i = 0; i < e.vector.size(); ++i) std::printf("%s%.6g", i ? " " : "", double(e.vector[i]));
  std::printf("\n");
}

struct Near { double cosine; size_t line; };

void print(const std::vector<Near>& nearest, const std::vector<std::string>& lines, bool json) {
  for (const auto& [cosine, line] : nearest)
    if (json) std::printf("%s\n", Json(Json::Object{{"cosine", cosine}, {"line", int64_t(line + 1)}, {"text", lines[line]}}).dump().c_str());
    else std::printf("%.4f\t%zu\t%s\n", cosine, line + 1, lines[line].c_str());
}

void run(const Options& o) {
  interrupted();
  set_default_threads({.threads = o.model.threads});
  if (!o.model.activations.empty()) set_activations(o.model.activations == "f32" ? Activations::f32 : Activations::q8);
  const Gguf gguf = Gguf::open(o.model.model, o.model.no_mmap ? Gguf::Access::read : Gguf::Access::map);
  if (o.model.check_tensors) gguf.check_tensors();
  const auto model = load_bert(gguf);
  const auto tokenizer = Tokenizer::from(gguf);
  require(tokenizer->vocab().size() == model->config().vocabulary, o.model.model, ": the tokenizer has ", tokenizer->vocab().size(), " tokens, the model ",
          model->config().vocabulary);
  const int64_t most = o.most > 0 ? o.most : most_tokens(gguf, *model);
  require(most <= model->config().context, "embed: --max-tokens ", most, ", the model has ", model->config().context, " positions");

  const std::string text = read_text(o.file);
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin - (end > begin && text[end - 1] == '\r')));
    begin = end + 1;
  }
  std::vector<float> query;
  if (!o.query.empty()) query = embed(*model, *tokenizer, std::span(&o.query, 1), most, 1)[0].vector;
  std::vector<Near> nearest;
  if (lines.size() > size_t(o.batch)) arrange_weights(*model);
  const size_t piece = size_t(o.batch) * 32;        // sorted by length within; printed as they are done
  for (size_t begin = 0; begin < lines.size(); begin += piece) {
    size_t line = begin;
    for (const TextEmbedding& e : embed(*model, *tokenizer, std::span(lines).subspan(begin, std::min(piece, lines.size() - begin)), most, o.batch)) {
      if (query.empty()) print(e, o.json);
      else nearest.push_back({std::inner_product(query.begin(), query.end(), e.vector.begin(), 0.0), line});      // of unit vectors: the cosine
      ++line;
    }
    if (interrupted()) throw Interrupted();
  }
  if (query.empty()) return;
  std::stable_sort(nearest.begin(), nearest.end(), [](const Near& a, const Near& b) { return a.cosine > b.cosine; });
  nearest.resize(std::min(nearest.size(), size_t(o.top)));
  print(nearest, lines, o.json);
}

}  // namespace

void add_embed(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("embed", "one unit vector for each line of a text, by a BERT model");
  add_model_options(*c, o->model, false);
  c->add_option("-f,--file", o->file, "texts, one a line; - for standard input")->required();
  auto* query = c->add_option("--query", o->query, "print the lines nearest to this text instead: cosine, line number, line");
  c->add_option("--top", o->top, "how many of them (default 10)")->needs(query)->check(CLI::PositiveNumber);
  c->add_option("--max-tokens", o->most, "tokens of a text that count (default: as the file says)")->check(CLI::Range(2, 1 << 20));
  c->add_option("-b,--batch", o->batch, "texts computed together (default 8)")->check(CLI::Range(1, 4096));
  c->add_flag("--json", o->json, "one JSON object a line: {\"ids\": […], \"embedding\": […]}, or {\"cosine\", \"line\", \"text\"}");
  c->footer("Example:\n  kvt convert all-MiniLM-L6-v2/ minilm.gguf && kvt embed -m minilm.gguf -f lines.txt --json\n"
            "  kvt embed -m minilm.gguf -f lines.txt --query \"how to descale a kettle\" --top 3");
  c->callback([o] { run(*o); });
}

}  // namespace kvt
