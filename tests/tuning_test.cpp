// Tunables, the search for them, and profiles.
#include "tests/main.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "engine/tune.h"
#include "engine/tuning.h"
#include "ops/cpu.h"
#include "tensor/error.h"

using namespace kvt;

namespace {

Tunable first("test.first", "of a made-up work", 1, 1000, [] { return int64_t{10}; });
Tunable second("test.second", "of the same", 1, 1000, [] { return int64_t{500}; });

struct Reset { ~Reset() { for (Tunable* t = Tunable::first; t; t = t->next) t->reset(); } };

std::string write(const std::string& name, const std::string& text) {
  const std::string path = (std::filesystem::temp_directory_path() / ("kvt-tuning-test-" + std::to_string(std::rand()) + name)).string();
  std::ofstream(path) << text;
  return path;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) { return text.replace(text.find(from), from.size(), to); }

}  // namespace

TEST_CASE("a tunable is its default until it is set, and stays within its bounds") {
  const Reset reset;
  CHECK(first() == 10);
  CHECK_FALSE(first.is_set());
  first.set(12);
  CHECK((first() == 12 && first.standard() == 10 && first.is_set()));
  CHECK_THROWS_WITH_AS(first.set(1001), "tuning: test.first is 1001, expected 1 to 1000", Error);
  CHECK(first() == 12);
  CHECK(Tunable::find("test.second") == &second);
  CHECK(Tunable::find("test.third") == nullptr);
}

TEST_CASE("the search finds the valley, also one that lies across") {
  const Reset reset;
  // least at first 90, second 40; a step in one alone helps little, since their product counts most
  const auto time = [] {
    const double a = std::log2(double(first()) / 90), b = std::log2(double(second()) / 40);
    return 1 + 0.2 * a * a + 0.2 * b * b + (a + b) * (a + b);
  };
  int runs = 0;
  const TuningTask task{"made up", {&first, &second}, [&] { return ++runs, time(); }};
  const double before = time();
  const Tuned tuned = tune(task);
  CHECK(tuned.values == std::vector<int64_t>{first(), second()});
  CHECK(time() < 1.1);
  CHECK(tuned.gain == doctest::Approx(1 - time() / before));
  CHECK(runs >= tuned.candidates * 2);
}

TEST_CASE("what changes nothing leaves the defaults") {
  const Reset reset;
  double noise = 0;
  const Tuned tuned = tune({"flat", {&first, &second}, [&] { return 1 + 0.001 * std::fmod(noise += 0.37, 1.); }});
  CHECK(tuned.gain == 0);
  CHECK((!first.is_set() && !second.is_set()));
  int runs = 0;
  TuneOptions stopped;
  stopped.stop = [&] { return runs >= 20; };
  tune({"stopped", {&first}, [&] { return ++runs, double(first()); }}, stopped);
  CHECK(runs < 50);
}

TEST_CASE("a profile is read where it was measured, and ignored elsewhere with the reason") {
  const Reset reset;
  first.set(77);
  const std::string path = write("a.json", "");
  save_tuning(path, "1.0");
  std::string text;
  std::getline(std::ifstream(path), text, '\0');
  first.reset();
  CHECK(load_tuning(path, "1.0") == "");
  CHECK((first() == 77 && !second.is_set()));

  const auto refused = [&](const std::string& changed, const std::string& why, const char* version = "1.0") {
    first.reset();
    const std::string other = write("b.json", changed);
    const std::string said = load_tuning(other, version);
    CAPTURE(said);
    CHECK(said.find(other) != said.npos);
    CHECK(said.find(why) != said.npos);
    CHECK_FALSE(first.is_set());
    std::filesystem::remove(other);
  };
  refused(text, "'version' is '1.0', here it is '1.1'", "1.1");
  refused(replaced(text, cpu_name(), "Another CPU"), "'cpu' is 'Another CPU'");
  refused(replaced(text, "77", "7777"), "'tunables.test.first' is 7777, expected 1 to 1000");
  refused(replaced(text, "test.first", "test.gone"), "test.gone");
  refused(replaced(text, "\"format\": 1", "\"format\": 2"), "format");
  refused("{", "");
  std::filesystem::remove(path);

  // None at the default place is no fault; one that was asked for is.
  CHECK(load_tuning("/nowhere/kvt/tuning.json", "1.0") == "");
  setenv("KVT_TUNING", "/nowhere/tuning.json", 1);
  CHECK(tuning_path() == "/nowhere/tuning.json");
  CHECK(load_tuning(tuning_path(), "1.0").find("/nowhere/tuning.json") != std::string::npos);
  setenv("KVT_TUNING", "off", 1);
  CHECK(tuning_path() == "");
  CHECK(load_tuning(tuning_path(), "1.0") == "");
  unsetenv("KVT_TUNING");
}
