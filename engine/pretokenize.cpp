#include "engine/pretokenize.h"

#include <algorithm>

#include "tensor/error.h"

namespace kvt {

using unicode::Char;

namespace {

// ---- sets of characters ----
bool space(Char c) { return c.space(); }                                                 // \s
bool blank(Char c) { return c.code() == ' '; }
bool newline(Char c) { return c.code() == '\n' || c.code() == '\r'; }                    // [\r\n]
bool newline_or_slash(Char c) { return newline(c) || c.code() == '/'; }                  // [\r\n/]
bool letter(Char c) { return c.in(unicode::letters); }                                   // \p{L}
bool letter_or_mark(Char c) { return c.in(unicode::letters | unicode::marks); }          // [\p{L}\p{M}]
bool number(Char c) { return c.in(unicode::numbers); }                                   // \p{N}
bool digit(Char c) { return c.in('0', '9'); }                                            // [0-9]
bool ascii_letter(Char c) { return c.in('A', 'Z') || c.in('a', 'z'); }                   // [A-Za-z]
bool ascii_symbol(Char c) { return c.in('!', '~') && !ascii_letter(c) && !digit(c); }    // [!-/:-@\[-`{-~]
bool mark_of_punctuation(Char c) { return c.in(unicode::punctuation); }                  // \p{P}
bool sign(Char c) { return c.in(unicode::punctuation | unicode::symbols); }              // [\p{P}\p{S}]
bool other(Char c) { return !space(c) && !letter(c) && !number(c); }                     // [^\s\p{L}\p{N}]
bool other_but_marks(Char c) { return other(c) && !c.in(unicode::marks); }               // [^\s\p{L}\p{M}\p{N}]
bool before_word(Char c) { return !newline(c) && !letter(c) && !number(c); }             // [^\r\n\p{L}\p{N}]
bool before_word_v3(Char c) { return !newline(c) && !letter(c) && !sign(c); }            // [^\r\n\p{L}\p{P}\p{S}]
bool ascii_or_punctuation(Char c) { return mark_of_punctuation(c) || ascii_symbol(c); }  // [\p{P}$+<=>^~|`]
bool but_backtick(Char c) { return ascii_or_punctuation(c) && c.code() != '`'; }         // [\p{P}$+<=>^~|]
bool upper(Char c) { return c.in(unicode::set_of(unicode::Lu, unicode::Lt, unicode::Lm, unicode::Lo) | unicode::marks); }
bool lower(Char c) { return c.in(unicode::set_of(unicode::Ll, unicode::Lm, unicode::Lo) | unicode::marks); }
bool cjk(Char c) { return c.in(0x800, 0x9FA5) || c.in(0xAC00, 0xD7FF); }                 // [一-龥ࠀ-一가-퟿]
bool han_or_kana(Char c) { return c.in(0x4E00, 0x9FA5) || c.in(0x3040, 0x30FF); }        // [一-龥぀-ゟ゠-ヿ]
bool deepseek_sign(Char c) {                                                             // [!-/:-~！-／：-～‘-‟　-。]
  return c.in('!', '/') || c.in(':', '~') || c.in(0xFF01, 0xFF0F) || c.in(0xFF1A, 0xFF5E) || c.in(0x2018, 0x201F) || c.in(0x3000, 0x3002);
}
// The letters with a case that DeepSeek LLM's expression lists one range after the other.
bool cased(Char c) {
  static constexpr uint32_t ranges[][2] = {
    {0x41, 0x5A}, {0x61, 0x7A}, {0xB5, 0xB5}, {0xC0, 0xD6}, {0xD8, 0xF6}, {0xF8, 0x1BA}, {0x1BC, 0x1BF},
    {0x1C4, 0x293}, {0x295, 0x2AF}, {0x370, 0x373}, {0x376, 0x377}, {0x37B, 0x37D}, {0x37F, 0x37F}, {0x386, 0x386},
    {0x388, 0x38A}, {0x38C, 0x38C}, {0x38E, 0x3A1}, {0x3A3, 0x3F5}, {0x3F7, 0x481}, {0x48A, 0x52F}, {0x531, 0x556},
    {0x10A0, 0x10C5}, {0x13A0, 0x13F5}, {0x13F8, 0x13FD}, {0x1C90, 0x1CBA}, {0x1CBD, 0x1CBF}, {0x1D00, 0x1D2B}, {0x1D6B, 0x1D77},
    {0x1D79, 0x1D9A}, {0x1E00, 0x1F15}, {0x1F18, 0x1F1D}, {0x1F20, 0x1F45}, {0x1F48, 0x1F4D}, {0x1F50, 0x1F57}, {0x1F59, 0x1F59},
    {0x1F5B, 0x1F5B}, {0x1F5D, 0x1F5D}, {0x1F5F, 0x1F7D}, {0x1F80, 0x1FB4}, {0x1FB6, 0x1FBC}, {0x1FBE, 0x1FBE}, {0x1FC2, 0x1FC4},
    {0x1FC6, 0x1FCC}, {0x1FD0, 0x1FD3}, {0x1FD6, 0x1FDB}, {0x1FE0, 0x1FEC}, {0x1FF2, 0x1FF4}, {0x1FF6, 0x1FFC}, {0x2102, 0x2102},
    {0x2107, 0x2107}, {0x210A, 0x2113}, {0x2115, 0x2115}, {0x2119, 0x211D}, {0x2124, 0x2124}, {0x2126, 0x2126}, {0x2128, 0x2128},
    {0x212A, 0x212D}, {0x212F, 0x2134}, {0x2139, 0x2139}, {0x213C, 0x213F}, {0x2145, 0x2149}, {0x214E, 0x214E}, {0x2183, 0x2184},
    {0x2C00, 0x2C7B}, {0x2C7E, 0x2CE4}, {0x2CEB, 0x2CEE}, {0x2CF2, 0x2CF3}, {0xA640, 0xA66D}, {0xA680, 0xA69B}, {0xA722, 0xA76F},
    {0xA771, 0xA787}, {0xA78B, 0xA78E}, {0xAB70, 0xABBF}, {0xFB00, 0xFB06}, {0xFB13, 0xFB17}, {0xFF21, 0xFF3A}, {0xFF41, 0xFF5A},
    {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB}, {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
  };
  const auto* range = std::lower_bound(std::begin(ranges), std::end(ranges), c.code(), [](const auto& r, uint32_t code) { return r[1] < code; });
  return range != std::end(ranges) && c.code() >= (*range)[0];
}

// ---- ways to match ----
size_t run(Chars s, size_t at, Rule::Set set) {
  while (at < s.size() && set(s[at])) ++at;
  return at;
}

size_t match_run(const Rule& r, Chars s, size_t at) {
  const auto body = [&](size_t begin) {
    size_t end = begin;
    while (end < s.size() && end - begin < r.most && r.body(s[end])) ++end;
    return end - begin < r.least ? begin : r.trail ? run(s, end, r.trail) : end;
  };
  if (r.lead && r.lead(s[at]))
    if (const size_t end = body(at + 1); end > at + 1) return end;
  return body(at);
}

size_t match_led_run(const Rule& r, Chars s, size_t at) {
  if (!r.lead(s[at])) return at;
  const size_t end = run(s, at + 1, r.body);
  return end > at + 1 ? end : at;
}

// 's|'t|'re|'ve|'m|'ll|'d
size_t contraction(Chars s, size_t at, bool any_case) {
  if (at >= s.size() || s[at].code() != '\'') return at;
  for (const std::string_view ending : {"s", "t", "re", "ve", "m", "ll", "d"}) {
    size_t i = 0;
    while (i < ending.size() && at + 1 + i < s.size() &&
           (any_case ? unicode::lower(s[at + 1 + i].code()) : s[at + 1 + i].code()) == uint32_t(ending[i])) ++i;
    if (i == ending.size()) return at + 1 + i;
  }
  return at;
}
size_t match_contraction(const Rule&, Chars s, size_t at) { return contraction(s, at, false); }
size_t match_any_case_contraction(const Rule&, Chars s, size_t at) { return contraction(s, at, true); }

// \s*[\r\n]+ : white space up to its last newline
size_t match_lines(const Rule&, Chars s, size_t at) {
  size_t end = run(s, at, space);
  while (end > at && !newline(s[end - 1])) --end;
  return end;
}

// \s+(?!\S) : white space, but for its last character if a word follows
size_t match_spaces_before_space(const Rule&, Chars s, size_t at) {
  const size_t end = run(s, at, space);
  return end == s.size() || end == at ? end : end - 1;
}

// \s+$ : tried where white space begins alone, as a run that does not reach the end does so from none of its characters
size_t match_spaces_at_end(const Rule&, Chars s, size_t at) {
  if (at > 0 && space(s[at - 1])) return at;
  const size_t end = run(s, at, space);
  return end == s.size() ? end : at;
}

// U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], W = [\p{Ll}\p{Lm}\p{Lo}\p{M}]; some characters are in both, so U* may have to give some back.
size_t upper_then_lower(Chars s, size_t at) {                                            // U*W+
  size_t end = run(s, at, upper);
  if (end < s.size() && lower(s[end])) return run(s, end, lower);
  while (end > at && !lower(s[end - 1])) --end;
  return end;
}
size_t upper_maybe_lower(Chars s, size_t at) {                                           // U+W*
  const size_t end = run(s, at, upper);
  return end == at ? at : run(s, end, lower);
}

// lead?U*W+ contraction? | lead?U+W* contraction?
size_t camel_case(const Rule& r, Chars s, size_t at, bool contractions) {
  for (const auto words : {upper_then_lower, upper_maybe_lower})
    for (const size_t lead : {1, 0}) {
      if (lead && !(r.lead(s[at]) && at + 1 < s.size())) continue;
      if (const size_t end = words(s, at + lead); end > at + lead) return contractions ? contraction(s, end, true) : end;
    }
  return at;
}
size_t match_camel_case(const Rule& r, Chars s, size_t at) { return camel_case(r, s, at, false); }
size_t match_camel_case_contracted(const Rule& r, Chars s, size_t at) { return camel_case(r, s, at, true); }

// ---- the alternatives that the expressions share ----
constexpr Rule set_run(Rule::Set body, size_t least = 1, size_t most = SIZE_MAX) { return {match_run, nullptr, body, nullptr, least, most}; }
constexpr Rule led(Rule::Set lead, Rule::Set body, Rule::Set trail = nullptr) { return {match_run, lead, body, trail}; }
constexpr Rule contractions{match_contraction}, any_case_contractions{match_any_case_contraction}, lines{match_lines},
    spaces_before_space{match_spaces_before_space}, spaces_at_end{match_spaces_at_end}, spaces = set_run(space);

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
const std::vector<Rule> gpt2 = {contractions, led(blank, letter), led(blank, number), led(blank, other), spaces_before_space, spaces};

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,most}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
std::vector<Rule> gpt4(size_t most) {
  return {any_case_contractions, led(before_word, letter), set_run(number, 1, most), led(blank, other, newline), lines, spaces_before_space, spaces};
}

const std::vector<PreTokenizer>& known() {
  static const std::vector<PreTokenizer> all = {
      // [\p{P}$+<=>^~|]+, then GPT-2's, then \p{N}+, then [0-9][0-9][0-9]
      {{"default"}, {{set_run(but_backtick)}, gpt2, {set_run(number)}, {set_run(digit, 3, 3)}}},
      {{"gpt-2", "mpt", "olmo", "jais", "phi-2", "trillion", "granite-docling"}, {gpt2}},
      // \p{N}, then GPT-2's
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}, {{set_run(number, 1, 1)}, gpt2}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"}, {gpt4(3)}, true, true},
      {{"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, {gpt4(3)}},
      {{"qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "grok-2"}, {gpt4(1)}},
      // Qwen2's with marks among the letters: [^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+ and  ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*
      {{"qwen35"}, {{any_case_contractions, led(before_word, letter_or_mark), set_run(number, 1, 1), led(blank, other_but_marks, newline), lines,
                     spaces_before_space, spaces}}},
      // [\r\n], then \s?[letters with a case]+, then \s?[signs]+, then \s+$, then [一-龥ࠀ-一가-퟿]+, then \p{N}+
      {{"deepseek-llm"}, {{set_run(newline, 1, 1)}, {led(space, cased)}, {led(space, deepseek_sign)}, {spaces_at_end}, {set_run(cjk)}, {set_run(number)}}},
      // [\r\n], then \s?\p{L}+, then \s?\p{P}+, then [一-龥ࠀ-一가-퟿]+, then \p{N}
      {{"deepseek-coder"}, {{set_run(newline, 1, 1)}, {led(space, letter)}, {led(space, mark_of_punctuation)}, {set_run(cjk)}, {set_run(number, 1, 1)}}},
      // \p{N}{1,3}, then [一-龥぀-ゟ゠-ヿ]+, then
      // [ASCII signs][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
      {{"deepseek-v3", "hunyuan-dense"},
       {{set_run(number, 1, 3)},
        {set_run(han_or_kana)},
        {{match_led_run, ascii_symbol, ascii_letter}, led(before_word_v3, letter_or_mark), led(blank, sign, newline), lines, spaces_before_space, spaces}}},
      // [\p{P}$+<=>^~|`]+, then GPT-2's, then [0-9][0-9][0-9]
      {{"falcon"}, {{set_run(ascii_or_punctuation)}, gpt2, {set_run(digit, 3, 3)}}},
      // [^\r\n\p{L}\p{N}]?U*W+|[^\r\n\p{L}\p{N}]?U+W*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
      {{"tekken"}, {{{match_camel_case, before_word}, set_run(number, 1, 1), led(blank, other, newline_or_slash), lines, spaces_before_space, spaces}}, true, true},
      // the same with a contraction (any case) behind each word, and \p{N}{1,3}
      {{"gpt-4o", "llama4"},
       {{{match_camel_case_contracted, before_word}, set_run(number, 1, 3), led(blank, other, newline_or_slash), lines, spaces_before_space, spaces}}},
  };
  return all;
}

}  // namespace

const PreTokenizer& PreTokenizer::named(std::string_view name, std::string_view source) {
  std::string names;
  for (const PreTokenizer& p : known())
    for (const std::string_view n : p.names) {
      if (n == name) return p;
      names += (names.empty() ? "" : ", ") + std::string(n);
    }
  fail(source, ": unknown pre-tokenizer tokenizer.ggml.pre = '", name, "'; known are ", names,
       ". Set the key to the one whose splitting rules the model was trained with");
}

void PreTokenizer::split(std::string_view text, std::vector<std::string_view>& words) const {
  const std::vector<Char> chars = unicode::decode(text);
  std::vector<size_t> ends = {chars.size()}, finer;
  for (const std::vector<Rule>& rules : passes) {
    finer.clear();
    size_t begin = 0;
    for (const size_t end : ends) {
      const Chars piece = Chars(chars).subspan(begin, end - begin);
      size_t gap = 0;                                      // where what no rule matched begins
      for (size_t at = 0; at < piece.size();) {
        size_t stop = at;
        for (size_t r = 0; r < rules.size() && stop == at; ++r) stop = rules[r].match(rules[r], piece, at);
        if (stop == at) {
          ++at;
          continue;
        }
        if (at > gap) finer.push_back(begin + at);
        finer.push_back(begin + stop);
        gap = at = stop;
      }
      if (piece.size() > gap) finer.push_back(end);
      begin = end;
    }
    ends.swap(finer);
  }
  size_t begin = 0, offset = 0;
  for (const size_t end : ends) {
    size_t bytes = 0;
    for (; begin < end; ++begin) bytes += chars[begin].bytes();
    if (bytes) words.push_back(text.substr(offset, bytes));
    offset += bytes;
  }
}

}  // namespace kvt
