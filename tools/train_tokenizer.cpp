// kvt train-tokenizer: a byte-level BPE tokenizer from text.
#include <cstdio>

#include "engine/bpe_train.h"
#include "tools/commands.h"
#include "tools/common.h"

namespace kvt {

void add_train_tokenizer(CLI::App& app) {
  struct Options { std::vector<std::string> files; std::string out; BpeTrainer::Options bpe; };
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("train-tokenizer", "train a byte-level BPE tokenizer on text");
  c->add_option("files", o->files, "texts, UTF-8 (.gz too)")->required();
  c->add_option("--size", o->bpe.size, "tokens, special ones and the 256 bytes included (default 8000)")->check(CLI::PositiveNumber);
  c->add_option("-o,--out", o->out, "GGUF to write: tokenizer.ggml.* for kvt tokenize and kvt train")->required();
  c->add_option("--pre", o->bpe.pre, "how text is cut into words: tokenizer.ggml.pre (default gpt-2)");
  c->add_option("--special", o->bpe.special, "control tokens, the first begins a text, the last ends it (default <s>,</s>)")->delimiter(',');
  c->add_option("--least", o->bpe.least, "merge pairs that occur at least so often (default 2)")->check(CLI::PositiveNumber);
  c->footer("Example:\n  kvt train-tokenizer train.en.gz train.de.gz --size 6000 -o tokenizer.gguf");
  c->callback([o] {
    BpeTrainer trainer(o->bpe);
    for (const std::string& file : o->files)
      for (const std::string& line : read_lines(file)) trainer.add(line);
    const Gguf gguf = trainer.train();
    gguf.write(o->out);
    std::fprintf(stderr, "%zu tokens, %zu merges: %s\n", gguf.array<std::string>("tokenizer.ggml.tokens").size(),
                 gguf.array<std::string>("tokenizer.ggml.merges").size(), o->out.c_str());
  });
}

}  // namespace kvt
