// kvt eval: what a trained model is worth on test data. An encoder–decoder model translates a text and is scored by BLEU.
#include <cstdio>

#include "tools/commands.h"
#include "tools/common.h"
#include "tools/translation.h"

namespace kvt {

void add_eval(CLI::App& app) {
  struct Options { TranslationOptions translation; std::string source, reference; bool json = false; };
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("eval", "score a trained model on test data");
  add_translation_options(*c, o->translation);
  c->add_option("--source", o->source, "sentences to translate, one a line (.gz too)")->required();
  c->add_option("--reference", o->reference, "their translations by people")->required();
  c->add_flag("--json", o->json, "print one JSON object");
  c->footer("Example:\n  kvt eval -m translation.gguf --source test.en --reference test.de --beam 5");
  c->callback([o] {
    const std::vector<std::string> references = read_lines(o->reference), sources = read_lines(o->source);
    require(sources.size() == references.size(), o->source, " has ", sources.size(), " lines, ", o->reference, " ", references.size());
    std::vector<std::string> hypotheses;
    for (TranslatedLine& t : translate_lines(o->translation, sources)) hypotheses.push_back(std::move(t.text));
    const BleuOptions options;
    print_bleu(bleu(hypotheses, references, options), options, o->json);
  });
}

}  // namespace kvt
