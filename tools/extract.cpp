// kvt extract: what a domain would change in a model's predictions, as knowledge directions, concepts and a report for people.
#include <unistd.h>

#include <cstdio>

#include "engine/adapter.h"
#include "engine/atomic_file.h"
#include "engine/fingerprint.h"
#include "engine/knowledge_file.h"
#include "engine/shift_report.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/training_data.h"
#include "tools/training_report.h"

namespace kvt {

namespace {

struct Options {
  ModelOptions model;
  std::string tuned, data, out, report;
  int64_t length = 256, concepts = 8, words = 20, width = 120;
  uint64_t seed = 0;
  ShiftOptions shift;
  bool json = false;
};

// The tuned model: a file of its own, or an adapter on the base, whose mapped weights both then share.
LoadedModel open_tuned(const Options& o, const Gguf& base) {
  ModelOptions tuned = o.model;
  const std::string path = split_scale(o.tuned).first;
  if (Gguf::open(path).string("general.type", "model") == "adapter") {
    tuned.adapters.push_back(o.tuned);
  } else {
    tuned.model = o.tuned;
    tuned.adapters.clear();
  }
  LoadedModel m = open_model(tuned);
  require(m.gguf.string("tokenizer.ggml.model") == base.string("tokenizer.ggml.model") &&
              m.gguf.array<std::string>("tokenizer.ggml.tokens") == base.array<std::string>("tokenizer.ggml.tokens"),
          o.tuned, ": its tokens are not those of ", o.model.model);
  return m;
}

void write_text(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

void run(const Options& o) {
  interrupted();
  { const AtomicFile writable(o.out); }      // an output that cannot be written is told now, not after the work
  Report report(o.json);
  const LoadedModel m = open_model(o.model);
  std::optional<LoadedModel> tuned;
  if (!o.tuned.empty()) tuned = open_tuned(o, m.gguf);
  const Examples text = read_examples(o.data, *m.tokenizer, o.length);
  const bool terminal = !o.json && isatty(STDERR_FILENO);
  const Shift shift = measure_shift(*m.model, tuned ? tuned->model.get() : nullptr, text, o.shift, [&](int64_t done) {
    if (terminal) std::fprintf(stderr, "\rexample %lld of %lld", static_cast<long long>(done), static_cast<long long>(text.size()));
    return !interrupted();
  });
  if (terminal) std::fprintf(stderr, "\r\x1b[K");
  if (interrupted()) throw Interrupted();
  const Concepts concepts = find_concepts(shift, o.concepts, o.seed);
  knowledge_file(m.model->architecture(), fingerprint(m.gguf), tuned ? fingerprint(Gguf::open(split_scale(o.tuned).first)) : "text", shift, concepts).write(o.out);

  ShiftReport words = shift_report(shift, concepts, text, *m.tokenizer, o.words);
  words.base = o.model.model;
  words.tuned = o.tuned;
  words.text = o.data;
  if (!o.report.empty()) {
    write_text(o.report + ".txt", words.plain(size_t(o.width)));
    write_text(o.report + ".json", words.json().dump(1) + "\n");
    write_text(o.report + ".html", words.html());
  }
  if (o.json) std::printf("%s\n", words.json().dump().c_str());
  else std::printf("%s", words.plain(size_t(o.width)).c_str());
  report.line("wrote " + o.out + (o.report.empty() ? "" : ", " + o.report + ".txt, .json and .html") + "; peak memory " + megabytes(peak_memory()));
}

}  // namespace

void add_extract(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("extract", "what a domain changes in a model's predictions: directions, concepts, words");
  add_model_options(*c, o->model);
  c->add_option("--tuned", o->tuned, "the tuned model, or an adapter of the base (FILE:SCALE); without it the text's own next tokens are the aim");
  c->add_option("--data", o->data, "text of the domain, or .jsonl of prompts and completions")->required();
  c->add_option("-o,--out", o->out, "knowledge GGUF to write")->required();
  c->add_option("--report", o->report, "write the report to PREFIX.txt, PREFIX.json and PREFIX.html, too");
  c->add_option("--concepts", o->concepts, "clusters of directions (default 8)")->check(CLI::Range(1, 4096));
  c->add_option("--words", o->words, "words in each list (default 20)")->check(CLI::Range(1, 100000));
  c->add_option("--length", o->length, "tokens read together (default 256)")->check(CLI::Range(2, 1 << 20));
  c->add_option("--positions", o->shift.positions, "positions measured at most, spread over the text (default 20000)")->check(CLI::PositiveNumber);
  c->add_option("--seed", o->seed, "seed of the clusters' first centres (default 0)");
  c->add_option("--width", o->width, "columns of the report (default 120)")->check(CLI::Range(60, 400));
  c->add_flag("--json", o->json, "print the report as one JSON object");
  c->footer("Examples:\n  kvt extract -m model.gguf --data domain.txt -o domain-knowledge.gguf --report domain\n"
            "  kvt extract -m model.gguf --tuned adapter.gguf --data domain.txt -o learned.gguf");
  c->callback([o] { run(*o); });
}

}  // namespace kvt
