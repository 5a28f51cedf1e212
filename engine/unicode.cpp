#include "engine/unicode.h"

#include <algorithm>
#include <array>

#include "engine/unicode_tables.h"

namespace kvt::unicode {

static Category find_category(uint32_t code) {
  if (code >= invalid_byte) return So;
  const uint32_t* run = std::upper_bound(category_runs, category_runs + category_run_count, code << 5 | 31);
  return Category(run[-1] & 31);
}

Category category(uint32_t code) {
  static const auto latin = [] {
    std::array<Category, 256> table{};
    for (uint32_t c = 0; c < 256; ++c) table[c] = find_category(c);
    return table;
  }();
  return code < latin.size() ? latin[code] : find_category(code);
}

uint32_t lower(uint32_t code) {
  if (code < 0x80) return code >= 'A' && code <= 'Z' ? code + 32 : code;
  const LowerRun* end = lower_runs + lower_run_count;
  const LowerRun* run = std::lower_bound(lower_runs, end, code, [](const LowerRun& r, uint32_t c) { return r.last < c; });
  const bool inside = run != end && code >= run->first && (code - run->first) % uint32_t(run->step) == 0;
  return inside ? uint32_t(int32_t(code) + run->delta) : code;
}

bool ideograph(uint32_t code) {
  static constexpr uint32_t blocks[][2] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},   {0x20000, 0x2A6DF},
                                           {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B820, 0x2CEAF}, {0x2F800, 0x2FA1F}};
  return std::any_of(std::begin(blocks), std::end(blocks), [code](const auto& b) { return code >= b[0] && code <= b[1]; });
}

uint32_t next(std::string_view text, size_t& at) {
  const auto byte = [text](size_t i) { return uint32_t(static_cast<unsigned char>(text[i])); };
  const uint32_t lead = byte(at++);
  if (lead < 0x80) return lead;
  const uint32_t more = lead >= 0xF0 && lead < 0xF5 ? 3 : lead >= 0xE0 && lead < 0xF0 ? 2 : lead >= 0xC2 && lead < 0xE0 ? 1 : 0;
  if (more == 0 || text.size() - at < more) return invalid_byte + lead;
  uint32_t code = lead & (0x3Fu >> more);
  for (uint32_t i = 0; i < more; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return invalid_byte + lead;
    code = code << 6 | (byte(at + i) & 0x3F);
  }
  const bool overlong = (more == 2 && code < 0x800) || (more == 3 && code < 0x10000), surrogate = code >= 0xD800 && code <= 0xDFFF;
  if (overlong || surrogate || code > 0x10FFFF) return invalid_byte + lead;
  at += more;
  return code;
}

std::vector<Char> decode(std::string_view text) {
  std::vector<Char> chars;
  chars.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const uint32_t code = next(text, at);
    chars.emplace_back(code, category(code));
  }
  return chars;
}

void append(std::string& text, uint32_t code) {
  if (code < 0x80) {
    text += char(code);
  } else if (code < 0x800) {
    text += {char(0xC0 | code >> 6), char(0x80 | (code & 0x3F))};
  } else if (code < 0x10000) {
    text += {char(0xE0 | code >> 12), char(0x80 | (code >> 6 & 0x3F)), char(0x80 | (code & 0x3F))};
  } else if (code < invalid_byte) {
    text += {char(0xF0 | code >> 18), char(0x80 | (code >> 12 & 0x3F)), char(0x80 | (code >> 6 & 0x3F)), char(0x80 | (code & 0x3F))};
  } else {
    text += char(code - invalid_byte);
  }
}

void decompose(uint32_t code, std::vector<uint32_t>& out) {
  // Hangul syllables are laid out as (lead · 21 + vowel) · 28 + tail, Unicode section 3.12.
  if (code >= 0xAC00 && code <= 0xD7A3) {
    const uint32_t s = code - 0xAC00;
    out.push_back(0x1100 + s / (21 * 28));
    out.push_back(0x1161 + s / 28 % 21);
    if (s % 28) out.push_back(0x11A7 + s % 28);
    return;
  }
  const Decomposition* end = decompositions + decomposition_count;
  const Decomposition* d = code < 0xC0 ? end : std::lower_bound(decompositions, end, code, [](const Decomposition& x, uint32_t c) { return x.code < c; });
  if (d == end || d->code != code) return out.push_back(code);
  decompose(uint32_t(d->first), out);
  if (d->second) decompose(uint32_t(d->second), out);
}

}  // namespace kvt::unicode
