// Experiments: methods of adaptation × learning rates × seeds × sizes of data × domains, each cell a run of this program that adapts and
// one or two that judge, on data that no run has seen. tools/experiments/README.md says what a file of them holds.
//
//   language    texts              kvt adapt, kvt perplexity                       nats per token
//   labelled    labelled texts     kvt adapt --task classify, kvt eval             % of errors
//   images      labelled images    kvt train with "base" and "method", kvt eval    % of errors
#pragma once
#include <cmath>
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
  bool fuse = true;                         // false: it is never fused with the base
  nlohmann::json config = {};               // images: "method" of `kvt train`
  nlohmann::json training = nlohmann::json::object();      // images: in place of the experiment's
};
// language: one text; labelled and images: training data, and test data
struct ExperimentDomain { std::string name, text, test = {}; };

struct Experiment {
  enum class Kind { language, labelled, images };
  Kind kind = Kind::language;
  std::string name, model, reference;       // reference: the method that others are compared with
  std::vector<ExperimentDomain> domains;
  std::vector<ExperimentMethod> methods;
  std::vector<int64_t> sizes, seeds;        // bytes of training text, or examples; seeds choose the part of the data and the random numbers
  int64_t validation = 8192, test = 32768, length = 128;      // bytes, or examples; test 0 = all there are
  bool fuse = true;
  std::vector<std::string> args;            // of every `kvt adapt`
  nlohmann::json training = nlohmann::json::object();         // images: "training" of `kvt train`
  std::string kept;                         // language: a text of no domain, on which adaptation should cost nothing; "" = none
  int64_t kept_bytes = 32768;

  bool counts_errors() const { return kind != Kind::language; }

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
  double validation = 0, test = 0;          // nats per token or label; test of classes: % of errors, NaN for a base that cannot tell classes
  double fused_validation = 0, fused = 0;   // NaN where nothing is fused
  double trained = 0, stored = 0, memory = 0, seconds = 0, passes = 0;      // numbers, bytes, bytes, s, passes over the training data
  double kept = std::nan("");               // loss on the text to be kept, without fusion
};

std::vector<Cell> cells_of(const Experiment& e);

// The part of `text` that a seed gives: training, validation and test text, cut at ends of lines. Different seeds share nothing. Throws an
// Error saying how many seeds there is text for.
struct TextParts { std::string train, validation, test; };
TextParts parts_of(const std::string& text, const Experiment& e, int64_t size, int64_t seed, const std::string& path);

// Labelled texts, one a line: the lines of a seed's training and validation parts, drawn by the seed; the training parts of greater sizes
// begin with those of smaller ones.
struct LineParts { std::vector<std::string> train, validation; };
LineParts line_parts_of(std::vector<std::string> lines, const Experiment& e, int64_t size, int64_t seed, const std::string& path);

// What came out: for each domain and size one row a method, at the rate with the least mean validation loss over the seeds.
struct Row {
  size_t domain = 0, method = 0;
  int64_t size = 0;
  std::string rate;
  Estimate test, fused_test, gain, fused_gain, against, fused_against;      // gain: base − adapted, on the same test data; against: reference − this
  double ratio = std::nan(""), fused_ratio = std::nan("");                  // to the reference, of mean gains; of classes, of mean errors
  Estimate forgotten;                       // adapted − base on the text to be kept
  double trained = 0, stored = 0, memory = 0, seconds = 0, passes = 0;      // means
};
std::vector<Row> rows_of(const Experiment& e, const std::vector<CellResult>& results);
std::string table_of(const Experiment& e, const std::vector<Row>& rows, const std::vector<CellResult>& results);      // Markdown
std::string plot_of(const Experiment& e, const std::vector<Row>& rows);                                               // SVG

// Runs cells in processes of their own (tools/experiment_cells.cpp).
class CellRunner {
 public:
  CellRunner(const Experiment& e, std::string folder, int threads);
  CellResult run(const Cell& cell) const;                    // and stores the result
  std::optional<CellResult> stored(const Cell& cell) const;  // throws for a file that is no result

 private:
  struct Files { std::string train, validation, test, out, config; };
  bool fuses(const ExperimentMethod& m) const { return e_.fuse && m.fuse && !m.whole_model; }      // after training, by validation
  std::string stem(const Cell& cell) const { return folder_ + "/cells/" + cell.id(e_); }
  std::vector<std::string> prepare(const Cell& cell, Files& files) const;      // writes them; those to remove afterwards
  void adapt(const Cell& cell, const Files& files, CellResult& r) const;
  double judge(const std::string& model, const std::vector<std::string>& more, const Files& files) const;
  double loss(const std::string& model, const std::vector<std::string>& more, const std::string& text) const;
  std::string kvt(std::vector<std::string> args, CellResult* measured = nullptr) const;      // standard output; throws with its errors if it fails

  const Experiment& e_;
  std::string folder_, kvt_, kept_;
  int threads_;
  std::vector<std::string> texts_;                           // of the domains
};

}  // namespace kvt
