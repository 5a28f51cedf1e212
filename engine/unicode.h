// UTF-8 and the properties of code points that tokenizers ask for.
//
// A byte that is not part of well-formed UTF-8 (overlong, surrogate, above U+10FFFF, cut short, stray) becomes a unit of its own,
// numbered 0x110000 + byte, so that every byte string can be taken apart and put together again.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvt::unicode {

// The general categories, in the order of the generated table; a set of them is a mask of 1 << category.
enum Category : uint8_t {
  Lu, Ll, Lt, Lm, Lo, Mn, Mc, Me, Nd, Nl, No, Pc, Pd, Ps, Pe, Pi, Pf, Po, Sm, Sc, Sk, So, Zs, Zl, Zp, Cc, Cf, Cs, Co, Cn
};
template <class... Categories>
constexpr uint32_t set_of(Categories... c) { return ((1u << c) | ...); }

constexpr uint32_t letters = set_of(Lu, Ll, Lt, Lm, Lo), marks = set_of(Mn, Mc, Me), numbers = set_of(Nd, Nl, No),
                   punctuation = set_of(Pc, Pd, Ps, Pe, Pi, Pf, Po), symbols = set_of(Sm, Sc, Sk, So);

constexpr uint32_t invalid_byte = 0x110000;      // + the byte
constexpr uint32_t replacement = 0xFFFD;

// A unit with its category: 21 bits of code, 5 of category. Invalid bytes count as symbols, as U+FFFD does.
class Char {
 public:
  constexpr Char(uint32_t code, Category category) : bits_(code << 5 | category) {}
  constexpr uint32_t code() const { return bits_ >> 5; }
  constexpr Category category() const { return Category(bits_ & 31); }
  constexpr bool in(uint32_t categories) const { return categories >> (bits_ & 31) & 1; }
  constexpr bool in(uint32_t first, uint32_t last) const { return code() >= first && code() <= last; }
  // White_Space: the separators, and six control characters.
  constexpr bool space() const { return in(set_of(Zs, Zl, Zp)) || in('\t', '\r') || code() == 0x85; }
  // How many bytes of text it stands for.
  constexpr uint32_t bytes() const {
    const uint32_t c = code();
    return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : c < invalid_byte ? 4 : 1;
  }

 private:
  uint32_t bits_;
};

Category category(uint32_t code);
uint32_t lower(uint32_t code);                   // simple mapping: one code point to one
bool ideograph(uint32_t code);                   // the CJK blocks that BERT sets apart as words

// The unit that begins at `at` < text.size(), which moves behind it.
uint32_t next(std::string_view text, size_t& at);
std::vector<Char> decode(std::string_view text);
void append(std::string& text, uint32_t code);   // an invalid byte's unit gives that byte

// Appends the full canonical decomposition (NFD, but for the order of marks, which stays as found).
void decompose(uint32_t code, std::vector<uint32_t>& out);

}  // namespace kvt::unicode
