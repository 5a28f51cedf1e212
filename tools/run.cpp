// kvt run: continues a prompt, or holds a chat, streaming the text.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <optional>
#include <utility>

#include "engine/chat.h"
#include "engine/generate.h"
#include "ops/profile.h"
#include "tensor/cancel.h"
#include "tools/commands.h"
#include "tools/common.h"

namespace kvt {

namespace {

struct Options {
  ModelOptions model;
  std::string prompt, file, system, chat_template;
  DType cache = DType::F16;
  int64_t tokens = -1, context = 0;
  SamplerOptions sampler;
  bool print_ids = false, no_bos = false, no_echo = false, ignore_eos = false, quiet = false, as_stored = false, profile = false, chat = false;
};

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// Has the weights lie as decoding reads them fastest, once, when it begins: the first token need not wait for that, unless the prompt is long.
class Arrangement {
 public:
  Arrangement(const Options& o, const LoadedModel& m, size_t prompt) : model_(o.as_stored || o.tokens == 1 ? nullptr : m.model.get()) {
    if (prompt > 256) begin(), ahead = std::exchange(seconds, 0);
  }
  void begin() {
    if (!model_) return;
    const auto start = std::chrono::steady_clock::now();
    arrange_weights(*std::exchange(model_, nullptr));
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  double seconds = 0, ahead = 0;                            // while text was generated, and before

 private:
  CausalLm* model_;
};

void print_speed(const Generation& g, double load_seconds, double arrangement) {
  const auto rate = [](int64_t n, double s) { return s > 0 ? double(n) / s : 0.0; };
  const int64_t written = int64_t(g.ids.size());
  std::fprintf(stderr, "load %.3f s | prompt %lld tokens, %.3f s, %.1f tokens/s | ", load_seconds, static_cast<long long>(g.prompt_tokens), g.prompt_seconds,
               rate(g.prompt_tokens, g.prompt_seconds));
  if (arrangement > 0) std::fprintf(stderr, "weights arranged %.3f s | ", arrangement);
  std::fprintf(stderr, "text %lld tokens, %.3f s, %.1f tokens/s\n", static_cast<long long>(written), g.seconds, rate(written - 1, g.seconds));
}

// Times and bytes of each operation since the profile was cleared, beside the speed of reading.
void print_profile(const char* what, const std::vector<Profile::Row>& rows, int64_t tokens, double seconds, double limit) {
  std::fprintf(stderr, "\n%s: %lld tokens, %.1f ms; reading limit %.1f GB/s\n%-40s %8s %9s %7s %9s %7s %8s\n", what, static_cast<long long>(tokens), 1e3 * seconds, limit, "operation",
               "calls", "ms", "share", "MB", "GB/s", "of limit");
  const auto line = [&](const char* operation, int64_t calls, double s, int64_t bytes) {
    std::fprintf(stderr, "%-40s %8lld %9.2f %6.1f%%", operation, static_cast<long long>(calls), 1e3 * s, 100 * s / seconds);
    if (bytes > 0) std::fprintf(stderr, " %9.1f %7.1f %7.1f%%", 1e-6 * double(bytes), 1e-9 * double(bytes) / s, 1e-7 * double(bytes) / s / limit);
    std::fprintf(stderr, "\n");
  };
  double known = 0;
  int64_t bytes = 0;
  for (const Profile::Row& row : rows) {
    line(row.operation.c_str(), row.calls, row.seconds, row.bytes);
    known += row.seconds, bytes += row.bytes;
  }
  line("other: cache, sampling, text", 0, seconds - known, 0);
  line("all", 0, seconds, bytes);
}

// Streams ids as text, or as numbers.
class Writer {
 public:
  Writer(const Tokenizer& tokenizer, bool ids) : tokenizer_(tokenizer), ids_(ids) {}
  void operator()(int32_t id) {
    print(ids_ ? (first_ ? "" : " ") + std::to_string(id) : utf8_.push(tokenizer_.piece(id)));
    first_ = false;
  }
  void end() { print(utf8_.finish() + "\n"); }

 private:
  const Tokenizer& tokenizer_;
  Utf8Stream utf8_;
  bool ids_, first_ = true;
};

Session::Options session_options(const Options& o) { return {.context = o.context, .cache = o.cache}; }

void complete(const Options& o, const LoadedModel& m, double load_seconds) {
  const std::string prompt = o.file.empty() ? o.prompt : read_text(o.file);
  const std::vector<int32_t> ids = m.tokenizer->encode(prompt, {.add_special = !o.no_bos});
  require(!ids.empty(), "run: the prompt has no tokens, and the model adds none");
  Session session(*m.model, session_options(o));
  Sampler sampler(o.sampler);
  Writer write(*m.tokenizer, o.print_ids);
  if (!o.print_ids && !o.no_echo) print(prompt);
  std::optional<Profile> profile;
  double limit = 0;
  if (o.profile) {
    int64_t bytes = 0;
    for (const Gguf::Entry& e : m.gguf.tensors()) bytes += e.tensor.bytes();
    limit = read_bandwidth(bytes);
    profile.emplace();
  }
  std::vector<Profile::Row> of_prompt;
  Arrangement weights(o, m, ids.size());
  bool first = true;
  Generation g = generate(session, *m.tokenizer, ids, o.tokens, sampler, [&](int32_t id) {
    if (profile && first) of_prompt = profile->rows(), profile->clear();
    first = false;
    write(id);
    weights.begin();
    return !interrupted();
  }, o.ignore_eos);
  g.seconds -= weights.seconds;
  write.end();
  if (profile) {
    print_profile("prompt", of_prompt, g.prompt_tokens, g.prompt_seconds, limit);
    print_profile("text", profile->rows(), int64_t(g.ids.size()) - 1, g.seconds, limit);
  }
  if (g.stop == Stop::context_full) std::fprintf(stderr, "the context of %lld tokens is full (-c)\n", static_cast<long long>(session.context()));
  if (!o.quiet) print_speed(g, load_seconds + weights.ahead, weights.seconds);
}

// The next thing the user says: from the terminal after a mark, or a line of standard input.
bool next_message(std::string& message) {
  do {
    if (isatty(STDIN_FILENO)) std::fprintf(stderr, "\n> ");
    if (!std::getline(std::cin, message) || interrupted()) return false;
  } while (message.empty());
  return true;
}

// A conversation. Turns are read as they come: what was said before stays in the cache.
void chat(const Options& o, const LoadedModel& m, double load_seconds) {
  const ChatTemplate turns = ChatTemplate::from(m.gguf, m.tokenizer->vocab(), o.chat_template);
  Session session(*m.model, session_options(o));
  Sampler sampler(o.sampler);
  std::string message = o.file.empty() ? o.prompt : read_text(o.file);
  const bool once = !message.empty() && !isatty(STDIN_FILENO);
  if (message.empty() && !next_message(message)) return;

  std::vector<ChatMessage> start;
  if (!o.system.empty()) start.push_back({"system", o.system});
  start.push_back({"user", message});
  std::vector<int32_t> prompt = m.tokenizer->encode(turns.format(start, true), {.add_special = !o.no_bos});
  for (Arrangement weights(o, m, prompt.size());;) {
    require(int64_t(prompt.size()) < session.room(), "run: the conversation fills the context of ", session.context(), " tokens (-c)");
    Writer write(*m.tokenizer, o.print_ids);
    Generation g = generate(session, *m.tokenizer, prompt, o.tokens, sampler, [&](int32_t id) {
      write(id);
      weights.begin();
      return !interrupted();
    });
    write.end();
    const double arrangement = std::exchange(weights.seconds, 0);
    g.seconds -= arrangement;
    if (!o.quiet) print_speed(g, load_seconds + weights.ahead, arrangement);
    if (once || interrupted() || !next_message(message)) return;
    prompt.clear();
    if (g.unread >= 0) prompt.push_back(g.unread);
    const auto next = m.tokenizer->encode(turns.next_turn(message, g.stop == Stop::end_token), {.add_special = false});
    prompt.insert(prompt.end(), next.begin(), next.end());
  }
}

void run(const Options& o) {
  interrupted();
  const Cancellation::Scope at_any_time(interrupted);      // loading and a long prompt, too
  timespec start, loaded;
  clock_gettime(CLOCK_MONOTONIC, &start);
  const LoadedModel m = open_model(o.model);
  clock_gettime(CLOCK_MONOTONIC, &loaded);
  (o.chat ? chat : complete)(o, m, double(loaded.tv_sec - start.tv_sec) + 1e-9 * double(loaded.tv_nsec - start.tv_nsec));
  if (interrupted()) throw Interrupted();
}

}  // namespace

void add_run(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("run", "continue a prompt or hold a chat, streaming the text");
  add_model_options(*c, o->model);
  add_fusion_options(*c, o->model);
  auto* prompt = c->add_option("-p,--prompt", o->prompt, "text to continue; special tokens in it are recognised");
  c->add_option("-f,--file", o->file, "read the prompt from a file, - for standard input")->excludes(prompt);
  c->add_option("-n,--tokens", o->tokens, "how many tokens to write (default: until the model ends or the context is full)")->check(CLI::NonNegativeNumber);
  c->add_option("-c,--context", o->context, "tokens of context (default: the model's, at most 4096)")->check(CLI::PositiveNumber);
  add_cache_option(*c, o->cache);
  c->add_option("--temp", o->sampler.temperature, "temperature (default 0.8); 0 = always the most likely token");
  c->add_option("--top-k", o->sampler.top_k, "keep the k most likely tokens (default 40; 0 = all)");
  c->add_option("--top-p", o->sampler.top_p, "keep the most likely tokens up to this probability (default 0.95; 1 = all)");
  c->add_option("--min-p", o->sampler.min_p, "drop tokens less likely than this share of the likeliest (default 0.05; 0 = none)");
  c->add_option("--repeat-penalty", o->sampler.repeat_penalty, "divide the scores of recent tokens (default 1 = off)");
  c->add_option("--repeat-last", o->sampler.repeat_last, "how many tokens count as recent (default 64)");
  c->add_option("--seed", o->sampler.seed, "seed of the draws (default 0): the same seed gives the same text");
  auto* chat = c->add_flag("--chat", o->chat, "hold a conversation on the terminal; -p is its first message (in a script: the only one), without -p messages are lines of standard input");
  c->add_option("--system", o->system, "the system message of a chat (default: the template's own)")->needs(chat);
  c->add_option("--chat-template", o->chat_template, "name of the chat template (default: recognised from the file)")->needs(chat)
      ->check(CLI::IsMember(ChatTemplate::names()));
  c->add_flag("--as-stored", o->as_stored, "leave the weights as they lie in the file: shared with other processes, slower to decode");
  c->add_flag("--profile", o->profile, "print time and bytes of every operation, and their share of the speed of reading memory, on standard error");
  c->add_flag("--ignore-eos", o->ignore_eos, "go on behind the token that ends a text");
  c->add_flag("--no-bos", o->no_bos, "do not add the tokens that begin (and end) a text");
  c->add_flag("--no-echo", o->no_echo, "do not print the prompt before its continuation");
  c->add_flag("--print-ids", o->print_ids, "print the ids of the written tokens instead of text");
  c->add_flag("-q,--quiet", o->quiet, "no line about speed on standard error");
  c->footer("Examples:\n  kvt run -m model.gguf -p \"Once upon a time\" -n 100 --temp 0\n"
            "  kvt run -m model.gguf --adapter domain.gguf:0.8 -p \"The valve\" -c 512 -t 2\n"
            "  kvt run -m model.gguf --adapter domain.gguf --fuse 0.7 -p \"The valve\"      the base's scores and 0.7 times the adapted\n"
            "  kvt run -m model.gguf --chat -p \"What is a knowledge vector?\"");
  c->callback([o] { run(*o); });
}

}  // namespace kvt
