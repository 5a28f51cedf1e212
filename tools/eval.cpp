// kvt eval: what a trained model is worth on test data. An encoder–decoder model translates a text and is scored by BLEU; a ViT
// classifies images, a language model or an encoder texts.
#include <cstdio>

#include "engine/gguf.h"
#include "tensor/parallel.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/eval_images.h"
#include "tools/eval_texts.h"
#include "tools/translation.h"

namespace kvt {

void add_eval(CLI::App& app) {
  struct Options { TranslationOptions translation; std::string source, reference, images; EvalTextsOptions texts; bool json = false; };
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("eval", "score a trained model on test data");
  add_translation_options(*c, o->translation);
  auto* source = c->add_option("--source", o->source, "sentences to translate, one a line (.gz too)");
  auto* reference = c->add_option("--reference", o->reference, "their translations by people");
  source->needs(reference);
  reference->needs(source);
  auto* images = c->add_option("--images", o->images, "labelled images: IDX (…-images-idx3-ubyte, its labels beside it), CIFAR-10 .bin, "
                                                      "or a folder of folders with PNG or JPEG files, one for each class; .gz too")->excludes(source);
  auto* labelled = c->add_option("--labelled", o->texts.file, "labelled texts, lines of LABEL<tab>TEXT (.gz too)")->excludes(source)->excludes(images);
  c->add_option("--label-words", o->texts.label_words, "texts: classify by the model's next word, CLASS=WORD,…, or names = the classes' own, instead of the adapter's way")
      ->needs(labelled);
  c->add_option("--text", o->texts.text, "with --label-words: what is read, with {text} for the text (default: the text alone)");
  c->add_option("--length", o->texts.length, "with --label-words: tokens read at most (default 256)")->check(CLI::PositiveNumber);
  add_fusion_options(*c, o->texts.model);
  c->add_flag("--any-base", o->texts.model.any_base, "take adapters that were trained on another base model too");
  c->add_flag("--json", o->json, "print one JSON object");
  c->footer("Examples:\n  kvt eval -m translation.gguf --source test.en --reference test.de --beam 5\n"
            "  kvt eval -m vit.gguf --images t10k-images-idx3-ubyte.gz\n"
            "  kvt eval -m model.gguf --adapter topics.gguf --labelled test.tsv\n"
            "  kvt eval -m model.gguf --labelled test.tsv --label-words names --text \"{text} Topic:\"");
  c->callback([o, source, images, labelled] {
    if (source->count() + images->count() + labelled->count() == 0) throw CLI::RequiredError("--source, --images or --labelled");
    ModelOptions& model = o->texts.model;
    model.model = o->translation.model;
    model.adapters = o->translation.adapters;
    model.threads = o->translation.threads;
    if (labelled->count() > 0) {
      o->texts.batch = o->translation.search.batch;
      o->texts.json = o->json;
      return eval_texts(o->texts);
    }
    if (images->count() > 0) {
      set_default_threads({.threads = o->translation.threads});
      return eval_images(model, o->images, o->translation.search.batch, o->json);
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
