// The C interface (engine/kvt.h): files from everywhere, what they need, sessions, adapters that come and go, and every kind of refusal.
#include "tests/main.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <clocale>
#include <cstring>
#include <fstream>
#include <locale>
#include <map>
#include <thread>

#include "engine/adapter.h"
#include "engine/fingerprint.h"
#include "engine/generate.h"
#include "tests/c_api.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

struct OpenSession {
  kvt_session* p = nullptr;
  explicit OpenSession(const OpenModel& model, const kvt_session_options* options = nullptr) {
    ok(kvt_session_new(model.p, options, &p));
  }
  ~OpenSession() { kvt_session_free(p); }
  std::vector<int32_t> tokens() const {
    const int32_t* ids;
    size_t n;
    ok(kvt_session_tokens(p, &ids, &n));
    return {ids, ids + n};
  }
};

struct OpenAdapter {
  kvt_adapter* p = nullptr;
  OpenAdapter(const OpenModel& model, const std::string& path) { ok(kvt_adapter_open(model.p, kvt_path(path.c_str()), &p)); }
  ~OpenAdapter() { kvt_adapter_free(p); }
};

int collect(void* to, int32_t, const char* text, size_t size) {
  static_cast<std::string*>(to)->append(text, size);
  return 0;
}

std::string written(kvt_session* session, const char* prompt, uint64_t most, kvt_sampler* sampler = nullptr) {
  std::string text;
  kvt_generate_options o = {sizeof o, most, 0, sampler};
  ok(kvt_generate_text(session, prompt, KVT_TEXT_END, &o, collect, &text, nullptr));
  return text;
}

std::string story(const OpenModel& model, uint64_t most = 24) {
  const OpenSession session(model);
  return written(session.p, "Once upon a time", most);
}

// A LoRA of random numbers for the tiny model, as a file
std::string random_adapter(const TemporaryFolder& folder, uint64_t seed) {
  const Gguf base = Gguf::open(tiny);
  const auto model = load_model(base);
  LoraOptions options;
  options.rank = 4, options.alpha = 8, options.seed = seed;
  const LoraSet set = attach_lora(*model, options);
  Rng rng(seed + 1);
  for (const auto& layer : set.layers)
    for (float& x : layer.lora->b.values()) x = 0.2f * (rng.uniform() - 0.5f);
  const std::string path = folder / ("a" + std::to_string(seed) + ".gguf");
  adapter_file(set, model->architecture(), fingerprint(base), DType::F32).write(path);
  return path;
}

}  // namespace

TEST_CASE("a model from a path, a mapping, a descriptor amid a file, and memory writes the same text") {
  const std::string expected = story(OpenModel());
  CHECK(expected.size() > 20);
  kvt_model_options map = {};
  map.access = KVT_ACCESS_MAP;
  CHECK(story(OpenModel(kvt_path(tiny.c_str()), map)) == expected);

  const TemporaryFolder folder;
  const std::string bytes = bytes_of(tiny), package = folder / "package";
  const int fd = ::open(package.c_str(), O_RDWR | O_CREAT, 0600);
  REQUIRE(::write(fd, "header", 6) == 6);
  REQUIRE(::write(fd, bytes.data(), bytes.size()) == ssize_t(bytes.size()));
  REQUIRE(::write(fd, "trailer", 7) == 7);
  CHECK(story(OpenModel(kvt_descriptor(fd, 6, bytes.size()))) == expected);
  CHECK(lseek(fd, 0, SEEK_CUR) == off_t(bytes.size() + 13));      // where it was
  kvt_model* none = nullptr;
  CHECK(kvt_model_open(kvt_descriptor(fd, 6, bytes.size() + 100), nullptr, &none) == KVT_IO_ERROR);
  CHECK(none == nullptr);
  ::close(fd);

  std::vector<uint64_t> memory((bytes.size() + 7) / 8);
  std::memcpy(memory.data(), bytes.data(), bytes.size());
  const OpenModel in_place(kvt_bytes(memory.data(), bytes.size()));
  CHECK(story(in_place) == expected);
  uint64_t used;
  CHECK(kvt_memory_used(in_place.p, &used, nullptr) == KVT_OK);
  CHECK(used < bytes.size());
}

TEST_CASE("handles may be freed in any order") {
  auto model = std::make_unique<OpenModel>();
  const std::string expected = story(*model);
  const OpenSession session(*model);
  model.reset();
  CHECK(written(session.p, "Once upon a time", 24) == expected);
  kvt_model_free(nullptr), kvt_session_free(nullptr), kvt_adapter_free(nullptr), kvt_sampler_free(nullptr);
}

TEST_CASE("what is needed is told before, and the most that was used is no more and not far from it") {
  for (const uint64_t context : {64, 256}) {
    kvt_session_options so = {};
    so.struct_size = sizeof so, so.context = context;
    kvt_memory need = {};
    need.struct_size = sizeof need;
    ok(kvt_memory_needed(kvt_path(tiny.c_str()), nullptr, &so, &need));
    CHECK(need.weights == std::filesystem::file_size(tiny));
    CHECK(need.total == need.weights + need.tables + need.cache + need.work);

    const OpenModel model;
    const OpenSession session(model, &so);
    std::vector<int32_t> ids(size_t(context - 8), 5);
    ok(kvt_evaluate(session.p, ids.data(), ids.size(), nullptr));
    for (int i = 0; i < 2; ++i) ok(kvt_evaluate(session.p, ids.data(), 4, nullptr));
    uint64_t now, most;
    ok(kvt_memory_used(model.p, &now, &most));
    INFO("context ", context, ": needed ", need.total, " (cache ", need.cache, ", work ", need.work, "), used ", most);
    CHECK(now <= most);
    CHECK(most <= need.total);
    CHECK(3 * (most - need.weights - need.tables) > need.cache + need.work);
  }
}

TEST_CASE("arranged weights and caches of every type: told before, and the tokens are those of a model that is as it was read") {
  const std::string expected = story(OpenModel());
  for (const kvt_access access : {KVT_ACCESS_READ, KVT_ACCESS_MAP})
    for (const kvt_cache_type type : {KVT_CACHE_TYPE_F16, KVT_CACHE_TYPE_F32}) {
      kvt_model_options mo = {};
      mo.struct_size = sizeof mo, mo.access = access, mo.arrange_weights = 1;
      kvt_session_options so = {};
      so.struct_size = sizeof so, so.cache_type = type;
      kvt_memory need = {}, plain = {};
      need.struct_size = plain.struct_size = sizeof need;
      ok(kvt_memory_needed(kvt_path(tiny.c_str()), &mo, &so, &need));
      mo.arrange_weights = 0;
      ok(kvt_memory_needed(kvt_path(tiny.c_str()), &mo, &so, &plain));
      mo.arrange_weights = 1;
      const OpenModel model(kvt_path(tiny.c_str()), mo);
      const OpenSession session(model, &so);
      uint64_t now, most;
      ok(kvt_memory_used(model.p, &now, nullptr));
      INFO("access ", int(access), ", cache ", int(type), ": needed ", need.total, ", held ", now);
      CHECK(now == need.weights + need.tables + need.cache);
      CHECK(written(session.p, "Once upon a time", 24) == expected);
      ok(kvt_memory_used(model.p, nullptr, &most));
      CHECK(most <= need.total);
      CHECK(need.weights >= plain.weights);
      if (access == KVT_ACCESS_MAP) CHECK(need.weights > 0);
    }
  kvt_session_options so = {};
  so.struct_size = sizeof so, so.cache_type = KVT_CACHE_TYPE_Q8_0;
  const OpenModel model;
  kvt_session* session = nullptr;
  so.context = 64;
  kvt_memory need = {};
  need.struct_size = sizeof need;
  ok(kvt_memory_needed(kvt_path(tiny.c_str()), nullptr, &so, &need));
  CHECK(need.cache % 34 == 0);                                     // keys and values of whole blocks
  ok(kvt_session_new(model.p, &so, &session));
  CHECK(written(session, "Once upon a time", 24).size() > 24);
  kvt_session_free(session);
  so.cache_type = kvt_cache_type(3);
  CHECK(kvt_session_new(model.p, &so, &session) == KVT_INVALID_ARGUMENT);
}

TEST_CASE("a limit on memory is kept, and what it refuses leaves all as it was") {
  kvt_memory need = {};
  need.struct_size = sizeof need;
  kvt_session_options so = {};
  so.struct_size = sizeof so, so.context = 128;
  ok(kvt_memory_needed(kvt_path(tiny.c_str()), nullptr, &so, &need));
  kvt_model_options mo = {};
  mo.struct_size = sizeof mo;
  for (uint64_t limit : {uint64_t(1000), need.weights / 2, need.weights + need.tables, need.weights + need.tables + need.cache + 1000}) {
    mo.memory_limit = limit;
    kvt_model* model = nullptr;
    kvt_status status = kvt_model_open(kvt_path(tiny.c_str()), &mo, &model);
    kvt_session* session = nullptr;
    if (status == KVT_OK) status = kvt_session_new(model, &so, &session);
    const std::vector<int32_t> ids(100, 5);
    if (status == KVT_OK) status = kvt_evaluate(session, ids.data(), ids.size(), nullptr);
    INFO("limit ", limit, ": ", kvt_message());
    CHECK(status == KVT_MEMORY_LIMIT);
    CHECK(std::string(kvt_message()).find("memory limit of " + std::to_string(limit)) == 0);
    uint64_t most = 0;
    if (model) CHECK(kvt_memory_used(model, nullptr, &most) == KVT_OK);
    CHECK(most <= limit);
    if (session) CHECK(std::string(kvt_session_message(session)) == kvt_message());
    kvt_session_free(session);
    kvt_model_free(model);
  }
  mo.memory_limit = need.total;
  const OpenModel model(kvt_path(tiny.c_str()), mo);
  const OpenSession session(model, &so);
  CHECK(written(session.p, "Once upon a time", 24) == story(OpenModel()));
}

TEST_CASE("tokens and texts, with buffers that are too small") {
  const OpenModel model;
  const char text[] = "Once upon a time there was a small house.";
  size_t n = 0;
  CHECK(kvt_tokenize(model.p, text, KVT_TEXT_END, 0, nullptr, 0, &n) == KVT_TOO_SMALL);
  REQUIRE(n > 3);
  std::vector<int32_t> ids(n);
  ok(kvt_tokenize(model.p, text, sizeof text - 1, 0, ids.data(), ids.size(), &n));
  char back[100];
  size_t length = 0;
  CHECK(kvt_detokenize(model.p, ids.data(), n, back, sizeof text - 1, &length) == KVT_TOO_SMALL);
  CHECK(length == sizeof text - 1);
  ok(kvt_detokenize(model.p, ids.data(), n, back, sizeof back, &length));
  CHECK(std::string(back) == text);
  std::string pieces;
  for (int32_t id : ids) {
    ok(kvt_token_text(model.p, id, back, sizeof back, &length));
    pieces.append(back, length);
  }
  CHECK(pieces.find("upon a time") != std::string::npos);
  kvt_model_info info = {};
  info.struct_size = sizeof info;
  ok(kvt_model_get_info(model.p, &info));
  CHECK(std::string(info.architecture) == "llama");
  CHECK(std::strlen(info.fingerprint) == 16);
  CHECK(info.vocabulary > 100);
  CHECK(kvt_ends_generation(model.p, info.eos) == 1);
  CHECK(kvt_ends_generation(model.p, -7) == 0);
  CHECK(kvt_token_text(model.p, int32_t(info.vocabulary), back, sizeof back, &length) == KVT_INVALID_ARGUMENT);
}

TEST_CASE("step by step is what generate does, greedy and drawn by a seed") {
  const OpenModel model;
  for (const float temperature : {0.f, 0.9f}) {
    const kvt_sampler_options so = {sizeof so, temperature, 40, 0.95f, 0, 1.1f, 0, 7};
    kvt_sampler *a = nullptr, *b = nullptr;
    ok(kvt_sampler_new(&so, &a));
    ok(kvt_sampler_new(&so, &b));
    const OpenSession whole(model), steps(model);
    const kvt_generate_options go = {sizeof go, 20, 1, a};
    kvt_generation g = {};
    g.struct_size = sizeof g;
    ok(kvt_generate_text(whole.p, "Once upon a time", KVT_TEXT_END, &go, nullptr, nullptr, &g));
    CHECK(g.tokens == 20);
    CHECK(g.stop == KVT_STOP_MOST);
    std::vector<int32_t> expected = whole.tokens();
    expected.push_back(g.unread);

    std::vector<int32_t> ids(20);
    size_t n;
    ok(kvt_tokenize(model.p, "Once upon a time", KVT_TEXT_END, KVT_TOKENIZE_SPECIAL | KVT_TOKENIZE_PARSE, ids.data(), ids.size(), &n));
    ok(kvt_evaluate(steps.p, ids.data(), n, nullptr));
    std::vector<int32_t> got(ids.begin(), ids.begin() + int64_t(n));
    for (int i = 0; i < 20; ++i) {
      int32_t id;
      ok(kvt_sample(steps.p, b, &id));
      got.push_back(id);
      ok(kvt_evaluate(steps.p, &id, 1, nullptr));
    }
    CHECK(got == expected);
    kvt_sampler_free(a), kvt_sampler_free(b);
  }
}

TEST_CASE("the scores of the engine; truncating and reading again gives them again") {
  const OpenModel model;
  const OpenSession session(model);
  const std::vector<int32_t> ids = {5, 9, 200, 31, 77};
  const float* logits = nullptr;
  ok(kvt_evaluate(session.p, ids.data(), ids.size(), &logits));
  const Gguf gguf = Gguf::open(tiny);
  const auto lm = load_model(gguf);
  Session engine(*lm, {});
  const auto expected = engine.evaluate(ids);
  const std::vector<float> got(logits, logits + expected.size());
  CHECK(std::equal(expected.begin(), expected.end(), got.begin()));
  ok(kvt_session_truncate(session.p, 4));
  CHECK(kvt_logits(session.p, &logits, nullptr) == KVT_INVALID_ARGUMENT);
  ok(kvt_evaluate(session.p, &ids[4], 1, &logits));
  size_t n;
  ok(kvt_logits(session.p, &logits, &n));
  CHECK(max_relative_error({logits, n}, got) < 1e-3);        // another kernel for one token than for five
}

TEST_CASE("scores are there behind the last token that is held, and a refusal leaves them") {
  const OpenModel model;
  const OpenSession written(model), read(model);
  const kvt_generate_options o = {sizeof o, 6, 1, nullptr};
  kvt_generation g = {};
  g.struct_size = sizeof g;
  ok(kvt_generate_text(written.p, "Once upon a time", KVT_TEXT_END, &o, nullptr, nullptr, &g));
  const float *after, *expected, *still;
  size_t V;
  ok(kvt_logits(written.p, &after, &V));
  const std::vector<int32_t> held = written.tokens();
  CHECK(held.size() == g.prompt_tokens + 5);
  ok(kvt_evaluate(read.p, held.data(), held.size(), &expected));
  CHECK(max_relative_error({after, V}, {expected, V}) < 3e-2);      // read one by one, and together: activations are rounded apart
  const int32_t wrong = -1;
  CHECK(kvt_evaluate(written.p, &wrong, 1, nullptr) == KVT_INVALID_ARGUMENT);
  ok(kvt_logits(written.p, &still, nullptr));
  CHECK(still == after);
  CHECK(written.tokens() == held);
  ok(kvt_session_truncate(written.p, 3));
  CHECK(kvt_logits(written.p, nullptr, nullptr) == KVT_INVALID_ARGUMENT);
}

#ifdef __x86_64__            // an emulator has masks of its own; a static program, as those for ARM are, cannot unwind a thread
TEST_CASE("threads of a model take none of the host's signals") {
  const auto blocked = [] {                          // of each thread of the process: the mask of its blocked signals
    std::map<std::string, uint64_t> masks;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::ifstream status(task.path() / "status");
      for (std::string line; std::getline(status, line);)
        if (line.starts_with("SigBlk:")) masks[task.path().filename().string()] = std::stoull(line.substr(7), nullptr, 16);
    }
    return masks;
  };
  const auto before = blocked();
  kvt_model_options o = {};
  o.threads = 4;
  const OpenModel model(kvt_path(tiny.c_str()), o);
  int made = 0;
  for (const auto& [thread, mask] : blocked())
    if (!before.contains(thread)) {
      ++made;
      for (const int s : {SIGINT, SIGTERM, SIGUSR1, SIGALRM, SIGCHLD}) CHECK((mask >> (s - 1) & 1) == 1);
    }
  CHECK(made == 3);
}

TEST_CASE("a thread that is cancelled finishes its call") {
  struct { kvt_status status = KVT_ERROR; kvt_model* model = nullptr; } seen;
  const auto body = [](void* user) -> void* {
    auto& s = *static_cast<decltype(seen)*>(user);
    pthread_cancel(pthread_self());                  // takes effect at the next read, if nothing is in its way
    s.status = kvt_model_open(kvt_path(tiny.c_str()), nullptr, &s.model);
    kvt_model_free(s.model);
    pthread_testcancel();
    return nullptr;
  };
  pthread_t thread;
  REQUIRE(pthread_create(&thread, nullptr, body, &seen) == 0);
  void* end = nullptr;
  pthread_join(thread, &end);
  CHECK(end == PTHREAD_CANCELED);
  CHECK(seen.status == KVT_OK);
}
#endif

TEST_CASE("a chat in the format that is asked for") {
  const OpenModel model;
  const kvt_chat_message messages[] = {{"system", "Be brief."}, {"user", "Hello"}};
  char text[300];
  size_t n;
  ok(kvt_chat_start(model.p, "llama3", messages, 2, text, sizeof text, &n));
  CHECK(std::string(text).find("Be brief.") != std::string::npos);
  CHECK(n == std::strlen(text));
  ok(kvt_chat_continue(model.p, "llama3", "And then?", 1, text, sizeof text, &n));
  CHECK(std::string(text).find("And then?") != std::string::npos);
  CHECK(kvt_chat_start(model.p, nullptr, messages, 2, text, sizeof text, &n) == KVT_UNSUPPORTED);       // its file has none
  CHECK(kvt_chat_start(model.p, "no such", messages, 2, text, sizeof text, &n) == KVT_UNSUPPORTED);
}

TEST_CASE("adapters between tokens: kept positions stay, others are read anew") {
  const TemporaryFolder folder;
  const OpenModel model;
  const OpenAdapter a(model, random_adapter(folder, 1)), b(model, random_adapter(folder, 2));
  const std::vector<int32_t> start = {5, 9, 200, 31, 77, 12, 80}, next = {91, 14};
  const auto scores = [&](kvt_session* s, const std::vector<int32_t>& ids) {
    const float* logits;
    kvt_model_info info = {};
    info.struct_size = sizeof info;
    ok(kvt_model_get_info(model.p, &info));
    ok(kvt_evaluate(s, ids.data(), ids.size(), &logits));
    return std::vector<float>(logits, logits + info.vocabulary);
  };
  const auto after = [&](auto&& steps) {
    const OpenSession s(model);
    steps(s.p);
    return scores(s.p, next);
  };
  const auto read = [&](kvt_session* s) { scores(s, start); };
  const auto plain = after([&](kvt_session* s) { read(s); });
  const auto with_a = after([&](kvt_session* s) { ok(kvt_session_attach(s, a.p, 1, KVT_CACHE_KEEP)), read(s); });
  CHECK(with_a != plain);

  SUBCASE("attached later and read anew: as if from the start") {
    CHECK(after([&](kvt_session* s) { read(s), ok(kvt_session_attach(s, a.p, 1, KVT_CACHE_REEVALUATE)); }) == with_a);
  }
  SUBCASE("cleared: only what is read then counts") {
    const auto fresh = after([&](kvt_session* s) { ok(kvt_session_attach(s, a.p, 1, KVT_CACHE_KEEP)); });
    CHECK(after([&](kvt_session* s) { read(s), ok(kvt_session_attach(s, a.p, 1, KVT_CACHE_CLEAR)); }) == fresh);
  }
  SUBCASE("kept: the old positions as they were, the new ones adapted, as the engine computes it") {
    const auto got = after([&](kvt_session* s) { read(s), ok(kvt_session_attach(s, a.p, 1, KVT_CACHE_KEEP)); });
    CHECK(got != with_a);
    CHECK(got != plain);
    const Gguf gguf = Gguf::open(tiny), file = Gguf::open(folder / "a1.gguf");
    const auto lm = load_model(gguf);
    Session engine(*lm, {});
    engine.evaluate(start);
    for (const auto& layer : load_adapter(*lm, file, 1, fingerprint(gguf)).layers) layer.lora->freeze();      // on the model under the session
    const auto expected = engine.evaluate(next);
    CHECK(std::equal(expected.begin(), expected.end(), got.begin()));
  }
  SUBCASE("scaled to 0 it is not there; scaled back it is") {
    CHECK(after([&](kvt_session* s) {
            ok(kvt_session_attach(s, a.p, 0.5f, KVT_CACHE_KEEP));
            ok(kvt_session_scale(s, a.p, 0, KVT_CACHE_KEEP));
            read(s);
          }) == plain);
    CHECK(after([&](kvt_session* s) {
            read(s);
            ok(kvt_session_attach(s, a.p, 0.5f, KVT_CACHE_KEEP));
            ok(kvt_session_scale(s, a.p, 1, KVT_CACHE_REEVALUATE));
          }) == with_a);
  }
  SUBCASE("swapped and detached") {
    CHECK(after([&](kvt_session* s) {
            ok(kvt_session_attach(s, b.p, 2, KVT_CACHE_KEEP));
            read(s);
            ok(kvt_session_swap(s, a.p, 1, KVT_CACHE_REEVALUATE));
          }) == with_a);
    CHECK(after([&](kvt_session* s) {
            ok(kvt_session_attach(s, b.p, 2, KVT_CACHE_KEEP));
            ok(kvt_session_attach(s, a.p, 1, KVT_CACHE_KEEP));
            read(s);
            ok(kvt_session_detach(s, b.p, KVT_CACHE_REEVALUATE));
          }) == with_a);
    CHECK(after([&](kvt_session* s) {
            ok(kvt_session_attach(s, b.p, 2, KVT_CACHE_KEEP));
            read(s);
            ok(kvt_session_detach(s, nullptr, KVT_CACHE_REEVALUATE));
          }) == plain);
  }
  SUBCASE("mistakes change nothing") {
    CHECK(after([&](kvt_session* s) {
            ok(kvt_session_attach(s, a.p, 1, KVT_CACHE_KEEP));
            CHECK(kvt_session_attach(s, a.p, 1, KVT_CACHE_CLEAR) == KVT_INVALID_ARGUMENT);
            CHECK(kvt_session_scale(s, b.p, 1, KVT_CACHE_CLEAR) == KVT_INVALID_ARGUMENT);
            CHECK(kvt_session_detach(s, b.p, KVT_CACHE_CLEAR) == KVT_INVALID_ARGUMENT);
            CHECK(kvt_session_scale(s, a.p, INFINITY, KVT_CACHE_CLEAR) == KVT_INVALID_ARGUMENT);
            read(s);
          }) == with_a);
  }
  SUBCASE("an adapter that is fused with its base needs a cache of another form") {
    Gguf fused = Gguf::open(folder / "a1.gguf");
    fused.set("kvt.fusion.lambda", 0.7f);
    fused.write(folder / "fused.gguf");
    const OpenAdapter f(model, folder / "fused.gguf");
    const auto from_start = after([&](kvt_session* s) { ok(kvt_session_attach(s, f.p, 1, KVT_CACHE_KEEP)), read(s); });
    CHECK(after([&](kvt_session* s) {
            read(s);
            CHECK(kvt_session_attach(s, f.p, 1, KVT_CACHE_KEEP) == KVT_UNSUPPORTED);
            ok(kvt_session_attach(s, f.p, 1, KVT_CACHE_REEVALUATE));
          }) == from_start);
    CHECK(from_start != with_a);
  }
}

TEST_CASE("an adapter of another base is told apart") {
  const TemporaryFolder folder;
  SmallLlama other;
  other.gguf().write(folder / "other.gguf");
  const Gguf file = Gguf::open(folder / "other.gguf");
  const auto lm = load_model(file);
  adapter_file(attach_lora(*lm, {}), "llama", fingerprint(file), DType::F32).write(folder / "other-adapter.gguf");
  const OpenModel model;
  kvt_adapter* adapter = nullptr;
  CHECK(kvt_adapter_open(model.p, kvt_path((folder / "other-adapter.gguf").c_str()), &adapter) == KVT_MISMATCH);
  CHECK(kvt_adapter_open(model.p, kvt_path(tiny.c_str()), &adapter) == KVT_BAD_FILE);
  CHECK(adapter == nullptr);
}

TEST_CASE("callbacks stop and cancel, and a session is not used twice at a time") {
  const OpenModel model;
  const OpenSession session(model);
  struct Seen { kvt_session* session; int tokens = 0; kvt_status nested = KVT_OK; } seen{session.p};
  const auto three = [](void* user, int32_t, const char*, size_t) {
    auto& s = *static_cast<Seen*>(user);
    s.nested = kvt_session_truncate(s.session, 0);
    return int(++s.tokens == 3);
  };
  kvt_generation g = {};
  g.struct_size = sizeof g;
  ok(kvt_generate_text(session.p, "Once upon a time", KVT_TEXT_END, nullptr, three, &seen, &g));
  CHECK(seen.tokens == 3);
  CHECK(g.stop == KVT_STOP_CALLBACK);
  CHECK(seen.nested == KVT_BUSY);

  kvt_session_options so = {};
  so.struct_size = sizeof so, so.batch = 8;
  const OpenSession slow(model, &so);
  uint64_t done = 0;
  const auto after_two = [](void* user, const kvt_progress* p) {
    *static_cast<uint64_t*>(user) = p->done;
    return int(p->stage == KVT_STAGE_READING && p->done >= 16);
  };
  ok(kvt_session_set_progress(slow.p, after_two, &done));
  const std::vector<int32_t> ids(60, 5);
  CHECK(kvt_evaluate(slow.p, ids.data(), ids.size(), nullptr) == KVT_CANCELLED);
  CHECK(slow.tokens().size() == done);       // what was read stays
  ok(kvt_session_set_progress(slow.p, nullptr, nullptr));
  ok(kvt_evaluate(slow.p, ids.data() + done, ids.size() - done, nullptr));
  CHECK(slow.tokens() == ids);
}

TEST_CASE("every refusal has its status and a message") {
  const TemporaryFolder folder;
  const OpenModel model;
  kvt_model* m = nullptr;
  const auto open = [&](const std::string& path) { return kvt_model_open(kvt_path(path.c_str()), nullptr, &m); };
  CHECK(open(folder / "none.gguf") == KVT_IO_ERROR);
  CHECK(std::string(kvt_message()).find("none.gguf") != std::string::npos);
  CHECK(open(folder / "") == KVT_IO_ERROR);
  const std::string bytes = bytes_of(tiny);
  const auto file = [&](const std::string& name, const std::string& text) {
    FILE* f = std::fopen((folder / name).c_str(), "wb");
    std::fwrite(text.data(), 1, text.size(), f);
    std::fclose(f);
    return folder / name;
  };
  CHECK(open(file("short.gguf", bytes.substr(0, bytes.size() / 2))) == KVT_BAD_FILE);
  CHECK(open(file("empty.gguf", "")) == KVT_IO_ERROR);
  CHECK(open(file("text.gguf", "no model at all, but some text of a few bytes")) == KVT_BAD_FILE);
  Gguf unknown = Gguf::open(tiny);
  unknown.set("general.architecture", std::string("mamba"));
  unknown.write(folder / "mamba.gguf");
  CHECK(open(folder / "mamba.gguf") == KVT_UNSUPPORTED);
  kvt_memory need = {};
  need.struct_size = sizeof need;
  CHECK(kvt_memory_needed(kvt_path((folder / "mamba.gguf").c_str()), nullptr, nullptr, &need) == KVT_UNSUPPORTED);
  CHECK(kvt_memory_needed(kvt_path((folder / "short.gguf").c_str()), nullptr, nullptr, &need) == KVT_BAD_FILE);
  CHECK(kvt_model_open(kvt_bytes(bytes.data() + 1, 100), nullptr, &m) == KVT_INVALID_ARGUMENT);
  CHECK(kvt_model_open(kvt_path(nullptr), nullptr, &m) == KVT_INVALID_ARGUMENT);
  CHECK(kvt_model_open(kvt_path(tiny.c_str()), nullptr, nullptr) == KVT_INVALID_ARGUMENT);
  kvt_model_options strange = {};
  strange.struct_size = sizeof strange, strange.access = kvt_access(3);
  CHECK(kvt_model_open(kvt_path(tiny.c_str()), &strange, &m) == KVT_INVALID_ARGUMENT);
  CHECK(kvt_memory_needed(kvt_path(tiny.c_str()), &strange, nullptr, &need) == KVT_INVALID_ARGUMENT);
  strange.access = KVT_ACCESS_READ, strange.threads = -1;
  CHECK(kvt_model_open(kvt_path(tiny.c_str()), &strange, &m) != KVT_OK);
  kvt_model_options none = {};
  CHECK(kvt_model_open(kvt_path(tiny.c_str()), &none, &m) == KVT_INVALID_ARGUMENT);      // struct_size was forgotten
  struct { kvt_model_options known; uint64_t more[2]; } newer = {};
  newer.known.struct_size = sizeof newer;
  ok(kvt_model_open(kvt_path(tiny.c_str()), &newer.known, &m));           // of a newer header, but nothing new is asked for
  kvt_model_free(m), m = nullptr;
  newer.more[1] = 1;
  CHECK(kvt_model_open(kvt_path(tiny.c_str()), &newer.known, &m) == KVT_UNSUPPORTED);
  CHECK(m == nullptr);

  const OpenSession session(model);
  const int32_t wrong = 1 << 30;
  CHECK(kvt_evaluate(session.p, &wrong, 1, nullptr) == KVT_INVALID_ARGUMENT);
  CHECK(std::string(kvt_session_message(session.p)).find("outside of the vocabulary") != std::string::npos);
  const std::vector<int32_t> many(kvt_session_context(session.p) + 1, 5);
  CHECK(kvt_evaluate(session.p, many.data(), many.size(), nullptr) == KVT_CONTEXT_FULL);
  CHECK(session.tokens().empty());
  CHECK(kvt_logits(session.p, nullptr, nullptr) == KVT_INVALID_ARGUMENT);
  CHECK(kvt_evaluate(nullptr, many.data(), 1, nullptr) == KVT_INVALID_ARGUMENT);
  CHECK(kvt_evaluate(session.p, nullptr, 1, nullptr) == KVT_INVALID_ARGUMENT);
  int32_t id;
  CHECK(kvt_sample(session.p, nullptr, &id) == KVT_INVALID_ARGUMENT);
  const kvt_sampler_options bad = {sizeof bad, -1, 0, 0, 0, 0, 0, 0};
  kvt_sampler* sampler = nullptr;
  CHECK(kvt_sampler_new(&bad, &sampler) == KVT_INVALID_ARGUMENT);
  for (int i = 0; i <= KVT_BUSY; ++i) CHECK(std::string(kvt_status_name(kvt_status(i))).find("KVT_") == 0);
  CHECK(std::string(kvt_status_name(kvt_status(99))) == "unknown status");
  CHECK(kvt_version() == KVT_VERSION_MAJOR * 10000 + KVT_VERSION_MINOR * 100 + KVT_VERSION_PATCH);
  CHECK(std::string(kvt_features()).find("llama") != std::string::npos);
}

TEST_CASE("messages are the thread's own") {
  kvt_model* m = nullptr;
  CHECK(kvt_model_open(kvt_path("here.gguf"), nullptr, &m) == KVT_IO_ERROR);
  std::thread([&] {
    CHECK(std::string(kvt_message()).empty());
    CHECK(kvt_model_open(kvt_path("there.gguf"), nullptr, &m) == KVT_IO_ERROR);
  }).join();
  CHECK(std::string(kvt_message()).find("here.gguf") != std::string::npos);
}

TEST_CASE("sessions on one model in several threads, with adapters being switched, write what one thread writes") {
  const TemporaryFolder folder;
  const std::string paths[] = {random_adapter(folder, 1), random_adapter(folder, 2)};
  const OpenModel model;
  const OpenAdapter adapters[] = {OpenAdapter(model, paths[0]), OpenAdapter(model, paths[1])};
  constexpr int threads = 8, sessions = 4;
  const auto work = [&](int thread, int session) {
    kvt_session_options so = {};
    so.struct_size = sizeof so, so.context = 64;
    kvt_session* s = nullptr;
    std::string text;
    if (kvt_session_new(model.p, &so, &s) != KVT_OK) return text;
    const int n = thread * sessions + session;
    const kvt_generate_options o = {sizeof o, 4, 1, nullptr};
    const char* prompt = "Once upon a time";
    for (int round = 0; round < 3; ++round) {
      if (kvt_session_swap(s, adapters[(n + round) % 2].p, 0.25f * float(1 + n % 4), round == 1 ? KVT_CACHE_REEVALUATE : KVT_CACHE_KEEP) != KVT_OK) break;
      if (kvt_generate_text(s, prompt, KVT_TEXT_END, &o, collect, &text, nullptr) != KVT_OK) break;
      prompt = " and";
    }
    if (kvt_session_detach(s, nullptr, KVT_CACHE_KEEP) == KVT_OK) kvt_generate_text(s, ".", KVT_TEXT_END, &o, collect, &text, nullptr);
    kvt_session_free(s);
    return text;
  };
  std::string alone[threads][sessions], together[threads][sessions];
  for (int t = 0; t < threads; ++t)
    for (int i = 0; i < sessions; ++i) alone[t][i] = work(t, i);
  std::vector<std::thread> all;
  for (int t = 0; t < threads; ++t)
    all.emplace_back([&, t] {
      for (int i = 0; i < sessions; ++i) together[t][i] = work(t, i);
    });
  for (std::thread& t : all) t.join();
  for (int t = 0; t < threads; ++t)
    for (int i = 0; i < sessions; ++i) {
      INFO("thread ", t, ", session ", i);
      CHECK(together[t][i] == alone[t][i]);
      CHECK(alone[t][i].size() > 8);
    }
  CHECK(alone[0][0] != alone[0][1]);
}

TEST_CASE("the host's locale changes no message and is not changed") {
  struct German : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const auto message = [] {
    kvt_model_options o = {};
    o.struct_size = sizeof o, o.memory_limit = 12345;
    kvt_model* m = nullptr;
    CHECK(kvt_model_open(kvt_path(tiny.c_str()), &o, &m) == KVT_MEMORY_LIMIT);
    return std::string(kvt_message());
  };
  const std::string expected = message(), c_locale = std::setlocale(LC_ALL, nullptr);
  CHECK(expected.find("12345") != std::string::npos);
  const std::locale old = std::locale::global(std::locale(std::locale::classic(), new German));
  CHECK(message() == expected);
  CHECK(std::use_facet<std::numpunct<char>>(std::locale()).decimal_point() == ',');
  CHECK(std::string(std::setlocale(LC_ALL, nullptr)) == c_locale);
  std::locale::global(old);
}
