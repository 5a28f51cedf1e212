// kvt adapt: adapts a model to text or to prompt–completion pairs: by KVT's rounds, by a LoRA adapter, or in all weights.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <tuple>

#include "engine/adapter.h"
#include "engine/atomic_file.h"
#include "engine/checkpoint.h"
#include "engine/fingerprint.h"
#include "engine/fusion.h"
#include "tools/adapt.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/training_data.h"
#include "tools/training_report.h"

namespace kvt {

using nlohmann::json;

BlockRange parse_blocks(const std::string& text) {
  if (text.empty()) return {0, -1};
  int64_t first = 0, last = 0;
  char rest = 0;
  const int n = std::sscanf(text.c_str(), "%ld-%ld%c", &first, &last, &rest);
  require(n == 1 || n == 2, "--layers: expected FIRST-LAST, got '", text, "'");
  return {first, n == 2 ? last : first};
}

// λ or γ by the loss of the fused scores on the validation data.
static Fusion choose_fusion(Report& report, const AdaptOptions& o, const std::shared_ptr<CausalLm>& model, const Examples& validation) {
  const std::vector<FusionLoss> losses = fusion_losses(model, validation, o.train.batch, fusion_grid(), interrupted);
  if (losses.empty()) throw Interrupted();
  json tried = json::array();
  std::string line = "fusion     ";
  for (const auto& [fusion, loss] : losses) {
    char text[64];
    std::snprintf(text, sizeof text, " %s: %.4f", describe(fusion).c_str(), loss);
    line += text;
    tried.push_back({{fusion.form == Fusion::Form::residual ? "lambda" : "gamma", fusion.value}, {"loss", loss}});
  }
  const FusionLoss best = best_fusion(losses);
  report.line(line);
  report.line("fusion      " + describe(best.fusion) + " is best");
  report.event({{"event", "fusion"}, {"tried", tried}, {"best", describe(best.fusion)}, {"loss", best.loss}});
  return best.fusion;
}

void store_fusion(Report& report, const AdaptOptions& o, const std::shared_ptr<CausalLm>& model, const Examples* validation, Gguf& adapter) {
  if (o.fuse == "auto") write_fusion(adapter, choose_fusion(report, o, model, *validation));
  else if (!o.fuse.empty() && o.fuse != "none") write_fusion(adapter, {Fusion::Form::residual, std::stof(o.fuse)});
}

std::map<std::string, std::string> identity(const AdaptOptions& o, const Examples& data, const Examples* validation) {
  auto options = o.train.describe();
  options["method"] = o.method;
  options["data"] = hex(data.fingerprint());
  options["validation"] = validation ? hex(validation->fingerprint()) : "none";
  options["length"] = std::to_string(o.length);
  if (o.method != "full") {
    std::string targets;
    for (const std::string& t : o.targets) targets += (targets.empty() ? "" : ",") + t;
    options["targets"] = targets;
    options["layers"] = o.layers.empty() ? "all" : o.layers;
  }
  if (o.method.starts_with("lora")) {
    options["rank"] = std::to_string(o.rank);
    options["alpha"] = std::to_string(o.alpha);
  } else if (o.method == "kvt-generated") {
    std::string levels;
    for (const std::string& level : o.levels) levels += (levels.empty() ? "" : ",") + level;
    options["levels"] = levels;
    options["knowledge"] = std::to_string(o.size) + " " + std::to_string(o.vectors) + " " + std::to_string(o.knowledge_layer) + " " + std::to_string(o.texts) +
                           (o.no_extractor ? " trained" : " extracted");
    options["mu"] = std::to_string(o.mu);
    options["fuse"] = o.fuse;
  } else if (o.method == "kvt") {
    options["core"] = o.core;
    options["k"] = o.k;
    options["eta"] = std::to_string(o.eta);
  }
  if (in_rounds(o)) {
    options["init"] = o.init;
    options["rounds"] = std::to_string(o.rounds);
  }
  std::string adapters;
  for (const std::string& adapter : o.model.adapters) {
    const auto [path, scale] = split_scale(adapter);
    const Storage bytes = Storage::map_file(path);
    Hash64 hash;
    hash.add(bytes.data(), bytes.size());
    adapters += (adapters.empty() ? "" : ",") + hex(hash.value()) + ":" + std::to_string(scale);
  }
  options["adapters"] = adapters.empty() ? "none" : adapters;
  return options;
}

namespace {

Method set_up(const AdaptOptions& o, LoadedModel& m, const std::string& base, const Examples& data) {
  if (o.method == "kvt-generated") return set_up_generated(o, m, base, data);
  const auto task = [&m](const Examples& examples, bool) { return std::make_unique<CausalTask>(*m.model, examples); };
  if (o.method == "full") {
    require(o.model.adapters.empty(), "adapt: --method full trains the base's own weights; merge adapters into it first (kvt merge)");
    const DType type = find_dtype(o.out_type.c_str())->type;
    return {all_weights(*m.model), [&m, type] { return model_file(m.gguf, *m.model, type); }, unowned(*m.model), task};
  }
  LoraOptions lora;
  lora.rank = o.rank;
  lora.alpha = o.alpha;
  lora.targets = o.targets;
  lora.seed = o.train.seed;
  std::tie(lora.first_layer, lora.last_layer) = parse_blocks(o.layers);
  const LoraSet set = attach_lora(*m.model, lora);
  const DType type = o.out_type == "F16" ? DType::F16 : DType::F32;
  return {trained_factors(set), [&m, set, base, type] { return adapter_file(set, m.model->config().architecture, base, type); }, unowned(*m.model), task};
}

void print_plan(Report& report, const AdaptOptions& o, const LoadedModel& m, const Method& method, const Examples& data, const Examples* validation,
                const std::string& base) {
  int64_t trained = 0, weights = 0, weight_bytes = 0;
  int64_t adapted = 0;
  for (const Trained& t : method.trained) {
    trained += t.tensor.size();
    if (t.name.ends_with(".lora_b") || t.name.ends_with(".kvt_b")) adapted += t.tensor.dim(0);
  }
  for (const Gguf::Entry& e : m.gguf.tensors()) {
    weights += e.tensor.size();
    weight_bytes += e.tensor.bytes();
  }
  const int64_t steps = train_steps(o.train, data);
  const int64_t memory = training_bytes(m.model->config(), trained, adapted, o.train, o.length, validation != nullptr) + weight_bytes;
  char percent[32];
  std::snprintf(percent, sizeof percent, "%.2f %%", 100 * double(trained) / double(weights));
  report.line("base        " + o.model.model + ": " + m.model->config().architecture + ", " + in_thousands(weights) + " weights, fingerprint " + base);
  report.line("method      " + o.method + (o.method == "lora" ? ", rank " + std::to_string(o.rank) + ", " + std::to_string(method.trained.size() / 2) + " layers" : "") +
              ": " + in_thousands(trained) + " trained numbers (" + percent + ")");
  report.line("data        " + std::to_string(data.size()) + " examples of at most " + std::to_string(o.length) + " tokens, " + in_thousands(data.learned()) +
              " labels" + (validation ? "; validation " + std::to_string(validation->size()) + " examples, " + in_thousands(validation->learned()) + " labels" : ""));
  if (data.truncated() > 0)
    report.line("warning     " + std::to_string(data.truncated()) + " pairs are longer than " + std::to_string(o.length) + " tokens and were cut; " +
                std::to_string(data.dropped()) + " of them had nothing left to learn");
  report.line("training    " + std::to_string(steps) + " steps of " + std::to_string(o.train.batch * o.train.accumulate) + " examples");
  report.line("memory      about " + megabytes(memory) + " (weights " + megabytes(weight_bytes) + ")" + (o.train.recompute ? ", recomputing activations" : ""));
  report.event({{"event", "plan"}, {"base", base}, {"method", o.method}, {"trained", trained}, {"weights", weights}, {"examples", data.size()},
                {"labels", data.learned()}, {"truncated", data.truncated()}, {"dropped", data.dropped()},
                {"validation_labels", validation ? validation->learned() : 0}, {"steps", steps}, {"memory_estimate", memory}});
}

void run(AdaptOptions o) {
  interrupted();      // from here on ^C ends the run in good order
  const bool json_output = o.json;
  Report report(json_output);
  { const AtomicFile writable(o.out); }      // an output that cannot be written is told now, not after the work
  if (o.checkpoint.empty()) o.checkpoint = o.out + ".checkpoint";
  o.train.schedule = schedule_kind(o.schedule);
  o.train.lr = float(o.lr > 0 ? o.lr : o.method == "full" ? 2e-5 : o.method == "kvt" && o.core == "spectral" ? 3e-3 : o.method != "lora" ? 1e-3 : 3e-4);

  LoadedModel m = open_model(o.model, false);
  const std::string base = fingerprint(m.gguf);
  Examples data = read_examples(o.data, *m.tokenizer, o.length);
  std::optional<Examples> validation;
  if (!o.valid.empty()) validation = read_examples(o.valid, *m.tokenizer, o.length);
  else if (in_rounds(o) && o.valid_split == 0) validation = data.split(0.2);      // its rounds are judged on it
  else if (o.valid_split > 0) validation = data.split(o.valid_split);
  const Examples* valid = validation ? &*validation : nullptr;
  if (in_rounds(o)) return adapt_in_rounds(o, m, base, data, *valid, report);
  const Method method = set_up(o, m, base, data);
  print_plan(report, o, m, method, data, valid, base);

  const RunIdentity self{base, identity(o, data, valid)};
  TrainState state;
  if (o.resume) {
    read_checkpoint(o.checkpoint, state, method.trained, self);
    report.line("resuming    from " + o.checkpoint + " after step " + std::to_string(state.step));
  }
  TrainCallbacks callbacks;
  callbacks.step = [&](const StepReport& r) { report.step(r); };
  callbacks.validation = [&](const ValidationReport& r) { report.validation(r); };
  callbacks.save = [&](const TrainState& s) { write_checkpoint(o.checkpoint, s, method.trained, self); };
  callbacks.cancelled = interrupted;
  const std::unique_ptr<Task> task = method.task(data, true), held_out = valid ? method.task(*valid, false) : nullptr;
  const TrainEnd end = train(*task, method.trained, o.train, held_out.get(), state, callbacks);
  if (end == TrainEnd::cancelled) {
    report.line("interrupted after step " + std::to_string(state.step) + "; to go on, repeat the command with --resume (checkpoint " + o.checkpoint + ")");
    report.event({{"event", "interrupted"}, {"step", state.step}, {"checkpoint", o.checkpoint}});
    throw Interrupted();
  }
  Gguf result = method.result();
  store_fusion(report, o, method.model, valid, result);
  result.write(o.out);
  if (o.resume || o.train.save_every > 0) {      // of no further use: the run it belongs to is over
    std::error_code ignored;
    std::filesystem::remove(o.checkpoint, ignored);
  }
  if (end == TrainEnd::stopped_early) report.line("stopped early: no better validation loss since step " + std::to_string(state.best_step));
  if (valid) report.line("the weights of step " + std::to_string(state.best_step) + " are kept (validation loss " + std::to_string(state.best_loss) + ")");
  report.line("wrote " + o.out + "; peak memory " + megabytes(peak_memory()));
  json done = {{"event", "done"}, {"out", o.out}, {"step", state.step}, {"stopped_early", end == TrainEnd::stopped_early}, {"peak_memory", peak_memory()},
               {"passes", double(state.step * o.train.batch * o.train.accumulate) / double(data.size())}};
  if (valid) done["best_step"] = state.best_step, done["best_loss"] = state.best_loss;
  report.event(done);
}

}  // namespace

void add_adapt(CLI::App& app) {
  auto o = std::make_shared<AdaptOptions>();
  CLI::App* c = app.add_subcommand("adapt", "adapt a model to text or prompt-completion pairs: KVT, LoRA, or all weights");
  add_model_options(*c, o->model);
  TrainOptions& t = o->train;
  c->add_option("--method", o->method, "lora (default), kvt, kvt-generated, lora-xs: any base; full: bases with float weights")
      ->check(CLI::IsMember({"lora", "kvt", "kvt-generated", "lora-xs", "full"}));
  c->add_option("--init", o->init, "where low-rank factors start: random (default of lora), weight-svd (of lora-xs) or gradient-svd (of kvt)")
      ->check(CLI::IsMember({"random", "weight-svd", "gradient-svd"}));
  c->add_option("--core", o->core, "kvt: extracted (default; nothing trained), spectral or dense")->check(CLI::IsMember({"extracted", "spectral", "dense"}));
  c->add_option("--k", o->k, "kvt: directions a layer and round (default 8), or auto");
  c->add_option("--rounds", o->rounds, "kvt: rounds at most (default 8), each one pass over the data; lora: restarts, the steps shared among them")->check(CLI::PositiveNumber);
  c->add_option("--eta", o->eta, "kvt: where the first line search starts (default 1/32)")->check(CLI::PositiveNumber);
  c->add_option("--levels", o->levels, "kvt-generated: concept, sentence, word (default: all three), or none = the constant core")->delimiter(',')
      ->check(CLI::IsMember({"concept", "sentence", "word", "none"}));
  c->add_option("--size", o->size, "kvt-generated: numbers in a knowledge vector, and rank of the adapter (default: sqrt(width)/4)")->check(CLI::PositiveNumber);
  c->add_option("--vectors", o->vectors, "kvt-generated: knowledge vectors (default: as many as --size)")->check(CLI::PositiveNumber);
  c->add_option("--knowledge-layer", o->knowledge_layer, "kvt-generated: blocks whose states knowledge is extracted from (default: all)")->check(CLI::NonNegativeNumber);
  c->add_option("--texts", o->texts, "kvt-generated: examples that knowledge is extracted from (default 16)")->check(CLI::PositiveNumber);
  c->add_flag("--no-extractor", o->no_extractor, "kvt-generated: train the knowledge vectors themselves");
  c->add_option("--mu", o->mu, "kvt-generated: weight of the extractor's mean gate in the loss (default 1e-3)")->check(CLI::NonNegativeNumber);
  c->add_option("--data", o->data, "text file, or .jsonl of {\"prompt\": …, \"completion\": …}; only completions are learned")->required();
  auto* valid = c->add_option("--valid", o->valid, "validation data, likewise");
  c->add_option("--valid-split", o->valid_split, "take this fraction from the end of the data for validation")->excludes(valid)->check(CLI::Range(0.0, 0.9));
  c->add_option("-o,--out", o->out, "adapter GGUF to write (full: model GGUF)")->required();
  c->add_option("--out-type", o->out_type, "F32 (default) or F16; full also BF16, Q8_0")->check(CLI::IsMember({"F32", "F16", "BF16", "Q8_0"}, CLI::ignore_case));
  c->add_option("--rank", o->rank, "LoRA rank (default 8)")->check(CLI::PositiveNumber);
  c->add_option("--alpha", o->alpha, "LoRA alpha; the scale is alpha/rank (default 16)");
  c->add_option("--targets", o->targets, "layers to adapt: attn_q,attn_v,ffn_down,… or all (default)")->delimiter(',');
  c->add_option("--layers", o->layers, "blocks to adapt, FIRST-LAST, counted from 0 (default: all)");
  c->add_option("--fuse", o->fuse, "store how scores are fused with the base's: a number = lambda, auto = the best lambda or gamma on the validation data, none "
                "(default; kvt-generated: 0.7, and the fused scores are what it is trained on, unless none)")
      ->check([](const std::string& text) {
        char* end = nullptr;
        const float x = std::strtof(text.c_str(), &end);
        return text == "auto" || text == "none" || (!text.empty() && *end == 0 && std::isfinite(x) && x >= 0) ? "" : "expected auto, none or a number of 0 or more, got '" + text + "'";
      });
  c->add_option("--lr", o->lr, "peak learning rate (default 3e-4, full 2e-5)")->check(CLI::PositiveNumber);
  c->add_option("--schedule", o->schedule, "constant, linear or cosine (default)")->check(CLI::IsMember({"constant", "linear", "cosine"}));
  c->add_option("--warmup", t.warmup, "steps of rising learning rate (default 0)")->check(CLI::NonNegativeNumber);
  auto* steps = c->add_option("--steps", t.steps, "how many steps");
  steps->check(CLI::PositiveNumber);
  c->add_option("--epochs", t.epochs, "passes over the data (default 1)")->excludes(steps)->check(CLI::PositiveNumber);
  c->add_option("--batch", t.batch, "examples in one forward pass (default 4)")->check(CLI::PositiveNumber);
  c->add_option("--accumulate", t.accumulate, "forward passes in one step (default 1)")->check(CLI::PositiveNumber);
  c->add_option("--length", o->length, "tokens in an example at most (default 256)")->check(CLI::PositiveNumber);
  c->add_option("--clip", t.clip, "largest gradient norm (default 1; 0 = any)")->check(CLI::NonNegativeNumber);
  c->add_option("--weight-decay", t.optimizer.weight_decay, "AdamW's weight decay, for matrices (default 0.01)")->check(CLI::NonNegativeNumber);
  c->add_option("--seed", t.seed, "seed of initial factors and data order (default 0)");
  c->add_flag("--recompute", t.recompute, "recompute activations in the backward pass: less memory, more time");
  c->add_option("--eval-every", t.eval_every, "steps between validations (default: only at start and end)")->check(CLI::NonNegativeNumber);
  c->add_option("--patience", t.patience, "stop after so many validations without improvement (default 0 = never)")->check(CLI::NonNegativeNumber);
  c->add_option("--checkpoint", o->checkpoint, "checkpoint file (default: OUT.checkpoint); removed when the run is done");
  c->add_option("--save-every", t.save_every, "steps between checkpoints (default: only on ^C)")->check(CLI::NonNegativeNumber);
  c->add_flag("--resume", o->resume, "go on from the checkpoint; all other options as before");
  c->add_flag("--json", o->json, "print JSON lines: plan, step, validation, done or interrupted");
  c->footer("Examples:\n"
            "  kvt adapt -m model.gguf --data domain.txt --valid-split 0.1 -o domain.gguf --epochs 3\n"
            "  kvt adapt -m model.gguf --data pairs.jsonl -o task.gguf --rank 16 --targets attn_q,attn_v --steps 500 --eval-every 50 --patience 3 --valid held-out.jsonl\n"
            "  kvt adapt -m model.gguf --data domain.txt --valid-split 0.1 -o domain.gguf --fuse auto\n"
            "  kvt adapt -m model-f32.gguf --method full --data domain.txt -o tuned.gguf --recompute\n"
            "  kvt adapt -m model.gguf --method kvt --data domain.txt --valid held-out.txt -o domain.gguf --length 128\n"
            "  kvt adapt -m model.gguf --method kvt-generated --levels concept,word --data domain.txt --valid-split 0.1 -o domain.gguf --fuse auto\n"
            "  kvt run -m model.gguf --adapter domain.gguf -p \"…\"");
  c->callback([o] {
    for (char& letter : o->out_type) letter = char(std::toupper(letter));
    if (o->method != "full" && o->out_type != "F32" && o->out_type != "F16") throw CLI::ValidationError("--out-type", "an adapter is written as F32 or F16");
    if (o->fuse == "auto" && !in_rounds(*o) && o->valid.empty() && o->valid_split <= 0) throw CLI::ValidationError("--fuse", "auto needs --valid or --valid-split");
    if (o->method == "kvt-generated" && o->fuse.empty()) o->fuse = "0.7";
    if (!o->fuse.empty() && o->method == "full") throw CLI::ValidationError("--fuse", "is of an adapter with its base; --method full leaves no base");
    run(*o);
  });
}

}  // namespace kvt
