#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>

#include "tensor/error.h"
#include "tensor/random.h"
#include "tools/experiment.h"

namespace kvt {

namespace {

std::string slug(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.';
    if (plain) out += c;
    else if (!out.empty() && out.back() != '-') out += '-';
  }
  while (!out.empty() && out.back() == '-') out.pop_back();
  return out;
}

std::string number(const char* format, double x) {
  char text[60];
  std::snprintf(text, sizeof text, format, x);
  return text;
}

std::string count_of(double n) {
  return n >= 1e6 ? number("%.2f M", n / 1e6) : n >= 1e3 ? number("%.1f k", n / 1e3) : number("%.0f", n);
}

const CellResult* base_of(const std::vector<CellResult>& results, size_t domain, int64_t seed) {
  for (const CellResult& r : results)
    if (!r.cell.method && r.cell.domain == domain && r.cell.seed == seed) return &r;
  return nullptr;
}

using Runs = std::vector<const CellResult*>;

// The runs of one method at its best rate, by mean validation loss of the unfused scores. A rate that was run for fewer seeds than another is not compared.
std::pair<std::string, Runs> best_rate(const std::vector<CellResult>& results, size_t domain, size_t method, int64_t size) {
  std::map<std::string, Runs> by_rate;
  for (const CellResult& r : results)
    if (r.cell.method == method && r.cell.domain == domain && r.cell.size == size) by_rate[r.cell.rate].push_back(&r);
  std::pair<std::string, Runs> best;
  double least = INFINITY;
  size_t most = 0;
  for (const auto& [rate, runs] : by_rate) most = std::max(most, runs.size());
  for (auto& [rate, runs] : by_rate) {
    if (runs.size() < most) continue;
    double mean = 0;
    for (const CellResult* r : runs) mean += r->validation / double(runs.size());
    if (mean < least) least = mean, best = {rate, runs};
  }
  return best;
}

}  // namespace

std::string Cell::id(const Experiment& e) const {
  if (!method) return slug(e.domains[domain].name) + "-base-" + std::to_string(seed);
  return slug(e.domains[domain].name) + "-" + std::to_string(size) + "-" + slug(e.methods[*method].name) + (rate.empty() ? "" : "-" + rate) + "-" + std::to_string(seed);
}

std::vector<Cell> cells_of(const Experiment& e) {
  std::vector<Cell> cells;
  for (const int64_t seed : e.seeds)                       // seeds outermost: an experiment cut short has whole comparisons
    for (size_t d = 0; d < e.domains.size(); ++d) {
      cells.push_back({d, std::nullopt, 0, seed, ""});
      for (const int64_t size : e.sizes)
        for (size_t m = 0; m < e.methods.size(); ++m) {
          if (e.methods[m].rates.empty()) cells.push_back({d, m, size, seed, ""});
          for (const std::string& rate : e.methods[m].rates) cells.push_back({d, m, size, seed, rate});
        }
    }
  return cells;
}

TextParts parts_of(const std::string& text, const Experiment& e, int64_t size, int64_t seed, const std::string& path) {
  // Test and validation first, so that they are the same for every size of the training text.
  const int64_t most = *std::max_element(e.sizes.begin(), e.sizes.end()), whole = e.test + e.validation + most;
  const int64_t room = int64_t(text.size()) / whole;
  require(seed < room, path, ": ", text.size(), " bytes are enough for seeds 0 to ", room - 1, " of ", whole, " bytes each, not for seed ", seed);
  size_t at = size_t(seed * whole);
  // Behind the end of the line that `from` lies in; of a long line (a contract is one of 30 KB), behind a word.
  const auto cut = [&](size_t from) {
    constexpr size_t long_line = 4096;
    const size_t line = text.find('\n', from), word = text.find(' ', from);
    return std::min(line - from > long_line ? std::min(line, word) : line, text.size() - 1) + 1;
  };
  const auto take = [&](int64_t bytes) {
    const size_t begin = at == 0 ? 0 : cut(at - 1), end = std::max(begin, cut(at + size_t(bytes) - 1));
    at += size_t(bytes);
    return text.substr(begin, end - begin);
  };
  TextParts parts;
  parts.test = take(e.test);
  parts.validation = take(e.validation);
  parts.train = take(size);
  require(!parts.test.empty() && !parts.validation.empty() && !parts.train.empty(), path, ": a line of seed ", seed, " is longer than the part it lies in");
  return parts;
}

LineParts line_parts_of(std::vector<std::string> lines, const Experiment& e, int64_t size, int64_t seed, const std::string& path) {
  std::erase(lines, "");
  const int64_t most = *std::max_element(e.sizes.begin(), e.sizes.end());
  require(int64_t(lines.size()) >= e.validation + most, path, ": ", lines.size(), " lines, fewer than ", e.validation, " for validation and ", most, " for training");
  Rng rng{uint64_t(seed)};
  for (size_t i = lines.size(); i > 1; --i) std::swap(lines[i - 1], lines[rng.below(i)]);
  const auto first = lines.begin() + e.validation;
  return {{first, first + size}, {lines.begin(), first}};
}

std::vector<Row> rows_of(const Experiment& e, const std::vector<CellResult>& results) {
  std::vector<Row> rows;
  const auto estimated = [](const std::vector<double>& values) { return values.empty() ? Estimate() : estimate(values); };
  for (size_t d = 0; d < e.domains.size(); ++d)
    for (const int64_t size : e.sizes)
      for (size_t m = 0; m < e.methods.size(); ++m) {
        const auto [rate, runs] = best_rate(results, d, m, size);
        if (runs.empty()) continue;
        Runs reference;
        for (size_t other = 0; other < e.methods.size(); ++other)
          if (e.methods[other].name == e.reference && other != m) reference = best_rate(results, d, other, size).second;
        Row row;
        row.domain = d, row.method = m, row.size = size, row.rate = rate;
        std::vector<double> test, fused_test, gains, fused, against, fused_against, forgotten;
        double theirs = 0, fused_theirs = 0, own = 0, fused_own = 0;      // gains or errors, of the seeds that both have
        for (const CellResult* r : runs) {
          const CellResult* base = base_of(results, d, r->cell.seed);
          require(base != nullptr, "experiment: no result of the base for seed ", r->cell.seed);
          const bool is_fused = !std::isnan(r->fused);
          test.push_back(r->test);
          if (is_fused) fused_test.push_back(r->fused);
          if (!std::isnan(base->test)) {
            gains.push_back(base->test - r->test);
            if (is_fused) fused.push_back(base->test - r->fused);
          }
          if (!std::isnan(r->kept) && !std::isnan(base->kept)) forgotten.push_back(r->kept - base->kept);
          for (const CellResult* other : reference) {
            if (other->cell.seed != r->cell.seed) continue;
            const double from = e.counts_errors() ? 0 : base->test;
            against.push_back(other->test - r->test);
            own += from - r->test, theirs += from - other->test;
            if (!is_fused || std::isnan(other->fused)) continue;
            fused_against.push_back(other->fused - r->fused);
            fused_own += from - r->fused, fused_theirs += from - other->fused;
          }
          const auto n = double(runs.size());
          row.trained += r->trained / n, row.stored += r->stored / n, row.memory += r->memory / n, row.seconds += r->seconds / n, row.passes += r->passes / n;
        }
        row.test = estimate(test), row.fused_test = estimated(fused_test);
        row.gain = estimated(gains), row.fused_gain = estimated(fused);
        row.against = estimated(against), row.fused_against = estimated(fused_against);
        row.forgotten = estimated(forgotten);
        if (!against.empty()) row.ratio = own / theirs;
        if (!fused_against.empty()) row.fused_ratio = fused_own / fused_theirs;
        rows.push_back(row);
      }
  return rows;
}

std::string table_of(const Experiment& e, const std::vector<Row>& rows, const std::vector<CellResult>& results) {
  const bool errors = e.counts_errors(), compared = !e.reference.empty();
  const int digits = errors ? 2 : 3;
  std::string out = "# " + e.name + "\n\n" + (errors ? "Test errors in %" : "Test loss in nats per token") +
                    ", mean over seeds ± 95 % interval (Student's t); fused: with the mixture chosen on validation. The rate is the one with the least mean validation loss." +
                    (errors ? "" : " Gain = base − adapted on the same text.") +
                    (compared ? " Lead: " + std::string(errors ? "errors of " : "") + e.reference + (errors ? " − errors" : "'s loss − this") + ", seed by seed; ratio: of mean " +
                                    (errors ? "errors" : "gains") + " to its." : "") +
                    (e.kept.empty() ? "" : " Forgets: loss on general text, adapted − base.") + "\n";
  std::string head = "| method | rate | seeds | test | ", line = "|---|---|---|---|";
  const auto column = [&](const std::string& name) { head += name + " | ", line += "---|"; };
  if (!errors) column("gain");
  column(errors ? "fused" : "fused gain");
  if (compared) column("lead"), column("ratio"), column("fused lead"), column("fused ratio");
  if (!e.kept.empty()) column("forgets");
  for (const char* name : {"trained", "stored bytes", "peak MB", "seconds", "passes"}) column(name);
  head.pop_back();
  size_t domain = size_t(-1);
  int64_t size = -1;
  for (const Row& r : rows) {
    if (r.domain != domain || r.size != size) {
      domain = r.domain, size = r.size;
      std::vector<double> base;
      for (const CellResult& c : results)
        if (!c.cell.method && c.cell.domain == domain && !std::isnan(c.test)) base.push_back(c.test);
      out += "\n## " + e.domains[domain].name + ", " + std::to_string(size) + (errors ? " examples" : " bytes") + "\n\n" +
             (base.empty() ? "" : "Base: " + shown(estimate(base), digits) + " over " + std::to_string(base.size()) + " seed(s)\n\n") + head + "\n" + line + "\n";
    }
    const auto optional = [&](const Estimate& x, bool sign = true) { return (x.n > 0 ? shown(x, digits, sign) : std::string("–")) + " | "; };
    const auto ratio = [&](double x) { return (std::isnan(x) ? std::string("–") : number("%.2f", x)) + " | "; };
    out += "| " + e.methods[r.method].name + " | " + (r.rate.empty() ? "–" : r.rate) + " | " + std::to_string(r.test.n) + " | " + shown(r.test, digits) + " | ";
    out += errors ? optional(r.fused_test, false) : optional(r.gain) + optional(r.fused_gain);
    if (compared) out += optional(r.against) + ratio(r.ratio) + optional(r.fused_against) + ratio(r.fused_ratio);
    if (!e.kept.empty()) out += optional(r.forgotten);
    out += count_of(r.trained) + " | " + count_of(r.stored) + " | " + number("%.0f", r.memory / 1e6) + " | " + number("%.0f", r.seconds) + " | " + number("%.1f", r.passes) + " |\n";
  }
  return out;
}

std::string plot_of(const Experiment& e, const std::vector<Row>& rows) {
  double most = 1e-9;
  for (const Row& r : rows)
    for (const Estimate* g : e.counts_errors() ? std::array{&r.test, &r.fused_test} : std::array{&r.gain, &r.fused_gain})
      if (g->n > 0) most = std::max(most, g->mean + (std::isnan(g->half) ? 0 : g->half));
  const double left = 260, wide = 420, step = 34;
  const double height = 60 + step * double(rows.size());
  const auto px = [&](double x) { return left + wide * std::max(0.0, x) / most; };
  const auto escaped = [](const std::string& text) {
    std::string s;
    for (const char c : text) s += c == '&' ? "&amp;" : c == '<' ? "&lt;" : std::string(1, c);
    return s;
  };
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 740 " + number("%.0f", height) + "\" font-family=\"sans-serif\" font-size=\"12\">\n"
                    "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"20\" y=\"22\" font-size=\"14\">" + escaped(e.name) +
                    (e.counts_errors() ? ": test errors in %" : ": gain over the base, nats per token") + " (dark: alone, light: fused; lines: 95 % interval)</text>\n";
  double y = 44;
  for (const Row& r : rows) {
    const std::string label = e.domains[r.domain].name + " " + (e.counts_errors() ? std::to_string(r.size) : std::to_string(r.size / 1024) + " KB") + "  " + e.methods[r.method].name;
    svg += "<text x=\"" + number("%.0f", left - 8) + "\" y=\"" + number("%.1f", y + 15) + "\" text-anchor=\"end\">" + escaped(label) + "</text>\n";
    double at = y;
    for (const auto& [g, colour] : {std::pair(e.counts_errors() ? &r.test : &r.gain, "#1f5f99"), std::pair(e.counts_errors() ? &r.fused_test : &r.fused_gain, "#8fbce0")}) {
      if (g->n > 0) {
        svg += "<rect x=\"" + number("%.1f", left) + "\" y=\"" + number("%.1f", at) + "\" width=\"" + number("%.1f", px(g->mean) - left) + "\" height=\"11\" fill=\"" + colour + "\"/>\n";
        if (!std::isnan(g->half))
          svg += "<path d=\"M" + number("%.1f", px(g->mean - g->half)) + " " + number("%.1f", at + 5.5) + "H" + number("%.1f", px(g->mean + g->half)) +
                 "\" stroke=\"#222\" stroke-width=\"1.5\"/>\n";
        svg += "<text x=\"" + number("%.1f", px(g->mean + (std::isnan(g->half) ? 0 : g->half)) + 4) + "\" y=\"" + number("%.1f", at + 10) + "\" font-size=\"10\">" +
               number("%.3f", g->mean) + "</text>\n";
      }
      at += 13;
    }
    y += step;
  }
  return svg + "</svg>\n";
}

}  // namespace kvt
