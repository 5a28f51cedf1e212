// kvt perplexity: how well a model predicts a text, by llama-perplexity's protocol (engine/metrics.h).
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/metrics.h"
#include "tools/commands.h"
#include "tools/common.h"

namespace kvt {

namespace {

struct Options {
  ModelOptions model;
  std::string file;
  PerplexityOptions perplexity;
  bool json = false;
};

void run(const Options& o) {
  const LoadedModel m = open_model(o.model);
  const std::vector<int32_t> ids = m.tokenizer->encode(read_text(o.file), {.add_special = false, .parse_special = false});
  PerplexityOptions options = o.perplexity;
  if (m.tokenizer->vocab().add_bos) options.bos = m.tokenizer->vocab().bos;
  std::fprintf(stderr, "%zu tokens, chunks of %lld\n", ids.size(), static_cast<long long>(options.context));

  if (options.batch > 0) arrange_weights(*m.model);         // as for decoding
  interrupted();
  const auto start = std::chrono::steady_clock::now();
  const Perplexity p = perplexity(*m.model, ids, options, [&](const Perplexity& so_far) {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::fprintf(stderr, "[%lld] %.4f  (%.0f tokens/s)\n", static_cast<long long>(so_far.chunks), so_far.value(),
                 double(so_far.chunks * options.context) / seconds);
    return !interrupted();
  });
  if (o.json) {
    const nlohmann::json result = {{"perplexity", p.value()}, {"error", p.error()}, {"nll", p.mean()}, {"tokens", p.predictions},
                                   {"chunks", p.chunks}, {"context", options.context}};
    std::printf("%s\n", result.dump().c_str());
  } else {
    std::printf("perplexity %.4f ± %.4f   (%lld predictions in %lld chunks of %lld tokens)\n", p.value(), p.error(),
                static_cast<long long>(p.predictions), static_cast<long long>(p.chunks), static_cast<long long>(options.context));
  }
  if (interrupted()) throw Interrupted();
}

}  // namespace

void add_perplexity(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("perplexity", "perplexity of a model on a text, by llama-perplexity's protocol");
  add_model_options(*c, o->model);
  add_fusion_options(*c, o->model);
  c->add_option("-f,--file", o->file, "text file, - for standard input")->required();
  c->add_option("-c,--context", o->perplexity.context, "tokens per chunk (default 512)")->check(CLI::Range(4, 1 << 20));
  c->add_option("--chunks", o->perplexity.chunks, "chunks at most (default: all)")->check(CLI::PositiveNumber);
  c->add_flag("--whole", o->perplexity.whole, "count all predictions of a chunk, not only its second half's");
  c->add_option("--batch", o->perplexity.batch, "tokens computed at once, with the kernels and the cache of decoding (default: a chunk)")->check(CLI::Range(1, 32));
  add_cache_option(*c, o->perplexity.cache);
  c->add_flag("--json", o->json, "print one JSON object: perplexity, error, nll, tokens (predictions counted), chunks, context");
  c->footer("Examples:\n  kvt perplexity -m model.gguf -f wiki.test.txt -c 512 --chunks 32 --json\n"
            "  kvt perplexity -m model.gguf --adapter domain.gguf --fuse 0.7 -f domain.test.txt");
  c->callback([o] { run(*o); });
}

}  // namespace kvt
