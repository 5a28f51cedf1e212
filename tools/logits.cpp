// kvt logits: the scores of the next token after a prompt, for comparison with other engines.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engine/generate.h"
#include "engine/metrics.h"
#include "tools/commands.h"
#include "tools/common.h"

namespace kvt {

namespace {

struct Options {
  ModelOptions model;
  std::string prompt, ids;
  int top = 10;
  bool no_bos = false, json = false;
};

void run(const Options& o) {
  const LoadedModel m = open_model(o.model);
  const std::vector<int32_t> ids = o.ids.empty() ? m.tokenizer->encode(o.prompt, {.add_special = !o.no_bos}) : parse_ids(o.ids);
  require(!ids.empty(), "logits: the prompt has no tokens");
  Session session(*m.model, {.context = int64_t(ids.size()), .cache = DType::F32});
  const std::span<const float> logits = session.evaluate(ids);

  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t top = std::min(size_t(o.top), order.size());
  std::partial_sort(order.begin(), order.begin() + std::ptrdiff_t(top), order.end(),
                    [&](int32_t a, int32_t b) { return logits[size_t(a)] != logits[size_t(b)] ? logits[size_t(a)] > logits[size_t(b)] : a < b; });
  order.resize(top);

  if (o.json) {
    nlohmann::json result = {{"prompt_ids", ids}, {"top", nlohmann::json::array()}, {"logsumexp", log_sum_exp(logits)}};
    for (const int32_t id : order) result["top"].push_back({{"id", id}, {"logit", logits[size_t(id)]}, {"piece", m.tokenizer->piece(id, true)}});
    std::printf("%s\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return;
  }
  std::printf("prompt ids:");
  for (const int32_t id : ids) std::printf(" %d", id);
  std::printf("\nlogsumexp %.5f\n", log_sum_exp(logits));
  for (const int32_t id : order) std::printf("%8d %11.5f  %s\n", id, double(logits[size_t(id)]), m.tokenizer->piece(id, true).c_str());
}

}  // namespace

void add_logits(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("logits", "scores of the next token after a prompt");
  add_model_options(*c, o->model);
  add_fusion_options(*c, o->model);
  auto* prompt = c->add_option("-p,--prompt", o->prompt, "text; special tokens in it are recognised");
  auto* ids = c->add_option("--ids", o->ids, "token ids instead of text: \"1 2 3\"")->excludes(prompt);
  c->add_option("--top", o->top, "how many tokens to print, best first (default 10; 0 = none)")->check(CLI::NonNegativeNumber);
  c->add_flag("--no-bos", o->no_bos, "do not add the tokens that begin (and end) a text");
  c->add_flag("--json", o->json, "print one JSON object: prompt_ids, top [{id, logit, piece}], logsumexp");
  c->footer("Examples:\n  kvt logits -m model.gguf -p \"The capital of France is\" --top 8 --json\n  kvt logits -m model.gguf --ids \"1 403 407\"");
  c->callback([o, prompt, ids] {
    if (prompt->count() + ids->count() == 0) throw CLI::RequiredError("--prompt or --ids");
    run(*o);
  });
}

}  // namespace kvt
