#include "engine/generate.h"

#include <algorithm>
#include <chrono>
#include <optional>

namespace kvt {

static int64_t context_length(const CausalLm& model, int64_t asked) {
  require(asked >= 0, "session: context of ", asked, " tokens");
  return asked ? asked : std::min<int64_t>(model.config().context, 4096);
}

Session::Session(const CausalLm& model, Options options)
    : model_(&model), options_(options), cache_(model.make_cache(context_length(model, options.context), options.cache)) {
  require(options.batch >= 1, "session: batch of ", options.batch, " tokens");
  tokens_.reserve(size_t(context()));                    // so that tokens and cache agree whatever fails later
}

std::span<const float> Session::evaluate(std::span<const int32_t> ids) {
  require(!ids.empty(), "session: no tokens to evaluate");
  require_as(Trouble::context_full, int64_t(ids.size()) <= room(), "session: ", ids.size(), " tokens do not fit behind ", cache_.length(), " in a context of ", context());
  const int64_t V = model_->config().vocabulary;
  for (const int32_t id : ids) require(id >= 0 && id < V, "session: token id ", id, " is outside of the vocabulary of ", V);
  if (!logits_) logits_ = Tensor(Shape{V}, DType::F32, Storage::allocate_owned(size_t(V) * sizeof(float)));

  const Tape::Pause inference;
  std::optional<Storage::Reuse> reuse;
  if (ids.size() > 64) reuse.emplace();                     // a long prompt asks for the same large blocks layer after layer
  for (size_t begin = 0; begin < ids.size();) {
    const auto part = ids.subspan(begin, std::min(ids.size() - begin, size_t(options_.batch)));
    const int64_t T = int64_t(part.size());
    // An arena keeps every tensor of a pass until its end: fast for few tokens, wasteful for many.
    std::optional<Arena::Scope> scope;
    if (T <= 4) scope.emplace(arena_);
    try {
      const Tensor h = model_->hidden(part, 1, T, {.cache = &cache_});
      if (begin + part.size() == ids.size()) {
        const Tensor last = model_->logits(slice(h, 1, T - 1, T));
        std::copy_n(last.data(), V, logits_.data());
      }
    } catch (...) {
      cache_.truncate(int64_t(tokens_.size()));          // a part without its scores does not count as read
      throw;
    }
    begin += part.size();
    tokens_.insert(tokens_.end(), part.begin(), part.end());
    if (progress_) progress_(int64_t(begin), int64_t(ids.size()));
  }
  return logits_.values();
}

void Session::truncate(int64_t length) {
  cache_.truncate(length);
  tokens_.resize(size_t(length));
}

bool Session::fits(const CausalLm& model) const { return cache_.same_form(model.make_cache(1, options_.cache)); }

void Session::use(const CausalLm& model) {
  require_as(Trouble::unsupported, fits(model), "session: with these adapters the ", tokens_.size(), " tokens that were read would need a cache of another form: read them anew");
  model_ = &model;
}

Generation generate(Session& session, const Tokenizer& tokenizer, std::span<const int32_t> prompt, int64_t most, Sampler& sampler,
                    const std::function<bool(int32_t)>& on_token, bool ignore_end) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); };

  Generation g;
  g.prompt_tokens = int64_t(prompt.size());
  auto start = Clock::now();
  std::span<const float> logits = session.evaluate(prompt);
  g.prompt_seconds = seconds_since(start);

  start = Clock::now();
  for (;;) {
    if (most >= 0 && int64_t(g.ids.size()) >= most) break;
    const int32_t id = sampler(logits, session.tokens());
    g.unread = id;
    if (!ignore_end && tokenizer.ends_generation(id)) {
      g.stop = Stop::end_token;
      break;
    }
    g.ids.push_back(id);
    if (!on_token(id)) {
      g.stop = Stop::cancelled;
      break;
    }
    if (session.room() == 0) {
      g.stop = Stop::context_full;
      break;
    }
    if (most >= 0 && int64_t(g.ids.size()) >= most) break;
    logits = session.evaluate({&id, 1});
    g.unread = -1;
  }
  g.seconds = seconds_since(start);
  return g;
}

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  // Find the last lead byte; hold back its character if bytes of it are still to come.
  size_t keep = 0;
  for (size_t back = 1; back <= std::min<size_t>(4, pending_.size()); ++back) {
    const auto c = static_cast<unsigned char>(pending_[pending_.size() - back]);
    if ((c & 0xC0) == 0x80) continue;
    const size_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
    if (need > back) keep = back;
    break;
  }
  std::string ready = pending_.substr(0, pending_.size() - keep);
  pending_.erase(0, ready.size());
  return ready;
}

std::string Utf8Stream::finish() { return std::exchange(pending_, {}); }

}  // namespace kvt
