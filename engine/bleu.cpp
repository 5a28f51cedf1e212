#include "engine/bleu.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <unordered_map>
#include <utility>

#include "engine/unicode.h"
#include "tensor/error.h"

namespace kvt {

namespace {

constexpr int orders = 4;
constexpr std::array smoothings{"none", "floor", "add-k", "exp"};

bool digit(char c) { return c >= '0' && c <= '9'; }
bool stop(char c) { return c == '.' || c == ','; }

// ASCII punctuation, symbols and space, but for ' , - . and the digits and letters.
bool symbol(char c) { return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/'; }

// What splits words, besides ASCII's: Unicode's spaces and separators.
bool space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
}

// A substitution over pairs of neighbours that do not overlap: rule(a, b, out) writes a pair it matches.
template <class Rule>
std::string substitute(const std::string& text, Rule rule) {
  std::string out;
  size_t i = 0;
  while (i < text.size()) {
    if (i + 1 < text.size() && rule(text[i], text[i + 1], out)) i += 2;
    else out += text[i++];
  }
  return out;
}

using Ngram = std::array<int32_t, orders>;           // unused places hold −1
using Counts = std::map<Ngram, int64_t>;

Counts ngrams(const std::vector<int32_t>& words) {
  Counts counts;
  for (size_t begin = 0; begin < words.size(); ++begin) {
    Ngram gram;
    gram.fill(-1);
    for (size_t n = 0; n < orders && begin + n < words.size(); ++n) {
      gram[n] = words[begin + n];
      ++counts[gram];
    }
  }
  return counts;
}

int order_of(const Ngram& gram) { return int(std::count_if(gram.begin(), gram.end(), [](int32_t w) { return w >= 0; })); }

double default_value(BleuOptions::Smoothing smoothing) { return smoothing == BleuOptions::Smoothing::floor ? 0.1 : 1.0; }

void finish(BleuScore& s, const BleuOptions& options) {
  using Smoothing = BleuOptions::Smoothing;
  if (s.hypothesis_length < s.reference_length)
    s.brevity_penalty = s.hypothesis_length > 0 ? std::exp(1 - double(s.reference_length) / double(s.hypothesis_length)) : 0.0;
  if (std::all_of(s.matched.begin(), s.matched.end(), [](double m) { return m == 0; })) return;

  const double value = options.value.value_or(default_value(options.smoothing));
  double halving = 1;
  int effective = orders;
  for (size_t n = 0; n < orders; ++n) {
    if (options.smoothing == Smoothing::add_k && n > 0) {
      s.matched[n] += value;
      s.total[n] += value;
    }
    if (s.total[n] == 0) break;
    if (options.effective_order) effective = int(n) + 1;
    if (s.matched[n] > 0) s.precisions[n] = 100 * s.matched[n] / s.total[n];
    else if (options.smoothing == Smoothing::exp) s.precisions[n] = 100 / ((halving *= 2) * s.total[n]);
    else if (options.smoothing == Smoothing::floor) s.precisions[n] = 100 * value / s.total[n];
  }
  double logs = 0;
  for (int n = 0; n < effective; ++n) {
    if (s.precisions[size_t(n)] == 0) return;         // the geometric mean is 0
    logs += std::log(s.precisions[size_t(n)]);
  }
  s.score = s.brevity_penalty * std::exp(logs / effective);
}

}  // namespace

BleuOptions::Smoothing bleu_smoothing(const std::string& name) {
  for (size_t i = 0; i < smoothings.size(); ++i)
    if (name == smoothings[i]) return BleuOptions::Smoothing(i);
  fail("bleu: smoothing '", name, "' is not known; known: none, floor, add-k, exp");
}

std::string BleuScore::text() const {
  char line[200];
  const double ratio = reference_length > 0 ? double(hypothesis_length) / double(reference_length) : 0;
  std::snprintf(line, sizeof line, "%.2f %.1f/%.1f/%.1f/%.1f (BP = %.3f ratio = %.3f hyp_len = %lld ref_len = %lld)", score, precisions[0], precisions[1],
                precisions[2], precisions[3], brevity_penalty, ratio, static_cast<long long>(hypothesis_length), static_cast<long long>(reference_length));
  return line;
}

std::string bleu_signature(const BleuOptions& options, const std::string& version) {
  std::string smooth = smoothings[size_t(options.smoothing)];
  if (options.smoothing == BleuOptions::Smoothing::floor || options.smoothing == BleuOptions::Smoothing::add_k) {
    char value[40];
    std::snprintf(value, sizeof value, "[%.2f]", options.value.value_or(default_value(options.smoothing)));
    smooth += value;
  }
  return std::string("nrefs:1|case:mixed|eff:") + (options.effective_order ? "yes" : "no") + "|tok:13a|smooth:" + smooth + "|version:" + version;
}

std::vector<std::string> tokenize_13a(std::string_view line) {
  std::string text(line);
  replace_all(text, "<skipped>", "");
  replace_all(text, "-\n", "");
  replace_all(text, "\n", " ");
  replace_all(text, "&quot;", "\"");
  replace_all(text, "&amp;", "&");
  replace_all(text, "&lt;", "<");
  replace_all(text, "&gt;", ">");

  std::string spaced;
  for (char c : " " + text + " ") {
    if (symbol(c)) spaced += {' ', c, ' '};
    else spaced += c;
  }
  spaced = substitute(spaced, [](char a, char b, std::string& out) {
    if (digit(a) || !stop(b)) return false;
    out += {a, ' ', b, ' '};
    return true;
  });
  spaced = substitute(spaced, [](char a, char b, std::string& out) {
    if (!stop(a) || digit(b)) return false;
    out += {' ', a, ' ', b};
    return true;
  });
  spaced = substitute(spaced, [](char a, char b, std::string& out) {
    if (!digit(a) || b != '-') return false;
    out += {a, ' ', b, ' '};
    return true;
  });

  std::vector<std::string> words;
  std::string word;
  for (size_t at = 0; at < spaced.size();) {
    const size_t begin = at;
    const bool gap = space(unicode::next(spaced, at));
    if (!gap) word.append(spaced, begin, at - begin);
    if ((gap || at == spaced.size()) && !word.empty()) words.push_back(std::exchange(word, {}));
  }
  return words;
}

BleuScore bleu(std::span<const std::string> hypotheses, std::span<const std::string> references, const BleuOptions& options) {
  require(hypotheses.size() == references.size(), "bleu: ", hypotheses.size(), " hypotheses for ", references.size(), " references");
  require(!hypotheses.empty(), "bleu: no lines");
  require(options.value.value_or(1) > 0, "bleu: smoothing value ", options.value.value_or(1), ", expected a positive number");
  std::unordered_map<std::string, int32_t> vocabulary;
  const auto ids = [&](const std::string& line) {
    std::vector<int32_t> words;
    for (const std::string& w : tokenize_13a(line)) words.push_back(vocabulary.emplace(w, int32_t(vocabulary.size())).first->second);
    return words;
  };
  BleuScore s;
  for (size_t i = 0; i < hypotheses.size(); ++i) {
    const std::vector<int32_t> hypothesis = ids(hypotheses[i]), reference = ids(references[i]);
    s.hypothesis_length += int64_t(hypothesis.size());
    s.reference_length += int64_t(reference.size());
    const Counts there = ngrams(reference);
    for (const auto& [gram, count] : ngrams(hypothesis)) {
      const auto n = size_t(order_of(gram)) - 1;
      const auto found = there.find(gram);
      s.total[n] += double(count);
      if (found != there.end()) s.matched[n] += double(std::min(count, found->second));
    }
  }
  finish(s, options);
  return s;
}

F1 f1(std::span<const int32_t> predicted, std::span<const int32_t> actual, int32_t classes) {
  require(predicted.size() == actual.size() && !actual.empty(), "f1: ", predicted.size(), " predictions for ", actual.size(), " labels");
  require(classes >= 1, "f1: ", classes, " classes");
  std::vector<int64_t> hits(size_t(classes), 0), either(size_t(classes), 0);       // either: predicted + actual
  for (size_t i = 0; i < actual.size(); ++i) {
    for (int32_t c : {predicted[i], actual[i]}) {
      require(c >= 0 && c < classes, "f1: class ", c, " of example ", i, " lies outside of 0 … ", classes - 1);
      ++either[size_t(c)];
    }
    hits[size_t(actual[i])] += predicted[i] == actual[i];
  }
  F1 result;
  int64_t all = 0, occurring = 0;
  for (size_t c = 0; c < hits.size(); ++c) {
    result.classes.push_back(either[c] > 0 ? 2 * double(hits[c]) / double(either[c]) : 0.0);
    result.macro += result.classes.back();
    occurring += either[c] > 0;
    all += hits[c];
  }
  result.macro /= double(occurring);
  result.micro = double(all) / double(actual.size());
  return result;
}

}  // namespace kvt
