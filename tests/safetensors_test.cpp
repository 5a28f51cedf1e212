#include "tests/main.h"

#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "engine/json.h"
#include "engine/safetensors.h"
#include "ops/quant.h"
#include "tests/check.h"

using namespace kvt;

namespace {

Json parse(const std::string& text) { return Json::parse(text, "text"); }

// The message of the Error that f throws; "" if it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

std::string temporary(const std::string& name) { return (std::filesystem::temp_directory_path() / ("kvt-" + std::to_string(getpid()) + "-" + name)).string(); }

// A file of this header and so many zeros as data
std::string with_header(const std::string& header, size_t data) {
  const uint64_t n = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &n, 8);
  return bytes + header + std::string(data, '\0');
}

Safetensors read(std::string bytes) { return Safetensors::parse(Storage::borrow(bytes.data(), bytes.size(), false), "x.safetensors"); }

}  // namespace

TEST_CASE("JSON: values of every kind, and back to text") {
  const std::string text = R"({"a": [1, -2.5, 1e3, true, null], "b": {"c": "x\"\\/\n\u00e9\ud83d\ude00"}, "d": 9007199254740993, "e": 18446744073709551616})";
  const Json j = parse(text);
  CHECK(std::get<int64_t>(j.find("d")->value) == 9007199254740993);
  CHECK(std::get<double>(j.find("e")->value) == 18446744073709551616.);
  CHECK(std::get<std::string>(j.find("b")->find("c")->value) == "x\"\\/\n\xc3\xa9\xf0\x9f\x98\x80");
  CHECK(parse(j.dump()).dump() == j.dump());
  CHECK(parse(j.dump(2)).dump() == j.dump());
  CHECK(j.dump().starts_with(R"({"a": [1, -2.5, 1000, true, null], "b": {"c": "x\"\\/\n)"));
  CHECK(Json(Json::Array{0.1f, 1e-40}).dump() == "[0.10000000149011612, 1e-40]");
  CHECK(parse("[]").dump(1) == "[]");
  CHECK_THROWS_AS(Json(std::nan("")).dump(), Error);
  CHECK(parse(parse("[-0.0, -0, 0]").dump()).dump() == "[-0, -0, 0]");      // a sign that is written is read
}

TEST_CASE("JSON: what is not JSON is refused, with its place") {
  for (const char* bad : {"", " ", "{", "[1,]", "{\"a\":1,}", "{\"a\" 1}", "{a:1}", "[1 2]", "01", "-", "1.", ".5", "1e", "+1", "NaN", "1e999", "tru", "nul", "\"a",
                          "\"\n\"", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "1 2", "'a'", "{\"a\":1,\"a\":2}", "[1]]",
                          "\"\x80\"", "\"\xc0\xaf\"", "\"\xe0\x80\xaf\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xf8\x88\x80\x80\x80\"", "\"\xc3", "// 1"}) {
    INFO(bad);
    CHECK_THROWS_AS(parse(bad), Error);
  }
  CHECK(error_of([] { parse("{\n  \"a\": 1,\n  \"a\": 2}"); }) == "'text': JSON: a second member 'a' (line 3, column 6, offset 17)");
  CHECK_NOTHROW(parse(std::string(size_t(Json::max_depth), '[') + std::string(size_t(Json::max_depth), ']')));
  CHECK_THROWS_AS(parse(std::string(100000, '[')), Error);
}

TEST_CASE("fields of an object: types, ranges, unknown names") {
  const Json j = parse(R"({"n": 3, "x": 1.5, "s": "gelu", "on": true, "sub": {"k": 0, "more": 1}, "nothing": null, "list": [1, 2.5]})");
  Fields f(j, "c.json");
  CHECK(f.integer("n", 1, 10) == 3);
  CHECK(f.real("x") == 1.5);
  CHECK(f.real("n") == 3);
  CHECK(f.boolean("on", false));
  CHECK(f.one_of("s", {"relu", "gelu"}) == "gelu");
  CHECK(f.reals("list") == std::vector<double>{1, 2.5});
  CHECK(f.integer("absent", 0, 9, 7) == 7);
  CHECK(f.integer("nothing", 0, 9, 7) == 7);
  CHECK(error_of([&] { f.integer("n", 4, 10); }) == "c.json: 'n' is 3, expected 4 to 10");
  CHECK(error_of([&] { f.integer("x", 4, 10); }) == "c.json: 'x' is 1.5, expected an integer");
  CHECK(error_of([&] { f.string("missing"); }) == "c.json: 'missing' is missing");
  CHECK(error_of([&] { f.one_of("s", {"relu", "tanh"}); }) == "c.json: 's' is \"gelu\"; known: relu, tanh");
  CHECK(error_of([&] { Fields g = f.object("sub"); g.integer("k", 1, 9); }) == "c.json: 'sub.k' is 0, expected 1 to 9");
  CHECK(error_of([&] { Fields g = f.object("sub"); g.integer("k", 0, 9); g.refuse_unknown(); }) == "c.json: 'sub.more' is not known; known: k");
  CHECK_NOTHROW(f.refuse_unknown());
}

TEST_CASE("safetensors: a file of the reference library") {
  const Safetensors file = Safetensors::open(project_path("tests/golden/mixed.safetensors"));
  CHECK(file.metadata().at("naïve") == "grüße\n");
  CHECK(file.entries().size() == 12);
  for (const char* name : {"f32", "f16", "bf16"}) {
    const Tensor x = unpack(file.tensor(name));
    CHECK(x.shape() == Shape{2, 3});
    for (int i = 0; i < 6; ++i) CHECK(x.data()[i] == float(i));
  }
  CHECK(reinterpret_cast<const double*>(file.tensor("f64").raw())[5] == 5);
  CHECK(reinterpret_cast<const int64_t*>(file.tensor("i64").raw())[5] == 5);
  CHECK(reinterpret_cast<const int16_t*>(file.tensor("i16").raw())[4] == 4);
  CHECK(file.tensor("i8").raw()[3] == std::byte(3));
  CHECK(file.find("bool")->type == "BOOL");
  CHECK(file.find("bool")->bytes.data()[1] == std::byte(1));
  CHECK(file.tensor("scalar").item() == 7);
  CHECK(file.tensor("empty").shape() == Shape{0, 4});
  CHECK(error_of([&] { file.tensor("u8"); }).ends_with("tensor 'u8' is U8, which this engine does not compute with"));
  CHECK(error_of([&] { file.tensor("absent"); }).ends_with("tensor 'absent' is missing"));
}

TEST_CASE("safetensors: written and read again, aligned") {
  Rng rng(1);
  Safetensors out;
  const Tensor a = randn({3, 5}, rng), b = pack(randn({7}, rng), DType::F16);
  out.add("half", b);
  out.add("a \"quoted\" näme", a);
  out.set_metadata("format", "pt");
  CHECK_THROWS_AS(out.add("half", b), Error);
  CHECK_THROWS_AS(out.add("quantized", pack(randn({32}, rng), DType::Q8_0)), Error);
  const std::string path = temporary("written.safetensors");
  out.write(path);
  const Safetensors in = Safetensors::open(path);
  std::filesystem::remove(path);
  CHECK(in.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  CHECK(in.entries()[0].offset % 8 == 0);
  CHECK(max_relative_error(in.tensor("a \"quoted\" näme").values(), a.values()) == 0);
  CHECK(std::memcmp(in.tensor("half").raw(), b.raw(), 14) == 0);
}

TEST_CASE("safetensors: tensors that lie unaligned are copied") {
  const std::string header = R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},"y":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})";
  CHECK(read(with_header(header, 5)).tensor("x").item() == 0);
}

TEST_CASE("safetensors: hostile headers are refused") {
  const auto refused = [](const std::string& bytes, const char* why) {
    const std::string message = error_of([&] { read(bytes); });
    INFO(message);
    CHECK(message.find(why) != std::string::npos);
  };
  const auto entry = [](const char* name, const char* type, const char* shape, const char* offsets) {
    std::ostringstream text;
    text << '"' << name << R"(":{"dtype":")" << type << R"(","shape":)" << shape << R"(,"data_offsets":)" << offsets << '}';
    return text.str();
  };
  const auto header = [](std::initializer_list<std::string> entries, size_t data) {
    std::ostringstream text;
    text << '{';
    for (const std::string& e : entries) text << (&e == entries.begin() ? "" : ",") << e;
    text << "}  ";
    return with_header(text.str(), data);
  };
  CHECK(error_of([&] { read(header({entry("x", "F32", "[2]", "[0,8]")}, 8)); }).empty());
  refused("1234567", "7 bytes are no safetensors file");
  refused(std::string(8, '\xff'), "a header of 18446744073709551615 bytes");
  refused(with_header("{}", 0).substr(0, 9), "truncated");
  refused(with_header(" {}", 0), "does not begin");
  refused(with_header("{}", 3), "3 bytes behind the last tensor");
  refused(header({entry("x", "F32", "[2]", "[0,8]"), entry("y", "F32", "[2]", "[4,12]")}, 12), "an overlap");
  refused(header({entry("x", "F32", "[2]", "[0,8]"), entry("y", "F32", "[1]", "[12,16]")}, 16), "a gap");
  refused(header({entry("x", "F32", "[2]", "[0,8]"), entry("x", "F32", "[1]", "[8,12]")}, 12), "a second member 'x'");
  refused(header({entry("x", "F32", "[3]", "[0,8]")}, 8), "8 bytes at 0 for F32 [3], which has 12");
  refused(header({entry("x", "F32", "[2]", "[0,8]")}, 7), "beyond the data's 7");
  refused(header({entry("x", "F32", "[4611686018427387904,4611686018427387904]", "[0,8]")}, 8), "too many elements");
  refused(header({entry("x", "F32", "[-2]", "[0,8]")}, 8), "extent -2");
  refused(header({entry("x", "F32", "[2.0]", "[0,8]")}, 8), "extent 2");
  refused(header({entry("x", "F33", "[2]", "[0,8]")}, 8), "unknown dtype \"F33\"");
  refused(header({entry("x", "F32", "[2]", "[8,0]")}, 8), "data_offsets [8, 0]");
  refused(header({entry("x", "F32", "[1,1,1,1,1,1,1]", "[0,4]")}, 4), "expected at most 6 extents");
  refused(with_header(R"({"x":{"dtype":"F32","shape":[],"data_offsets":[0,4],"more":1}})", 4), "exactly");
  refused(with_header(R"({"__metadata__":{"a":1}})", 0), "'a' is no string");
}

TEST_CASE("safetensors: no truncation and no flipped bit does more than throw") {
  std::ifstream in(project_path("tests/golden/mixed.safetensors"), std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(in), {}};
  REQUIRE(whole.size() > 500);
  for (size_t n = 0; n < whole.size(); ++n) CHECK_THROWS_AS(read(whole.substr(0, n)), Error);
  int refused = 0;
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = char(damaged[bit / 8] ^ (1 << bit % 8));
    try {
      const Safetensors file = read(damaged);
      for (const Safetensors::Entry& e : file.entries())
        if (e.type == "F32") file.tensor(e.name);
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(refused > int(whole.size()));           // most of the header is structure
}
