#include "tests/main.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "tensor/error.h"
#include "tools/experiment.h"
#include "tools/process.h"

using namespace kvt;

namespace {

Experiment small() {
  Experiment e;
  e.name = "a & b";
  e.reference = "A";
  e.domains = {{"one", "one.txt"}, {"two", "two.txt"}};
  e.methods = {{"A", "", {}, {"1e-3", "1e-4"}, false}, {"B", "", {}, {}, false}};
  e.sizes = {1000, 2000};
  e.seeds = {0, 1, 2};
  e.validation = 500;
  e.test = 1500;
  return e;
}

std::string lines(int64_t bytes) {
  std::string text;
  for (int i = 0; int64_t(text.size()) < bytes; ++i) text += "line " + std::to_string(i) + std::string(size_t(i % 50), '.') + "\n";
  return text;
}

}  // namespace

TEST_CASE("means and 95 % intervals") {
  // By hand: mean 3, deviation √(10/4), t(4) = 2.776.
  const Estimate e = estimate({1, 2, 3, 4, 5});
  CHECK(e.mean == doctest::Approx(3));
  CHECK(e.half == doctest::Approx(2.776 * std::sqrt(2.5 / 5)));
  CHECK(std::isnan(estimate({7}).half));
  CHECK(shown(estimate({7}), 2) == "7.00");
  CHECK(shown({1.23456, 0.05, 3}, 3, true) == "+1.235 ± 0.050");
  std::vector<double> many(41, 0.0);
  many[0] = 41;                                       // mean 1, variance 40 · 41 / 40 = 41, so that half = t(40) · 1
  CHECK(estimate(many).half == doctest::Approx(2.021).epsilon(1e-3));
  CHECK_THROWS_AS(estimate({}), Error);
}

TEST_CASE("every combination is one run with a name of its own; whole comparisons come first") {
  const Experiment e = small();
  const std::vector<Cell> cells = cells_of(e);
  CHECK(cells.size() == 3 * 2 * (1 + 2 * (2 + 1)));
  std::set<std::string> names;
  for (const Cell& c : cells) names.insert(c.id(e));
  CHECK(names.size() == cells.size());
  CHECK(names.contains("two-2000-A-1e-4-2"));
  CHECK(names.contains("one-base-0"));
  for (size_t i = 0; i < cells.size() / 3; ++i) CHECK(cells[i].seed == 0);
}

TEST_CASE("a seed's parts are whole lines, shared by no other seed, the same test text for every size") {
  const Experiment e = small();
  const std::string text = lines(13000);
  std::string all;
  for (const int64_t seed : e.seeds) {
    const TextParts large = parts_of(text, e, 2000, seed, "t"), little = parts_of(text, e, 1000, seed, "t");
    CHECK(large.test == little.test);
    CHECK(large.validation == little.validation);
    CHECK(large.train.starts_with(little.train));
    CHECK(std::abs(double(large.train.size()) - 2000) < 60);
    CHECK(std::abs(double(little.train.size()) - 1000) < 60);
    for (const std::string& part : {large.test, large.validation, large.train}) {
      CHECK(part.starts_with("line "));
      CHECK(part.back() == '\n');
    }
    all += large.test + large.validation + large.train;
  }
  CHECK(all == text.substr(0, all.size()));
  CHECK_THROWS_AS(parts_of(text, e, 2000, 3, "t"), Error);       // 13 000 bytes hold three parts of 4 000
}

TEST_CASE("a long line is cut behind a word") {
  const Experiment e = small();
  std::string text, all;
  for (int i = 0; text.size() < 13000; ++i) text += "word" + std::to_string(i) + " ";
  for (const int64_t seed : e.seeds) {
    const TextParts parts = parts_of(text, e, 2000, seed, "t");
    CHECK(std::abs(double(parts.train.size()) - 2000) < 20);
    for (const std::string& part : {parts.test, parts.validation, parts.train}) {
      CHECK(part.starts_with("word"));
      CHECK(part.back() == ' ');
      all += part;
    }
  }
  CHECK(all == text.substr(0, all.size()));
}

TEST_CASE("the rate is chosen on validation, gains are paired by seed") {
  const Experiment e = small();
  std::vector<CellResult> results;
  const double nan = std::nan("");
  for (const int64_t seed : e.seeds) {
    const double s = double(seed);
    results.push_back({{0, std::nullopt, 0, seed, ""}, nan, 4 + s, nan, nan, 0, 0, 0, 0, 0});
    // 1e-3 has the better test loss and the worse validation loss: it must not be taken.
    results.push_back({{0, size_t(0), 1000, seed, "1e-3"}, 3.5, 3.0 + s, nan, nan, 100, 400, 1e6, 10, 2});
    results.push_back({{0, size_t(0), 1000, seed, "1e-4"}, 3.4, 3.5 + s, 3.3, 3.4 + s, 100, 400, 1e6, 10, 2});
    results.push_back({{0, size_t(1), 1000, seed, ""}, 3.6, 3.25 + s, 3.5, 3.2 + s, 7, 28, 1e6, 5, 1});
  }
  const std::vector<Row> rows = rows_of(e, results);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].rate == "1e-4");
  CHECK(rows[0].gain.mean == doctest::Approx(0.5));
  CHECK(rows[0].gain.half == doctest::Approx(0));             // the seeds differ, the differences do not
  CHECK(rows[0].fused_gain.mean == doctest::Approx(0.6));
  CHECK(rows[0].against.n == 0);                              // it is the reference
  CHECK(rows[1].gain.mean == doctest::Approx(0.75));
  CHECK(rows[1].against.mean == doctest::Approx(0.25));
  CHECK(rows[1].fused_against.mean == doctest::Approx(0.2));
  CHECK(rows[1].test.mean == doctest::Approx(4.25));
  CHECK(rows[1].test.half > 1);
  const std::string table = table_of(e, rows, results);
  CHECK(table.find("| A | 1e-4 | 3 |") != std::string::npos);
  CHECK(table.find("Base: 5.000") != std::string::npos);
  // A rate that was run for one seed alone is not chosen, whatever its loss there.
  std::vector<CellResult> more = results;
  more.push_back({{0, size_t(0), 1000, e.seeds[0], "3e-4"}, 1, 1, nan, nan, 100, 400, 1e6, 10, 2});
  CHECK(rows_of(e, more)[0].rate == "1e-4");
  const std::string plot = plot_of(e, rows);
  CHECK(plot.starts_with("<svg"));
  CHECK(plot.find("a &amp; b") != std::string::npos);
}

TEST_CASE("labelled lines: drawn by the seed, none in two parts, sizes nested") {
  Experiment e = small();
  e.kind = Experiment::Kind::labelled;
  e.sizes = {5, 20};
  e.validation = 10;
  std::vector<std::string> lines;
  for (int i = 0; i < 40; ++i) lines.push_back("label\t" + std::to_string(i));
  lines.push_back("");
  const LineParts large = line_parts_of(lines, e, 20, 1, "t"), little = line_parts_of(lines, e, 5, 1, "t"), other = line_parts_of(lines, e, 20, 2, "t");
  CHECK(large.validation == little.validation);
  CHECK(std::equal(little.train.begin(), little.train.end(), large.train.begin()));
  CHECK(large.train != other.train);
  std::set<std::string> seen(large.train.begin(), large.train.end());
  seen.insert(large.validation.begin(), large.validation.end());
  CHECK(seen.size() == 30);
  CHECK(!seen.contains(""));
  e.validation = 21;
  CHECK_THROWS_WITH_AS(line_parts_of(lines, e, 20, 0, "t"), "t: 40 lines, fewer than 21 for validation and 20 for training", Error);
}

TEST_CASE("errors of classifiers: leads and ratios to the reference, also where the base cannot tell classes; what is forgotten") {
  Experiment e = small();
  e.kind = Experiment::Kind::labelled;
  std::vector<CellResult> results;
  const double nan = std::nan("");
  for (const int64_t seed : e.seeds) {
    const double s = double(seed);
    results.push_back({{0, std::nullopt, 0, seed, ""}, nan, nan, nan, nan, 0, 0, 0, 0, 0});
    results.push_back({{0, size_t(0), 1000, seed, "1e-3"}, 0.5, 20 + s, 0.4, 16 + s, 100, 400, 1e6, 10, 2});
    results.push_back({{0, size_t(1), 1000, seed, ""}, 0.6, 15 + s, nan, nan, 7, 28, 1e6, 5, 1});
  }
  const std::vector<Row> rows = rows_of(e, results);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].gain.n == 0);
  CHECK(std::isnan(rows[0].ratio));
  CHECK(rows[1].against.mean == doctest::Approx(5));
  CHECK(rows[1].ratio == doctest::Approx(16.0 / 21));
  CHECK(rows[1].fused_test.n == 0);
  const std::string table = table_of(e, rows, results);
  CHECK(table.find("Test errors in %") != std::string::npos);
  CHECK(table.find("Base:") == std::string::npos);
  CHECK(table.find("| B | – | 3 | 16.00 ± 2.48 | – | +5.00 ± 0.00 | 0.76 | – | – | 7 | 28 | 1 | 5 | 1.0 |") != std::string::npos);
  CHECK(plot_of(e, rows).find("test errors in %") != std::string::npos);

  Experiment kept = small();
  kept.kept = "general.txt";
  std::vector<CellResult> losses;
  for (const int64_t seed : kept.seeds) {
    losses.push_back({{0, std::nullopt, 0, seed, ""}, nan, 4, nan, nan, 0, 0, 0, 0, 0, 3.5});
    losses.push_back({{0, size_t(0), 1000, seed, "1e-3"}, 3, 3.5, nan, nan, 100, 400, 1e6, 10, 2, 3.6});
    losses.push_back({{0, size_t(1), 1000, seed, ""}, 3, 3.4, nan, nan, 100, 400, 1e6, 10, 2, 3.5});
  }
  const std::vector<Row> with_kept = rows_of(kept, losses);
  CHECK(with_kept[0].forgotten.mean == doctest::Approx(0.1));
  CHECK(with_kept[1].ratio == doctest::Approx(1.2));
  CHECK(table_of(kept, with_kept, losses).find("| forgets |") != std::string::npos);
}

TEST_CASE("experiment files: the kinds, their keys, and what is refused") {
  const auto folder = std::filesystem::temp_directory_path() / ("kvt-experiment-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const auto open = [&](const std::string& text) {
    std::ofstream(folder / "e.json") << text;
    return Experiment::open((folder / "e.json").string(), "data");
  };
  const Experiment images = open(R"({"name": "n", "kind": "images", "model": "m.gguf", "domains": [{"name": "d", "train": "a", "test": "/b"}], "sizes": [100], "seeds": [0],
    "validation": 50, "training": {"steps": 3}, "methods": [{"name": "p", "method": {"name": "probe"}, "fuse": false, "training": {"steps": 5}}]})");
  CHECK(images.counts_errors());
  CHECK(images.model == "data/m.gguf");
  CHECK(images.domains[0].text == "data/a");
  CHECK(images.domains[0].test == "/b");
  CHECK(images.methods[0].config.at("name") == "probe");
  CHECK(!images.methods[0].fuse);
  CHECK(images.training.at("steps") == 3);
  CHECK(images.methods[0].training.at("steps") == 5);
  const std::string start = R"({"name": "n", "model": "m", "seeds": [0], "sizes": [2000], "domains": [{"name": "d", "text": "t"}], "methods": [{"name": "x")";
  CHECK(open(start + R"(, "args": ["--rank", "2"], "rates": ["1e-3"]}], "kept": "k"})").kept == "data/k");
  CHECK_THROWS_AS(open(start + R"(, "rates": ["fast"]}]})"), Error);
  CHECK_THROWS_AS(open(start + R"(}], "training": {}})"), Error);
  CHECK_THROWS_AS(open(start + R"(}], "reference": "y"})"), Error);
  CHECK_THROWS_AS(open(start + R"(}], "kind": "sounds"})"), Error);
  for (const char* name : {"domains", "ablations", "images", "topics"}) {
    INFO(name);
    const char* root = std::getenv("KVT_ROOT");
    const Experiment e = Experiment::open(std::string(root ? root : ".") + "/tools/experiments/" + name + ".json", "");
    CHECK(cells_of(e).size() > 20);
    CHECK(!e.reference.empty());
  }
  std::filesystem::remove_all(folder);
}

TEST_CASE("processes: output, errors, exit status, and what cannot be started") {
  const ProcessResult p = run_process({"/bin/sh", "-c", "echo out; echo wrong >&2; exit 3"});
  CHECK(p.status == 3);
  CHECK(p.out == "out\n");
  CHECK(p.error == "wrong\n");
  CHECK(p.peak_memory > 0);
  CHECK(run_process({"/bin/sh", "-c", "kill -9 $$"}).status == 128 + 9);
  const ProcessResult much = run_process({"/bin/sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done"});
  CHECK(much.out.size() == 3000 * 41);
  CHECK_THROWS_AS(run_process({"/no/such/program"}), Error);
}
