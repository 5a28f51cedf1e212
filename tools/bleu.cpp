// kvt bleu: scores translations against references.
#include "engine/bleu.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/common.h"
#include "tools/translation.h"

namespace kvt {

void add_bleu(CLI::App& app) {
  struct Options { std::string reference, hypothesis, smooth = "exp"; double value = 0; bool effective = false, json = false; };
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("bleu", "BLEU of translations, as sacrebleu computes it");
  c->add_option("reference", o->reference, "references, one a line (.gz too)")->required();
  c->add_option("hypothesis", o->hypothesis, "translations, one a line; - for standard input")->required();
  c->add_option("--smooth", o->smooth, "exp (default), floor, add-k or none")->check(CLI::IsMember({"exp", "floor", "add-k", "none"}));
  auto* value = c->add_option("--smooth-value", o->value, "of floor (default 0.1) and add-k (default 1)")->check(CLI::PositiveNumber);
  c->add_flag("--effective-order", o->effective, "count only orders that the translations are long enough for");
  c->add_flag("--json", o->json, "print one JSON object");
  c->footer("Example:\n  kvt bleu newstest2014.de translation.de");
  c->callback([o, value] {
    BleuOptions options;
    options.smoothing = bleu_smoothing(o->smooth);
    if (value->count() > 0) options.value = o->value;
    options.effective_order = o->effective;
    const BleuScore s = bleu(read_lines(o->hypothesis), read_lines(o->reference), options);
    print_bleu(s, options, o->json);
  });
}

void print_bleu(const BleuScore& s, const BleuOptions& options, bool json) {
  const std::string signature = bleu_signature(options, "kvt-" KVT_VERSION);
  if (!json) {
    std::printf("BLEU|%s = %s\n", signature.c_str(), s.text().c_str());
    return;
  }
  const nlohmann::json object = {{"name", "BLEU"}, {"score", s.score}, {"signature", signature}, {"precisions", s.precisions}, {"brevity_penalty", s.brevity_penalty},
                                 {"hypothesis_length", s.hypothesis_length}, {"reference_length", s.reference_length}};
  std::printf("%s\n", object.dump().c_str());
}

}  // namespace kvt
