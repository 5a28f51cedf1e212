// Sessions of the C interface: reading, choosing, writing, and adapters that come and go.
#include <utility>

#include "engine/adapted.h"
#include "engine/c_api.h"

namespace kvt::c_api {

struct Use {
  std::shared_ptr<const AdapterState> adapter;
  float scale;
};

}  // namespace kvt::c_api

struct kvt_session {
  kvt::c_api::Shared model;
  std::vector<kvt::c_api::Use> uses;
  std::shared_ptr<kvt::CausalLm> lm;         // with the adapters of `uses`
  kvt::Session::Options options;
  std::unique_ptr<kvt::Session> engine;      // on `lm`
  std::span<const float> scores;             // of the next token, or none
  kvt::c_api::Message message;
  kvt_progress_fn progress = nullptr;
  void* progress_user = nullptr;
  std::atomic<bool> busy{false};
};

namespace kvt::c_api {

namespace {

// One call on a session; a second one while it lasts is refused.
template <class F>
kvt_status on(kvt_session* session, F&& f) noexcept {
  if (!session) return guard({}, [&] { given(session, "session"); });
  if (session->busy.exchange(true)) return guard({}, [] { refuse(KVT_BUSY, "session: another call is using it"); });
  const kvt_status status = guard({.model = session->model.get(), .message = &session->message, .otherwise = KVT_INVALID_ARGUMENT}, [&] { f(*session); });
  session->busy = false;
  return status;
}

// f reads tokens. The scores of the next one are there after it, or are still those from before where it failed without having read any.
template <class F>
void scored(kvt_session& s, F&& f) {
  const size_t before = s.engine->tokens().size();
  try {
    f();
    s.scores = s.engine->scores();
  } catch (...) {
    if (s.engine->tokens().size() != before) s.scores = {};
    throw;
  }
}

// Reports the reading of prompts while it lives.
class Reading {
 public:
  explicit Reading(kvt_session& s) : engine_(*s.engine), report_(s.progress, s.progress_user) {
    engine_.on_progress([this](int64_t done, int64_t total) {
      if (total > 1) report_(KVT_STAGE_READING, uint64_t(done), uint64_t(total));      // not the tokens that are written
      if (done < total) report_.stop_if_cancelled();
    });
  }
  ~Reading() { engine_.on_progress({}); }

 private:
  Session& engine_;
  Reporter report_;
};

std::shared_ptr<CausalLm> adapted(const ModelState& m, const std::vector<Use>& uses) {
  std::vector<AdapterUse> files;
  for (const Use& u : uses) files.push_back({&u.adapter->file, u.scale});
  AdaptedLm lm = with_adapters(m.view(), files, m.fingerprint);
  if (lm.fusion && lm.fusion->weight() != 1) lm.model = std::make_shared<Fused>(std::move(lm.model), *lm.fusion);
  return lm.model;
}

// Gives the session other adapters; everything that can fail comes before anything changes.
void change(kvt_session& s, std::vector<Use> uses, kvt_cache cache) {
  expect(cache >= KVT_CACHE_KEEP && cache <= KVT_CACHE_CLEAR, "cache: ", int(cache));
  for (const Use& u : uses) expect(std::isfinite(u.scale), "scale is ", u.scale);
  std::shared_ptr<CausalLm> lm = adapted(*s.model, uses);
  const std::vector<int32_t> read = s.engine->tokens();
  if (cache == KVT_CACHE_KEEP && !read.empty()) {
    s.engine->use(*lm);
    s.scores = {};
  } else {
    std::unique_ptr<Session> fresh;
    if (!s.engine->fits(*lm)) fresh = std::make_unique<Session>(*lm, s.options), fresh->share_scores(*s.engine);
    s.scores = {};
    s.engine->truncate(0);
    if (fresh) std::swap(s.engine, fresh);
    else s.engine->use(*lm);
    if (cache == KVT_CACHE_REEVALUATE && !read.empty()) {
      try {
        const Reading reading(s);
        scored(s, [&] { s.engine->evaluate(read); });
      } catch (...) {                              // the old adapters on an empty session
        s.engine->truncate(0);
        if (fresh) std::swap(s.engine, fresh);
        else s.engine->use(*s.lm);
        throw;
      }
    }
  }
  std::swap(s.lm, lm);
  std::swap(s.uses, uses);
}

auto find(std::vector<Use>& uses, const kvt_adapter& adapter) {
  return std::find_if(uses.begin(), uses.end(), [&](const Use& u) { return u.adapter == adapter.state; });
}

const kvt_adapter& fitting(const kvt_session& s, const kvt_adapter* adapter) {
  const kvt_adapter& a = given(adapter, "adapter");
  if (a.state->model->fingerprint != s.model->fingerprint)
    refuse(KVT_MISMATCH, "adapter: opened for the base ", a.state->model->fingerprint, ", the session's is ", s.model->fingerprint);
  return a;
}

}  // namespace

}  // namespace kvt::c_api

using namespace kvt;
using namespace kvt::c_api;

kvt_status kvt_session_new(kvt_model* model, const kvt_session_options* options, kvt_session** session) {
  return guard({.model = model ? model->state.get() : nullptr, .otherwise = KVT_INVALID_ARGUMENT}, [&] {
    given(model, "model");
    given(session, "session");
    if (model->state->encoder) refuse(KVT_UNSUPPORTED, "session: a model of architecture '", model->state->architecture, "' does not generate text");
    const kvt_session_options o = options_of(options);
    auto s = std::make_unique<kvt_session>();
    s->model = model->state;
    s->options.context = counted(o.context, 0, INT32_MAX, "context");
    s->options.batch = counted(o.batch, 256, INT32_MAX, "batch");
    s->options.cache = cache_dtype(o.cache_type, model->state->config.head_size);
    s->lm = s->model->view();
    s->engine = std::make_unique<Session>(*s->lm, s->options);
    *session = s.release();
  });
}

void kvt_session_free(kvt_session* session) { release(session); }

const char* kvt_session_message(const kvt_session* session) { return session ? session->message.text : ""; }

kvt_status kvt_session_set_progress(kvt_session* session, kvt_progress_fn progress, void* user) {
  return on(session, [&](kvt_session& s) { s.progress = progress, s.progress_user = user; });
}

kvt_status kvt_evaluate(kvt_session* session, const int32_t* ids, size_t count, const float** logits) {
  return on(session, [&](kvt_session& s) {
    expect(ids != nullptr && count > 0, "ids: ", count);
    const Reading reading(s);
    scored(s, [&] { s.engine->evaluate({ids, count}); });
    if (logits) *logits = s.scores.data();
  });
}

kvt_status kvt_logits(kvt_session* session, const float** logits, size_t* count) {
  return on(session, [&](kvt_session& s) {
    expect(!s.scores.empty(), "session: no scores, since nothing was evaluated");
    if (logits) *logits = s.scores.data();
    if (count) *count = s.scores.size();
  });
}

kvt_status kvt_session_tokens(kvt_session* session, const int32_t** ids, size_t* count) {
  return on(session, [&](kvt_session& s) {
    if (ids) *ids = s.engine->tokens().data();
    if (count) *count = s.engine->tokens().size();
  });
}

uint64_t kvt_session_context(const kvt_session* session) { return session ? uint64_t(session->engine->context()) : 0; }

kvt_status kvt_session_truncate(kvt_session* session, size_t count) {
  return on(session, [&](kvt_session& s) {
    expect(count <= s.engine->tokens().size(), "session: holds ", s.engine->tokens().size(), " tokens, not ", count);
    s.scores = {};
    s.engine->truncate(int64_t(count));
  });
}

// --- choosing and writing ---

static SamplerOptions sampler_options(const kvt_sampler_options& o) {
  SamplerOptions s;
  s.temperature = o.temperature;
  s.top_k = o.top_k;
  s.top_p = o.top_p == 0 ? 1 : o.top_p;
  s.min_p = o.min_p;
  s.repeat_penalty = o.repeat_penalty == 0 ? 1 : o.repeat_penalty;
  s.repeat_last = o.repeat_last == 0 ? 64 : o.repeat_last;
  s.seed = o.seed;
  return s;
}

kvt_status kvt_sampler_new(const kvt_sampler_options* options, kvt_sampler** sampler) {
  return guard({.otherwise = KVT_INVALID_ARGUMENT}, [&] {
    given(sampler, "sampler");
    *sampler = new kvt_sampler{Sampler(sampler_options(options_of(options)))};
  });
}

void kvt_sampler_free(kvt_sampler* sampler) { release(sampler); }

static Sampler greedy() { return Sampler(sampler_options({})); }

kvt_status kvt_sample(kvt_session* session, kvt_sampler* sampler, int32_t* id) {
  return on(session, [&](kvt_session& s) {
    given(id, "id");
    expect(!s.scores.empty(), "session: no scores, since nothing was evaluated");
    *id = sampler ? sampler->sampler(s.scores, s.engine->tokens()) : greedy()(s.scores, s.engine->tokens());
  });
}

static void write(kvt_session& s, std::span<const int32_t> prompt, const kvt_generate_options& o, kvt_token_fn token, void* user, kvt_generation* result) {
  expect(!prompt.empty(), "the prompt has no tokens");
  if (result) expect(result->struct_size >= sizeof(size_t), "result: struct_size is ", result->struct_size);
  Sampler likeliest = greedy();
  Utf8Stream utf8;
  const Tokenizer& tokenizer = *s.model->tokenizer;
  const Reading reading(s);
  const auto on_token = [&](int32_t id) {
    if (!token) return true;
    const std::string text = utf8.push(tokenizer.piece(id));
    return token(user, id, text.data(), text.size()) == 0;
  };
  const int64_t most = counted(o.most, -1, INT32_MAX, "most");
  Generation g;
  scored(s, [&] { g = generate(*s.engine, tokenizer, prompt, most, o.sampler ? o.sampler->sampler : likeliest, on_token, o.ignore_end != 0); });
  if (const std::string rest = utf8.finish(); token && !rest.empty() && g.stop != Stop::cancelled) token(user, -1, rest.data(), rest.size());
  if (!result) return;
  kvt_generation r{};
  r.prompt_tokens = uint64_t(g.prompt_tokens);
  r.tokens = g.ids.size();
  r.stop = g.stop == Stop::end_token ? KVT_STOP_END : g.stop == Stop::length ? KVT_STOP_MOST : g.stop == Stop::context_full ? KVT_STOP_CONTEXT : KVT_STOP_CALLBACK;
  r.unread = g.unread;
  r.prompt_seconds = g.prompt_seconds;
  r.seconds = g.seconds;
  write_result(result, r);
}

kvt_status kvt_generate(kvt_session* session, const int32_t* prompt, size_t count, const kvt_generate_options* options, kvt_token_fn token, void* user,
                        kvt_generation* result) {
  return on(session, [&](kvt_session& s) {
    expect(prompt != nullptr && count > 0, "prompt: ", count, " tokens");
    write(s, {prompt, count}, options_of(options), token, user, result);
  });
}

kvt_status kvt_generate_text(kvt_session* session, const char* prompt, size_t size, const kvt_generate_options* options, kvt_token_fn token, void* user,
                             kvt_generation* result) {
  return on(session, [&](kvt_session& s) {
    const auto ids = s.model->tokenizer->encode(text_of(prompt, size), {.add_special = s.engine->tokens().empty(), .parse_special = true});
    write(s, ids, options_of(options), token, user, result);
  });
}

// --- adapters ---

kvt_status kvt_session_attach(kvt_session* session, kvt_adapter* adapter, float scale, kvt_cache cache) {
  return on(session, [&](kvt_session& s) {
    std::vector<Use> uses = s.uses;
    expect(find(uses, fitting(s, adapter)) == uses.end(), "adapter: attached already; kvt_session_scale changes its scale");
    uses.push_back({adapter->state, scale});
    change(s, std::move(uses), cache);
  });
}

kvt_status kvt_session_scale(kvt_session* session, kvt_adapter* adapter, float scale, kvt_cache cache) {
  return on(session, [&](kvt_session& s) {
    std::vector<Use> uses = s.uses;
    const auto found = find(uses, fitting(s, adapter));
    expect(found != uses.end(), "adapter: not attached to this session");
    found->scale = scale;
    change(s, std::move(uses), cache);
  });
}

kvt_status kvt_session_swap(kvt_session* session, kvt_adapter* adapter, float scale, kvt_cache cache) {
  return on(session, [&](kvt_session& s) { change(s, {{fitting(s, adapter).state, scale}}, cache); });
}

kvt_status kvt_session_detach(kvt_session* session, kvt_adapter* adapter, kvt_cache cache) {
  return on(session, [&](kvt_session& s) {
    std::vector<Use> uses = s.uses;
    if (!adapter) {
      uses.clear();
    } else {
      const auto found = find(uses, *adapter);
      expect(found != uses.end(), "adapter: not attached to this session");
      uses.erase(found);
    }
    change(s, std::move(uses), cache);
  });
}
