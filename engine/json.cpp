#include "engine/json.h"

#include <charconv>
#ifndef __cpp_lib_to_chars
#include <locale.h>
#include <stdlib.h>
#endif
#include <cmath>
#include <unordered_set>

#include "tensor/storage.h"

namespace kvt {

namespace {

class Parser {
 public:
  Parser(std::string_view text, const std::string& source) : text_(text), source_(source) {}

  Json whole() {
    Json value = any(0);
    space();
    expect(at_ == text_.size(), "something follows the value");
    return value;
  }

 private:
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    const size_t end = std::min(at_, text_.size());
    size_t line = 1, begin = 0;
    for (size_t i = 0; i < end; ++i)
      if (text_[i] == '\n') ++line, begin = i + 1;
    fail("'", source_, "': JSON: ", parts..., " (line ", line, ", column ", end - begin + 1, ", offset ", end, ")");
  }
  template <class... Parts>
  void expect(bool ok, const Parts&... parts) const { if (!ok) refuse(parts...); }

  bool done() const { return at_ == text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }
  bool take(char c) { return peek() == c && !done() ? ++at_, true : false; }
  bool take(std::string_view word) { return text_.substr(at_).starts_with(word) ? at_ += word.size(), true : false; }
  void space() { while (!done() && (peek() == ' ' || peek() == '\n' || peek() == '\t' || peek() == '\r')) ++at_; }

  Json any(int depth) {
    expect(depth < Json::max_depth, "nested deeper than ", Json::max_depth);
    space();
    expect(!done(), "the text ends where a value was expected");
    const char c = peek();
    if (c == '{') return object(depth);
    if (c == '[') return array(depth);
    if (c == '"') return string();
    if (c == '-' || (c >= '0' && c <= '9')) return number();
    if (take("true")) return true;
    if (take("false")) return false;
    if (take("null")) return {};
    refuse("expected a value");
  }

  Json array(int depth) {
    Json::Array items;
    ++at_;
    space();
    if (take(']')) return items;
    for (;;) {
      items.push_back(any(depth + 1));
      space();
      if (take(']')) return items;
      expect(take(','), "expected ',' or ']'");
    }
  }

  Json object(int depth) {
    Json::Object members;
    std::unordered_set<std::string> names;
    ++at_;
    space();
    if (take('}')) return members;
    for (;;) {
      space();
      expect(peek() == '"', "expected a member's name");
      std::string name = string();
      expect(names.insert(name).second, "a second member '", name, "'");
      space();
      expect(take(':'), "expected ':'");
      members.emplace_back(std::move(name), any(depth + 1));
      space();
      if (take('}')) return members;
      expect(take(','), "expected ',' or '}'");
    }
  }

  bool digits() {
    const size_t before = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > before;
  }

  Json number() {
    const size_t begin = at_;
    take('-');
    const size_t first_digit = at_;
    expect(digits(), "a number without digits");
    expect(text_[first_digit] != '0' || at_ == first_digit + 1, "a number with a leading zero");
    bool integer = true;
    if (take('.')) integer = false, expect(digits(), "a number without digits after its point");
    if (take('e') || take('E')) {
      integer = false;
      if (!take('+')) take('-');
      expect(digits(), "a number without digits in its exponent");
    }
    const char *first = text_.data() + begin, *last = text_.data() + at_;
    const bool minus_zero = last - first == 2 && first[0] == '-' && first[1] == '0';        // has a sign to keep
    if (int64_t i = 0; integer && !minus_zero && std::from_chars(first, last, i).ec == std::errc()) return i;
#ifdef __cpp_lib_to_chars
    double d = 0;
    expect(std::from_chars(first, last, d).ec == std::errc() && std::isfinite(d), "a number beyond double precision");
#else                                    // libc++ before 20, the Android NDK's
    static const locale_t c_locale = ::newlocale(LC_ALL_MASK, "C", nullptr);
    const double d = ::strtod_l(std::string(first, last).c_str(), nullptr, c_locale);
    expect(std::isfinite(d), "a number beyond double precision");
#endif
    return d;
  }

  uint32_t hex4() {
    expect(text_.size() - at_ >= 4, "an escape cut short");
    uint32_t code = 0;
    const char* first = text_.data() + at_;
    expect(std::from_chars(first, first + 4, code, 16).ptr == first + 4, "an escape without four hexadecimal digits");
    at_ += 4;
    return code;
  }

  void escape(std::string& out) {
    expect(!done(), "the text ends in a string");
    const char c = text_[at_++];
    static constexpr std::string_view letters = "\"\\/bfnrt", means = "\"\\/\b\f\n\r\t";
    if (const size_t i = letters.find(c); i != std::string_view::npos) {
      out += means[i];
      return;
    }
    expect(c == 'u', "an unknown escape");
    uint32_t code = hex4();
    expect(code < 0xdc00 || code > 0xdfff, "a low surrogate on its own");
    if (code >= 0xd800 && code <= 0xdbff) {
      expect(take("\\u"), "a high surrogate on its own");
      const uint32_t low = hex4();
      expect(low >= 0xdc00 && low <= 0xdfff, "a high surrogate without its low one");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (code < 0x80) out += char(code);
    else if (code < 0x800) out += char(0xc0 | code >> 6), out += char(0x80 | (code & 0x3f));
    else if (code < 0x10000) out += char(0xe0 | code >> 12), out += char(0x80 | (code >> 6 & 0x3f)), out += char(0x80 | (code & 0x3f));
    else out += char(0xf0 | code >> 18), out += char(0x80 | (code >> 12 & 0x3f)), out += char(0x80 | (code >> 6 & 0x3f)), out += char(0x80 | (code & 0x3f));
  }

  // One character of valid UTF-8 (Unicode table 3-7): no overlong forms, no surrogates, nothing beyond U+10FFFF.
  void character(std::string& out) {
    const auto byte = [&](size_t i) { return at_ + i < text_.size() ? static_cast<unsigned char>(text_[at_ + i]) : 0u; };
    const unsigned a = byte(0), b = byte(1);
    const size_t n = a < 0x80 ? 1 : a >= 0xc2 && a <= 0xdf ? 2 : (a & 0xf0) == 0xe0 ? 3 : a >= 0xf0 && a <= 0xf4 ? 4 : 0;
    bool valid = n > 0;
    for (size_t i = 1; i < n; ++i) valid = valid && (byte(i) & 0xc0) == 0x80;
    if ((a == 0xe0 && b < 0xa0) || (a == 0xed && b > 0x9f) || (a == 0xf0 && b < 0x90) || (a == 0xf4 && b > 0x8f)) valid = false;
    expect(valid, "bytes that are not UTF-8");
    out.append(text_.substr(at_, n));
    at_ += n;
  }

  std::string string() {
    std::string out;
    ++at_;
    for (;;) {
      expect(!done(), "the text ends in a string");
      const auto c = static_cast<unsigned char>(peek());
      expect(c >= 0x20, "a control character in a string");
      if (take('"')) return out;
      if (take('\\')) escape(out);
      else character(out);
    }
  }

  std::string_view text_;
  const std::string& source_;
  size_t at_ = 0;
};

void dump_string(std::string& out, const std::string& s) {
  out += '"';
  for (const char c : s) {
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if (c == '\n') out += "\\n";
    else if (c == '\t') out += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20) {
      static constexpr char digit[] = "0123456789abcdef";
      out += "\\u00", out += digit[c >> 4], out += digit[c & 15];
    } else out += c;
  }
  out += '"';
}

template <class T>
void dump_number(std::string& out, T x) {
  char text[32];
  out.append(text, std::to_chars(text, text + sizeof text, x).ptr);
}

void dump(std::string& out, const Json& json, int indent, int depth) {
  const auto new_line = [&](int d) { if (indent >= 0) out += '\n', out.append(size_t(indent * d), ' '); };
  const auto list = [&](char open, char close, const auto& items, auto&& one) {
    out += open;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += indent >= 0 ? "," : ", ";
      new_line(depth + 1);
      one(items[i]);
    }
    if (!items.empty()) new_line(depth);
    out += close;
  };
  std::visit([&](const auto& v) {
    using T = std::decay_t<decltype(v)>;
    if constexpr (std::is_same_v<T, std::nullptr_t>) out += "null";
    else if constexpr (std::is_same_v<T, bool>) out += v ? "true" : "false";
    else if constexpr (std::is_same_v<T, std::string>) dump_string(out, v);
    else if constexpr (std::is_same_v<T, Json::Array>) list('[', ']', v, [&](const Json& item) { dump(out, item, indent, depth + 1); });
    else if constexpr (std::is_same_v<T, Json::Object>)
      list('{', '}', v, [&](const Json::Member& m) { dump_string(out, m.first), out += ": ", dump(out, m.second, indent, depth + 1); });
    else {
      require(std::isfinite(double(v)), "json: the number ", v, " cannot be written");
      dump_number(out, v);
    }
  }, json.value);
}

}  // namespace

Json Json::parse(std::string_view text, const std::string& source) { return Parser(text, source).whole(); }

Json Json::read(const std::string& path) {
  const Storage bytes = Storage::read_file(path);
  return parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

std::string Json::dump(int indent) const {
  std::string out;
  kvt::dump(out, *this, indent, 0);
  return out;
}

const Json* Json::find(std::string_view name) const {
  if (const Object* members = std::get_if<Object>(&value))
    for (const Member& m : *members)
      if (m.first == name) return &m.second;
  return nullptr;
}

const char* Json::type_name() const {
  static constexpr const char* names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
  return names[value.index()];
}

}  // namespace kvt
