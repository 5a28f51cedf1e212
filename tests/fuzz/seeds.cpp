// Writes seed inputs for every target:  seeds FOLDER PROJECT   → FOLDER/<target>/…     Models are converted from tests/golden.
#include <cstring>
#include <filesystem>
#include <fstream>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop

#include "engine/adapter.h"
#include "engine/bank.h"
#include "engine/convert.h"
#include "engine/ia3.h"
#include "engine/kvt_adapter.h"
#include "engine/seq2seq_file.h"
#include "engine/text_classes.h"
#include "tests/fuzz/small_models.h"
#include "tests/fuzz/training_run.h"
#include "tests/fuzz/vocabularies.h"

namespace fs = std::filesystem;
using namespace kvt;

static fs::path root, project;

static std::string place(const std::string& target, const std::string& name) {
  fs::create_directories(root / target);
  return (root / target / name).string();
}
static void bytes(const std::string& target, const std::string& name, const std::string& data) {
  std::ofstream(place(target, name), std::ios::binary) << data;
}

static void ggufs() {
  Gguf g;
  Rng rng(1);
  g.set("general.name", std::string("seed")), g.set("general.alignment", uint32_t(32));
  g.set("u8", uint8_t(1)), g.set("i8", int8_t(-1)), g.set("u16", uint16_t(2)), g.set("i16", int16_t(-2)), g.set("u32", uint32_t(3)), g.set("i32", int32_t(-3));
  g.set("f32", 0.5f), g.set("yes", true), g.set("u64", uint64_t(4)), g.set("i64", int64_t(-4)), g.set("f64", 0.25);
  g.set("f32s", std::vector<float>{1, 2}), g.set("strings", std::vector<std::string>{"a", "", "ccc"}), g.set("bools", std::vector<bool>{true, false});
  g.set("u8s", std::vector<uint8_t>{1, 2, 3}), g.set("i32s", std::vector<int32_t>{1, -2}), g.set("u64s", std::vector<uint64_t>{7}), g.set("f64s", std::vector<double>{1e300});
  g.set("tokenizer.ggml.model", std::string("gpt2"));
  g.write(place("gguf", "keys"));
  for (const uint32_t id : {0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 24, 25, 26, 27, 28, 30}) {
    const DTypeInfo& type = *find_dtype(id);
    const Tensor x({2, type.block == 1 ? 3 : type.block}, type.type);
    std::memset(x.raw(), 0, size_t(x.bytes()));
    Gguf one;
    one.add(type.name, x);
    one.add("second", x);
    one.write(place("gguf", std::string("tensors-") + type.name));
    if (type.block <= 32) g.add(type.name, x);
  }
  g.write(place("gguf", "all"));
  Gguf().write(place("gguf", "empty"));
}

static void tokenizers() {
  const auto with_text = [](Gguf g, const std::string& name, const char* text) {
    g.set("fuzz.text", std::string(text));
    g.write(place("tokenizer", name));
  };
  for (const char* pre : fuzz::pre_tokenizers) with_text(fuzz::bpe_vocabulary(pre, false), std::string("bpe-") + pre, "the 12 and <|im_start|> 's\n\n");
  with_text(fuzz::bpe_vocabulary("gpt-2"), "bpe-every-byte", "every byte \xff");
  with_text(fuzz::spm_vocabulary(false, 16), "spm", "the  the 1 <tool>");
  with_text(fuzz::spm_vocabulary(true, 0), "spm-inner", "e the aaaa");
  with_text(fuzz::spm_vocabulary(), "spm-every-byte", "every byte \xff");
  with_text(fuzz::wordpiece_vocabulary(), "wordpiece", "Hello, unaffable thé 1.");
  for (const char* small : {"gpt2", "llama"}) {                 // without most bytes
    fuzz::VocabularyBuilder v;
    for (const char* t : {"<unk>", "a", "b", "ab", "\u2581", "<0x0A>", "Ġ", "\u2581a", "<eos>"}) v.add(t, *t == '<' && t[1] == '0' ? Vocab::Kind::byte : *t == '<' ? Vocab::Kind::control : Vocab::Kind::normal);
    Gguf g = v.file(small);
    g.set("tokenizer.ggml.scores", v.scores);
    g.set("tokenizer.ggml.merges", std::vector<std::string>{"a b"});
    g.set("tokenizer.ggml.eos_token_id", uint32_t(8)), g.set("tokenizer.ggml.add_eos_token", true), g.set("tokenizer.ggml.unknown_token_id", uint32_t(0));
    with_text(g, std::string("small-") + small, "abab\nabc");
  }
  const char* texts[] = {"Hello, world's  12345\n\n the and in", "naïve \xff\xfe \xe6\xbc\xa2\xe5\xad\x97 <|im_start|>user\n<tool>", "   \t\n\r\n  x", "'S don't WE'LL CamelCaseWords ÀÉÖ"};
  for (int which = 0; which < 16; ++which)
    for (size_t t = 0; t < std::size(texts); ++t) bytes("text", std::to_string(which) + "-" + std::to_string(t), char(which) + std::string(texts[t]));
}

static void safetensors() {
  Safetensors file;
  file.set_metadata("format", "pt");
  file.add("a", Tensor::filled({2, 3}, 1)), file.add("b", Tensor::filled({4}, 2)), file.add("scalar", Tensor::filled({}, 3));
  file.write(place("safetensors", "plain"));
  const auto by_hand = [](const std::string& name, const std::string& header, size_t data) {
    const uint64_t n = header.size();
    bytes("safetensors", name, std::string(reinterpret_cast<const char*>(&n), 8) + header + std::string(data, '\1'));
  };
  std::string all;
  size_t at = 0;
  for (const auto& [type, size] : {std::pair{"BOOL", 1}, {"U8", 1}, {"I8", 1}, {"U16", 2}, {"I16", 2}, {"U32", 4}, {"I32", 4}, {"U64", 8}, {"I64", 8}, {"F16", 2}, {"BF16", 2}, {"F32", 4}, {"F64", 8}}) {
    all += std::string(all.empty() ? "{" : ",") + "\"" + type + "\":{\"dtype\":\"" + type + "\",\"shape\":[1,3],\"data_offsets\":[" + std::to_string(at) + "," + std::to_string(at + 3 * size_t(size)) + "]}";
    at += 3 * size_t(size);
  }
  by_hand("types", all + "}", at);
  by_hand("empty", "{}", 0);
  by_hand("none", R"({"x":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},"__metadata__":{"a":"b"}})", 0);
}

static void texts() {
  const char* json[] = {R"({"a": [1, -2.5e3, true, false, null, "x\u00e4\ud83d\ude00\n"], "b": {}})", R"([1,2,3])", R"("text")", R"({"a": 1, "b": ["p", "q"]})", R"({"a": {"c": 0.1}, "b": [1.5, 2]})"};
  for (size_t i = 0; i < std::size(json); ++i) bytes("json", std::to_string(i), json[i]);
  bytes("pairs", "two", "\x10{\"prompt\": \"the\", \"completion\": \" and\"}\n\n{\"prompt\": \"\", \"completion\": \"x\", \"id\": 1}\n");
  bytes("pairs", "chat", "\x08{\"prompt\": \"<|im_start|>user\\n\", \"completion\": \"the the the the\"}\r\n{\"completion\": \"ab\", \"prompt\": \"a\"}");
  bytes("pairs", "text", "\x04the and in the 12 00 and then some more text that has no pairs at all");
  const char* templates[] = {
      "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n'}}{% endfor %}", "'<|im_start|>system\\nYou are helpful.<|im_end|>\\n'",
      "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>", "<start_of_turn>user", "<|assistant|><|end|>", "<|user|><|assistant|>eos_token",
      "[INST] <<SYS>>\\n", "[INST] x [/INST]", "[INST] [/INST", "[INST]", "{{ no known format }}"};
  for (size_t i = 0; i < std::size(templates); ++i)
    for (char first : {'\0', '\1', '\2'})
      bytes("chat", std::to_string(i) + "-" + std::to_string(int(first)), std::string(1, char(first + 3 * int(i))) + templates[i] + std::string("\0You are\0 hello \0hi\0more", 22));
}

static std::string idx(uint32_t kind, std::initializer_list<uint32_t> extents, size_t data) {
  std::string s;
  const auto put = [&](uint32_t x) { for (int shift = 24; shift >= 0; shift -= 8) s += char(x >> shift); };
  put(0x0800 | kind);
  for (const uint32_t n : extents) put(n);
  for (size_t i = 0; i < data; ++i) s += char(i % 10);
  return s;
}

static void images() {
  const std::string labels = idx(1, {2}, 2);
  bytes("images", "idx", "I" + std::string(1, char(labels.size())) + std::string(1, '\0') + labels + idx(3, {2, 5, 5}, 50));
  std::string cifar;
  for (int i = 0; i < 2; ++i) cifar += char(i), cifar += std::string(3072, char(40 + i));
  bytes("images", "cifar", cifar);
  std::string pixels;
  for (int i = 0; i < 12 * 9 * 4; ++i) pixels += char(i * 37 + i / 7);
  for (const int channels : {1, 2, 3, 4}) {
    const std::string name = std::to_string(channels);
    stbi_write_png(place("picture", "png" + name).c_str(), 12, 9, channels, pixels.data(), 12 * channels);
    stbi_write_jpg(place("picture", "jpg" + name).c_str(), 12, 9, channels, pixels.data(), 50);
    stbi_write_jpg(place("picture", "jpg" + name + "-fine").c_str(), 12, 9, channels, pixels.data(), 95);
    stbi_write_bmp(place("picture", "bmp" + name).c_str(), 12, 9, channels, pixels.data());
  }
}

static void adapters() {
  const Gguf base = fuzz::adapter_base().gguf();
  const auto model = [&] { return load_model(base); };
  const std::string id = fuzz::adapter_base_id, llama = "llama";
  Gguf lora;
  {
    const auto m = model();
    LoraSet set = attach_lora(*m, {.rank = 2, .alpha = 4, .targets = {"attn_q", "ffn_down"}});
    for (const auto& layer : set.layers) for (float& b : layer.lora->b.values()) b = 0.01f;
    lora = adapter_file(set, llama, id, DType::F32);
    lora.write(place("adapter", "lora"));
    set.fusion = Fusion{Fusion::Form::residual, 0.7f};
    adapter_file(set, llama, id, DType::F16).write(place("adapter", "lora-fused"));
    const auto n = model();
    adapter_file(attach_lora(*n, {.rank = 1, .targets = {"output"}}), llama, id, DType::F32).write(place("adapter", "lora-output"));
  }
  {
    const auto m = model();
    Ia3Set set = attach_ia3(*m);
    ia3_file(set, llama, id).write(place("adapter", "ia3"));
  }
  for (const std::vector<std::string>& levels : {std::vector<std::string>{"concept", "sentence", "word"}, {}, {"word"}}) {
    const auto m = model();
    const KvtSet set = attach_kvt(*m, {.size = 2, .vectors = 2, .columns = 2, .levels = levels, .extractor = false, .targets = {"attn_q"}});
    kvt_file(set, llama, id, DType::F32).write(place("adapter", "kvt-" + std::to_string(levels.size())));
  }
  Gguf bank = bank_with(nullptr, "law", lora, Tensor::filled({8}, 1));
  bank = bank_with(&bank, "art", lora, Tensor::filled({8}, -1));
  bank.write(place("adapter", "bank"));
  const auto m = model();
  const auto tokenizer = Tokenizer::from(fuzz::bpe_vocabulary("gpt-2"));
  for (const bool words : {false, true}) {
    ClassSettings settings{{"yes", "no"}, "{text} and", 16, Pooling::mean, {}};
    if (words) settings.words = {"the", "in"};
    TextClassifier classifier(*m);
    prepare(classifier, settings, *tokenizer, nullptr);
    Gguf head = new_adapter("head", llama, id);
    write_classes(head, settings, classifier);
    head.write(place("adapter", words ? "words" : "head"));
  }
}

static void models() {
  for (const char* name : {"bert", "gpt2", "llama", "phi3", "gemma3", "qwen2", "qwen3", "vit"}) {
    const fs::path folder = project / "tests/golden" / name;
    convert(PublishedModel::open((folder / "model.safetensors").string()), {}).write(place("model", name));
  }
  Gguf smallest = SmallLlama{.layers = 1, .channels = 8, .hidden = 8, .heads = 2, .kv_heads = 1, .vocabulary = 8}.gguf();
  smallest.write(place("model", "smallest"));
  smallest.set("llama.rope.scaling.type", std::string("linear")), smallest.set("llama.rope.scaling.factor", 2.f), smallest.set("llama.vocab_size", uint32_t(8));
  smallest.write(place("model", "scaled"));
  smallest.write(place("gguf", "model"));
  for (const auto positions : {Seq2SeqConfig::Positions::sinusoidal, Seq2SeqConfig::Positions::halves, Seq2SeqConfig::Positions::learned}) {
    const bool learned = positions == Seq2SeqConfig::Positions::learned;
    Seq2SeqConfig c{.source_vocabulary = 6, .target_vocabulary = 6, .channels = 8, .heads = 2, .hidden = 8, .encoder_layers = 1, .decoder_layers = 1, .context = 6};
    c.positions = positions, c.shared_embeddings = c.tied_output = learned, c.pre_norm = !learned, c.output_bias = !learned;
    Seq2Seq model(c);
    Rng rng(2);
    model.init(rng);
    Gguf g;
    store_seq2seq(g, model);
    const std::vector<std::string> tokens = {"<unk>", "a", "b", "<s>", "</s>", "c"};
    g.set("seq2seq.source_tokens", tokens), g.set("seq2seq.target_tokens", tokens), g.set("seq2seq.token_unit", std::string(learned ? "word" : "character"));
    g.set("seq2seq.start_token_id", uint32_t(3)), g.set("seq2seq.end_token_id", uint32_t(4));
    g.write(place("model", "seq2seq-" + std::to_string(int(positions))));
  }
}

static void checkpoints() {
  const fuzz::TrainingRun run;
  for (const bool best : {false, true}) write_checkpoint(place("checkpoint", best ? "best" : "plain"), run.state(best), run.trained, run.identity);
}

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: seeds FOLDER PROJECT\n"), 2;
  root = argv[1], project = argv[2];
  try {
    for (const auto& make : {ggufs, tokenizers, safetensors, texts, images, adapters, models, checkpoints}) make();
  } catch (const std::exception& e) {
    return std::fprintf(stderr, "seeds: %s\n", e.what()), 1;
  }
}
