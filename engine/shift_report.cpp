#include "engine/shift_report.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "engine/columns.h"
#include "engine/unicode.h"
#include "tensor/order.h"

namespace kvt {

namespace {

constexpr int64_t context_tokens = 14;

// " protein", " größe": what begins a word of at least three letters, as a person reads it; not the rest of one.
bool is_word(const std::string& piece) {
  const std::vector<unicode::Char> units = unicode::decode(piece);
  return units.size() >= 4 && units[0].code() == ' ' && std::all_of(units.begin() + 1, units.end(), [](unicode::Char c) { return c.in(unicode::letters | unicode::marks); });
}

class Maker {
 public:
  Maker(const Shift& shift, const Examples& text, const Tokenizer& tokenizer, int64_t words) : shift_(shift), text_(text), tokenizer_(tokenizer), words_(words) {
    for (int32_t v = 0; v < int32_t(shift.before.size()); ++v)
      if (is_word(tokenizer.piece(v))) known_.push_back(v);
  }

  // The first words by a score; those with score ≤ 0 are left out.
  template <class Score>
  std::vector<ShiftReport::Word> ranked(Score score) const {
    std::vector<int64_t> order;
    for (const int32_t v : known_)
      if (score(v) > 0) order.push_back(v);
    stable_order(order, [&](int64_t a, int64_t b) { return score(int32_t(a)) > score(int32_t(b)); });
    order.resize(std::min(order.size(), size_t(words_)));
    std::vector<ShiftReport::Word> words;
    for (const int64_t v : order) words.push_back(word(int32_t(v), shift_.change(int32_t(v))));
    return words;
  }

  std::vector<ShiftReport::Word> listed(const std::vector<TokenChange>& changes) const {
    std::vector<ShiftReport::Word> words;
    for (const TokenChange& t : changes)
      if (int64_t(words.size()) < words_ && is_word(tokenizer_.piece(t.token))) words.push_back(word(t.token, double(t.change)));
    return words;
  }

  std::string context(Place place) const {
    if (place.example < 0) return "";
    const Ids& ids = text_[place.example].tokens;
    std::string line;
    for (int64_t t = std::max<int64_t>(0, place.t - context_tokens + 1); t <= place.t; ++t) line += tokenizer_.piece(ids[size_t(t)]);
    std::replace(line.begin(), line.end(), '\n', ' ');
    while (!line.empty() && (static_cast<unsigned char>(line[0]) & 0xC0) == 0x80) line.erase(0, 1);      // the rest of a cut character
    return line;
  }

 private:
  ShiftReport::Word word(int32_t v, double change) const {
    const Extreme& extreme = change > 0 ? shift_.rise[size_t(v)] : shift_.fall[size_t(v)];
    std::string text = tokenizer_.piece(v);
    if (!text.empty() && text[0] == ' ') text.erase(0, 1);
    return {v, text, shift_.before[size_t(v)], shift_.after[size_t(v)], change, double(extreme.log_change), context(extreme.place)};
  }

  const Shift& shift_;
  const Examples& text_;
  const Tokenizer& tokenizer_;
  const int64_t words_;
  std::vector<int32_t> known_;
};

// With so many digits behind the point, which it is whatever locale the host has chosen
std::string number(double x, int digits, bool sign = false) {
  char text[400];
  const std::string plain(text, std::to_chars(text, text + sizeof text, x, std::chars_format::fixed, digits).ptr);
  return sign && x >= 0 ? "+" + plain : plain;
}
// Mean probabilities are small: in ten-thousandths.
std::string per_myriad(double p) { return number(1e4 * p, 2); }
std::string log_change(double x) { return std::isfinite(x) ? number(x, 2, true) : x > 0 ? "+∞" : "−∞"; }

// With U+FFFD for bytes that are no character: a token may be part of one.
std::string characters(const std::string& text) {
  std::string out;
  for (const unicode::Char c : unicode::decode(text)) unicode::append(out, c.code() < unicode::invalid_byte ? c.code() : unicode::replacement);
  return out;
}

Json to_json(const std::vector<ShiftReport::Word>& words) {
  Json::Array list;
  for (const auto& w : words)
    list.push_back(Json::Object{{"token", int64_t(w.token)}, {"word", characters(w.text)}, {"before", w.before}, {"after", w.after}, {"change", w.change},
                                {"context", characters(w.context)}, {"log_change", std::isfinite(w.log_change) ? Json(w.log_change) : Json()}});
  return list;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else if (c == '"') out += "&quot;";
    else out += c;
  }
  return out;
}

std::string words_line(const std::vector<ShiftReport::Word>& words, size_t most) {
  std::string line;
  for (size_t i = 0; i < std::min(most, words.size()); ++i) line += (i ? ", " : "") + words[i].text;
  return line;
}

// The end of a context that fits, with "…" where it was cut.
std::string tail(const std::string& text, size_t width) {
  std::string end = text;
  while (columns(end) + 1 > width && !end.empty()) {
    const size_t space = end.find(' ', 1);
    end.erase(0, space == std::string::npos ? end.size() : space);
  }
  return end.size() < text.size() ? "…" + end : end;
}

std::string html_table(const std::vector<ShiftReport::Word>& words) {
  double most = 0;
  for (const auto& w : words) most = std::max(most, std::fabs(w.change));
  std::string t = "<table><tr><th>word<th>before<th>after<th>change<th><th>δ<th>where it changes most\n";
  for (const auto& w : words)
    t += "<tr><td class=w>" + escaped(w.text) + "<td>" + per_myriad(w.before) + "<td>" + per_myriad(w.after) + "<td>" + number(1e4 * w.change, 2, true) +
         "<td><i class=" + (w.change > 0 ? "up" : "down") + " style='width:" + number(8 * std::fabs(w.change) / std::max(most, 1e-30), 1) + "em'></i><td>" +
         log_change(w.log_change) + "<td class=c>" + escaped(w.context) + "<b> " + escaped(w.text) + "</b>\n";
  return t + "</table>\n";
}

}  // namespace

ShiftReport shift_report(const Shift& shift, const Concepts& concepts, const Examples& text, const Tokenizer& tokenizer, int64_t words) {
  const Maker make(shift, text, tokenizer, words);
  ShiftReport r;
  r.positions = shift.positions;
  r.divergence = shift.divergence;
  r.same_choice = shift.same_choice;
  r.risen = make.ranked([&](int32_t v) { return shift.change(v); });
  r.fallen = make.ranked([&](int32_t v) { return -shift.change(v); });
  r.distinctive = make.ranked([&](int32_t v) {
    return shift.change(v) <= 0 ? 0 : shift.change(v) * std::log(shift.after[size_t(v)] / std::max(shift.before[size_t(v)], 1e-12));
  });
  for (const Concept& c : concepts.each) r.topics.push_back({c.positions, make.listed(c.risen), make.listed(c.fallen), make.context(c.example)});
  return r;
}

std::string ShiftReport::plain(size_t width) const {
  std::string out = (tuned.empty() ? text + " beside " + base + ", its own next tokens as targets\n" : tuned + " beside " + base + " on " + text + "\n") +
                    std::to_string(positions) + " positions; " + (tuned.empty() ? "cross-entropy " : "divergence KL(tuned ‖ base) ") + number(divergence, 4) +
                    " nats a token; the likeliest token is the same at " + number(100 * same_choice, 1) + " %\n";
  const auto table = [&](const char* title, const std::vector<Word>& words) {
    out += std::string("\n") + title + "  (probability × 10 000: before → after; δ where it changes most)\n";
    for (const Word& w : words) {
      const std::string line = "  " + padded(w.text, 16) + " " + padded(per_myriad(w.before), 7) + " → " + padded(per_myriad(w.after), 7) + "  δ " +
                               padded(log_change(w.log_change), 7) + " ";
      out += line + tail(w.context, width > columns(line) + 20 ? width - columns(line) : 20) + "\n";
    }
  };
  table("Words that rise", risen);
  table("Risen words that were rare", distinctive);
  table("Words that fall", fallen);
  out += "\nConcepts: clusters of knowledge directions\n";
  for (size_t i = 0; i < topics.size(); ++i) {
    const Topic& t = topics[i];
    out += "  " + std::to_string(i + 1) + "  " + std::to_string(t.positions) + " positions, as in " + tail(t.context, 60) + "\n";
    for (const auto& [mark, list] : {std::pair("rise", &t.risen), std::pair("fall", &t.fallen)})
      for (const std::string& line : wrapped(std::string(mark) + "  " + words_line(*list, 12), width - 6)) out += "     " + line + "\n";
  }
  return out;
}

Json ShiftReport::json() const {
  Json::Array concepts;
  for (const Topic& t : topics)
    concepts.push_back(Json::Object{{"positions", t.positions}, {"context", characters(t.context)}, {"risen", to_json(t.risen)}, {"fallen", to_json(t.fallen)}});
  return Json::Object{{"base", base}, {"tuned", tuned.empty() ? Json() : Json(tuned)}, {"text", text}, {"positions", positions}, {"divergence", divergence},
                      {"same_choice", same_choice}, {"risen", to_json(risen)}, {"distinctive", to_json(distinctive)}, {"fallen", to_json(fallen)},
                      {"concepts", std::move(concepts)}};
}

std::string ShiftReport::html() const {
  std::string h = "<!DOCTYPE html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>Domain report</title>\n<style>"
                  ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
                  "table{border-collapse:collapse;width:100%}td,th{text-align:right;padding:.15em .6em;border-bottom:1px solid #8883;font-weight:400;vertical-align:top}"
                  "th{color:gray}td.w{text-align:left;font-weight:600}td.c,th:last-child{text-align:left;color:gray}td.c b{color:CanvasText}"
                  "i{display:inline-block;height:.7em;border-radius:2px}i.up{background:#2a9d5c}i.down{background:#d0563f}"
                  "section{margin:.8em 0;padding:.6em 1em;border:1px solid #8884;border-radius:6px}.up{color:#2a9d5c}.down{color:#d0563f}</style>\n";
  h += "<h1>Domain report</h1><p>" + (tuned.empty() ? "The text <b>" + escaped(text) + "</b> beside <b>" + escaped(base) + "</b>, its own next tokens as targets: cross-entropy "
                                                    : "<b>" + escaped(tuned) + "</b> beside <b>" + escaped(base) + "</b> on <b>" + escaped(text) + "</b>: divergence ") +
       number(divergence, 4) + " nats a token over " + std::to_string(positions) + " positions; the likeliest token is the same at " + number(100 * same_choice, 1) +
       " %.</p><p>Probabilities are means over all positions, times 10 000; δ is the change of the logarithm where the word changes most.</p>\n";
  h += "<h2>Words that rise</h2>\n" + html_table(risen) + "<h2>Risen words that were rare</h2>\n" + html_table(distinctive) + "<h2>Words that fall</h2>\n" + html_table(fallen);
  h += "<h2>Concepts</h2><p>Clusters of the knowledge directions u.</p>\n";
  for (const Topic& t : topics)
    h += "<section>" + std::to_string(t.positions) + " positions, as in <q>" + escaped(t.context) + "</q><br><span class=up>▲</span> " + escaped(words_line(t.risen, 20)) +
         "<br><span class=down>▼</span> " + escaped(words_line(t.fallen, 20)) + "</section>\n";
  return h + "</html>\n";
}

}  // namespace kvt
