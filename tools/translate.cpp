// kvt translate: lines through an encoder–decoder model.
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tensor/parallel.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/translation.h"

namespace kvt {

void add_translation_options(CLI::App& command, TranslationOptions& o) {
  command.add_option("-m,--model", o.model, "GGUF file of the model")->required();
  command.add_option("--adapter", o.adapters, "adapter GGUF, FILE or FILE:SCALE; may be repeated");
  command.add_option("-t,--threads", o.threads, "threads (default: one per core)")->check(CLI::Range(1, 1024));
  command.add_option("--beam", o.search.beam, "targets kept in the search (default 1: greedy)")->check(CLI::Range(1, 1024));
  command.add_option("--length-penalty", o.search.length_penalty, "exponent of the length in the score (default 0.6; 0 = sums of log-probabilities)");
  command.add_option("--most", o.search.most, "tokens of a translation at most (default: 2 for each of the source, and 10)")->check(CLI::PositiveNumber);
  command.add_option("--batch", o.search.batch, "sentences translated at once (default 32)")->check(CLI::PositiveNumber);
}

std::vector<TranslatedLine> translate_lines(const TranslationOptions& o, const std::vector<std::string>& lines) {
  interrupted();
  set_default_threads({.threads = o.threads});
  const Gguf gguf = Gguf::open(o.model);
  const std::unique_ptr<Seq2Seq> model = load_seq2seq(gguf);
  load_adapters(*model, gguf, o.adapters);
  const Sentences text(gguf);
  require(text.source_size() == model->config().source_vocabulary && text.target_size() == model->config().target_vocabulary, o.model,
          ": the vocabularies have ", text.source_size(), " and ", text.target_size(), " tokens, the model ", model->config().source_vocabulary, " and ",
          model->config().target_vocabulary);
  std::vector<Ids> sources;
  for (size_t i = 0; i < lines.size(); ++i) {
    sources.push_back(lines[i].empty() ? Ids() : text.source(lines[i]));
    require(int64_t(sources.back().size()) <= model->config().context, "translate: line ", i + 1, " has ", sources.back().size(), " tokens; the model takes ",
            model->config().context);
  }
  std::vector<TranslatedLine> result;
  for (Translation& t : translate(*model, sources, text.start(), text.end(), o.search, interrupted)) {
    std::string translation = text.text(t.ids);
    result.push_back({std::move(translation), std::move(t)});
  }
  if (interrupted()) throw Interrupted();
  return result;
}

void add_translate(CLI::App& app) {
  struct Options { TranslationOptions translation; std::string file; bool json = false; };
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("translate", "translate lines with an encoder-decoder model");
  add_translation_options(*c, o->translation);
  c->add_option("-f,--file", o->file, "text, one sentence a line (.gz too); - for standard input")->required();
  c->add_flag("--json", o->json, "one JSON object a line: text, ids, log_probability, score, finished");
  c->footer("Example:\n  kvt translate -m translation.gguf -f test.en --beam 5 --length-penalty 0.6 > test.de");
  c->callback([o] {
    for (const TranslatedLine& t : translate_lines(o->translation, read_lines(o->file))) {
      if (!o->json) {
        std::printf("%s\n", t.text.c_str());
        continue;
      }
      const nlohmann::json object = {{"text", t.text}, {"ids", t.detail.ids}, {"log_probability", t.detail.log_probability}, {"score", t.detail.score},
                                     {"finished", t.detail.finished}};
      std::printf("%s\n", object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    }
  });
}

}  // namespace kvt
