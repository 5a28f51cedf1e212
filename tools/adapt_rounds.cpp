// kvt adapt --method kvt, and the other methods that go in rounds or start from singular vectors (engine/rounds.h).
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "engine/checkpoint.h"
#include "engine/rounds.h"
#include "tools/adapt.h"
#include "tools/commands.h"

namespace kvt {

using nlohmann::json;

static int64_t directions(const std::string& text) {
  if (text == "auto") return 0;
  require(!text.empty() && text.size() <= 4 && text.find_first_not_of("0123456789") == std::string::npos && std::stoi(text) > 0,
          "--k: expected a number of directions, or auto, got '", text, "'");
  return std::stoi(text);
}

static std::string clock(double seconds) {
  char text[32];
  const auto s = static_cast<long long>(seconds + 0.5);
  std::snprintf(text, sizeof text, "%lld:%02lld", s / 60, s % 60);
  return text;
}

static void print_plan(Report& report, const AdaptOptions& o, const RoundsOptions& options, const Goal& goal, const std::vector<TargetLayer>& layers) {
  report.line("base        " + o.model.model + ": " + goal.model().architecture() + ", fingerprint " + goal.base);
  report.line("method      " + o.method + ", " + name(options.core) + " core, k " + (options.k ? std::to_string(options.k) : "auto") + ", at most " +
              std::to_string(options.rounds) + " rounds" + (options.refine > 0 ? ", refined in " + std::to_string(options.refine) + " steps" : "") + ", " + std::to_string(layers.size()) + " layers");
  goal.print(report);
  json plan = goal.plan();
  plan.update({{"event", "plan"}, {"base", goal.base}, {"method", o.method}, {"core", name(options.core)}, {"k", options.k}, {"rounds", options.rounds}, {"layers", layers.size()}});
  report.event(plan);
}

bool in_rounds(const AdaptOptions& o) {
  return o.method == "kvt" || o.method == "lora-xs" || (is_lora(o) && (o.rounds > 0 || !o.init.empty()));
}

static RoundsOptions rounds_options(const AdaptOptions& o) {
  RoundsOptions options;
  const bool kvt = o.method == "kvt";
  options.core = kvt ? core_form(o.core) : is_lora(o) ? CoreForm::lora : CoreForm::dense;
  options.basis = basis(!o.init.empty() ? o.init : kvt ? "gradient-svd" : is_lora(o) ? "random" : "weight-svd");
  options.k = kvt ? directions(o.k) : o.rank;
  options.rounds = o.rounds > 0 ? o.rounds : kvt ? 8 : 1;
  if (!kvt) options.scale = o.alpha / float(o.rank);
  options.eta = o.eta;
  options.portion = o.portion;
  options.learn_validation = o.learn_validation;
  options.refine = o.refine;
  options.refine_rank = o.rank;
  options.mean_rank = o.mean_rank;
  options.extract.batch = 1;         // the mean does not depend on it, memory does
  options.extract.precision = o.train.precision;
  options.extract.recompute = o.train.recompute;
  options.extract.seed = o.train.seed;
  options.train = o.train;
  return options;
}

// What an optimizer works on in one round, or has before.
static int64_t trained_numbers(const RoundsOptions& options, const std::vector<TargetLayer>& layers, int64_t k) {
  int64_t n = 0;
  for (const Trained& t : options.beside) n += t.tensor.size();
  for (const TargetLayer& layer : layers) {
    const Shape& w = layer.linear->weight.shape;
    if (options.refine > 0) n += options.refine_rank * (w[0] + w[1]);
    n += options.core == CoreForm::extracted ? 0 : options.core == CoreForm::spectral ? k : options.core == CoreForm::dense ? k * k : k * (w[0] + w[1]);
  }
  return n;
}

// Makes of the adapters what is stored, and tells what that costs.
static void compress(Report& report, const AdaptOptions& o, const RoundsOptions& options, const Task& validation, RoundsState& state) {
  if (o.mean_rank == 0 && out_type(o) == DType::F32) return;
  const double kept = options.cut_at_end() ? state.cut(o.mean_rank) : 1;
  round_to(state.set, out_type(o));
  const double loss = evaluate(validation, o.train.batch, interrupted);
  if (interrupted()) throw Interrupted();
  char text[160];
  std::snprintf(text, sizeof text, "stored      %s, mean rank %g: %.1f %% of the energy; validation loss %.4f -> %.4f", o.out_type.c_str(), o.mean_rank, 100 * kept,
                state.losses.back(), loss);
  report.line(text);
  report.event({{"event", "compressed"}, {"type", o.out_type}, {"mean_rank", o.mean_rank}, {"energy", kept}, {"before", state.losses.back()}, {"loss", loss}});
  state.losses.back() = loss;
  ++state.evaluations;
}

void adapt_in_rounds(const AdaptOptions& o, Goal& goal, Report& report) {
  Model& model = goal.model();
  RoundsOptions options = rounds_options(o);
  options.beside = goal.head();
  const auto [first, last] = blocks_of(o, model);
  const std::vector<TargetLayer> layers = target_layers(model, o.targets, first, last);
  print_plan(report, o, options, goal, layers);

  const std::string &architecture = model.architecture(), &base = goal.base;
  const RunIdentity self{base, identity(o, goal)};
  RoundsState state;
  double head_passes = 0;
  if (o.resume) {
    const Gguf file = Gguf::open(o.checkpoint, Gguf::Access::read);
    require_identity(file, self);
    state = read_rounds(model, file, layers, base);
    goal.restore(file);
    report.line("resuming    from " + o.checkpoint + " after round " + std::to_string(state.rounds()));
  } else {
    head_passes = goal.fit_head(report, o.train);
  }
  RoundsCallbacks callbacks;
  callbacks.cancelled = interrupted;
  callbacks.extracting = [&](const ExtractProgress& p) {
    char text[100];
    std::snprintf(text, sizeof text, "extracting  %lld of %lld examples  loss %.4f", static_cast<long long>(p.done), static_cast<long long>(p.examples), p.loss);
    report.progress(text);
  };
  callbacks.trial = [&](float eta, double loss) {
    char text[80];
    std::snprintf(text, sizeof text, "  step %-8.4g validation loss %.4f", double(eta), loss);
    report.line(text);
    report.event({{"event", "trial"}, {"eta", eta}, {"loss", loss}});
  };
  int64_t trained_steps = 0;
  callbacks.training.step = [&](const StepReport& r) {
    ++trained_steps;
    report.step(r);
  };
  callbacks.training.validation = [&](const ValidationReport& r) { report.validation(r); };
  callbacks.round = [&](const RoundReport& r) {
    char text[240], found[80] = "";
    if (options.basis == Basis::gradient && r.energy > 0)
      std::snprintf(found, sizeof found, "training loss %.4f  %.0f %% of the gradient  ", r.training_loss, 100 * r.energy);
    std::snprintf(text, sizeof text, "round %lld     validation loss %.4f -> %.4f  %sk %lld  rank %lld  %lld validation passes  %s, at most %s left",
                  static_cast<long long>(r.round), r.before, r.loss, found, static_cast<long long>(r.k), static_cast<long long>(r.rank),
                  static_cast<long long>(r.evaluations), clock(r.seconds).c_str(), clock(r.seconds_left).c_str());
    report.line(text);
    report.event({{"event", "round"}, {"round", r.round}, {"eta", r.eta}, {"training_loss", r.training_loss}, {"loss", r.loss}, {"before", r.before},
                  {"k", r.k}, {"energy", r.energy}, {"rank", r.rank}, {"validation_passes", r.evaluations}, {"seconds", r.seconds}, {"seconds_left", r.seconds_left}});
  };
  callbacks.save = [&](const RoundsState& s) {
    if (s.set.layers.empty()) return;
    Gguf file = rounds_file(s, options.core, architecture, base, DType::F32);
    goal.store(file);
    set_identity(file, self);
    file.write(o.checkpoint);
  };
  const auto task = goal.task(Goal::Part::training), held_out = goal.task(Goal::Part::validation);
  if (!run_rounds(*task, *held_out, layers, options, state, callbacks)) {
    report.line("interrupted after round " + std::to_string(state.rounds()) +
                (state.rounds() > 0 ? "; to go on, repeat the command with --resume (checkpoint " + o.checkpoint + ")" : ""));
    report.event({{"event", "interrupted"}, {"round", state.rounds()}, {"checkpoint", o.checkpoint}});
    throw Interrupted();
  }
  const bool gained = state.rounds() > 0;                    // else a head that was fitted is all there is
  if (!gained && goal.head().empty()) report.nothing(o.method, state.losses[0]);
  if (gained) compress(report, o, options, *held_out, state);
  Gguf result = gained ? rounds_file(state, options.core, architecture, base, out_type(o)) : new_adapter("head", architecture, base);
  goal.store(result);
  if (gained) store_fusion(report, o, goal, nullptr, result);
  result.write(o.out);
  std::error_code ignored;
  std::filesystem::remove(o.checkpoint, ignored);            // of no further use: the run it belongs to is over
  char text[160];
  std::snprintf(text, sizeof text, "validation loss %.4f -> %.4f%s in %lld rounds; %.3g extraction passes over the data, %lld validation passes", state.losses.front(),
                state.losses.back(), o.learn_validation ? " (also learned)" : "", static_cast<long long>(state.rounds()), state.extractions, static_cast<long long>(state.evaluations));
  report.line(text);
  report.line("wrote " + o.out + "; peak memory " + megabytes(peak_memory()));
  const double passes = head_passes + state.extractions + double(trained_steps * o.train.batch * o.train.accumulate) / double(task->size());
  report.event({{"event", "done"}, {"out", o.out}, {"rounds", state.rounds()}, {"etas", state.etas}, {"losses", state.losses}, {"extraction_passes", state.extractions},
                {"best_loss", *std::min_element(state.losses.begin(), state.losses.end())}, {"passes", passes},
                {"trained", trained_numbers(options, layers, state.k)},
                {"validation_passes", state.evaluations}, {"peak_memory", peak_memory()}});
}

}  // namespace kvt
