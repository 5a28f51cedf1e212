#ifdef KVT_ZLIB
#include <zlib.h>
#endif

#include <iostream>
#include <iterator>

#include "tools/common.h"

namespace kvt {

#ifdef KVT_ZLIB
// The bytes of a gzip file, all its members.
static std::string gunzip(const Storage& bytes, const std::string& path) {
  z_stream z{};
  require(inflateInit2(&z, 16 + MAX_WBITS) == Z_OK, path, ": zlib cannot start");
  z.next_in = reinterpret_cast<Bytef*>(bytes.data());
  size_t left = bytes.size();
  std::string text, chunk(1 << 16, 0);
  int state = Z_OK;
  while (state == Z_OK || (state == Z_STREAM_END && (left > 0 || z.avail_in > 0))) {
    if (state == Z_STREAM_END && inflateReset(&z) != Z_OK) break;
    if (z.avail_in == 0) {
      z.avail_in = uInt(std::min<size_t>(left, 1 << 20));
      left -= z.avail_in;
    }
    z.next_out = reinterpret_cast<Bytef*>(chunk.data());
    z.avail_out = uInt(chunk.size());
    state = inflate(&z, Z_NO_FLUSH);
    if (state == Z_OK || state == Z_STREAM_END) text.append(chunk, 0, chunk.size() - z.avail_out);
  }
  const std::string why = z.msg ? z.msg : "it ends too early";
  inflateEnd(&z);
  require(state == Z_STREAM_END, path, ": damaged gzip data: ", why);
  return text;
}
#else
static std::string gunzip(const Storage&, const std::string& path) { fail(path, ": this build has no zlib; decompress the file first"); }
#endif

std::string read_text(const std::string& path) {
  if (path == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
  const Storage bytes = Storage::read_file(path);
  if (path.ends_with(".gz")) return gunzip(bytes, path);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::vector<std::string> read_lines(const std::string& path) {
  const std::string text = read_text(path);
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    if (lines.back().ends_with('\r')) lines.back().pop_back();
    begin = end + 1;
  }
  return lines;
}

}  // namespace kvt
