// kvt eval: what a trained model is worth on test data. An encoder–decoder model translates a text and is scored by BLEU; a ViT
// classifies images.
#include <cstdio>

#include "engine/gguf.h"
#include "tensor/parallel.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/eval_images.h"
#include "tools/translation.h"

namespace kvt {

void add_eval(CLI::App& app) {
  struct Options { TranslationOptions translation; std::string source, reference, images; bool json = false; };
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("eval", "score a trained model on test data");
  add_translation_options(*c, o->translation);
  auto* source = c->add_option("--source", o->source, "sentences to translate, one a line (.gz too)");
  auto* reference = c->add_option("--reference", o->reference, "their translations by people");
  source->needs(reference);
  reference->needs(source);
  auto* images = c->add_option("--images", o->images, "labelled images: IDX (…-images-idx3-ubyte, its labels beside it), CIFAR-10 .bin, "
                                                      "or a folder of folders with PNG or JPEG files, one for each class; .gz too")->excludes(source);
  c->add_flag("--json", o->json, "print one JSON object");
  c->footer("Examples:\n  kvt eval -m translation.gguf --source test.en --reference test.de --beam 5\n"
            "  kvt eval -m vit.gguf --images t10k-images-idx3-ubyte.gz");
  c->callback([o, source, images] {
    if (source->count() + images->count() == 0) throw CLI::RequiredError("--source or --images");
    if (images->count() > 0) {
      set_default_threads({.threads = o->translation.threads});
      return eval_images(Gguf::open(o->translation.model), o->translation.adapters, o->images, o->translation.search.batch, o->json);
    }
    const std::vector<std::string> references = read_lines(o->reference), sources = read_lines(o->source);
    require(sources.size() == references.size(), o->source, " has ", sources.size(), " lines, ", o->reference, " ", references.size());
    std::vector<std::string> hypotheses;
    for (TranslatedLine& t : translate_lines(o->translation, sources)) hypotheses.push_back(std::move(t.text));
    const BleuOptions options;
    print_bleu(bleu(hypotheses, references, options), options, o->json);
  });
}

}  // namespace kvt
