// Experiments: methods of adaptation × learning rates × seeds × sizes of data × domains, each cell a run of `kvt adapt` and of
// `kvt perplexity` on text that no run has seen. tools/experiments/README.md says what a file of them holds.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tools/statistics.h"

namespace kvt {

struct ExperimentMethod {
  std::string name, model;                  // model: the base, if another than the experiment's
  std::vector<std::string> args;            // of `kvt adapt`
  std::vector<std::string> rates;           // --lr; empty: the method has none
  bool whole_model = false;                 // its result is a model, not an adapter
};
struct ExperimentDomain { std::string name, text; };

struct Experiment {
  std::string name, model, reference;       // reference: the method that others are compared with
  std::vector<ExperimentDomain> domains;
  std::vector<ExperimentMethod> methods;
  std::vector<int64_t> sizes, seeds;        // bytes of training text; seeds choose the part of the text and the random numbers
  int64_t validation_bytes = 8192, test_bytes = 32768, length = 128;
  bool fuse = true;
  std::vector<std::string> args;            // of every `kvt adapt`

  static Experiment open(const std::string& path, const std::string& data);      // paths are relative to `data`; throws an Error naming file and key
};

// One run. Without a method it is the base alone.
struct Cell {
  size_t domain = 0;
  std::optional<size_t> method;
  int64_t size = 0, seed = 0;               // size 0 for the base
  std::string rate;

  std::string id(const Experiment& e) const;      // a file name
};
struct CellResult {
  Cell cell;
  double validation = 0, test = 0;          // nats per token
  double fused_validation = 0, fused = 0;   // NaN where nothing is fused
  double trained = 0, stored = 0, memory = 0, seconds = 0, passes = 0;      // numbers, bytes, bytes, s, passes over the training data
};

std::vector<Cell> cells_of(const Experiment& e);

// The part of `text` that a seed gives: training, validation and test text, cut at ends of lines. Different seeds share nothing. Throws an
// Error saying how many seeds there is text for.
struct TextParts { std::string train, validation, test; };
TextParts parts_of(const std::string& text, const Experiment& e, int64_t size, int64_t seed, const std::string& path);

// What came out: for each domain and size one row a method, at the rate with the least mean validation loss over the seeds.
struct Row {
  size_t domain = 0, method = 0;
  int64_t size = 0;
  std::string rate;
  Estimate test, gain, fused_gain, against, fused_against;      // gain: base − adapted, on the same test text; against: gain − the reference's
  double trained = 0, stored = 0, memory = 0, seconds = 0, passes = 0;      // means
};
std::vector<Row> rows_of(const Experiment& e, const std::vector<CellResult>& results);
std::string table_of(const Experiment& e, const std::vector<Row>& rows, const std::vector<CellResult>& results);      // Markdown
std::string plot_of(const Experiment& e, const std::vector<Row>& rows);                                               // SVG

}  // namespace kvt
