// The subcommands of `kvt`, one file each. Every function declares options and a callback; the callback does the work and throws
// kvt::Error when it cannot. main.cpp turns that into a message and an exit status.
#pragma once
#include <CLI/CLI.hpp>

namespace kvt {

void add_inspect(CLI::App& app);
void add_kernels(CLI::App& app);
void add_run(CLI::App& app);
void add_adapt(CLI::App& app);
void add_bank(CLI::App& app);
void add_merge(CLI::App& app);
void add_extract(CLI::App& app);
void add_export(CLI::App& app);
void add_experiment(CLI::App& app);
void add_demo(CLI::App& app);
void add_convert(CLI::App& app);
void add_embed(CLI::App& app);
void add_perplexity(CLI::App& app);
void add_logits(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_train(CLI::App& app);
void add_train_tokenizer(CLI::App& app);
void add_translate(CLI::App& app);
void add_eval(CLI::App& app);
void add_bleu(CLI::App& app);
void add_tune(CLI::App& app);

// Exit status for a job that ^C ended in good order.
struct Interrupted {};

}  // namespace kvt
