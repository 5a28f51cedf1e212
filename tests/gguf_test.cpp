// GGUF: what is written comes back; every malformed file is refused with a message that says where; real files damaged at random
// never crash the reader or make it allocate more than they warrant.
#include "tests/main.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <limits>
#include <new>

#include "engine/atomic_file.h"
#include "engine/gguf.h"
#include "ops/quant.h"
#include "tests/check.h"

using namespace kvt;
namespace fs = std::filesystem;

// The largest block asked of the heap since it was last set to 0
static size_t largest_allocation = 0;
// noinline: where they are inlined, GCC takes malloc and operator delete for a mismatched pair
[[gnu::noinline]] void* operator new(size_t n) {
  largest_allocation = std::max(largest_allocation, n);
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }

// A folder that is gone after the test
struct Folder {
  fs::path path = fs::temp_directory_path() / ("kvt-gguf-test-" + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  std::string file(const char* name) const { return (path / name).string(); }
  size_t files() const { return size_t(std::distance(fs::directory_iterator(path), fs::directory_iterator())); }
};

static std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Parses a copy that is exactly as long as the bytes, so that a sanitizer sees a read beyond them.
static Gguf parse(std::string_view bytes) {
  const std::unique_ptr<char, void (*)(void*)> copy(static_cast<char*>(std::malloc(bytes.size() + !bytes.size())), std::free);
  std::memcpy(copy.get(), bytes.data(), bytes.size());
  const Gguf g = Gguf::parse(Storage::borrow(copy.get(), bytes.size(), false), "f.gguf");
  g.check_tensors();
  return {};
}

// Hand-made files
struct Bytes : std::string {
  template <class T> Bytes& put(T value) { append(reinterpret_cast<const char*>(&value), sizeof value); return *this; }
  Bytes& text(const std::string& s) { put(uint64_t(s.size())); append(s); return *this; }
  Bytes& key(const std::string& name, uint32_t type) { return text(name).put(type); }
  Bytes& tensor(const std::string& name, const std::vector<int64_t>& ne, uint32_t type, uint64_t offset) {
    text(name).put(uint32_t(ne.size()));
    for (const int64_t n : ne) put(n);
    return put(type).put(offset);
  }
  Bytes& data(size_t bytes) {
    resize((size() + 31) / 32 * 32);
    append(bytes, '\0');
    return *this;
  }
};
static Bytes header(int64_t tensors, int64_t keys, uint32_t version = 3) {
  Bytes b;
  b.append("GGUF");
  b.put(version).put(tensors).put(keys);
  return b;
}

TEST_CASE("all kinds of keys and all types of tensors come back as they were written") {
  const Folder folder;
  const std::string path = folder.file("all.gguf");
  Gguf g;
  g.set("u8", uint8_t(200)), g.set("i8", int8_t(-100)), g.set("u16", uint16_t(60000)), g.set("i16", int16_t(-30000));
  g.set("u32", uint32_t(4000000000)), g.set("i32", int32_t(-2000000000)), g.set("f32", 0.1f), g.set("yes", true), g.set("no", false);
  g.set("string", std::string("zwölf\0Boxkämpfer", 18)), g.set("empty", std::string());
  g.set("u64", UINT64_MAX), g.set("i64", INT64_MIN), g.set("f64", 0.1);
  g.set("[u8]", std::vector<uint8_t>{1, 255}), g.set("[i8]", std::vector<int8_t>{-1, 127}), g.set("[u16]", std::vector<uint16_t>{65535});
  g.set("[i16]", std::vector<int16_t>{-32768}), g.set("[u32]", std::vector<uint32_t>{1, 2, 3}), g.set("[i32]", std::vector<int32_t>{-1});
  g.set("[f32]", std::vector<float>{1.5f, -0.f}), g.set("[bool]", std::vector<bool>{true, false, true});
  g.set("[string]", std::vector<std::string>{"a", "", "ccc"}), g.set("[u64]", std::vector<uint64_t>{UINT64_MAX});
  g.set("[i64]", std::vector<int64_t>{INT64_MIN}), g.set("[f64]", std::vector<double>{1e300}), g.set("[]", std::vector<std::string>{});
  g.set("general.alignment", uint32_t(64));
  Rng rng(1);
  for (const uint32_t id : {0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 24, 25, 26, 27, 28, 30}) {
    const DTypeInfo& type = *find_dtype(id);
    const Tensor x({3, type.block == 1 ? 5 : 2 * type.block}, type.type);
    for (int64_t i = 0; i < x.bytes(); ++i) x.raw()[i] = std::byte(rng.below(256));
    g.add(type.name, x);
  }
  g.add("four axes", randn({2, 1, 3, 5}, rng));
  g.write(path);

  for (const Gguf::Access access : {Gguf::Access::map, Gguf::Access::read}) {
    const Gguf h = Gguf::open(path, access);
    CHECK(h.version() == 3);
    CHECK(h.alignment() == 64);
    REQUIRE(h.keys().size() == g.keys().size());
    for (size_t i = 0; i < g.keys().size(); ++i) {
      CHECK(h.keys()[i].name == g.keys()[i].name);
      CHECK(h.keys()[i].value == g.keys()[i].value);
    }
    REQUIRE(h.tensors().size() == g.tensors().size());
    for (size_t i = 0; i < g.tensors().size(); ++i) {
      const Gguf::Entry &a = g.tensors()[i], &b = h.tensors()[i];
      CHECK(b.name == a.name);
      CHECK(b.tensor.dtype() == a.tensor.dtype());
      CHECK(b.tensor.shape() == a.tensor.shape());
      CHECK(b.offset % 64 == 0);
      CHECK(std::memcmp(b.tensor.raw(), a.tensor.raw(), size_t(a.tensor.bytes())) == 0);
    }
    CHECK(h.tensor_map().size() == g.tensors().size());
  }
  // what was read writes the same bytes
  Gguf::open(path).write(folder.file("again.gguf"));
  CHECK(read_all(folder.file("again.gguf")) == read_all(path));
  // version 2 differs in its number alone
  std::string bytes = read_all(path);
  bytes[4] = 2;
  std::ofstream(folder.file("v2.gguf"), std::ios::binary) << bytes;
  CHECK(Gguf::open(folder.file("v2.gguf")).version() == 2);
  CHECK(Gguf::open(folder.file("v2.gguf")).keys().size() == g.keys().size());
}

TEST_CASE("a tensor keeps the mapped file alive") {
  const Folder folder;
  Gguf g;
  g.add("x", Tensor::from({2, 2}, std::vector<float>{1, 2, 3, 4}));
  g.write(folder.file("x.gguf"));
  Tensor x = Gguf::open(folder.file("x.gguf")).tensor("x");
  fs::remove(folder.file("x.gguf"));
  CHECK_FALSE(x.storage().writable());
  CHECK(x.data()[3] == 4);
}

TEST_CASE("look-up converts between numbers, falls back, and names file and key when it cannot") {
  Gguf g;
  g.set("n", uint16_t(7)), g.set("big", UINT64_MAX), g.set("x", 1.5f), g.set("s", std::string("text")), g.set("b", true);
  g.set("a", std::vector<float>{1, 2});
  CHECK(g.integer("n") == 7);
  CHECK(g.real("n") == 7);
  CHECK(g.real("x") == 1.5);
  CHECK(g.integer("none", -3) == -3);
  CHECK(g.real("none", 2.5) == 2.5);
  CHECK(g.string("s") == "text");
  CHECK(g.string("none", "else") == "else");
  CHECK(g.boolean("b", false));
  CHECK(g.boolean("none", true));
  CHECK(g.array<float>("a").size() == 2);
  CHECK_FALSE(g.find_tensor("none"));
  g.set("n", uint16_t(8));
  CHECK(g.integer("n") == 8);
  CHECK(g.keys().size() == 6);
  CHECK_THROWS_WITH_AS(g.integer("none"), "'': key 'none' is missing", Error);
  CHECK_THROWS_WITH_AS(g.integer("x"), "'': key 'x' is not an integer", Error);
  CHECK_THROWS_WITH_AS(g.integer("b", 0), "'': key 'b' is not an integer", Error);
  CHECK_THROWS_WITH_AS(g.integer("big"), "'': key 'big' is too large: 18446744073709551615", Error);
  CHECK_THROWS_WITH_AS(g.real("s", 0), "'': key 's' is not a number", Error);
  CHECK_THROWS_WITH_AS(g.boolean("n", false), "'': key 'n' is not a boolean", Error);
  CHECK_THROWS_WITH_AS(g.string("n", ""), "'': key 'n' is not a string", Error);
  CHECK_THROWS_WITH_AS(g.array<int32_t>("a"), "'': key 'a' is not an array of the items expected", Error);
  CHECK_THROWS_WITH_AS(g.tensor("none"), "'': tensor 'none' is missing", Error);
}

TEST_CASE("what no reader would take is not written either") {
  Gguf g;
  const Tensor x = Tensor::zeros({2});
  g.add("x", x);
  CHECK_THROWS_WITH_AS(g.add("x", x), "gguf: a second tensor 'x'", Error);
  CHECK_THROWS_AS(g.add("", x), Error);
  CHECK_THROWS_AS(g.add(std::string(64, 'x'), x), Error);
  CHECK_NOTHROW(g.add(std::string(63, 'x'), x));
  CHECK_THROWS_AS(g.add("none", Tensor()), Error);
  CHECK_THROWS_WITH_AS(g.add("e", Tensor::zeros({0, 2})), "gguf: tensor 'e' of shape [0, 2] is empty", Error);
  CHECK_THROWS_AS(g.add("five", Tensor::zeros({1, 1, 1, 1, 1})), Error);
  CHECK_THROWS_AS(g.set("", true), Error);
  CHECK_THROWS_AS(g.set("general.alignment", uint32_t(24)), Error);
  CHECK_THROWS_AS(g.set("general.alignment", uint64_t(32)), Error);
  CHECK(g.tensors().size() == 2);
  CHECK(g.keys().empty());
}

#define REFUSED(bytes, message) CHECK_THROWS_WITH_AS(parse(bytes), "'f.gguf': " message, Error)

TEST_CASE("a malformed header is refused") {
  CHECK_NOTHROW(parse(header(0, 0)));
  REFUSED("", "header: 4 bytes needed, 0 remain: the file is truncated or damaged (at offset 0)");
  REFUSED("PK\3\4....", "header: no GGUF file: it begins with 'PK\?\?' (at offset 4)");
  REFUSED(header(0, 0).substr(0, 20), "header: 8 bytes needed, 4 remain: the file is truncated or damaged (at offset 16)");
  REFUSED(header(0, 0, 1), "header: GGUF version 1; convert the model again, versions 2 and 3 are read (at offset 8)");
  REFUSED(header(0, 0, 4), "header: GGUF version 4; versions 2 and 3 are read (at offset 8)");
  REFUSED(header(0, 0, 0), "header: GGUF version 0; versions 2 and 3 are read (at offset 8)");
  REFUSED(header(0, 0, 0x03000000), "header: version 50331648: is this a big-endian file? Only little-endian files are read (at offset 8)");
  REFUSED(header(-1, 0), "header: 18446744073709551615 tensors in the 8 bytes that remain (at offset 16)");
  REFUSED(header(0, int64_t(1) << 40), "header: 1099511627776 keys in the 0 bytes that remain (at offset 24)");
}

TEST_CASE("a malformed key is refused") {
  const auto one = [] { return header(0, 1); };
  CHECK_NOTHROW(parse(one().key("k", 0).put(uint8_t(1))));
  REFUSED(one().key("", 0).append(9, '\0'), "key 0: a key name of 0 bytes; expected 1 to 65535 (at offset 32)");
  REFUSED(one().put(uint64_t(65536)).append(70000, 'x'), "key 0: a key name of 65536 bytes; expected 1 to 65535 (at offset 32)");
  REFUSED(one().put(uint64_t(5000)).append(90, 'x'),
          "key 0: 5000 bytes needed, 90 remain: the file is truncated or damaged (at offset 32)");
  REFUSED(one().key("k", 13).put(uint64_t(0)), "key 'k': unknown value type 13 (at offset 37)");
  REFUSED(one().key("k", 7).put(uint8_t(2)), "key 'k': a boolean of value 2 (at offset 38)");
  REFUSED(one().key("k", 12).put(0.f), "key 'k': 8 bytes needed, 4 remain: the file is truncated or damaged (at offset 37)");
  REFUSED(one().key("k", 8).put(UINT64_MAX),
          "key 'k': 18446744073709551615 bytes needed, 0 remain: the file is truncated or damaged (at offset 45)");
  REFUSED(one().key("k", 9).put(uint32_t(9)).put(uint64_t(0)), "key 'k': an array of arrays (at offset 41)");
  REFUSED(one().key("k", 9).put(uint32_t(99)).put(uint64_t(0)), "key 'k': unknown value type 99 (at offset 41)");
  REFUSED(one().key("k", 9).put(uint32_t(6)).put(uint64_t(1) << 62),
          "key 'k': 4611686018427387904 numbers in the 0 bytes that remain (at offset 49)");
  REFUSED(one().key("k", 9).put(uint32_t(8)).put(uint64_t(3)).text("a"), "key 'k': 3 strings in the 9 bytes that remain (at offset 49)");
  REFUSED(one().key("k", 9).put(uint32_t(7)).put(uint64_t(2)).put(uint16_t(0x0301)), "key 'k': a boolean of value 3 (at offset 51)");
  REFUSED(header(0, 2).key("k", 0).put(uint8_t(1)).key("k", 0).put(uint8_t(1)), "key 'k': a second key of this name (at offset 47)");
  REFUSED(one().key("\x1b[31mred", 13).put(uint64_t(0)), "key '?[31mred': unknown value type 13 (at offset 44)");
  REFUSED(one().key("general.alignment", 10).put(uint64_t(32)), "key 'general.alignment': value type 10; expected u32 (at offset 61)");
  for (const uint32_t alignment : {0u, 4u, 24u, 1u << 21}) {
    const std::string message = "'f.gguf': key 'general.alignment': alignment " + std::to_string(alignment) +
                                "; expected a power of two from 8 to 1048576 (at offset 57)";
    CHECK_THROWS_WITH_AS(parse(one().key("general.alignment", 4).put(alignment)), message.c_str(), Error);
  }
}

TEST_CASE("a malformed tensor is refused") {
  const auto one = [] { return header(1, 0); };
  CHECK_NOTHROW(parse(one().tensor("t", {8}, 0, 0).data(32)));
  REFUSED(one().tensor("", {8}, 0, 0).data(32), "tensor 0: a tensor name of 0 bytes; expected 1 to 63 (at offset 32)");
  REFUSED(one().tensor(std::string(64, 't'), {8}, 0, 0).data(32), "tensor 0: a tensor name of 64 bytes; expected 1 to 63 (at offset 32)");
  REFUSED(one().tensor("t", {}, 0, 0).data(32), "tensor 't': 0 axes; expected 1 to 4 (at offset 37)");
  REFUSED(one().tensor("t", {1, 1, 1, 1, 8}, 0, 0).data(32), "tensor 't': 5 axes; expected 1 to 4 (at offset 37)");
  REFUSED(one().tensor("t", {0}, 0, 0).data(32), "tensor 't': extent 0 (at offset 45)");
  REFUSED(one().tensor("t", {-8}, 0, 0).data(32), "tensor 't': extent -8 (at offset 45)");
  REFUSED(one().tensor("t", {int64_t(1) << 32, int64_t(1) << 32}, 0, 0).data(32), "tensor 't': more than 2^62 elements (at offset 53)");
  REFUSED(one().tensor("t", {int64_t(1) << 62}, 28, 0).data(32), "tensor 't': more than 2^64 bytes (at offset 49)");
  REFUSED(one().tensor("t", {int64_t(1) << 40}, 0, 0).data(32),
          "tensor 't': 4398046511104 bytes of F32 [1099511627776] in a file of 96 (at offset 57)");
  REFUSED(one().tensor("t", {8}, 4, 0).data(32), "tensor 't': unknown type 4 (at offset 49)");
  REFUSED(one().tensor("t", {48}, 2, 0).data(32), "tensor 't': rows of 48 elements do not fill Q4_0 blocks of 32 (at offset 49)");
  REFUSED(one().tensor("t", {16, 2}, 2, 0).data(32), "tensor 't': rows of 16 elements do not fill Q4_0 blocks of 32 (at offset 57)");
  REFUSED(one().tensor("t", {8}, 0, 32).data(64), "tensor 't': data at 32; expected at 0, after the tensor before it (at offset 57)");
  REFUSED(one().tensor("t", {8}, 0, 0).data(31),
          "tensor 't': its 32 bytes at 64 end beyond the file's 95: the file is truncated (at offset 57)");
  const auto two = [](const char* second, uint64_t offset) {
    return header(2, 0).tensor("a", {1}, 0, 0).tensor(second, {1}, 0, offset).data(36);
  };
  CHECK_NOTHROW(parse(two("b", 32)));
  REFUSED(two("a", 32), "tensor 'a': a second tensor of this name (at offset 90)");
  REFUSED(two("b", 0), "tensor 'b': data at 0; expected at 32, after the tensor before it (at offset 90)");         // overlaps
  REFUSED(two("b", 4), "tensor 'b': data at 4; expected at 32, after the tensor before it (at offset 90)");         // without padding
  REFUSED(two("b", 64), "tensor 'b': data at 64; expected at 32, after the tensor before it (at offset 90)");       // a gap
}

TEST_CASE("numbers that are not finite are found, with tensor, block and offset") {
  const auto message = [](const Tensor& x) -> std::string {
    Gguf g;
    g.add("good", Tensor::zeros({64}));
    g.add("bad", x);
    try { g.check_tensors(); } catch (const Error& e) { return e.what(); }
    return "";
  };
  const Tensor x = Tensor::zeros({2, 256});
  CHECK(message(x) == "");
  CHECK(message(pack(x, DType::Q5_K)) == "");
  x.data()[300] = std::numeric_limits<float>::infinity();
  CHECK(message(x) == "'': tensor 'bad' (F32, [2, 256]): element 300 is inf at offset 1200");
  CHECK(message(pack(x, DType::F16)) == "'': tensor 'bad' (F16, [2, 256]): element 300 is inf at offset 600");
  CHECK(message(pack(x, DType::BF16)) == "'': tensor 'bad' (BF16, [2, 256]): element 300 is inf at offset 600");
  const Tensor q = pack(Tensor::zeros({2, 256}), DType::Q4_1);
  const uint16_t infinite = 0xfc00;
  std::memcpy(q.raw() + 9 * 20 + 2, &infinite, 2);              // the minimum of block 9
  CHECK(message(q) == "'': tensor 'bad' (Q4_1, [2, 256]): scale of block 9 is -inf at offset 180");
}

TEST_CASE("a failed write leaves the old file, and nothing else") {
  const Folder folder;
  const std::string path = folder.file("model.gguf");
  Gguf g;
  g.add("x", Tensor::filled({1 << 16}, 1.f));
  g.write(path);
  const std::string before = read_all(path);

  // a full disk, by the limit on file sizes
  rlimit old;
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
  const rlimit small = {100000, old.rlim_max};
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  std::string message;
  try { g.write(path); } catch (const Error& e) { message = e.what(); }
  ::setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, handler);
  CHECK(message == "cannot write '" + path + "': write failed: File too large");
  CHECK(read_all(path) == before);
  CHECK(folder.files() == 1);

  const std::string nowhere = folder.file("none/model.gguf");
  const std::string reason = "cannot write '" + nowhere + "': cannot create a file beside it: No such file or directory";
  CHECK_THROWS_WITH_AS(g.write(nowhere), reason.c_str(), Error);
  CHECK_THROWS_WITH_AS(g.write("/dev/null"), "cannot write '/dev/null': it is not a regular file", Error);
  CHECK_THROWS_AS(g.write(folder.path.string()), Error);
  {
    AtomicFile abandoned(path);
    abandoned.write("half", 4);
    CHECK(folder.files() <= 2);                        // without a name where the file system has such files
  }
  CHECK(folder.files() == 1);
  CHECK(read_all(path) == before);

  // success replaces, and keeps the owner's permissions
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
  Gguf other;
  other.set("n", uint8_t(1));
  other.write(path);
  CHECK(Gguf::open(path).integer("n") == 1);
  CHECK(fs::status(path).permissions() == (fs::perms::owner_read | fs::perms::owner_write));
  CHECK(folder.files() == 1);
}

static std::string gunzip(const fs::path& file) {
  FILE* pipe = ::popen(("gzip -dc '" + file.string() + "'").c_str(), "r");
  REQUIRE(pipe);
  std::string out;
  char piece[1 << 16];
  for (size_t n; (n = std::fread(piece, 1, sizeof piece, pipe)) > 0;) out.append(piece, n);
  REQUIRE(::pclose(pipe) == 0);
  return out;
}

// True if the bytes parse; false if they are refused in good order. Anything else fails the test.
static bool survives(std::string_view bytes, const std::string& damage) {
  INFO(damage);
  bool parsed = false;
  std::string message;
  largest_allocation = 0;
  try {
    parse(bytes);
    parsed = true;
  } catch (const Error& e) {
    message = e.what();
  }
  const size_t largest = largest_allocation;
  if (!parsed) CHECK_MESSAGE(message.find(" offset ") != std::string::npos, message);
  // strings cost 32 bytes in memory for at least 8 in the file, and a growing array has up to twice what it needs
  CHECK(largest <= 8 * bytes.size() + (1 << 16));
  return parsed;
}

TEST_CASE("damaged files are refused with an offset, or read; never a crash, never memory beyond their size") {
  const fs::path stories = data_path("lm-weights-stories260k/stories260K.gguf");
  const fs::path vocab = data_path("tokenizer-vocabs-llamacpp/ggml-vocab-gpt-2.gguf.gz");
  struct Sample { std::string name, bytes; };
  std::vector<Sample> files = {{"quant.gguf", read_all(project_path("tests/golden/quant.gguf"))}};
  if (have_data(stories)) files.push_back({"stories260K.gguf", read_all(stories.string())});
  if (have_data(vocab)) files.push_back({"ggml-vocab-gpt-2.gguf", gunzip(vocab)});

  Rng rng(2026);
  for (Sample& sample : files) {
    const std::string& name = sample.name;
    std::string& bytes = sample.bytes;
    REQUIRE(survives(bytes, name + " as it is"));
    const size_t beginning = std::min<size_t>(bytes.size(), 4096);
    int truncations_read = 0, flips_refused = 0;
    for (int i = 0; i < 1000; ++i) {
      const size_t span = i % 2 ? bytes.size() : beginning;
      const size_t length = rng.below(span), at = rng.below(span), bit = rng.below(8);
      truncations_read += survives(std::string_view(bytes).substr(0, length), name + " cut to " + std::to_string(length));
      bytes[at] = char(bytes[at] ^ 1 << bit);
      flips_refused += !survives(bytes, name + " with bit " + std::to_string(bit) + " of byte " + std::to_string(at) + " flipped");
      bytes[at] = char(bytes[at] ^ 1 << bit);
    }
    INFO(name);
    CHECK(truncations_read == 0);
    CHECK(flips_refused > 20);
  }
}
