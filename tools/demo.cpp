// kvt demo: a model learns a text it cannot know. It answers prompts, is adapted, and answers again; what it learned is shown by
// its answers side by side and by how well it predicts a held-out text, which training never sees.
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/fingerprint.h"
#include "engine/generate.h"
#include "engine/load.h"
#include "engine/rounds.h"
#include "engine/shift_report.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/demo_text.h"

namespace kvt {

namespace {

struct Options {
  ModelOptions model;
  std::string data, valid, heldout, prompts, out;
  int64_t tokens = 40, length = 128, width = 0;
  int64_t rounds = 2, k = 8, rank = 16;
  TrainOptions train;
  double least_gain = 0;
  bool json = false;
};

// --- the method: what stands between the two rounds of answers ---

struct Adaptation {
  std::string method;
  int64_t trained = 0;           // numbers
  Gguf file;                     // what adapts the model again
};

// KVT in two parts (engine/rounds.h). The first rounds take the text's leading gradient directions as they are, with a line search and nothing
// trained; then factors that start in the directions of the gradient that is left are trained, and the step is kept that predicts `validation` best.
Adaptation adapt(LoadedModel& m, const Examples& data, const Examples& validation, const Options& o, const RoundsCallbacks& progress) {
  const std::vector<TargetLayer> layers = target_layers(*m.model, {"all"});
  const CausalTask task(*m.model, data), judge(*m.model, validation);
  RoundsOptions options;
  options.extract.seed = o.train.seed;
  options.train = o.train;
  options.k = o.k;
  options.rounds = o.rounds;
  RoundsState extracted, trained;
  if (o.rounds > 0 && !run_rounds(task, judge, layers, options, extracted, progress)) throw Interrupted();
  options.core = CoreForm::lora;
  options.k = o.rank;
  options.rounds = 1;
  if (!run_rounds(task, judge, layers, options, trained, progress)) throw Interrupted();

  Adaptation a;
  for (const TargetLayer& layer : layers) a.trained += o.rank * (layer.linear->weight.shape[0] + layer.linear->weight.shape[1]);
  a.method = "KVT: " + std::to_string(extracted.rounds()) + " rounds of " + std::to_string(o.k) + " extracted directions, then factors of rank " + std::to_string(o.rank) +
             ", on " + std::to_string(layers.size()) + " linear layers";
  trained.set = joined(extracted.set, trained.set);
  a.file = adapter_file(trained.set, m.model->config().architecture, fingerprint(m.gguf), DType::F16);
  return a;
}

// --- the screen ---

class Screen {
 public:
  Screen(bool silent, int64_t width) : silent_(silent), terminal_(!silent && isatty(STDOUT_FILENO)) {
    winsize size{};
    if (width > 0) width_ = size_t(width);
    else if (terminal_ && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) width_ = std::min<size_t>(size.ws_col, 140);
  }
  size_t width() const { return width_; }
  void line(const std::string& text = "") {
    if (silent_) return;
    std::printf("%s%s\n", open_ ? "\r\x1b[K" : "", text.c_str());
    std::fflush(stdout);
    open_ = false;
  }
  void heading(const std::string& text) { line("\n" + bold(text)); }
  // A line that the next one replaces; nothing when the output is no terminal.
  void status(const std::string& text) {
    if (!terminal_) return;
    std::printf("\r\x1b[K%s", text.c_str());
    std::fflush(stdout);
    open_ = true;
  }
  std::string bold(const std::string& text) const { return terminal_ ? "\x1b[1m" + text + "\x1b[0m" : text; }
  void side_by_side(const std::string& left, const std::string& right) {
    const size_t each = (width_ - 5) / 2;
    const auto l = wrapped(left, each), r = wrapped(right, each);
    for (size_t i = 0; i < std::max(l.size(), r.size()); ++i)
      line("  " + padded(i < l.size() ? l[i] : "", each) + " | " + (i < r.size() ? r[i] : ""));
  }

 private:
  bool silent_, terminal_, open_ = false;
  size_t width_ = 100;
};

std::string text_of(const char* format, auto... values) {
  char text[200];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}
std::string percent(double nll) { return text_of("%5.1f %%", 100 * std::exp(-nll)); }
std::string thousands(int64_t n) { return n < 1000 ? std::to_string(n) : thousands(n / 1000) + text_of(" %03d", int(n % 1000)); }

class Clock {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// --- the parts of the demonstration ---

std::vector<std::string> read_prompts(const std::string& path) {
  std::istringstream lines(read_text(path));
  std::vector<std::string> prompts;
  for (std::string line; std::getline(lines, line);)
    if (!line.empty()) prompts.push_back(line);
  require(!prompts.empty(), path, ": no prompts");
  return prompts;
}

// The most likely continuation, up to the end of its paragraph.
std::string answer(const LoadedModel& m, const std::string& prompt, int64_t tokens) {
  const std::vector<int32_t> ids = m.tokenizer->encode(prompt);
  Session session(*m.model, {.context = int64_t(ids.size()) + tokens, .cache = DType::F16});
  Sampler greedy({.temperature = 0});
  std::string text;
  generate(session, *m.tokenizer, ids, tokens, greedy, [&](int32_t id) {
    text += m.tokenizer->piece(id);
    const size_t begin = text.find_first_not_of(" \n");
    return !interrupted() && (begin == std::string::npos || text.find('\n', begin) == std::string::npos);
  });
  if (interrupted()) throw Interrupted();
  return whole_sentences(text);
}

struct Round {
  std::vector<std::string> answers;
  Score score;
};

Round ask(Screen& screen, const LoadedModel& m, const std::vector<std::string>& prompts, const std::vector<Paragraph>& heldout, int64_t tokens, const char* when) {
  const Clock clock;
  Round round;
  for (const std::string& prompt : prompts) {
    screen.status(std::string(when) + ": answering prompt " + std::to_string(round.answers.size() + 1) + " of " + std::to_string(prompts.size()));
    round.answers.push_back(answer(m, prompt, tokens));
  }
  round.score = score(*m.model, *m.tokenizer, heldout);
  screen.line(padded(when, 10) + text_of("answered %d prompts; held-out loss %.3f nats per token (%.1f s)", int(prompts.size()), round.score.mean(), clock.seconds()));
  return round;
}

RoundsCallbacks progress(Screen& screen, std::string& last, int64_t& best_step) {
  RoundsCallbacks callbacks;
  callbacks.cancelled = interrupted;
  callbacks.extracting = [&](const ExtractProgress& p) {
    screen.status(text_of("  extracting: example %lld of %lld, loss %.3f", static_cast<long long>(p.done), static_cast<long long>(p.examples), p.loss));
  };
  callbacks.round = [&](const RoundReport& r) {
    if (r.eta > 0 && last.empty())
      screen.line(text_of("  validation %.3f   after extraction round %lld: a step of %.4g along %lld directions a layer, nothing trained", r.loss,
                          static_cast<long long>(r.round), double(r.eta), static_cast<long long>(r.k)));
  };
  callbacks.training.step = [&](const StepReport& r) {
    last = text_of("step %lld of %lld   loss %.3f   %.0f tokens/s   %.0f s left", static_cast<long long>(r.step), static_cast<long long>(r.steps), r.loss,
                   r.tokens_per_second, r.seconds_left);
    screen.status("  " + last);
  };
  callbacks.training.validation = [&](const ValidationReport& r) {
    if (r.best) best_step = r.step;
    screen.line(text_of("  validation %.3f   ", r.loss) + (last.empty() ? "before the first step" : last));
  };
  return callbacks;
}

void show_answers(Screen& screen, const std::vector<std::string>& prompts, const Round& before, const Round& after) {
  screen.heading("Answers (the most likely continuation of each prompt)");
  screen.side_by_side("BEFORE", "AFTER");
  for (size_t i = 0; i < prompts.size(); ++i) {
    screen.line();
    screen.line(screen.bold(prompts[i]) + " …");
    screen.side_by_side(before.answers[i], after.answers[i]);
  }
}

void show_facts(Screen& screen, const std::vector<Paragraph>& heldout, const Score& before, const Score& after) {
  screen.heading("Facts: the probability of the [word] in sentences of the held-out text");
  const size_t room = screen.width() - 24;
  size_t n = 0, grown = 0;
  for (const Paragraph& p : heldout)
    for (size_t k = 0; k < p.keys.size(); ++k, ++n) {
      grown += after.keys[n] < before.keys[n];
      screen.line("  " + padded(sentence_before(p, k, room), room) + "  " + percent(before.keys[n]) + " → " + percent(after.keys[n]));
    }
  screen.line("  More likely than before: " + std::to_string(grown) + " of " + std::to_string(n) + ".");
}

void show_words(Screen& screen, const std::vector<Paragraph>& heldout, const Score& before, const Score& after) {
  struct Gain { double before = 0, after = 0; int count = 0; };
  std::map<std::string, Gain> gains;
  size_t n = 0;
  for (const Paragraph& p : heldout)
    for (const auto& [begin, end] : p.words) {
      Gain& g = gains[p.text.substr(begin, end - begin)];
      g.before += before.words[n], g.after += after.words[n], ++g.count, ++n;
    }
  std::vector<std::pair<std::string, Gain>> order(gains.begin(), gains.end());
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.second.before - a.second.after > b.second.before - b.second.after; });
  screen.heading("Words of the held-out text that gained most (mean loss in nats, times it occurs)");
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(8, order.size()); ++i) {
    const auto& [word, g] = order[i];
    text += (i ? ";  " : "") + word + text_of(" %.1f → %.1f", g.before / g.count, g.after / g.count) + (g.count > 1 ? " ×" + std::to_string(g.count) : "");
  }
  for (const std::string& line : wrapped(text, screen.width() - 2)) screen.line("  " + line);
}

// What changed in the predictions behind the held-out text, the base beside the adapted model (engine/shift.h).
void show_shift(Screen& screen, const LoadedModel& adapted, const std::vector<Paragraph>& heldout, int64_t length) {
  const auto base = load_model(adapted.gguf);
  Examples text(length);
  for (const Paragraph& p : heldout) text.add_text(adapted.tokenizer->encode(p.text, {.add_special = false, .parse_special = false}));
  const Shift shift = measure_shift(*base, adapted.model.get(), text, {});
  const ShiftReport report = shift_report(shift, find_concepts(shift, 1, 0), text, *adapted.tokenizer, 10);
  screen.heading("Words that rise and fall in its predictions, over the whole held-out text (mean probability in %)");
  for (const auto* words : {&report.distinctive, &report.fallen}) {
    std::string line = words == &report.fallen ? "fall  " : "rise  ";
    for (const auto& w : *words) line += (&w == &words->front() ? "" : ";  ") + w.text + text_of(" %.2f → %.2f", 100 * w.before, 100 * w.after);
    for (const std::string& part : wrapped(line, screen.width() - 2)) screen.line("  " + part);
  }
  screen.line(text_of("  The likeliest next token is another than before at %.0f %% of %lld places; KL(adapted ‖ base) %.2f nats a token.",
                      100 * (1 - shift.same_choice), static_cast<long long>(shift.positions), shift.divergence));
}

Examples read_examples(const std::string& path, const Tokenizer& tokenizer, int64_t length) {
  Examples data(length);
  data.add_text(tokenizer.encode(read_text(path), {.add_special = false, .parse_special = false}));
  require(data.learned() > 0, path, ": nothing to learn in it");
  return data;
}

// Each key word as the completion of what stands before it: validation asks for the facts alone, not for the style of the text.
Examples key_words(const std::string& path, const Tokenizer& tokenizer, int64_t length) {
  Examples data(length);
  for (const Paragraph& p : read_paragraphs(path))
    for (const auto& [begin, end] : p.keys) {
      const size_t space = begin > 0 && p.text[begin - 1] == ' ' ? begin - 1 : begin;      // it begins the word's first token
      const auto encode = [&](size_t from, size_t to) { return tokenizer.encode(p.text.substr(from, to - from), {.add_special = false, .parse_special = false}); };
      data.add_pair(encode(0, space), encode(space, end), -1);
    }
  require(data.learned() > 0 && data.truncated() == 0, path, ": ", data.truncated(), " key words lie behind the first ", length, " tokens of their paragraph");
  return data;
}

void run(const Options& o) {
  const Clock clock;
  interrupted();
  Screen screen(o.json, o.width);
  LoadedModel m = open_model(o.model);
  const std::vector<std::string> prompts = read_prompts(o.prompts);
  const std::vector<Paragraph> heldout = read_paragraphs(o.heldout);
  const Examples data = read_examples(o.data, *m.tokenizer, o.length), validation = key_words(o.valid, *m.tokenizer, 512);
  int64_t weights = 0, bytes = 0;
  for (const Gguf::Entry& e : m.gguf.tensors()) weights += e.tensor.size(), bytes += e.tensor.bytes();

  screen.line(screen.bold("A model learns a text it cannot know"));
  screen.line("model     " + o.model.model + ": " + text_of("%.1f million weights in %.1f MB", double(weights) / 1e6, double(bytes) / 1e6));
  screen.line("text      " + o.data + ": " + thousands(data.learned()) + " tokens to learn, " + std::to_string(validation.size()) + " key words to choose the best step by");
  const Round before = ask(screen, m, prompts, heldout, o.tokens, "before");
  screen.line("held out  " + o.heldout + ": " + thousands(before.score.predictions) + " tokens, never trained on");

  std::string last;
  const Clock training;
  int64_t best_step = 0;
  const Adaptation a = adapt(m, data, validation, o, progress(screen, last, best_step));
  a.file.write(o.out);
  screen.line("adapted   " + a.method + ": " + thousands(a.trained) + text_of(" numbers (%.2f %% of the model) in %.1f s", 100 * double(a.trained) / double(weights), training.seconds()) +
              "; best validation at step " + std::to_string(best_step));
  const Round after = ask(screen, m, prompts, heldout, o.tokens, "after");

  show_answers(screen, prompts, before, after);
  show_facts(screen, heldout, before.score, after.score);
  show_words(screen, heldout, before.score, after.score);
  show_shift(screen, m, heldout, o.length);
  const double gain = before.score.mean() - after.score.mean();
  screen.heading(text_of("Held-out loss  %.3f → %.3f nats per token", before.score.mean(), after.score.mean()) +
                 text_of("  (perplexity %.1f → %.1f)", std::exp(before.score.mean()), std::exp(after.score.mean())));
  screen.line(text_of("All of it took %.0f s. The adapter is ", clock.seconds()) + o.out + ". Use it:");
  screen.line("  build/kvt run -m " + o.model.model + " --adapter " + o.out + " --temp 0 -n 40 -p \"" + prompts[0] + "\"");
  if (o.json) {
    nlohmann::json result = {{"heldout_before", before.score.mean()}, {"heldout_after", after.score.mean()}, {"predictions", before.score.predictions},
                             {"best_step", best_step}, {"trained", a.trained}, {"seconds", clock.seconds()}, {"answers", nlohmann::json::array()}};
    for (size_t i = 0; i < prompts.size(); ++i) result["answers"].push_back({{"prompt", prompts[i]}, {"before", before.answers[i]}, {"after", after.answers[i]}});
    std::printf("%s\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
  require(gain >= o.least_gain, "demo: the held-out loss fell by ", gain, " nats per token, expected at least ", o.least_gain);
}

}  // namespace

void add_demo(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("demo", "teach a model a text and show its answers before and after");
  add_model_options(*c, o->model, false);
  o->train.lr = 1e-3f;
  o->train.batch = 2;
  o->train.epochs = 4;
  o->train.warmup = 4;
  o->train.eval_every = 12;
  c->add_option("--data", o->data, "text to learn")->required();
  c->add_option("--valid", o->valid, "text on the same matter; the step that predicts its [key words] best is kept")->required();
  c->add_option("--heldout", o->heldout, "text to measure by, never trained on: paragraphs with key words in [brackets]")->required();
  c->add_option("--prompts", o->prompts, "beginnings of sentences, one a line")->required();
  c->add_option("-o,--out", o->out, "adapter GGUF to write")->required();
  c->add_option("-n,--tokens", o->tokens, "tokens of an answer at most (default 40)")->check(CLI::PositiveNumber);
  c->add_option("--rounds", o->rounds, "rounds of extraction before training (default 2)")->check(CLI::Range(0, 1000));
  c->add_option("--k", o->k, "directions a layer and round (default 8)")->check(CLI::PositiveNumber);
  c->add_option("--rank", o->rank, "rank of what is trained then (default 16)")->check(CLI::PositiveNumber);
  c->add_option("--lr", o->train.lr, "peak learning rate (default 1e-3)")->check(CLI::PositiveNumber);
  c->add_option("--epochs", o->train.epochs, "passes over the text when training (default 4)")->check(CLI::PositiveNumber);
  c->add_option("--batch", o->train.batch, "examples in a step (default 2)")->check(CLI::PositiveNumber);
  c->add_option("--length", o->length, "tokens in an example at most (default 128)")->check(CLI::PositiveNumber);
  c->add_option("--eval-every", o->train.eval_every, "steps between validations (default 12)")->check(CLI::PositiveNumber);
  c->add_option("--seed", o->train.seed, "seed of initial factors and data order (default 0)");
  c->add_option("--width", o->width, "columns of the output (default: the terminal's, else 100)")->check(CLI::Range(60, 400));
  c->add_option("--least-gain", o->least_gain, "fail unless the held-out loss falls by so many nats per token (default 0)");
  c->add_flag("--json", o->json, "print one JSON object instead: heldout_before, heldout_after, answers, …");
  c->footer("Example: make run, make run-tiny");
  c->callback([o] { run(*o); });
}

}  // namespace kvt
