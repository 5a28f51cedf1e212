// kvt: the command line. One line per subcommand; exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted.
#include <cstdio>
#include <exception>
#include <new>

#include "engine/tuning.h"
#include "tensor/error.h"
#include "tools/commands.h"
#include "tools/signals.h"

static constexpr const char* about =
    "KVT: inference and training of Transformers from GGUF files, with adapters.\n"
    "Every command has its own --help with examples.";

static constexpr const char* examples =
    "Examples:\n"
    "  kvt inspect model.gguf\n"
    "  kvt run -m model.gguf -p \"The history of the city\" -n 64\n"
    "  kvt perplexity -m model.gguf -f text.txt -c 512 --chunks 32\n"
    "  kvt adapt -m model.gguf --data domain.txt --valid-split 0.1 -o domain.gguf\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n"
    "Environment: KVT_KERNELS chooses kernel variants (kvt kernels), KVT_ACTIVATIONS=f32|q8 the form of activations,\n"
    "KVT_TUNING=FILE|off the profile of this machine (kvt tune).";

int main(int argc, char** argv) {
  kvt::install_signal_handlers();
  CLI::App app(about, "kvt");
  app.footer(examples);
  app.set_version_flag("--version", "kvt " KVT_VERSION);
  app.require_subcommand(1);
  kvt::add_inspect(app);
  kvt::add_tokenize(app);
  kvt::add_run(app);
  kvt::add_perplexity(app);
  kvt::add_logits(app);
  kvt::add_adapt(app);
  kvt::add_bank(app);
  kvt::add_merge(app);
  kvt::add_extract(app);
  kvt::add_export(app);
  kvt::add_experiment(app);
  kvt::add_demo(app);
  kvt::add_convert(app);
  kvt::add_embed(app);
  kvt::add_train(app);
  kvt::add_train_tokenizer(app);
  kvt::add_translate(app);
  kvt::add_eval(app);
  kvt::add_bleu(app);
  kvt::add_kernels(app);
  kvt::add_tune(app);
  try {
    const std::string profile = kvt::tuning_path(), why = kvt::load_tuning(profile, KVT_VERSION);
    if (!why.empty()) std::fprintf(stderr, "kvt: the tuning profile is ignored: %s\n", why.c_str());
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const kvt::Interrupted&) {
    return 130;
  } catch (const kvt::Error& e) {
    if (e.trouble == kvt::Trouble::cancelled) return 130;
    std::fprintf(stderr, "kvt: %s\n", e.what());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "kvt: out of memory\n");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kvt: %s\n", e.what());
  }
  return 1;
}
