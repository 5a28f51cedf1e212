// What the fuzz targets share (libFuzzer, clang). A target reads bytes as a file of its format and goes on as a user of that file would.
//
// A refused input is an Error with a message. Anything else that comes out is a finding: another exception (std::bad_alloc included: lengths
// are bounded by the bytes that are there), an abort, a sanitizer's report, a wrong result (expect), more memory or time than the limits of run.sh.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "tensor/error.h"
#include "tensor/parallel.h"
#include "tensor/storage.h"

namespace kvt::fuzz {

inline void expect(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "FINDING: %s\n", what);
  std::abort();
}

template <class F>
void works_or_refuses(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    expect(*e.what() != '\0', "an Error without a message");
  }
}

inline Storage storage(const uint8_t* data, size_t size) { return Storage::borrow(const_cast<uint8_t*>(data), size, false); }
inline std::string_view text(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

}  // namespace kvt::fuzz

// No target starts threads: an input takes microseconds.
extern "C" inline int LLVMFuzzerInitialize(int*, char***) {
  kvt::set_default_threads({.threads = 1});
  return 0;
}
