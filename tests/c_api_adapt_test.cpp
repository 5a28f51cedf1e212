// The C interface (engine/kvt.h): adaptation with cancelling and going on, knowledge, embedding and classifying.
#include "tests/main.h"

#include <cstring>
#include <thread>

#include "engine/embed.h"
#include "engine/fingerprint.h"
#include "engine/json.h"
#include "engine/load_encoder.h"
#include "engine/text_classes.h"
#include "tests/c_api.h"
#include "tests/small_bert.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

// Paragraphs of the demonstration's text
struct Data {
  std::string text = bytes_of(project_path("tools/demo/tiny.txt"));
  std::vector<kvt_example> examples;
  kvt_data data{};
  explicit Data(size_t bytes = 1 << 20) {
    text.resize(std::min(bytes, text.size()));
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      if (end > begin) examples.push_back({{nullptr, 0}, {text.data() + begin, end - begin}});
      begin = end + 1;
    }
    data.examples = examples.data(), data.count = examples.size();
  }
};

kvt_adapt_options quick(const char* method) {
  kvt_adapt_options o = {};
  o.struct_size = sizeof o;
  o.method = method;
  o.length = 48, o.steps = 4, o.rank = 4, o.rounds = 2, o.k = 4;
  o.validation_split = 0.25;
  if (std::strcmp(method, "kvt") != 0) o.learning_rate = 1e-2f;
  return o;
}

std::string file_of(kvt_adapter* adapter, const TemporaryFolder& folder) {
  ok(kvt_adapter_write(adapter, (folder / "written.gguf").c_str()));
  return bytes_of(folder / "written.gguf");
}

std::string adapted(const OpenModel& model, const kvt_data& data, const kvt_adapt_options& o, const TemporaryFolder& folder) {
  kvt_adapter* adapter = nullptr;
  ok(kvt_adapt(model.p, &data, &o, &adapter));
  const std::string bytes = file_of(adapter, folder);
  kvt_adapter_free(adapter);
  return bytes;
}

// Mean loss of a text's tokens, but for the first `given`
double loss_of(const OpenModel& model, kvt_adapter* adapter, const std::string& text, size_t given = 1) {
  kvt_session* s = nullptr;
  ok(kvt_session_new(model.p, nullptr, &s));
  if (adapter) ok(kvt_session_attach(s, adapter, 1, KVT_CACHE_KEEP));
  std::vector<int32_t> ids(200);
  size_t n;
  ok(kvt_tokenize(model.p, text.data(), text.size(), 0, ids.data(), ids.size(), &n));
  double loss = 0;
  const float* z;
  size_t V = 0;
  for (size_t i = 0; i + 1 < n; ++i) {
    ok(kvt_evaluate(s, &ids[i], 1, &z));
    ok(kvt_logits(s, &z, &V));
    if (i + 1 < given) continue;
    double sum = 0;
    for (size_t v = 0; v < V; ++v) sum += std::exp(double(z[v]) - double(z[0]));
    loss += std::log(sum) - (double(z[ids[i + 1]]) - double(z[0]));
  }
  kvt_session_free(s);
  return loss / double(n - given);
}

}  // namespace

TEST_CASE("every method adapts: the text becomes likelier, and the file gives the same adapter again") {
  const TemporaryFolder folder;
  const OpenModel model;
  const Data data;
  const std::string sample(data.examples[0].text.data, std::min<size_t>(data.examples[0].text.size, 150));
  const double before = loss_of(model, nullptr, sample);
  for (const char* method : {"kvt", "lora", "adapterdrop", "lora-xs", "ia3", "probe"}) {
    CAPTURE(method);
    const kvt_adapt_options o = quick(method);
    kvt_adapter *adapter = nullptr, *again = nullptr;
    ok(kvt_adapt(model.p, &data.data, &o, &adapter));
    const double after = loss_of(model, adapter, sample);
    CHECK(after < before);
    file_of(adapter, folder);
    ok(kvt_adapter_open(model.p, kvt_path((folder / "written.gguf").c_str()), &again));
    CHECK(loss_of(model, again, sample) == after);
    kvt_adapter_free(adapter), kvt_adapter_free(again);
  }
  // Refined, with the validation data learned, and cut to a mean rank of 2 for the rounds and 4 for what refines them
  kvt_adapt_options refined = quick("kvt");
  refined.refine = 6, refined.learn_validation = 1, refined.portion = 40, refined.mean_rank = 6, refined.learning_rate = 1e-2f;
  kvt_adapter* adapter = nullptr;
  ok(kvt_adapt(model.p, &data.data, &refined, &adapter));
  CHECK(loss_of(model, adapter, sample) < before);
  kvt_adapter_free(adapter);
  refined.mean_rank = 0.5;
  adapter = nullptr;
  CHECK(kvt_adapt(model.p, &data.data, &refined, &adapter) == KVT_INVALID_ARGUMENT);
  CHECK(std::string(kvt_message()).find("mean_rank is 0.5") != std::string::npos);
}

TEST_CASE("cancelled amid the work and resumed, the result has the same bytes") {
  const TemporaryFolder folder;
  const OpenModel model;
  const Data data;
  for (const char* method : {"kvt", "lora"}) {
    kvt_adapt_options o = quick(method);
    const std::string whole = adapted(model, data.data, o, folder), checkpoint = folder / method;
    // After the first round or step, at the n-th report behind it; and by an interruption between reports that the clock brings.
    struct Stop { int left; uint64_t step, round; };
    for (const int n : {1, 2, 4}) {
      Stop stop{n, 0, 0};
      o.checkpoint = checkpoint.c_str();
      o.resume = 0;
      o.progress = [](void* user, const kvt_progress* p) {
        Stop& s = *static_cast<Stop*>(user);
        const bool begun = p->round > 1 || (p->round == 0 && p->stage == KVT_STAGE_TRAINING);
        return int(begun && --s.left < 0);
      };
      o.progress_user = &stop;
      kvt_adapter* adapter = nullptr;
      const kvt_status status = kvt_adapt(model.p, &data.data, &o, &adapter);
      o.progress = nullptr;
      CAPTURE(method);
      CAPTURE(n);
      if (status == KVT_OK) {                      // it was over before
        CHECK(stop.left >= 0);
        kvt_adapter_free(adapter);
        continue;
      }
      CHECK(status == KVT_CANCELLED);
      CHECK(adapter == nullptr);
      REQUIRE(std::filesystem::exists(checkpoint));
      o.resume = 1;
      CHECK(adapted(model, data.data, o, folder) == whole);
      CHECK_FALSE(std::filesystem::exists(checkpoint));
    }
    o.resume = 1;                                  // without a checkpoint: from the start
    CHECK(adapted(model, data.data, o, folder) == whole);
  }
}

TEST_CASE("a checkpoint of other options is refused, naming them") {
  const TemporaryFolder folder;
  const OpenModel model;
  const Data data;
  kvt_adapt_options o = quick("lora");
  const std::string checkpoint = folder / "c";
  o.checkpoint = checkpoint.c_str();
  o.progress = [](void*, const kvt_progress* p) { return int(p->stage == KVT_STAGE_TRAINING); };
  kvt_adapter* adapter = nullptr;
  REQUIRE(kvt_adapt(model.p, &data.data, &o, &adapter) == KVT_CANCELLED);
  CHECK(std::string(kvt_message()).find("resume") != std::string::npos);
  o.progress = nullptr;
  o.resume = 1;
  o.rank = 8;
  CHECK(kvt_adapt(model.p, &data.data, &o, &adapter) == KVT_MISMATCH);
  CHECK(std::string(kvt_message()).find("rank") != std::string::npos);
}

TEST_CASE("progress runs through the steps, and may cancel before there is anything to keep") {
  const OpenModel model;
  const Data data;
  struct Seen { std::vector<uint64_t> steps; int validations = 0; bool finite = true; } seen;
  kvt_adapt_options o = quick("lora");
  o.progress_user = &seen;
  o.progress = [](void* user, const kvt_progress* p) {
    Seen& s = *static_cast<Seen*>(user);
    if (p->stage == KVT_STAGE_VALIDATING) ++s.validations;
    if (p->stage == KVT_STAGE_TRAINING && (s.steps.empty() || s.steps.back() != p->done)) s.steps.push_back(p->done), s.finite &= std::isfinite(p->loss) && p->total == 4;
    return 0;
  };
  kvt_adapter* adapter = nullptr;
  ok(kvt_adapt(model.p, &data.data, &o, &adapter));
  kvt_adapter_free(adapter), adapter = nullptr;
  CHECK(seen.steps == std::vector<uint64_t>{1, 2, 3, 4});
  CHECK(seen.validations == 2);
  CHECK(seen.finite);
  for (const char* method : {"kvt", "lora"}) {
    o = quick(method);
    o.progress = [](void*, const kvt_progress*) { return 1; };
    CHECK(kvt_adapt(model.p, &data.data, &o, &adapter) == KVT_CANCELLED);
  }
  CHECK(adapter == nullptr);
}

TEST_CASE("examples from a callback are those in memory; pairs learn the completion alone") {
  const TemporaryFolder folder;
  const OpenModel model;
  const Data data(1000);
  const kvt_adapt_options o = quick("lora");
  struct Source { const Data& data; size_t i = 0; } source{data};
  kvt_data from = {};
  from.user = &source;
  from.next = [](void* user, kvt_example* e) {
    Source& s = *static_cast<Source*>(user);
    if (s.i == s.data.examples.size()) return 0;
    *e = s.data.examples[s.i++];
    return 1;
  };
  CHECK(adapted(model, from, o, folder) == adapted(model, data.data, o, folder));
  from.next = [](void*, kvt_example*) { return -1; };
  kvt_adapter* adapter = nullptr;
  CHECK(kvt_adapt(model.p, &from, &o, &adapter) == KVT_CANCELLED);

  const kvt_example pairs[] = {{{"The zindle is afraid of", KVT_TEXT_END}, {" drums.", KVT_TEXT_END}}, {{"It sleeps in a", KVT_TEXT_END}, {" hat.", KVT_TEXT_END}}};
  kvt_data two = {};
  two.examples = pairs, two.count = 2;
  kvt_adapt_options p = quick("lora");
  p.validation_split = 0, p.steps = 8;
  ok(kvt_adapt(model.p, &two, &p, &adapter));
  size_t given = 0;
  std::vector<int32_t> ids(20);
  ok(kvt_tokenize(model.p, pairs[0].prompt.data, KVT_TEXT_END, 0, ids.data(), ids.size(), &given));
  const std::string both = std::string(pairs[0].prompt.data) + pairs[0].text.data;
  CHECK(loss_of(model, adapter, both, given) < loss_of(model, nullptr, both, given));
  kvt_adapter_free(adapter);
}

TEST_CASE("refusals of adaptation") {
  const OpenModel model;
  const Data data(1000);
  kvt_adapter* adapter = nullptr;
  const auto status = [&](auto&& change) {
    kvt_adapt_options o = quick("lora");
    change(o);
    const kvt_status s = kvt_adapt(model.p, &data.data, &o, &adapter);
    CHECK(adapter == nullptr);
    return s;
  };
  CHECK(status([](auto& o) { o.method = "magic"; }) == KVT_UNSUPPORTED);
  CHECK(status([](auto& o) { o.targets = "attn_x"; }) == KVT_ERROR);
  CHECK(std::string(kvt_message()).find("attn_q") != std::string::npos);       // tells what there is
  CHECK(status([](auto& o) { o.validation_split = 2; }) == KVT_INVALID_ARGUMENT);
  CHECK(status([](auto& o) { o.rank = 100000000; }) == KVT_INVALID_ARGUMENT);
  CHECK(status([](auto& o) { o.resume = 1; }) == KVT_ERROR);                    // without a checkpoint's name
  CHECK(status([](auto& o) { o.learning_rate = 1e30f, o.steps = 20; }) == KVT_ERROR);
  kvt_data none = {};
  const kvt_adapt_options o = quick("lora");
  CHECK(kvt_adapt(model.p, &none, &o, &adapter) == KVT_INVALID_ARGUMENT);
  uint64_t now = 0, need = 0;
  ok(kvt_memory_used(model.p, &now, nullptr));
  ok(kvt_adapt_memory_needed(model.p, &o, &need));
  kvt_model_options limited = {};
  limited.memory_limit = now + need / 8;
  const OpenModel small(kvt_path(tiny.c_str()), limited);
  CHECK(kvt_adapt(small.p, &data.data, &o, &adapter) == KVT_MEMORY_LIMIT);
  uint64_t after = 0;
  ok(kvt_memory_used(small.p, &after, nullptr));
  CHECK(after == now);                                                           // nothing stays behind
}

TEST_CASE("what adaptation takes is told before") {
  const Data data;
  for (const char* method : {"kvt", "lora"}) {
    const OpenModel model;
    const kvt_adapt_options o = quick(method);
    uint64_t before = 0, most = 0, need = 0;
    ok(kvt_memory_used(model.p, &before, nullptr));
    ok(kvt_adapt_memory_needed(model.p, &o, &need));
    kvt_adapter* adapter = nullptr;
    ok(kvt_adapt(model.p, &data.data, &o, &adapter));
    ok(kvt_memory_used(model.p, nullptr, &most));
    INFO(method, ": needed ", need, ", used ", most - before);
    CHECK(most - before < 2 * need);
    CHECK(need < 4 * (most - before));
    kvt_adapter_free(adapter);
  }
}

TEST_CASE("sessions go on while the model is adapted") {
  const TemporaryFolder folder;
  const OpenModel model;
  const Data data;
  const kvt_adapt_options o = quick("kvt");
  const std::string sample(data.examples[0].text.data, 80), alone = adapted(model, data.data, o, folder);
  const double loss = loss_of(model, nullptr, sample);
  bool same = true;
  std::thread reader([&] {
    for (int i = 0; i < 5; ++i) same = same && loss_of(model, nullptr, sample) == loss;
  });
  kvt_adapter* adapter = nullptr;
  const kvt_status status = kvt_adapt(model.p, &data.data, &o, &adapter);
  reader.join();
  REQUIRE(status == KVT_OK);
  CHECK(same);
  CHECK(file_of(adapter, folder) == alone);
  kvt_adapter_free(adapter);
}

TEST_CASE("knowledge: numbers, report, file") {
  const TemporaryFolder folder;
  const OpenModel model;
  const Data data;
  kvt_adapter* adapter = nullptr;
  const kvt_adapt_options o = quick("lora");
  ok(kvt_adapt(model.p, &data.data, &o, &adapter));
  for (kvt_adapter* tuned : {static_cast<kvt_adapter*>(nullptr), adapter}) {
    kvt_extract_options e = {};
    e.struct_size = sizeof e, e.length = 48, e.concepts = 3;
    kvt_knowledge* k = nullptr;
    ok(kvt_extract(model.p, tuned, &data.data, &e, &k));
    kvt_knowledge_info info = {};
    info.struct_size = sizeof info;
    ok(kvt_knowledge_get_info(k, &info));
    CHECK(info.positions > 100);
    CHECK(info.divergence > 0);
    const float* x;
    size_t rows, columns;
    ok(kvt_knowledge_get(k, KVT_KNOWLEDGE_BEFORE, &x, &rows, &columns));
    double sum = 0;
    for (size_t i = 0; i < columns; ++i) sum += double(x[i]);
    CHECK(rows == 1);
    CHECK(sum == doctest::Approx(1).epsilon(1e-4));
    ok(kvt_knowledge_get(k, KVT_KNOWLEDGE_DIRECTIONS, &x, &rows, &columns));
    CHECK(rows == info.positions);
    ok(kvt_knowledge_get(k, KVT_KNOWLEDGE_CONCEPTS, &x, &rows, &columns));
    CHECK(rows == info.concepts);
    for (const kvt_format format : {KVT_FORMAT_TEXT, KVT_FORMAT_JSON, KVT_FORMAT_HTML}) {
      size_t n = 0;
      CHECK(kvt_knowledge_report(k, format, nullptr, 0, &n) == KVT_TOO_SMALL);
      std::string text(n + 1, 0);
      ok(kvt_knowledge_report(k, format, text.data(), text.size(), &n));
      text.resize(n);
      CHECK(text.find("zindle") != std::string::npos);
      if (format == KVT_FORMAT_JSON) CHECK(Json::parse(text, "report").find("concepts") != nullptr);
    }
    ok(kvt_knowledge_write(k, (folder / "k.gguf").c_str()));
    CHECK(Gguf::open(folder / "k.gguf").integer("kvt.shift.positions") == int64_t(info.positions));
    kvt_knowledge_free(k);
  }
  kvt_adapter_free(adapter);
}

TEST_CASE("embedding is the engine's, from several threads, and is cancelled") {
  const TemporaryFolder folder;
  SmallBert().gguf().write(folder / "bert.gguf");
  const Gguf gguf = Gguf::open(folder / "bert.gguf");
  const auto bert = load_bert(gguf);
  const auto tokenizer = Tokenizer::from(gguf);
  std::vector<std::string> texts;
  for (int i = 0; i < 40; ++i) texts.push_back(std::string("the cat sat on a mat the").substr(0, size_t(4 + i % 20)));
  std::vector<kvt_text> views;
  for (const std::string& t : texts) views.push_back({t.data(), t.size()});
  const OpenModel model(kvt_path((folder / "bert.gguf").c_str()));
  kvt_model_info info = {};
  info.struct_size = sizeof info;
  ok(kvt_model_get_info(model.p, &info));
  CHECK(info.is_encoder == 1);
  std::vector<float> expected;
  for (const TextEmbedding& e : embed(*bert, *tokenizer, texts, most_tokens(gguf, *bert), 8)) expected.insert(expected.end(), e.vector.begin(), e.vector.end());
  std::vector<float> got[3];
  std::vector<std::thread> threads;
  for (auto& vectors : got) {
    vectors.resize(texts.size() * info.channels);
    threads.emplace_back([&] { kvt_embed(model.p, views.data(), views.size(), nullptr, nullptr, vectors.data()); });
  }
  for (auto& t : threads) t.join();
  for (const auto& vectors : got) CHECK(max_relative_error(vectors, expected) < 1e-6);
  CHECK(kvt_embed(model.p, views.data(), views.size(), [](void*, const kvt_progress*) { return 1; }, nullptr, got[0].data()) == KVT_CANCELLED);
  kvt_session* session = nullptr;
  CHECK(kvt_session_new(model.p, nullptr, &session) == KVT_UNSUPPORTED);
  CHECK(kvt_embed(OpenModel().p, views.data(), 1, nullptr, nullptr, got[0].data()) == KVT_UNSUPPORTED);
  kvt_adapter* adapter = nullptr;
  const Data data(500);
  const kvt_adapt_options o = quick("lora");
  CHECK(kvt_adapt(model.p, &data.data, &o, &adapter) == KVT_UNSUPPORTED);
  kvt_memory need = {};
  need.struct_size = sizeof need;
  ok(kvt_memory_needed(kvt_path((folder / "bert.gguf").c_str()), nullptr, nullptr, &need));
  uint64_t most = 0;
  ok(kvt_memory_used(model.p, nullptr, &most));
  CHECK(most <= need.total);
}

TEST_CASE("classifying is the engine's") {
  const TemporaryFolder folder;
  const Gguf gguf = Gguf::open(tiny);
  const auto lm = load_model(gguf);
  const auto tokenizer = Tokenizer::from(gguf);
  TextClassifier classifier(*lm);
  ClassSettings settings;
  settings.names = {"animal", "house", "weather"};
  settings.length = 32;
  prepare(classifier, settings, *tokenizer, nullptr);
  Rng rng(3);
  for (float& x : classifier.head.weight.tensor.values()) x = rng.uniform() - 0.5f;
  Gguf file;
  for (const auto& [key, value] : std::map<std::string, std::string>{{"general.type", "adapter"}, {"general.architecture", "llama"}, {"adapter.type", "head"},
                                                                    {"kvt.base.fingerprint", fingerprint(gguf)}})
    file.set(key, value);
  write_classes(file, settings, classifier);
  file.write(folder / "head.gguf");

  const OpenModel model;
  kvt_adapter* adapter = nullptr;
  ok(kvt_adapter_open(model.p, kvt_path((folder / "head.gguf").c_str()), &adapter));
  kvt_classifier* c = nullptr;
  CHECK(kvt_classifier_new(model.p, nullptr, &c) == KVT_BAD_FILE);
  ok(kvt_classifier_new(model.p, adapter, &c));
  kvt_adapter_free(adapter);
  REQUIRE(kvt_classifier_count(c) == 3);
  CHECK(std::string(kvt_classifier_name(c, 2)) == "weather");
  CHECK(kvt_classifier_name(c, 3) == nullptr);
  const char* texts[] = {"Once upon a time there was a cat.", "The house was small.", "It rained."};
  kvt_text views[] = {{texts[0], KVT_TEXT_END}, {texts[1], KVT_TEXT_END}, {texts[2], KVT_TEXT_END}};
  float p[9];
  ok(kvt_classify(c, views, 3, nullptr, nullptr, p));
  const LabelledTexts data({{"animal", texts[0]}, {"animal", texts[1]}, {"animal", texts[2]}}, settings, *tokenizer);
  const int64_t all[] = {0, 1, 2};
  const Tensor expected = softmax(classifier.scores(data.batch(all)));
  CHECK(max_relative_error({p, 9}, expected.values()) < 1e-6);
  kvt_classifier_free(c);
}
