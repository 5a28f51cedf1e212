#include "tools/demo_text.h"

#include <algorithm>
#include <cctype>

#include "engine/metrics.h"
#include "tools/common.h"

namespace kvt {

static bool in_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || static_cast<unsigned char>(c) >= 0x80; }

static std::vector<Paragraph::Span> words_of(const std::string& text) {
  std::vector<Paragraph::Span> words;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!in_word(text[i])) continue;
    const size_t begin = i;
    while (i < text.size() && in_word(text[i])) ++i;
    words.emplace_back(begin, i);
  }
  return words;
}

static Paragraph parse_paragraph(const std::string& marked, const std::string& path) {
  Paragraph p;
  size_t open = std::string::npos;
  for (const char c : marked) {
    if (c == '[' || c == ']') {
      const bool opens = c == '[';
      require(opens == (open == std::string::npos), path, ": unpaired '", c, "' behind \"", p.text.substr(p.text.size() - std::min<size_t>(30, p.text.size())), "\"");
      if (!opens) p.keys.emplace_back(open, p.text.size());
      open = opens ? p.text.size() : std::string::npos;
    } else {
      p.text += c;
    }
  }
  require(open == std::string::npos, path, ": '[' without ']'");
  p.words = words_of(p.text);
  return p;
}

std::vector<Paragraph> read_paragraphs(const std::string& path) {
  const std::string text = read_text(path);
  std::vector<Paragraph> paragraphs;
  size_t keys = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find("\n\n", begin), text.size());
    std::string part = text.substr(begin, end - begin);
    while (!part.empty() && part.back() == '\n') part.pop_back();
    if (!part.empty()) paragraphs.push_back(parse_paragraph(part, path)), keys += paragraphs.back().keys.size();
    begin = end + 2;
  }
  require(keys > 0, path, ": no key words in [brackets]");
  return paragraphs;
}

Score score(const CausalLm& model, const Tokenizer& tokenizer, const std::vector<Paragraph>& paragraphs) {
  Score total;
  for (const Paragraph& p : paragraphs) {
    const std::vector<int32_t> ids = tokenizer.encode(p.text, {.add_special = false, .parse_special = false});
    if (ids.size() < 2) continue;
    const std::vector<double> losses = token_losses(model, ids);
    for (const double x : losses) total.nll += x;
    total.predictions += int64_t(losses.size());

    // The loss of a word is that of the tokens it has a part in; where each token begins follows from the bytes of its piece.
    std::vector<size_t> begins;
    std::string joined;
    for (const int32_t id : ids) {
      begins.push_back(joined.size());
      joined += tokenizer.piece(id);
    }
    const size_t shift = joined.find(p.text);
    require(shift != std::string::npos, "demo: the tokens of a paragraph do not give its text back: \"", p.text.substr(0, 40), "…\"");
    const auto loss_of = [&](Paragraph::Span span) {
      double sum = 0;
      for (size_t t = 1; t < ids.size(); ++t) {
        const size_t end = t + 1 < ids.size() ? begins[t + 1] : joined.size();
        if (begins[t] < span.second + shift && end > span.first + shift) sum += losses[t - 1];
      }
      return sum;
    };
    for (const Paragraph::Span& key : p.keys) total.keys.push_back(loss_of(key));
    for (const Paragraph::Span& word : p.words) total.words.push_back(loss_of(word));
  }
  require(total.predictions > 0, "demo: the held-out text has no token to predict");
  return total;
}

std::string sentence_before(const Paragraph& p, size_t key, size_t width) {
  const auto [at, end] = p.keys.at(key);
  const size_t stop = at == 0 ? std::string::npos : p.text.find_last_of(".!?", at - 1);
  size_t begin = stop == std::string::npos ? 0 : stop + 1;
  while (begin < at && !in_word(p.text[begin])) ++begin;
  const std::string mark = "[" + p.text.substr(at, end - at) + "]";
  std::string before = p.text.substr(begin, at - begin);
  if (columns(before + mark) <= width) return before + mark;
  while (!before.empty() && columns(before + mark) + 1 > width) {
    const size_t space = before.find(' ', 1);
    before.erase(0, space == std::string::npos ? before.size() : space);
  }
  return "…" + before + mark;
}

std::string whole_sentences(const std::string& text) {
  std::string line = text.substr(0, text.find('\n', std::min(text.find_first_not_of(" \n"), text.size())));
  std::replace(line.begin(), line.end(), '\n', ' ');
  line.erase(0, std::min(line.find_first_not_of(' '), line.size()));
  const size_t stop = line.find_last_of(".!?");
  if (stop == std::string::npos) return line + "…";
  size_t end = stop + 1;
  while (end < line.size() && (line[end] == '"' || line[end] == ')')) ++end;
  return line.substr(0, end);
}

}  // namespace kvt
