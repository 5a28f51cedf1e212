// kvt adapt: adapts a model to texts, prompt–completion pairs or labelled texts: by KVT's rounds, by adapters, by a head, or in all weights.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/atomic_file.h"
#include "engine/both_tasks.h"
#include "engine/checkpoint.h"
#include "tools/adapt.h"
#include "tools/commands.h"

namespace kvt {

using nlohmann::json;

void store_fusion(Report& report, const AdaptOptions& o, const Goal& goal, const std::shared_ptr<CausalLm>& made, Gguf& adapter) {
  if (o.fuse == "auto") write_fusion(adapter, best_fusion(report, goal.fusion_losses(made, o.train.batch)));
  else if (!o.fuse.empty() && o.fuse != "none") write_fusion(adapter, {Fusion::Form::residual, std::stof(o.fuse)});
}

namespace {

// The bytes of memory planned, if that was asked for; else 0.
int64_t print_plan(Report& report, const AdaptOptions& o, const Goal& goal, const Method& method, const Task& task) {
  int64_t trained = 0, weights = 0, weight_bytes = 0, adapted = 0;
  for (const Trained& t : method.trained) {
    trained += t.tensor.size();
    if (t.name.ends_with(".lora_b") || t.name.ends_with(".kvt_b")) adapted += t.tensor.dim(0);
  }
  for (const Gguf::Entry& e : goal.gguf.tensors()) {
    weights += e.tensor.size();
    if (o.method != "full" || !e.tensor.storage().mapped()) weight_bytes += e.tensor.bytes();      // else they left memory for those that are trained
  }
  const int64_t steps = train_steps(o.train, task.size());
  char percent[32];
  std::snprintf(percent, sizeof percent, "%.2f %%", 100 * double(trained) / double(weights));
  report.line("base        " + o.model.model + ": " + goal.model().architecture() + ", " + in_thousands(weights) + " weights, fingerprint " + goal.base);
  report.line("method      " + o.method + (is_lora(o) ? ", rank " + std::to_string(o.rank) + ", " + std::to_string(method.trained.size() / 2) + " layers" : "") +
              ": " + in_thousands(trained) + " trained numbers (" + percent + ")");
  goal.print(report);
  report.line("training    " + std::to_string(steps) + " steps of " + std::to_string(o.train.batch * o.train.accumulate) + " examples");
  json plan = goal.plan();
  plan.update({{"event", "plan"}, {"base", goal.base}, {"method", o.method}, {"trained", trained}, {"weights", weights}, {"steps", steps}});
  if (const CausalLm* lm = goal.language_model()) {
    const int64_t memory = training_bytes(lm->config(), trained, adapted, o.train, o.length, goal.has_validation()) + weight_bytes;
    report.line("memory      about " + megabytes(memory) + " (weights " + megabytes(weight_bytes) + ")" +
                (o.train.precision == Precision::bf16 ? ", in bf16" : "") + (o.train.recompute ? ", recomputing activations" : ""));
    plan["memory_estimate"] = memory;
  }
  report.event(plan);
  if (!o.memory) return 0;
  const TrainingMemory memory = try_memory(*method.task, method.trained, o.train, goal.has_validation());
  report.memory(memory, weight_bytes);
  return weight_bytes + memory.total();
}

double default_rate(const AdaptOptions& o) {
  if (o.method == "full") return 2e-5;
  if (o.method == "probe" && o.task == "classify") return 1e-2;
  if (o.method == "ia3" || (o.method == "kvt" && o.core == "spectral")) return 3e-3;
  return is_lora(o) || o.method == "probe" ? 3e-4 : 1e-3;
}

void run(AdaptOptions o) {
  interrupted();      // from here on ^C ends the run in good order
  const bool json_output = o.json;
  Report report(json_output);
  { const AtomicFile writable(o.out); }      // an output that cannot be written is told now, not after the work
  if (o.checkpoint.empty()) o.checkpoint = o.out + ".checkpoint";
  o.train.schedule = schedule_kind(o.schedule);
  if (o.train.pass_tokens == 0) o.train.pass_tokens = o.train.precision == Precision::bf16 ? 512 : 256;
  o.train.lr = float(o.lr > 0 ? o.lr : default_rate(o));

  const std::unique_ptr<Goal> goal = o.task == "classify" ? class_goal(o) : language_goal(o);
  require(!o.memory || !in_rounds(o), "--memory: --method ", o.method, " goes in rounds, and trains nothing whose memory could be planned");
  if (in_rounds(o)) return adapt_in_rounds(o, *goal, report);
  require(!o.learn_validation || goal->has_validation(), "--learn-validation needs --valid or --valid-split");
  const Method method = set_up(o, *goal);
  std::optional<BothTasks> both;
  if (o.learn_validation) both.emplace(*method.task, *method.validation);
  const Task& task = both ? static_cast<const Task&>(*both) : *method.task;
  const int64_t planned = print_plan(report, o, *goal, method, task);

  const RunIdentity self{goal->base, identity(o, *goal)};
  TrainState state;
  const bool head_alone = o.method == "probe" && !goal->head().empty();
  double passes = head_alone ? 1 : 0;            // over the data, beside those of the steps
  if (o.resume) {
    read_checkpoint(o.checkpoint, state, method.trained, self);
    report.line("resuming    from " + o.checkpoint + " after step " + std::to_string(state.step));
  } else if (!head_alone) {
    passes = goal->fit_head(report, o.train);
  }
  TrainCallbacks callbacks;
  callbacks.step = [&](const StepReport& r) { report.step(r); };
  callbacks.validation = [&](const ValidationReport& r) { report.validation(r); };
  callbacks.save = [&](const TrainState& s) { write_checkpoint(o.checkpoint, s, method.trained, self); };
  callbacks.cancelled = interrupted;
  const TrainEnd end = train(task, method.trained, o.train, both ? nullptr : method.validation.get(), state, callbacks);
  if (end == TrainEnd::cancelled) {
    report.line("interrupted after step " + std::to_string(state.step) + "; to go on, repeat the command with --resume (checkpoint " + o.checkpoint + ")");
    report.event({{"event", "interrupted"}, {"step", state.step}, {"checkpoint", o.checkpoint}});
    throw Interrupted();
  }
  state.moments.clear();                         // room for the result
  for (const Trained& t : method.trained) t.tensor.drop_grad();
  Gguf result = method.result();
  store_fusion(report, o, *goal, method.made, result);
  result.write(o.out);
  if (o.resume || o.train.save_every > 0) {      // of no further use: the run it belongs to is over
    std::error_code ignored;
    std::filesystem::remove(o.checkpoint, ignored);
  }
  report.end(end, state, method.validation.get(), both.has_value(), o.train);
  report.peak(o.out, planned);
  if (!head_alone) passes += double(state.step * o.train.batch * o.train.accumulate) / double(method.task->size());
  json done = {{"event", "done"}, {"out", o.out}, {"step", state.step}, {"stopped_early", end == TrainEnd::stopped_early}, {"peak_memory", peak_memory()}, {"passes", passes}};
  if (method.validation) done["best_step"] = state.best_step, done["best_loss"] = state.best_loss;
  report.event(done);
}

}  // namespace

void add_adapt(CLI::App& app) {
  auto o = std::make_shared<AdaptOptions>();
  CLI::App* c = app.add_subcommand("adapt", "adapt a model to text, prompt-completion pairs or labelled texts: KVT, LoRA, and others");
  add_model_options(*c, o->model);
  TrainOptions& t = o->train;
  c->add_option("--task", o->task, "language (default): next tokens; classify: labelled texts")->check(CLI::IsMember({"language", "classify"}));
  c->add_option("--method", o->method, "lora (default), adapterdrop, lora-xs, ia3, kvt, kvt-generated, probe (the output layer alone): any base; full: bases with float weights")
      ->check(CLI::IsMember({"lora", "adapterdrop", "lora-xs", "ia3", "kvt", "kvt-generated", "probe", "full"}));
  c->add_option("--init", o->init, "where low-rank factors start: random (default of lora), weight-svd (of lora-xs) or gradient-svd (of kvt)")
      ->check(CLI::IsMember({"random", "weight-svd", "gradient-svd"}));
  c->add_option("--core", o->core, "kvt: extracted (default; nothing trained), spectral or dense")->check(CLI::IsMember({"extracted", "spectral", "dense"}));
  c->add_option("--k", o->k, "kvt: directions a layer and round (default 8), or auto");
  c->add_option("--rounds", o->rounds, "kvt: rounds at most (default 8), each one pass over the data; lora: restarts, the steps shared among them")->check(CLI::PositiveNumber);
  c->add_option("--eta", o->eta, "kvt: where the first line search starts (default 1/32)")->check(CLI::PositiveNumber);
  c->add_option("--portion", o->portion, "kvt: labels that a round extracts from, in turns through the data (default 0 = all of it)")->check(CLI::NonNegativeNumber);
  c->add_flag("--learn-validation", o->learn_validation, "kvt: steps are found on the validation data, which are then learned as well; trained methods: they are, and choose nothing");
  c->add_option("--refine", o->refine, "kvt: at the end, steps of training LoRA factors of --rank on all that is learned (default 0); options of training apply")->check(CLI::NonNegativeNumber);
  c->add_option("--mean-rank", o->mean_rank, "store factors of this mean rank (kvt: otherwise k x rounds), of higher rank where there is more energy; with --refine, which adds --rank, rounds are cut to the rest before")->check(CLI::Range(1.0, 1e4));
  c->add_option("--levels", o->levels, "kvt-generated: concept, sentence, word (default: all three), or none = the constant core")->delimiter(',')
      ->check(CLI::IsMember({"concept", "sentence", "word", "none"}));
  c->add_option("--size", o->size, "kvt-generated: numbers in a knowledge vector, and rank of the adapter (default: sqrt(width)/4)")->check(CLI::PositiveNumber);
  c->add_option("--vectors", o->vectors, "kvt-generated: knowledge vectors (default: as many as --size)")->check(CLI::PositiveNumber);
  c->add_option("--knowledge-layer", o->knowledge_layer, "kvt-generated: blocks whose states knowledge is extracted from (default: all)")->check(CLI::NonNegativeNumber);
  c->add_option("--texts", o->texts, "kvt-generated: examples that knowledge is extracted from (default 16)")->check(CLI::PositiveNumber);
  c->add_flag("--no-extractor", o->no_extractor, "kvt-generated: train the knowledge vectors themselves");
  c->add_option("--mu", o->mu, "kvt-generated: weight of the extractor's mean gate in the loss (default 1e-3)")->check(CLI::NonNegativeNumber);
  c->add_option("--data", o->data, "text file, or .jsonl of {\"prompt\": …, \"completion\": …}, of which completions are learned; classify: lines of LABEL<tab>TEXT")->required();
  auto* valid = c->add_option("--valid", o->valid, "validation data, likewise");
  c->add_option("--valid-split", o->valid_split, "take this fraction from the end of the data for validation; classify: drawn by the seed")->excludes(valid)->check(CLI::Range(0.0, 0.9));
  c->add_option("-o,--out", o->out, "adapter GGUF to write (full: model GGUF)")->required();
  c->add_option("--out-type", o->out_type, "F32 (default), F16, BF16, or Q8_0 (of low-rank factors A alone: B becomes F16)")->check(CLI::IsMember({"F32", "F16", "BF16", "Q8_0"}, CLI::ignore_case));
  c->add_option("--rank", o->rank, "LoRA rank (default 8)")->check(CLI::PositiveNumber);
  c->add_option("--alpha", o->alpha, "LoRA alpha; the scale is alpha/rank (default 16)");
  c->add_option("--targets", o->targets, "layers to adapt: attn_q,attn_v,ffn_down,… or all (default)")->delimiter(',');
  auto* layers = c->add_option("--layers", o->layers, "blocks to adapt, FIRST-LAST, counted from 0 (default: all)");
  c->add_option("--drop", o->drop, "leave the first so many blocks without adapters: nothing below is trained, or run twice when fused (default: 0; adapterdrop: 5/12 of them)")
      ->excludes(layers)->check(CLI::NonNegativeNumber);
  auto* pooling = c->add_option("--pooling", o->pooling, "classify: what the head gets of the tokens' states: their mean (default), the first, or the last")
                      ->check(CLI::IsMember({"mean", "first", "last"}));
  c->add_option("--label-words", o->label_words, "classify by the next word instead of a head: CLASS=WORD,…, or names = the classes' own")->excludes(pooling);
  c->add_option("--text", o->text, "classify: what is read, with {text} for the text (default: the text alone)");
  c->add_option("--fuse", o->fuse, "store how scores are fused with the base's: a number = lambda, auto = the best lambda or gamma on the validation data, none "
                "(default; kvt-generated: 0.7, and the fused scores are what it is trained on, unless none)")
      ->check([](const std::string& text) {
        char* end = nullptr;
        const float x = std::strtof(text.c_str(), &end);
        return text == "auto" || text == "none" || (!text.empty() && *end == 0 && std::isfinite(x) && x >= 0) ? "" : "expected auto, none or a number of 0 or more, got '" + text + "'";
      });
  c->add_option("--lr", o->lr, "peak learning rate (default: lora, adapterdrop and probe 3e-4, ia3 and spectral 3e-3, full 2e-5, a head alone 1e-2, else 1e-3)")->check(CLI::PositiveNumber);
  c->add_option("--schedule", o->schedule, "constant, linear or cosine (default)")->check(CLI::IsMember({"constant", "linear", "cosine"}));
  c->add_option("--warmup", t.warmup, "steps of rising learning rate (default 0)")->check(CLI::NonNegativeNumber);
  auto* steps = c->add_option("--steps", t.steps, "how many steps");
  steps->check(CLI::PositiveNumber);
  c->add_option("--epochs", t.epochs, "passes over the data (default 1)")->excludes(steps)->check(CLI::PositiveNumber);
  c->add_option("--batch", t.batch, "examples in one forward pass (default 4)")->check(CLI::PositiveNumber);
  c->add_option("--accumulate", t.accumulate, "forward passes in one step (default 1)")->check(CLI::PositiveNumber);
  c->add_option("--pass-tokens", t.pass_tokens, "tokens of one forward pass at most: a batch of more goes through in parts, with the same gradient and less memory (default: 256, in bf16 512)")
      ->check(CLI::PositiveNumber);
  c->add_option("--length", o->length, "tokens in an example at most (default 256)")->check(CLI::PositiveNumber);
  c->add_option("--clip", t.clip, "largest gradient norm (default 1; 0 = any)")->check(CLI::NonNegativeNumber);
  c->add_option("--weight-decay", t.optimizer.weight_decay, "AdamW's weight decay, for matrices (default 0.01)")->check(CLI::NonNegativeNumber);
  c->add_option("--seed", t.seed, "seed of initial factors and data order (default 0)");
  c->add_option_function<std::string>("--precision", [o](const std::string& text) { o->train.precision = precision_named(text); },
                                      "f32 (default), or bf16: products and what the backward pass keeps in 16 bits, less memory; weights, gradients, optimizer F32")
      ->check(CLI::IsMember({"f32", "bf16"}));
  c->add_flag("--recompute", t.recompute, "recompute activations in the backward pass: less memory, more time");
  c->add_option("--eval-every", t.eval_every, "steps between validations (default: only at start and end)")->check(CLI::NonNegativeNumber);
  c->add_option("--patience", t.patience, "stop after so many validations without improvement (default 0 = never)")->check(CLI::NonNegativeNumber);
  c->add_option("--checkpoint", o->checkpoint, "checkpoint file (default: OUT.checkpoint); removed when the run is done");
  c->add_option("--save-every", t.save_every, "steps between checkpoints (default: only on ^C)")->check(CLI::NonNegativeNumber);
  c->add_flag("--resume", o->resume, "go on from the checkpoint; all other options as before");
  c->add_flag("--memory", o->memory, "try one step and print the memory that training will take, by what it is for, before the run; not of what is done in rounds");
  c->add_flag("--json", o->json, "print JSON lines: plan, step, validation, done or interrupted");
  c->footer("Examples:\n"
            "  kvt adapt -m model.gguf --data domain.txt --valid-split 0.1 -o domain.gguf --epochs 3\n"
            "  kvt adapt -m model.gguf --data pairs.jsonl -o task.gguf --rank 16 --targets attn_q,attn_v --steps 500 --eval-every 50 --patience 3 --valid held-out.jsonl\n"
            "  kvt adapt -m model.gguf --data domain.txt --valid-split 0.1 -o domain.gguf --fuse auto\n"
            "  kvt adapt -m model.gguf --task classify --data train.tsv --valid-split 0.2 -o topics.gguf && kvt eval -m model.gguf --adapter topics.gguf --labelled test.tsv\n"
            "  kvt adapt -m model.gguf --task classify --label-words names --text \"{text} Topic:\" --method kvt --data train.tsv -o topics.gguf\n"
            "  kvt adapt -m model-f32.gguf --method full --data domain.txt -o tuned.gguf --recompute\n"
            "  kvt adapt -m model.gguf --method kvt --data domain.txt --valid held-out.txt -o domain.gguf --length 128\n"
            "  kvt adapt -m model.gguf --method kvt-generated --levels concept,word --data domain.txt --valid-split 0.1 -o domain.gguf --fuse auto\n"
            "  kvt run -m model.gguf --adapter domain.gguf -p \"…\"");
  c->callback([o] {
    for (char& letter : o->out_type) letter = char(std::toupper(letter));
    if (o->method == "kvt-generated" && o->out_type != "F32" && o->out_type != "F16") throw CLI::ValidationError("--out-type", "generated cores are written as F32 or F16");
    if (o->mean_rank > 0 && !in_rounds(*o)) throw CLI::ValidationError("--mean-rank", "is of methods that go in rounds: kvt, or lora with --rounds; for others: kvt export");
    if (o->fuse == "auto" && !in_rounds(*o) && o->valid.empty() && o->valid_split <= 0) throw CLI::ValidationError("--fuse", "auto needs --valid or --valid-split");
    if (o->learn_validation && o->task == "classify" && !in_rounds(*o)) throw CLI::ValidationError("--learn-validation", "of --task classify, whose head is fitted first by validation data, is for methods that go in rounds");
    if (o->learn_validation && (o->train.eval_every > 0 || o->train.patience > 0) && !in_rounds(*o)) throw CLI::ValidationError("--learn-validation", "leaves --eval-every and --patience nothing to choose by");
    if (o->learn_validation && o->fuse == "auto") throw CLI::ValidationError("--fuse", "auto needs validation data that are not learned");
    if (o->method == "kvt-generated" && o->fuse.empty()) o->fuse = "0.7";
    if (!o->fuse.empty() && o->method == "full") throw CLI::ValidationError("--fuse", "is of an adapter with its base; --method full leaves no base");
    if (!o->fuse.empty() && o->method == "probe" && o->task == "classify") throw CLI::ValidationError("--fuse", "a head alone leaves the model as it is: there is nothing to fuse");
    if (o->method == "probe" && !o->label_words.empty()) throw CLI::ValidationError("--method", "probe trains a head, --label-words has none");
    if (o->task != "classify" && (!o->label_words.empty() || o->text != "{text}")) throw CLI::ValidationError("--task", "--label-words and --text belong to --task classify");
    if (o->drop >= 0 && o->method == "full") throw CLI::ValidationError("--drop", "is of adapters; --method full trains all weights");
    run(*o);
  });
}

}  // namespace kvt
