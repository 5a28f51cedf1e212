// kvt train: trains a model from random weights, as a JSON file says.
#include "tools/train.h"

#include <filesystem>
#include <optional>

#include "engine/atomic_file.h"
#include "engine/both_tasks.h"
#include "tensor/parallel.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/curve.h"
#include "tools/training_report.h"

namespace kvt {

namespace {

using nlohmann::json;

struct TaskName {
  const char* name;
  void (*train)(Config&, const TrainPaths&);
};
constexpr TaskName tasks[] = {
    {"image-classification", train_images},
    {"language-modelling", train_language},
    {"translation", train_translation},
};

// Means over a hundredth of the steps each: a curve one can read.
std::vector<std::pair<double, double>> smoothed(const std::vector<std::pair<double, double>>& points) {
  std::vector<std::pair<double, double>> result;
  const size_t width = std::max<size_t>(1, points.size() / 100);
  for (size_t begin = 0; begin < points.size(); begin += width) {
    const size_t end = std::min(begin + width, points.size());
    double x = 0, y = 0;
    for (size_t i = begin; i < end; ++i) x += points[i].first, y += points[i].second;
    result.emplace_back(x / double(end - begin), y / double(end - begin));
  }
  return result;
}

void write_text(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

void run(const std::string& config_path, const TrainPaths& paths, int threads) {
  interrupted();
  set_default_threads({.threads = threads});
  Config config = Config::open(config_path);
  const std::string wanted = config.text("task");
  std::string known;
  for (const TaskName& t : tasks) {
    if (wanted == t.name) return t.train(config, paths);
    known += known.empty() ? t.name : std::string(", ") + t.name;
  }
  config.bad("task", "'" + wanted + "' is not known; known: " + known);
}

}  // namespace

void run_job(const TrainJob& job, const TrainPaths& paths) {
  { const AtomicFile writable(paths.out); }      // an output that cannot be written is told now, not after the work
  Report report(paths.json);
  const std::string checkpoint = paths.out + ".checkpoint";
  RunIdentity self{"none", job.options.describe()};
  self.options.insert(job.identity.begin(), job.identity.end());
  int64_t weights = 0;
  for (const Trained& t : job.trained) weights += t.tensor.size();
  require(!job.learn_validation || (job.validation && job.options.eval_every == 0 && job.options.patience == 0),
          "train: \"learn_validation\" needs validation data, which then choose no step: leave out \"eval_every\" and \"patience\"");
  std::optional<BothTasks> both;
  if (job.learn_validation) both.emplace(*job.task, *job.validation);
  const Task& task = both ? static_cast<const Task&>(*both) : *job.task;
  const int64_t steps = train_steps(job.options, task.size());
  report.line("training    " + in_thousands(weights) + " weights, " + in_thousands(job.task->size()) + " examples" +
              (job.validation ? ", validation " + in_thousands(job.validation->size()) : "") + ", " + std::to_string(steps) + " steps of " +
              std::to_string(job.options.batch * job.options.accumulate) + " examples");
  report.event({{"event", "plan"}, {"weights", weights}, {"trained", weights}, {"examples", job.task->size()}, {"steps", steps}});
  int64_t planned = 0;
  if (paths.memory) {
    const TrainingMemory memory = try_memory(*job.task, job.trained, job.options, job.validation != nullptr);
    const int64_t resting = std::max<int64_t>(0, Storage::use().now - memory.trained);      // tensors beside: weights that stay, images
    report.memory(memory, resting);
    planned = resting + memory.total();
  }

  TrainState state;
  if (paths.resume) {
    read_checkpoint(checkpoint, state, job.trained, self);
    report.line("resuming    from " + checkpoint + " after step " + std::to_string(state.step));
  }
  std::vector<std::pair<double, double>> losses, validations;
  const auto draw = [&] {
    write_text(paths.out + ".svg", curve_svg(job.title, "step", {{"training loss", "#1f77b4", smoothed(losses)}, {"validation loss", "#d62728", validations}}));
  };
  TrainCallbacks callbacks;
  callbacks.step = [&](const StepReport& r) {
    report.step(r);
    losses.emplace_back(double(r.step), r.loss);
  };
  callbacks.validation = [&](const ValidationReport& r) {
    report.validation(r);
    validations.emplace_back(double(r.step), r.loss);
    draw();
  };
  callbacks.save = [&](const TrainState& s) { write_checkpoint(checkpoint, s, job.trained, self); };
  callbacks.cancelled = interrupted;
  const TrainEnd end = train(task, job.trained, job.options, both ? nullptr : job.validation, state, callbacks);
  if (end == TrainEnd::cancelled) {
    report.line("interrupted after step " + std::to_string(state.step) + "; to go on, repeat the command with --resume (checkpoint " + checkpoint + ")");
    report.event({{"event", "interrupted"}, {"step", state.step}, {"checkpoint", checkpoint}});
    throw Interrupted();
  }
  draw();
  job.result(report).write(paths.out);
  if (paths.resume || job.options.save_every > 0) {
    std::error_code ignored;
    std::filesystem::remove(checkpoint, ignored);
  }
  report.end(end, state, job.validation, both.has_value(), job.options);
  report.peak(paths.out + " and " + paths.out + ".svg", planned);
  json done = {{"event", "done"}, {"out", paths.out}, {"step", state.step}, {"best_step", state.best_step}, {"peak_memory", peak_memory()},
               {"passes", double(state.step * job.options.batch * job.options.accumulate) / double(job.task->size())}};
  if (job.validation) done["best_loss"] = state.best_loss;
  report.event(done);
}

void add_train(CLI::App& app) {
  struct Options { std::string config; TrainPaths paths; int threads = 0; };
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("train", "train a model from random weights, as a JSON file says");
  c->add_option("config", o->config, "JSON file; its \"task\" decides which keys it has (tools/configs/README.md)")->required();
  c->add_option("--data", o->paths.data, "folder that the file's data paths are relative to (default: the current one)");
  c->add_option("-o,--out", o->paths.out, "model GGUF to write; the learning curve goes to OUT.svg, checkpoints to OUT.checkpoint")->required();
  c->add_option("-t,--threads", o->threads, "threads (default: one per core)")->check(CLI::Range(1, 1024));
  c->add_flag("--resume", o->paths.resume, "go on from the checkpoint; configuration and data as before");
  c->add_flag("--memory", o->paths.memory, "try one step and print the memory that training will take, by what it is for, before the run");
  c->add_flag("--json", o->paths.json, "print JSON lines: plan, step, validation, done or interrupted");
  c->footer("Example:\n  kvt train tools/configs/translation.json --data shared/data/mt-multi30k-en-de -o translation.gguf");
  c->callback([o] { run(o->config, o->paths, o->threads); });
}

}  // namespace kvt
