// Real weights: stories260K and SmolLM2-135M against golden values of independent implementations.
#include "tests/main.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "engine/generate.h"
#include "engine/load.h"
#include "engine/metrics.h"
#include "ops/linear_tiles.h"
#include "ops/quant.h"
#include "tensor/parallel.h"
#include "tests/check.h"

using namespace kvt;

static std::vector<double> numbers(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::vector<double> out;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream words(line);
    for (double x; words >> x;) out.push_back(x);
  }
  return out;
}

struct Opened {
  Gguf gguf;
  std::unique_ptr<CausalLm> lm;
  std::unique_ptr<Tokenizer> tokenizer;
  explicit Opened(const std::filesystem::path& file) : gguf(Gguf::open(file.string())), lm(load_model(gguf)), tokenizer(Tokenizer::from(gguf)) {}
};

static std::vector<int32_t> greedy(const Opened& m, const std::vector<int32_t>& prompt, int64_t n, DType cache = DType::F32) {
  Session session(*m.lm, {.context = int64_t(prompt.size()) + n, .cache = cache});
  Sampler sampler({.temperature = 0});
  return generate(session, *m.tokenizer, prompt, n, sampler, [](int32_t) { return true; }, true).ids;
}

TEST_CASE("stories260K: logits after BOS, and 255 greedy ids") {
  const auto folder = data_path("lm-weights-stories260k");
  if (!have_data(folder / "stories260K.gguf")) return;
  const Opened m(folder / "stories260K.gguf");

  const std::vector<double> want = numbers(folder / "golden_logits_bos.txt");
  Session session(*m.lm, {.cache = DType::F32});
  const auto logits = session.evaluate(std::vector<int32_t>{1});
  REQUIRE(logits.size() == want.size());
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::fabs(double(logits[i]) - want[i]));
  CHECK(worst < 1e-4);

  const std::vector<double> ids = numbers(folder / "golden_greedy_ids.txt");
  REQUIRE(ids.size() == 255);
  const std::vector<int32_t> got = greedy(m, {1}, 255);
  CHECK(got == std::vector<int32_t>(ids.begin(), ids.end()));
}

// Every instruction set for which some kernel has a variant here, and back to what the environment wishes at the end.
struct EachIsa {
  std::vector<std::string> names;
  EachIsa() {
    load_backends();
    for (const KernelInfo* k = KernelInfo::first; k; k = k->next)
      for (int v = 0; v < k->variants(); ++v)
        if (const std::string name = isa_name(k->isa(v)); std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  ~EachIsa() {
    const char* wish = std::getenv("KVT_KERNELS");
    choose_kernels(wish ? wish : "");
  }
};

TEST_CASE("stories260K: every instruction set gives the golden logits and ids") {
  const auto folder = data_path("lm-weights-stories260k");
  if (!have_data(folder / "stories260K.gguf")) return;
  const Opened m(folder / "stories260K.gguf");
  const std::vector<double> want = numbers(folder / "golden_logits_bos.txt"), golden = numbers(folder / "golden_greedy_ids.txt");
  const std::vector<int32_t> ids(golden.begin(), golden.end());
  const EachIsa each;
  CHECK(each.names.size() >= 2);
  for (const std::string& isa : each.names) {
    INFO("kernels ", isa);
    choose_kernels(isa.c_str());
    Session session(*m.lm, {.cache = DType::F32});
    const auto logits = session.evaluate(std::vector<int32_t>{1});
    REQUIRE(logits.size() == want.size());
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::fabs(double(logits[i]) - want[i]));
    CHECK(worst < 1e-4);
    CHECK(greedy(m, {1}, 255) == ids);
  }
}

// The same weights packed: here the integer dot products of each instruction set run, and must agree with the reference.
TEST_CASE("stories260K in Q8_0 and Q4_1: every instruction set gives the reference's logits") {
  const auto file = data_path("lm-weights-stories260k") / "stories260K.gguf";
  if (!have_data(file)) return;
  const Opened m(file);
  const EachIsa each;
  set_activations(Activations::q8);
  for (const DType type : {DType::Q8_0, DType::Q4_1}) {
    Gguf packed;
    for (const Gguf::Key& k : m.gguf.keys()) packed.set(k.name, k.value);
    for (const Gguf::Entry& e : m.gguf.tensors())
      packed.add(e.name, e.tensor.rank() == 2 && e.tensor.dim(-1) % 32 == 0 ? pack(e.tensor, type) : e.tensor);
    const auto lm = load_model(packed);
    const auto logits_of = [&](const std::string& isa) {
      choose_kernels(isa.c_str());
      Session session(*lm, {.context = 64, .cache = DType::F32});
      const auto logits = session.evaluate(m.tokenizer->encode("Once upon a time, there was a little girl"));
      return std::vector<float>(logits.begin(), logits.end());
    };
    const std::vector<float> want = logits_of("reference");
    for (const std::string& isa : each.names) {
      INFO("kernels ", isa, ", weights ", std::string(info(type).name));
      const std::vector<float> got = logits_of(isa);
      // A rounding apart, an activation may fall to the next 8-bit step. Tiles of BF16 read a prompt with operands of 8 bits of precision.
      CHECK(max_relative_error(got, want) < (has_weight_tiles() ? 2e-2 : 2e-3));
    }
  }
  set_activations({});
}

TEST_CASE("stories260K: reading a prompt at once, in pieces and again after truncation gives the same scores") {
  const auto file = data_path("lm-weights-stories260k") / "stories260K.gguf";
  if (!have_data(file)) return;
  const Opened m(file);
  const std::vector<int32_t> ids = m.tokenizer->encode("Once upon a time, there was a little girl named Lily.");
  REQUIRE(ids.size() > 8);

  Session whole(*m.lm, {.context = 64, .cache = DType::F32}), pieces(*m.lm, {.context = 64, .cache = DType::F32, .batch = 3});
  const auto span = whole.evaluate(ids);
  const std::vector<float> want(span.begin(), span.end());
  CHECK(max_relative_error(pieces.evaluate(ids), want) < 1e-5);
  pieces.truncate(4);
  CHECK(pieces.room() == 60);
  CHECK(max_relative_error(pieces.evaluate(std::span(ids).subspan(4)), want) < 1e-5);

  CHECK_THROWS_WITH_AS(whole.evaluate(std::vector<int32_t>{512}), "session: token id 512 is outside of the vocabulary of 512", Error);
  CHECK_THROWS_AS(whole.evaluate(std::vector<int32_t>(65, 1)), Error);
}

TEST_CASE("a context that fills up ends generation without an error") {
  const auto file = data_path("lm-weights-stories260k") / "stories260K.gguf";
  if (!have_data(file)) return;
  const Opened m(file);
  Session session(*m.lm, {.context = 10});
  Sampler sampler({.temperature = 0});
  const Generation g = generate(session, *m.tokenizer, std::vector<int32_t>{1}, -1, sampler, [](int32_t) { return true; });
  CHECK(g.stop == Stop::context_full);
  CHECK(g.ids.size() == 10);       // nine more were read; the tenth was chosen, but there is no room to read it
}

TEST_CASE("perplexity counts the second half of each chunk") {
  const auto file = data_path("lm-weights-stories260k") / "stories260K.gguf";
  if (!have_data(file)) return;
  const Opened m(file);
  std::vector<int32_t> ids(70);
  std::iota(ids.begin(), ids.end(), 300);
  const Perplexity p = perplexity(*m.lm, ids, {.context = 32}, [](const Perplexity&) { return true; });
  CHECK(p.chunks == 2);
  CHECK(p.predictions == 2 * 15);

  // The same by hand, one chunk.
  const Perplexity one = perplexity(*m.lm, ids, {.context = 32, .chunks = 1}, [](const Perplexity&) { return true; });
  const Tensor logits = m.lm->logits(m.lm->hidden(std::span(ids).first(32), 1, 32, {}));
  double nll = 0;
  for (int64_t t = 16; t < 31; ++t) {
    const std::span<const float> row(logits.data() + t * 512, 512);
    nll += log_sum_exp(row) - double(row[size_t(ids[size_t(t) + 1])]);
  }
  CHECK(one.nll == doctest::Approx(nll).epsilon(1e-5));
  CHECK_THROWS_AS(perplexity(*m.lm, std::span(ids).first(10), {.context = 32}, [](const Perplexity&) { return true; }), Error);
}

// $KVT_SMOLLM2, else the copy that `make run` fetches.
static std::filesystem::path smollm2() {
  const char* path = std::getenv("KVT_SMOLLM2");
  return path ? path : project_path(".cache/SmolLM2-135M-Instruct.Q4_1.gguf");
}

TEST_CASE("SmolLM2-135M Q4_1 with F32 activations: prompt ids, largest logits, logsumexp, 48 greedy ids") {
  const auto goldens = data_path("lm-goldens-smollm2") / "goldens.json";
  if (!have_data(goldens) || !have_data(smollm2())) return;
  const Activations before = activations();
  set_activations(Activations::f32);
  const Opened m(smollm2());
  std::ifstream in(goldens);
  const nlohmann::json prompts = nlohmann::json::parse(in);
  for (const auto& golden : prompts) {
    INFO("prompt ", std::string(golden["prompt"]));
    const auto ids = m.tokenizer->encode(golden["prompt"].get<std::string>());
    CHECK(ids == golden["prompt_ids"].get<std::vector<int32_t>>());
    Session session(*m.lm, {.context = 256, .cache = DType::F32});
    const auto logits = session.evaluate(ids);
    for (const auto& [id, logit] : golden["top8"].get<std::vector<std::pair<int32_t, double>>>())
      CHECK(std::fabs(double(logits[size_t(id)]) - logit) < 1e-3);
    CHECK(std::fabs(log_sum_exp(logits) - golden["logsumexp"].get<double>()) < 1e-3);
    CHECK(greedy(m, ids, 48) == golden["greedy_ids"].get<std::vector<int32_t>>());
  }
  set_activations(before);
}

TEST_CASE("weights that are arranged and not interleaved leave the mapped file, and give the same bits") {
  const Gguf gguf = Gguf::open(project_path("tests/golden/llama_untied.gguf"));
  const auto lm = load_model(gguf);
  const std::vector<int32_t> prompt{1, 5, 9, 3};
  const auto scores = [&] {
    Session session(*lm, {.context = 8});
    const auto logits = session.evaluate(prompt);
    return std::vector<float>(logits.begin(), logits.end());
  };
  const std::vector<float> before = scores();
  CHECK(arrange_weights(*lm) == 0);                       // F32
  lm->each_linear([](const std::string& name, Linear& linear) {
    INFO(name);
    CHECK_FALSE((linear.weight.tensor && linear.weight.tensor.storage().mapped()));
  });
  CHECK(scores() == before);
}

TEST_CASE("SmolLM2-135M Q4_1, weights interleaved: 1, 2 and 4 threads write the same tokens, as near to exact ones as in the file's order") {
  if (!have_data(smollm2())) return;
  const Activations before = activations();
  const Opened m(smollm2());
  const std::vector<int32_t> prompt = m.tokenizer->encode("The lighthouse keeper opened the door, and the storm");
  const auto scores = [&] {
    Session session(*m.lm, {.context = 64});
    session.evaluate(std::span(prompt).first(prompt.size() - 1));
    const auto logits = session.evaluate(std::span(prompt).last(1));
    return std::vector<float>(logits.begin(), logits.end());
  };
  set_activations(Activations::f32);
  const std::vector<float> exact = scores();
  set_activations(Activations::q8);
  const double as_stored = max_relative_error(scores(), exact);
  const int64_t bytes = arrange_weights(*m.lm);
  CHECK((bytes == 0 || bytes > 80'000'000));                // nothing, or every matrix
  CHECK(arrange_weights(*m.lm) == 0);
  const double interleaved = max_relative_error(scores(), exact);      // sums in another order: over 30 layers activations fall to other 8-bit steps
  INFO("in the file's order ", as_stored, ", interleaved ", interleaved);
  CHECK(interleaved < std::max(1e-4, 3 * as_stored));
  std::vector<int32_t> first;
  for (const int threads : {1, 2, 4}) {
    INFO("threads ", threads);
    ThreadPool pool({.threads = threads});
    const ThreadPool::Use use(pool);
    const std::vector<int32_t> ids = greedy(m, prompt, 24);
    if (first.empty()) first = ids;
    CHECK(ids == first);
  }
  set_activations(before);
}
