// BLEU (Papineni et al. 2002) as the reference implementation sacrebleu computes it (Post 2018), and the F1 of classes.
//
//   BLEU = BP · exp(¼ Σ_{n=1…4} log p_n),   p_n = matched n-grams / n-grams of the hypotheses, over the whole corpus; matches are
//   clipped to what the reference holds;    BP = min(1, e^(1 − reference length / hypothesis length))
//
// An order without a match would make the score 0. Smoothing (Chen and Cherry 2014) gives it a precision:
//   none    0        floor   value / n-grams (0.1)        add-k   (matches + value)/(n-grams + value) for n > 1 (1)
//   exp     1/(2^i · n-grams) for the i-th such order
// Effective order: only orders that the hypotheses are long enough for count; for single sentences.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvt {

struct BleuOptions {
  enum class Smoothing { none, floor, add_k, exp };
  Smoothing smoothing = Smoothing::exp;
  std::optional<double> value;                       // of floor and add-k; empty = 0.1 and 1
  bool effective_order = false;
};
BleuOptions::Smoothing bleu_smoothing(const std::string& name);      // throws, listing the names there are

struct BleuScore {
  double score = 0;                                  // 0 … 100
  std::array<double, 4> precisions{};                // percent
  std::array<double, 4> matched{}, total{};          // whole numbers unless add-k changed them
  double brevity_penalty = 1;
  int64_t hypothesis_length = 0, reference_length = 0;      // words

  std::string text() const;                          // "28.41 60.1/34.5/21.6/13.9 (BP = 1.000 ratio = 1.012 hyp_len = 7 ref_len = 7)"
};

// What decides the score, as sacrebleu prints it: "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:…".
std::string bleu_signature(const BleuOptions& options, const std::string& version);

// The words of a line by the rules of mteval-v13a: punctuation and symbols of ASCII stand alone, periods and commas unless between
// digits, dashes after digits; case is kept.
std::vector<std::string> tokenize_13a(std::string_view line);

// One hypothesis and one reference a line. Throws an Error for unequal numbers of lines, or none.
BleuScore bleu(std::span<const std::string> hypotheses, std::span<const std::string> references, const BleuOptions& options = {});

// Of each class, and their means: macro over the classes that occur in either list; micro over all examples, which is accuracy.
struct F1 {
  std::vector<double> classes;                       // 2 · hits / (predicted + actual); 0 for a class that does not occur
  double macro = 0, micro = 0;
};
F1 f1(std::span<const int32_t> predicted, std::span<const int32_t> actual, int32_t classes);

}  // namespace kvt
