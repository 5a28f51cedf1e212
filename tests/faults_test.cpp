// What happens when memory, the system's calls or the disk fail: for every n the n-th call of each kind fails, in loading, generating, training,
// storing. Then there is an error with a message, nothing leaks, the files that the user had are whole, and the next try gives the same bytes as ever.
//
// KVT_LONG=1 takes every n; otherwise long lists of calls are sampled, as printed.
#include "tests/main.h"

#include <set>

#include "engine/adapter.h"
#include "engine/checkpoint.h"
#include "engine/fingerprint.h"
#include "engine/generate.h"
#include "engine/json.h"
#include "engine/kvt.h"
#include "engine/safetensors.h"
#include "models/fusion.h"
#include "tensor/parallel.h"
#include "tests/faults.h"
#include "tests/check.h"
#include "tests/small_llama.h"

using namespace kvt;
namespace fs = std::filesystem;

namespace {

constexpr int32_t vocabulary = 24;

// A model with a tokenizer, as one file
Gguf model_with_tokenizer() {
  Gguf file = SmallLlama{.layers = 2, .channels = 16, .hidden = 16, .heads = 2, .kv_heads = 1, .vocabulary = vocabulary}.gguf();
  std::vector<std::string> tokens = {"<unk>", "\u2581"};
  for (char c = 'a'; int32_t(tokens.size()) < vocabulary; ++c) tokens.emplace_back(1, c);
  file.set("tokenizer.ggml.model", std::string("llama"));
  file.set("tokenizer.ggml.tokens", tokens);
  file.set("tokenizer.ggml.scores", std::vector<float>(size_t(vocabulary), 0.f));
  file.set("tokenizer.ggml.unknown_token_id", uint32_t(0));
  return file;
}

// The folder of a user, with a model, and files of theirs that a program overwrites
struct Place {
  TemporaryFolder folder;
  std::string model = folder / "model.gguf";
  Place() { model_with_tokenizer().write(model); }
  void store(const std::string& name, const std::string& bytes) const {
    std::FILE* f = std::fopen((folder / name).c_str(), "wb");
    std::fwrite(bytes.data(), 1, bytes.size(), f);
    std::fclose(f);
  }
  std::set<std::string> names() const {
    std::set<std::string> all;
    for (const auto& entry : fs::directory_iterator(fs::path(model).parent_path())) all.insert(entry.path().filename().string());
    return all;
  }
};

std::string load(const std::string& path, Gguf::Access access) {
  const Gguf file = Gguf::open(path, access);
  file.check_tensors();
  const auto model = load_model(file);
  const auto tokenizer = Tokenizer::from(file);
  return fingerprint(file) + tokenizer->decode(tokenizer->encode("abc"));
}

std::string generate_text(const CausalLm& model, const Tokenizer& tokenizer) {
  Session session(model, {.context = 32, .batch = 4});
  Sampler sampler({.temperature = 0});
  const auto prompt = tokenizer.encode("abc de fgh");
  return tokenizer.decode(generate(session, tokenizer, prompt, 6, sampler, [](int32_t) { return true; }, true).ids);
}

bool recording = false;
std::set<std::string> stages;                                  // the checkpoints that training writes on its way: each is whole, too

// Ten steps with validation and a checkpoint at the fifth, and the adapter
std::string train_and_store(const Place& place) {
  const Gguf file = Gguf::open(place.model, Gguf::Access::read);
  const auto model = load_model(file);
  Examples data(8), held_out(8);
  Rng rng(3);
  Ids text;
  for (int i = 0; i < 100; ++i) text.push_back(int32_t(rng.below(vocabulary)));
  data.add_text(std::span(text).first(60));
  held_out.add_text(std::span(text).subspan(80));
  const LoraSet set = attach_lora(*model, {.rank = 2, .targets = {"attn_q", "ffn_down"}});
  const TrainedSet trained = trained_factors(set);
  TrainOptions options;
  options.steps = 10, options.batch = 2, options.lr = 1e-2f, options.eval_every = 5, options.save_every = 5;
  const RunIdentity self{fingerprint(file), options.describe()};
  TrainCallbacks callbacks;
  callbacks.save = [&](const TrainState& s) { 
    write_checkpoint(place.folder / "run.checkpoint", s, trained, self);
    if (recording) stages.insert(bytes_of(place.folder / "run.checkpoint"));
  };
  TrainState state;
  train(*model, trained, options, data, &held_out, state, callbacks);
  read_checkpoint(place.folder / "run.checkpoint", state, trained, self);
  adapter_file(set, "llama", self.base, DType::F32).write(place.folder / "adapter.gguf");
  return bytes_of(place.folder / "adapter.gguf") + bytes_of(place.folder / "run.checkpoint");
}

// The same through the C interface. A call that fails leaves no handle; what has been made is freed.
struct Refused : std::runtime_error { using std::runtime_error::runtime_error; };
void succeed(kvt_status status) {
  if (status == KVT_OK) return;
  require(status == KVT_OUT_OF_MEMORY || status == KVT_IO_ERROR, "another status: ", kvt_status_name(status), ": ", kvt_message());
  throw Refused(kvt_message());
}

std::string by_c_interface(const Place& place) {
  struct Handles {
    kvt_model* model = nullptr;
    kvt_session* session = nullptr;
    kvt_adapter* adapter = nullptr;
    ~Handles() { kvt_session_free(session), kvt_adapter_free(adapter), kvt_model_free(model); }
  } h;
  kvt_model_options opening{};
  opening.struct_size = sizeof opening, opening.threads = 1;
  succeed(kvt_model_open(kvt_path(place.model.c_str()), &opening, &h.model));
  kvt_session_options session{};
  session.struct_size = sizeof session, session.context = 32, session.batch = 4;
  succeed(kvt_session_new(h.model, &session, &h.session));
  std::string text;
  const auto generate = [&] {
    kvt_generate_options options{};
    options.struct_size = sizeof options, options.most = 4, options.ignore_end = 1;
    succeed(kvt_session_truncate(h.session, 0));
    succeed(kvt_generate_text(h.session, "abc de", KVT_TEXT_END, &options, [](void* to, int32_t, const char* more, size_t n) {
      try { return static_cast<std::string*>(to)->append(more, n), 0; } catch (const std::bad_alloc&) { return 1; }
    }, &text, nullptr));
  };
  text.reserve(256);
  generate();
  const char* lines[] = {"abcabcabcabcabc", "defdefdefdef", "ghighighighi"};
  std::vector<kvt_example> examples;
  for (const char* line : lines) examples.push_back({{nullptr, 0}, {line, std::strlen(line)}});
  const kvt_data data{examples.data(), examples.size(), nullptr, nullptr};
  const std::string checkpoint = place.folder / "run.checkpoint";
  kvt_adapt_options adapt{};
  adapt.struct_size = sizeof adapt, adapt.method = "lora", adapt.length = 8, adapt.rank = 2, adapt.steps = 10, adapt.batch = 2, adapt.learning_rate = 1e-2f;
  adapt.checkpoint = checkpoint.c_str(), adapt.save_every = 5;
  succeed(kvt_adapt(h.model, &data, &adapt, &h.adapter));
  succeed(kvt_adapter_write(h.adapter, (place.folder / "adapter.gguf").c_str()));
  succeed(kvt_session_attach(h.session, h.adapter, 1, KVT_CACHE_REEVALUATE));
  generate();
  return text + bytes_of(place.folder / "adapter.gguf");
}

std::string store_all(const Place& place) {
  const Gguf file = Gguf::open(place.model);
  const auto model = load_model(file);
  attach_lora(*model, {.rank = 2});
  merged_model(file, *model, DType::F16).write(place.folder / "merged.gguf");
  Safetensors tensors;
  for (const Gguf::Entry& e : file.tensors()) tensors.add(e.name, e.tensor);
  tensors.write(place.folder / "model.safetensors");
  return bytes_of(place.folder / "merged.gguf") + bytes_of(place.folder / "model.safetensors");
}

struct Case {
  const char* name;
  std::function<std::string()> run;
  std::vector<std::string> outputs;                            // files that it overwrites
  int64_t most = 300;                                          // tries a kind of call, unless KVT_LONG
  std::vector<std::string> passing = {};                          // files that it makes on its way and removes
};

const std::string old_bytes = "what the user had";

// Every n of one kind of call
void strike(const Place& place, const Case& c, Call call, const std::string& expected, const std::map<std::string, std::string>& results) {
  const bool all = std::getenv("KVT_LONG") != nullptr;
  Faults::arm(call, 0);
  c.run();
  const int64_t n = Faults::made(call), stride = all ? 1 : std::max<int64_t>(1, (n + c.most - 1) / c.most);
  int64_t tries = 0, errors = 0, unharmed = 0;
  const auto restore = [&] { for (const std::string& file : c.outputs) place.store(file, old_bytes); };
  for (int64_t i = 1; i <= n; i += stride, ++tries) {
    INFO(std::string(c.name), ": ", std::string(name(call)), " ", i, " of ", n);
    std::string message = "none";
    bool failed = false;
    int64_t grown = 0;
    for (int repeat = 0; repeat < 2; ++repeat) {               // a leak is what grows each time; what is made once stays
      restore();
      const Faults::Live before = Faults::live();
      const int64_t held = Storage::use().now;
      failed = false;
      {
        std::string result;
        Faults::arm(call, i);
        try {
          result = c.run();
        } catch (const std::exception& e) {
          Faults::disarm();
          failed = true;
          message = e.what();
        }
        Faults::disarm();
        if (!failed) CHECK(result == expected);
      }
      if (repeat == 0) message.shrink_to_fit();
      const Faults::Live after = Faults::live();
      CHECK(after.files == before.files);
      CHECK(after.maps == before.maps);
      CHECK(Storage::use().now == held);
      grown = after.objects - before.objects;
      if (grown == 0) break;
    }
    CHECK(Faults::struck());
    CHECK(grown <= 1);                                         // the message itself may outgrow its first place
    CHECK(message.size() > 3);
    (failed ? errors : unharmed)++;
    for (const std::string& file : c.outputs) {
      const std::string now = bytes_of(place.folder / file);
      CHECK((now == old_bytes || now == results.at(file) || stages.contains(now)));
    }
    std::set<std::string> expected_names{"model.gguf"};
    expected_names.insert(c.outputs.begin(), c.outputs.end());
    std::set<std::string> names = place.names();
    for (const std::string& file : c.passing)
      if (names.erase(file)) {
        CHECK_NOTHROW(Gguf::open(place.folder / file).check_tensors());
        fs::remove(place.folder / file);
      }
    CHECK(names == expected_names);
    if (i % 16 == 1) CHECK(c.run() == expected);               // what comes after is as ever
  }
  if (n > 0)
    MESSAGE(std::string(c.name), ": ", std::string(name(call)), ": ", n, " calls, ", tries, " tried, ", errors, " errors, ", unharmed, " without harm");
}

void strike_all(const Place& place, const Case& c) {
  for (const std::string& file : c.outputs) place.store(file, old_bytes);
  c.run();                                                     // what is made once in a process is made
  recording = true;
  const std::string expected = c.run();
  recording = false;
  std::map<std::string, std::string> results;
  for (const std::string& file : c.outputs) results[file] = bytes_of(place.folder / file);
  for (const Call call : all_calls) strike(place, c, call, expected, results);
  for (const Faults::Trouble trouble : {Faults::Trouble::partial, Faults::Trouble::interrupted}) {
    Faults::trouble(trouble);
    CHECK(c.run() == expected);
    Faults::trouble(Faults::Trouble::none);
  }
}

}  // namespace

TEST_CASE("loading a model") {
  const Place place;
  strike_all(place, {"load, mapped", [&] { return load(place.model, Gguf::Access::map); }, {}});
  strike_all(place, {"load, read", [&] { return load(place.model, Gguf::Access::read); }, {}});
}

TEST_CASE("generating") {
  const Place place;
  const Gguf file = Gguf::open(place.model);
  const auto model = load_model(file);
  const auto tokenizer = Tokenizer::from(file);
  strike_all(place, {"generate", [&] { return generate_text(*model, *tokenizer); }, {}});
}

TEST_CASE("a session goes on after a failure as if nothing had been asked of it") {
  const Place place;
  const Gguf file = Gguf::open(place.model);
  const auto model = load_model(file);
  const Ids first = {3, 4, 5, 6, 7, 8}, second = {9, 10, 11, 12, 13, 14};
  const auto scores = [&](Session& s, const Ids& ids) {
    const auto z = s.evaluate(ids);
    return std::vector<float>(z.begin(), z.end());
  };
  Session reference(*model, {.context = 32, .batch = 5});
  scores(reference, first);
  Faults::arm(Call::allocate, 0);
  const auto expected = scores(reference, second);
  const int64_t n = Faults::made(Call::allocate);
  Faults::disarm();
  int64_t errors = 0;
  for (int64_t i = 1; i <= n; ++i) {
    INFO("allocation ", i, " of ", n);
    Session session(*model, {.context = 32, .batch = 5});
    scores(session, first);
    Faults::arm(Call::allocate, i);
    try {
      session.evaluate(second);
    } catch (const std::bad_alloc&) {
      ++errors;
      Faults::disarm();
      Ids rest = second;                            // whole parts of the prompt (.batch) may have been read
      const auto read = int64_t(session.tokens().size() - first.size());
      CHECK((read == 0 || read == 5));
      CHECK(session.room() == 32 - int64_t(session.tokens().size()));
      rest.erase(rest.begin(), rest.begin() + read);
      CHECK(scores(session, rest) == expected);
    }
    Faults::disarm();
  }
  CHECK(errors > n / 2);
}

// A token costs no allocation: what a step needs is there after the first ones.
TEST_CASE("reading and choosing a token asks the heap for nothing") {
  const Place place;
  const Gguf file = Gguf::open(place.model);
  const auto count = [](const CausalLm& model) {
    Session session(model, {.context = 512});
    Sampler sampler({.temperature = 0.8f, .top_k = 10, .repeat_penalty = 1.1f, .repeat_last = 16});
    std::span<const float> scores = session.evaluate(Ids{3, 4, 5, 6, 7, 8});
    for (int i = 0; i < 300; ++i) {
      if (i == 20) Faults::arm(Call::allocate, 0);
      const int32_t id = sampler(scores, session.tokens());
      scores = session.evaluate({&id, 1});
    }
    const int64_t made = Faults::made(Call::allocate) + Faults::made(Call::storage);
    Faults::disarm();
    return made;
  };
  const auto model = load_model(file);
  CHECK(count(*model) == 0);
  const std::shared_ptr<CausalLm> with_adapter = load_model(file);
  attach_lora(*with_adapter, {.rank = 2});
  CHECK(count(*with_adapter) == 0);
  CHECK(count(Fused(with_adapter, {Fusion::Form::residual, 0.5f})) == 0);
}

TEST_CASE("ten steps of training, a checkpoint, an adapter") {
  const Place place;
  strike_all(place, {"train", [&] { return train_and_store(place); }, {"adapter.gguf", "run.checkpoint"}, 60});
}

TEST_CASE("the C interface: loading, generating, adapting, writing") {
  const Place place;
  strike_all(place, {"C interface", [&] { return by_c_interface(place); }, {"adapter.gguf"}, 60, {"run.checkpoint"}});
}

TEST_CASE("storing models") {
  const Place place;
  strike_all(place, {"store", [&] { return store_all(place); }, {"merged.gguf", "model.safetensors"}, 100});
}

TEST_CASE("copies of values of several types") {
  const Place place;
  const Gguf::Value names = std::vector<std::string>{"a name that is too long to lie in a string", "another one as long as the first is"};
  const Json json = Json::Object{{"names", Json::Array{"a text that is too long to lie in a string", 1.5}}, {"a member whose name is long as well", true}};
  strike_all(place, {"values", [&] {
    Gguf::Value name = names;
    name = names;
    Json again = json;
    again = json;
    return std::get<std::vector<std::string>>(name)[1] + again.dump();
  }, {}});
}

TEST_CASE("threads that cannot be started") {
  const auto use = [] {
    ThreadPool pool({.threads = 5});
    ThreadPool::Use in_use(pool);
    std::atomic<int64_t> sum{0};
    parallel_for(1000, 1, [&](int64_t begin, int64_t end) { for (int64_t i = begin; i < end; ++i) sum += i; });
    return std::to_string(sum);
  };
  const Place place;
  strike_all(place, {"threads", use, {}});
}
