#include "tools/training_report.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>

#include "tools/commands.h"
#include "tools/common.h"

namespace kvt {

using nlohmann::json;

Report::Report(bool as_json) : json_(as_json), terminal_(!as_json && isatty(STDERR_FILENO)) {}

void Report::line(const std::string& text) {
  if (json_) return;
  std::fprintf(stderr, "%s%s\n", open_ ? "\r\x1b[K" : "", text.c_str());
  open_ = false;
}

void Report::progress(const std::string& text) {
  if (!terminal_) return;
  std::fprintf(stderr, "\r\x1b[K%s", text.c_str());
  std::fflush(stderr);
  open_ = true;
}

void Report::event(const json& object) const {
  if (!json_) return;
  std::printf("%s\n", object.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
  std::fflush(stdout);
}

void Report::step(const StepReport& r) {
  event({{"event", "step"}, {"step", r.step}, {"steps", r.steps}, {"epoch", r.epoch}, {"loss", r.loss}, {"lr", r.lr},
         {"gradient_norm", r.gradient_norm}, {"tokens_per_second", r.tokens_per_second}, {"seconds_left", r.seconds_left}});
  const int64_t every = std::max<int64_t>(1, r.steps / 100);
  if (json_ || (!terminal_ && r.step % every != 0 && r.step != r.steps)) return;
  char text[200];
  const auto left = int64_t(r.seconds_left + 0.5);
  std::snprintf(text, sizeof text, "step %lld/%lld  loss %.4f  lr %.3g  |g| %.3f  %.0f tokens/s  %lld:%02lld left", static_cast<long long>(r.step),
                static_cast<long long>(r.steps), r.loss, r.lr, r.gradient_norm, r.tokens_per_second, static_cast<long long>(left / 60),
                static_cast<long long>(left % 60));
  if (terminal_) progress(text);
  else line(text);
}

void Report::validation(const ValidationReport& r) {
  event({{"event", "validation"}, {"step", r.step}, {"loss", r.loss}, {"best", r.best}});
  char text[100];
  std::snprintf(text, sizeof text, "after step %lld  validation loss %.4f%s", static_cast<long long>(r.step), r.loss, r.best ? "  (best)" : "");
  line(text);
}

void Report::end(TrainEnd how, TrainState& state, const Task* validation, bool learned, const TrainOptions& options) {
  if (how == TrainEnd::stopped_early) line("stopped early: no better validation loss since step " + std::to_string(state.best_step));
  if (!validation) return;
  if (learned) {
    state.best_step = state.step;
    state.best_loss = evaluate(*validation, options.batch, interrupted, options.precision);
    if (interrupted()) throw Interrupted();
  }
  line("the weights of step " + std::to_string(state.best_step) + " are kept (validation loss " + std::to_string(state.best_loss) + (learned ? ", also learned)" : ")"));
}

void Report::nothing(const std::string& what, double loss) {
  event({{"event", "nothing"}, {"loss", loss}});
  fail(what, ": no step lowers the validation loss (", loss, " nats per label); nothing is written");
}

void Report::memory(const TrainingMemory& m, int64_t weights) {
  const std::pair<const char*, int64_t> parts[] = {{"weights", weights}, {"trained", m.trained}, {"gradients", m.gradients}, {"moments", m.moments},
                                                   {"best", m.best}, {"activations", m.activations}, {"work", m.work}};
  json object = {{"event", "memory"}, {"total", weights + m.total()}};
  line("memory      of one step, tried:");
  for (const auto& part : parts) {
    char text[80];
    std::snprintf(text, sizeof text, "  %-12s%9.1f MB", part.first, double(part.second) / 1e6);
    line(text);
    object[part.first] = part.second;
  }
  char text[80];
  std::snprintf(text, sizeof text, "  %-12s%9.1f MB", "total", double(weights + m.total()) / 1e6);
  line(text);
  event(object);
}

void Report::peak(const std::string& out, int64_t planned) {
  line("wrote " + out + "; peak memory " + megabytes(peak_memory()) + (planned > 0 ? " (planned " + megabytes(planned) + ")" : ""));
}

Fusion best_fusion(Report& report, const std::vector<FusionLoss>& losses) {
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

std::string megabytes(int64_t bytes) { return std::to_string((bytes + 500000) / 1000000) + " MB"; }

std::string in_thousands(int64_t n) {
  std::string digits = std::to_string(n);
  for (auto at = int64_t(digits.size()) - 3; at > 0; at -= 3) digits.insert(size_t(at), " ");
  return digits;
}

int64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t(usage.ru_maxrss) * 1024;
}

}  // namespace kvt
