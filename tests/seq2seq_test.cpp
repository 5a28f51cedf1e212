#include "tests/main.h"

#include <fstream>
#include <sstream>

#include "engine/adapted.h"
#include "engine/adapter.h"
#include "engine/ctranslate2.h"
#include "engine/kvt_adapter.h"
#include "engine/seq2seq_file.h"
#include "engine/sentence_pairs.h"
#include "engine/translate.h"
#include "tests/check.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

Seq2SeqConfig small(bool pre_norm) {
  Seq2SeqConfig c;
  c.source_vocabulary = 23;
  c.target_vocabulary = 19;
  c.channels = 16;
  c.heads = 4;
  c.hidden = 24;
  c.encoder_layers = 2;
  c.decoder_layers = 2;
  c.context = 32;
  c.pre_norm = pre_norm;
  c.output_bias = true;
  return c;
}

Seq2Seq random_model(const Seq2SeqConfig& c, uint64_t seed) {
  Seq2Seq model(c);
  Rng rng(seed);
  model.init(rng);
  model.each_parameter([&](const std::string&, Parameter& p) {
    const Tensor noise = randn(p.shape, rng, 0.1f);
    for (int64_t i = 0; i < noise.size(); ++i) p.tensor.data()[i] += noise.data()[i];       // biases and norms, too
  });
  return model;
}

Ids random_ids(Rng& rng, size_t n, int64_t vocabulary) {
  Ids ids(n);
  for (int32_t& id : ids) id = int32_t(rng.below(uint64_t(vocabulary)));
  return ids;
}

double sequence_log_p(const Seq2Seq& model, const Ids& source, const Ids& target, int32_t start, int32_t end) {
  Ids input{start}, labels = target;
  input.insert(input.end(), target.begin(), target.end());
  labels.push_back(end);
  const std::vector<int32_t> lengths{int32_t(source.size())};
  const Tensor log_p = log_softmax(model.logits(model.decode(input, int64_t(input.size()), model.encode(source, lengths, int64_t(source.size())))));
  double sum = 0;
  for (size_t t = 0; t < labels.size(); ++t) sum += double(log_p.data()[t * size_t(model.config().target_vocabulary) + size_t(labels[t])]);
  return sum;
}

}  // namespace

TEST_CASE("transliteration weights of CTranslate2 give every golden line, as float32, int16 and int8") {
  const std::filesystem::path folder = data_path("mt-aren-transliteration-weights");
  if (!have_data(folder / "golden_greedy.tsv")) return;
  const char* variants[] = {"", "-i16", "-i8"};
  for (size_t v = 0; v < 3; ++v) {
    const Gguf gguf = read_ctranslate2((folder / "v2" / (std::string("aren-transliteration") + variants[v])).string());
    const auto model = load_seq2seq(gguf);
    const Sentences text(gguf);
    std::ifstream golden(folder / "golden_greedy.tsv");
    std::vector<Ids> sources;
    std::vector<std::pair<std::string, double>> want;
    for (std::string line; std::getline(golden, line);) {
      std::istringstream fields(line);
      std::string source, output, score;
      std::getline(fields, source, '\t');
      for (size_t i = 0; i <= v; ++i) {
        std::getline(fields, output, '\t');
        std::getline(fields, score, '\t');
      }
      sources.push_back(text.source(source));
      want.emplace_back(output, std::stod(score));
    }
    REQUIRE(want.size() == 10);
    TranslateOptions options;
    options.batch = 4;                                 // sentences of different lengths together: padding must not matter
    const auto got = translate(*model, sources, text.start(), text.end(), options);
    for (size_t i = 0; i < got.size(); ++i) {
      INFO(variants[v], " ", want[i].first, " ", got[i].log_probability, " ", want[i].second);
      CHECK(text.text(got[i].ids) == want[i].first);
      CHECK(std::fabs(got[i].log_probability - want[i].second) < 1e-4);
      CHECK(got[i].finished);
    }
  }
}

// The golden files of tests/golden/make_seq2seq.py: PyTorch's layers, pre- and post-norm; learned positions and one embedding for all.
TEST_CASE("logits, smoothed loss and every gradient are PyTorch's") {
  for (const char* file : {"pre", "post", "shared"}) {
    const Gguf gguf = Gguf::open(project_path(std::string("tests/golden/seq2seq_") + file + ".gguf"), Gguf::Access::read);
    const auto model = load_seq2seq(gguf);
    const bool shared = std::string(file) == "shared";
    CHECK(model->config().pre_norm == (std::string(file) != "post"));
    CHECK(model->config().shared_embeddings == shared);
    CHECK(model->config().tied_output == shared);
    CHECK((model->config().positions == Seq2SeqConfig::Positions::learned) == shared);
    const TrainedSet weights = all_weights(*model);
    const auto& source = gguf.array<int32_t>("golden.source");
    const auto &target = gguf.array<int32_t>("golden.target"), &lengths = gguf.array<int32_t>("golden.lengths"), &labels = gguf.array<int32_t>("golden.labels");
    Tape tape;
    const Tensor hidden = model->decode(target, 4, model->encode(source, lengths, 5));
    CHECK(max_relative_error(model->logits(hidden).values(), gguf.tensor("golden.logits").values()) < 1e-5);
    const Tensor loss = model->loss(hidden, labels, float(gguf.real("golden.smoothing")));
    CHECK(double(loss.item()) == doctest::Approx(gguf.real("golden.loss")).epsilon(1e-5));
    tape.backward(loss);
    REQUIRE(weights.size() > 80);
    for (const Trained& w : weights) {
      INFO(file, " ", w.name);
      const Tensor want = gguf.tensor("golden.grad." + w.name);
      // The bias of the keys shifts all scores of a query alike: its gradient is nothing but rounding.
      if (w.name.find("attn_k.bias") == std::string::npos) CHECK(max_relative_error({w.tensor.grad(), size_t(w.tensor.size())}, want.values()) < 2e-4);
      else for (int64_t i = 0; i < want.size(); ++i) CHECK(std::fabs(w.tensor.grad()[i]) < 1e-5);
    }
  }
}

TEST_CASE("cached decoding equals full decoding, for several beams of padded sentences") {
  Rng rng(5);
  for (bool pre_norm : {true, false}) {
    const Seq2Seq model = random_model(small(pre_norm), 11);
    const int64_t V = model.config().target_vocabulary, T = 6, beams = 3;
    const std::vector<int32_t> lengths{7, 4};
    const Ids source = random_ids(rng, 14, 23);
    const Memory memory = model.encode(source, lengths, 7);
    std::vector<Ids> rows;
    for (int64_t r = 0; r < 2 * beams; ++r) rows.push_back(random_ids(rng, size_t(T), V));
    DecoderCache cache = model.start(memory, beams, T);
    Tensor last;
    for (size_t t = 0; t < size_t(T); ++t) {
      if (t == 3) {                                    // rows 0 and 2 of the first sentence change places, as beams do
        cache.reorder(std::vector<int64_t>{2, 1, 0, 3, 3, 5});
        std::swap(rows[0], rows[2]);
        std::copy_n(rows[3].begin(), 3, rows[4].begin());
      }
      Ids step;
      for (const Ids& row : rows) step.push_back(row[t]);
      last = model.step(step, cache);
    }
    for (size_t r = 0; r < rows.size(); ++r) {
      const size_t sentence = r / size_t(beams);
      const std::vector<int32_t> length{lengths[sentence]};
      const Ids own(source.begin() + int64_t(sentence) * 7, source.begin() + int64_t(sentence) * 7 + lengths[sentence]);
      const Tensor full = model.logits(model.decode(rows[r], T, model.encode(own, length, lengths[sentence])));
      CHECK(max_relative_error({last.data() + int64_t(r) * V, size_t(V)}, {full.data() + (T - 1) * V, size_t(V)}) < 1e-5);
    }
    CHECK_THROWS_AS(model.step(Ids(6, 0), cache), Error);                              // full
    CHECK_THROWS_AS(cache.reorder(std::vector<int64_t>{3, 1, 2, 3, 4, 5}), Error);     // of another sentence
  }
}

TEST_CASE("beam 1 is greedy; wider beams find better targets, and their scores are those of the full model") {
  Rng rng(6);
  int better = 0;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Seq2Seq model = random_model(small(seed % 2 == 0), 100 + seed);
    model.output.bias.tensor.data()[2] += 2;             // so that targets end
    std::vector<Ids> sources;
    for (size_t n : {3, 6, 4}) sources.push_back(random_ids(rng, n, 23));
    TranslateOptions options;
    options.length_penalty = 0;
    options.most = 12;
    const auto greedy = translate(model, sources, 1, 2, options);
    for (size_t i = 0; i < sources.size(); ++i) {
      Ids input{1};
      const std::vector<int32_t> length{int32_t(sources[i].size())};
      const Memory memory = model.encode(sources[i], length, length[0]);
      while (input.size() <= 12) {
        const Tensor scores = model.logits(model.decode(input, int64_t(input.size()), memory));
        const float* row = scores.data() + int64_t(input.size() - 1) * 19;
        const auto best = int32_t(std::max_element(row, row + 19) - row);
        if (best == 2) break;
        input.push_back(best);
      }
      CHECK(greedy[i].ids == Ids(input.begin() + 1, input.end()));
      CHECK(greedy[i].finished == (input.size() <= 12));
    }
    options.beam = 5;
    const auto beam = translate(model, sources, 1, 2, options);
    for (size_t i = 0; i < sources.size(); ++i) {
      if (beam[i].finished) CHECK(beam[i].log_probability == doctest::Approx(sequence_log_p(model, sources[i], beam[i].ids, 1, 2)).epsilon(1e-4));
      better += beam[i].finished && greedy[i].finished && beam[i].score > greedy[i].score + 1e-6;
    }
  }
  CHECK(better > 0);
}

TEST_CASE("an exhaustive beam finds the best target there is") {
  Seq2SeqConfig c = small(true);
  c.target_vocabulary = 6;
  const Seq2Seq model = random_model(c, 31);
  model.output.bias.tensor.data()[2] += 2;
  const Ids source{3, 9, 4};
  TranslateOptions options;
  options.length_penalty = 0;
  options.most = 3;
  options.beam = 3;
  // With at most two tokens before the end there are 1 + 5 + 25 targets.
  double best = -INFINITY;
  for (int a = -1; a < 6; ++a)
    for (int b = -1; b < 6; ++b) {
      if (a == 2 || b == 2 || (a < 0 && b >= 0)) continue;
      Ids target;
      if (a >= 0) target.push_back(a);
      if (b >= 0) target.push_back(b);
      best = std::max(best, sequence_log_p(model, source, target, 1, 2));
    }
  const Translation found = translate(model, std::vector<Ids>{source}, 1, 2, options)[0];
  REQUIRE(found.finished);
  CHECK(found.log_probability == doctest::Approx(best).epsilon(1e-4));
  CHECK(found.log_probability == doctest::Approx(sequence_log_p(model, source, found.ids, 1, 2)).epsilon(1e-4));
}

TEST_CASE("label smoothing: value and gradients of the fused loss") {
  Rng rng(8);
  const Tensor x = randn({6, 5}, rng), w = randn({9, 5}, rng), b = randn({9}, rng);
  const Ids targets{0, 8, ignored_label, 3, 3, 7};
  for (float epsilon : {0.f, 0.1f, 0.5f}) {
    const LinearLossOptions options{.smoothing = epsilon, .bias = b};
    const Tensor log_p = log_softmax(linear(x, w, b));
    double want = 0;
    for (size_t r = 0; r < targets.size(); ++r) {
      if (targets[r] == ignored_label) continue;
      for (size_t v = 0; v < 9; ++v) {
        const double p = (v == size_t(targets[r]) ? 1 - double(epsilon) : 0) + double(epsilon) / 9;
        want -= p * double(log_p.data()[r * 9 + v]) / 5;
      }
    }
    CHECK(double(linear_cross_entropy(x, w, targets, options).item()) == doctest::Approx(want).epsilon(1e-5));
    check_gradients("smoothed", [&](const std::vector<Tensor>& in) { return linear_cross_entropy(in[0], in[1], targets, {.smoothing = epsilon, .bias = in[2]}); },
                    {x.clone(), w.clone(), b.clone()}, rng);
  }
  CHECK_THROWS_AS(linear_cross_entropy(x, w, targets, {.smoothing = 1.f}), Error);
  CHECK_THROWS_AS(linear_cross_entropy(x, w, targets, {.bias = randn({8}, rng)}), Error);
}

TEST_CASE("a stored model is the same model; broken files are refused by name") {
  for (bool pre_norm : {true, false}) {
    Seq2Seq model = random_model(small(pre_norm), 21);
    Gguf gguf;
    store_seq2seq(gguf, model);
    const auto again = load_seq2seq(gguf);
    const std::vector<int32_t> length{4};
    const Ids source{1, 2, 3, 4}, target{1, 5, 6};
    const auto run = [&](const Seq2Seq& m) { return m.logits(m.decode(target, 3, m.encode(source, length, 4))); };
    const Tensor a = run(model), b = run(*again);
    CHECK(std::equal(a.data(), a.data() + a.size(), b.data()));
    for (const auto& wrong : std::vector<std::pair<std::string, Gguf::Value>>{
             {"seq2seq.attention.head_count", uint32_t(5)}, {"seq2seq.positions", std::string("rotary")}, {"seq2seq.encoder.block_count", uint32_t(0)},
             {"seq2seq.encoder.block_count", uint32_t(3)}, {"seq2seq.feed_forward_length", uint32_t(25)}, {"seq2seq.context_length", uint32_t(1 << 30)},
             {"seq2seq.attention.layer_norm_epsilon", -1.f}, {"seq2seq.dropout", 1.5f}, {"general.architecture", std::string("llama")}}) {
      Gguf broken = gguf;
      broken.set(wrong.first, wrong.second);
      INFO(wrong.first);
      CHECK_THROWS_AS(load_seq2seq(broken), Error);
    }
  }
}

TEST_CASE("the context length that a file names takes no memory") {
  const TemporaryFolder folder;
  Seq2SeqConfig c = small(true);
  c.context = 1 << 16;
  Seq2Seq model = random_model(c, 3);
  Gguf file;
  store_seq2seq(file, model);
  const int64_t before = Storage::use().now;
  Storage::reset_use();
  const auto loaded = load_seq2seq(file);
  CHECK(Storage::use().most - before < 1 << 16);
  CHECK(loaded->config().context == 1 << 16);
}

TEST_CASE("damaged CTranslate2 files are refused, wherever they end or change") {
  const std::filesystem::path folder = data_path("mt-aren-transliteration-weights/v2/aren-transliteration-i8");
  if (!have_data(folder / "model.bin")) return;
  const auto temporary = std::filesystem::temp_directory_path() / "kvt_ctranslate2_test";
  std::filesystem::create_directories(temporary);
  for (const char* name : {"source_vocabulary.txt", "target_vocabulary.txt"})
    std::filesystem::copy_file(folder / name, temporary / name, std::filesystem::copy_options::overwrite_existing);
  std::ifstream in(folder / "model.bin", std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(in), {}};
  const auto attempt = [&](const std::string& bytes) {
    std::ofstream(temporary / "model.bin", std::ios::binary) << bytes;
    return read_ctranslate2(temporary.string());
  };
  CHECK(attempt(whole).tensors().size() > 100);
  Rng rng(3);
  for (int i = 0; i < 40; ++i) CHECK_THROWS_AS(attempt(whole.substr(0, rng.below(whole.size()))), Error);
  CHECK_THROWS_AS(attempt(whole + "x"), Error);
  // The header and the first variable's, byte by byte: another name, shape, size or count must not be taken.
  int refused = 0;
  for (size_t at = 0; at < 60; ++at) {
    std::string changed = whole;
    changed[at] = char(changed[at] ^ 0x41);
    try {
      attempt(changed);
    } catch (const Error&) { ++refused; }
  }
  CHECK(refused >= 50);                                // all but the revision's 4 bytes, which only tells converters apart
  std::filesystem::remove_all(temporary);
}

TEST_CASE("sentence pairs: labels behind the inputs, padding without influence") {
  SentencePairs pairs(8);
  pairs.add({3, 4, 5}, {6, 7});
  pairs.add({3, 4, 5, 6, 7, 8}, {6});
  pairs.add({1}, {1, 2, 3, 4, 5, 6, 7, 8});            // too long with its end
  pairs.add({}, {1});
  CHECK(pairs.size() == 2);
  CHECK(pairs.dropped() == 2);
  const Seq2Seq model = random_model(small(true), 41);
  const TranslationTask task(model, pairs, 1, 2, 0.1f);
  const std::vector<int64_t> both{0, 1}, first{0}, second{1};
  CHECK(task.extent(both).labels == 5);
  const double together = double(task.loss(both, {}).item());
  const double apart = (3 * double(task.loss(first, {}).item()) + 2 * double(task.loss(second, {}).item())) / 5;
  CHECK(together == doctest::Approx(apart).epsilon(1e-5));
  CHECK(-3 * double(task.loss(first, {}).item()) == doctest::Approx(sequence_log_p(model, {3, 4, 5}, {6, 7}, 1, 2)).epsilon(1e-5));
}

TEST_CASE("LoRA on both sides of an encoder–decoder: it learns, and its file gives the same scores again") {
  Seq2Seq model = random_model(small(true), 31), again = random_model(small(true), 31);
  const LoraSet set = attach_lora(model, {.rank = 4, .alpha = 8, .targets = {"all"}});
  CHECK(set.layers.size() == 2 * 6 + 2 * 10);           // a block has q, k, v, output, up, down; the decoder's a second attention
  Rng rng(32);
  SentencePairs pairs(8);
  for (int i = 0; i < 32; ++i) {
    const Ids source = random_ids(rng, 4, 19);
    pairs.add(source, source);                          // to be copied
  }
  const TranslationTask task(model, pairs, 1, 2, 0.f);
  const double before = evaluate(task, 8);
  TrainState state;
  TrainOptions options;
  options.epochs = 20, options.batch = 8, options.lr = 1e-2f;
  train(task, trained_factors(set), options, nullptr, state, {});
  CHECK(evaluate(task, 8) < 0.8 * before);

  const TemporaryFolder folder;
  adapter_file(set, model.architecture(), "base", DType::F32).write(folder / "a.gguf");
  load_adapter(again, Gguf::open(folder / "a.gguf"), 1, "base");
  const std::vector<int32_t> length{4};
  const Ids source{3, 4, 5, 6}, target{1, 3, 4};
  const auto run = [&](const Seq2Seq& m) { return m.logits(m.decode(target, 3, m.encode(source, length, 4))); };
  const Tensor a = run(model), b = run(again);
  CHECK(max_relative_error(b.values(), a.values()) < 1e-5);
  CHECK_THROWS_AS(load_adapter(again, Gguf::open(folder / "a.gguf"), 1, "another"), Error);
}

TEST_CASE("generated cores of a translator: sentences in one batch, beams, gradients") {
  Rng rng(51);
  const std::vector<int32_t> lengths{5, 3};
  const Ids source = random_ids(rng, 10, 23);
  const int64_t T = 4, beams = 2, V = 19;
  std::vector<Ids> rows;
  for (int i = 0; i < 4; ++i) rows.push_back(random_ids(rng, size_t(T), V));
  const auto sentence = [&](size_t i) { return Ids(source.begin() + int64_t(i) * 5, source.begin() + int64_t(i) * 5 + lengths[i]); };
  for (const auto& levels : {std::vector<std::string>{"concept", "sentence", "word"}, {"sentence"}, {"word"}}) {
    INFO(levels.size(), " ", levels[0]);
    Seq2SeqConfig smooth = small(true);
    smooth.activation = Seq2SeqConfig::Activation::gelu;                                           // differences across a ReLU's corner are no gradients
    Seq2Seq model = random_model(smooth, 52);
    const Seq2Seq plain = random_model(smooth, 52);
    const auto alone = [&](const Seq2Seq& m, size_t row) {
      const Ids own = sentence(row / size_t(beams));
      return m.logits(m.decode(rows[row], T, m.encode(own, std::vector{int32_t(own.size())}, int64_t(own.size()))));
    };
    const KvtSet set = attach_kvt(model, {.levels = levels, .extractor = false});
    CHECK(set.layers.size() == 32);
    CHECK(max_relative_error(alone(model, 0).values(), alone(plain, 0).values()) < 1e-6);          // it starts as the base
    Kvt& kvt = *set.kvt;
    for (float& x : kvt.mlp_down.weight.tensor.values()) x = 0.5f * rng.normal();
    for (const auto& layer : set.layers)
      for (float& x : layer.core->b.values()) x = 0.2f * rng.normal();
    CHECK(max_relative_error(alone(model, 0).values(), alone(plain, 0).values()) > 1e-2);

    const std::vector<Tensor> parameters = {kvt.bank, kvt.alpha.weight, kvt.gates, kvt.mlp_down.weight};
    const auto states_by = [&](const std::vector<Tensor>& xs) {
      kvt.bank.tensor = xs[0], kvt.alpha.weight.tensor = xs[1], kvt.gates.tensor = xs[2], kvt.mlp_down.weight.tensor = xs[3];
      Ids targets = rows[0];
      targets.insert(targets.end(), rows[2].begin(), rows[2].end());
      return model.decode(targets, T, model.encode(source, lengths, 5));
    };
    check_gradients("translator", states_by, parameters, rng, 2e-2, 3e-3f);
    const Tensor together = states_by(parameters);                                                   // of rows 0 and 2
    for (const size_t row : {0, 2}) {
      const Tensor one = alone(model, row), scores = model.logits(together);
      CHECK(max_relative_error({scores.data() + int64_t(row / 2) * T * V, size_t(T * V)}, one.values()) < 1e-5);
    }
    DecoderCache cache = model.start(model.encode(source, lengths, 5), beams, T);
    Tensor last;
    for (size_t t = 0; t < size_t(T); ++t) last = model.step(Ids{rows[0][t], rows[1][t], rows[2][t], rows[3][t]}, cache);
    for (size_t row = 0; row < 4; ++row) CHECK(max_relative_error({last.data() + int64_t(row) * V, size_t(V)}, {alone(model, row).data() + (T - 1) * V, size_t(V)}) < 1e-5);
  }
}

TEST_CASE("generated cores of a translator learn with knowledge of the sources; the file holds all that translation needs") {
  Seq2Seq model = random_model(small(true), 31), again = random_model(small(true), 31);
  Rng rng(32);
  SentencePairs pairs(8);
  for (int i = 0; i < 32; ++i) {
    const Ids source = random_ids(rng, 4, 19);
    pairs.add(source, source);                          // to be copied
  }
  const std::vector<Tensor> states = knowledge_states(model, pairs, 12);
  REQUIRE(states.size() == 12);
  CHECK(states[0].shape() == Shape{4, 16});
  CHECK(max_relative_error(knowledge_states(model, pairs, 1, 1)[0].values(), states[0].values()) > 1e-2);
  CHECK_THROWS_AS(knowledge_states(model, pairs, 1, 3), Error);
  const KvtSet set = attach_kvt(model, {.seed = 5});
  const KvtTask task(std::make_shared<TranslationTask>(model, pairs, 1, 2, 0.f), set, states, true, 1e-3f),
      judge(std::make_shared<TranslationTask>(model, pairs, 1, 2, 0.f), set, states, false, 1e-3f);
  const double before = evaluate(judge, 8);
  TrainOptions options;
  options.epochs = 20, options.batch = 8, options.lr = 1e-2f;
  TrainState state;
  train(task, trained_tensors(set), options, nullptr, state, {});
  CHECK(evaluate(judge, 8) < 0.8 * before);
  fill_bank(set, states);

  const Gguf file = kvt_file(set, model.architecture(), "base", DType::F32);
  attach_adapters(again, {{&file}}, "base");
  std::vector<Ids> sources;
  for (size_t n : {3, 6, 4}) sources.push_back(random_ids(rng, n, 19));
  TranslateOptions search;
  search.beam = 3, search.most = 8;
  const auto a = translate(model, sources, 1, 2, search), b = translate(again, sources, 1, 2, search);
  for (size_t i = 0; i < sources.size(); ++i) {
    CHECK(a[i].ids == b[i].ids);
    CHECK(a[i].score == doctest::Approx(b[i].score).epsilon(5e-3));                                  // frozen factors have 16 bits
  }
}
