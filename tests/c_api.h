// What the tests of the C interface share.
#pragma once
#include <doctest/doctest.h>

#include "engine/kvt.h"
#include "tests/check.h"

namespace kvt {

inline void ok(kvt_status status) { REQUIRE_MESSAGE(status == KVT_OK, std::string(kvt_message())); }

inline const std::string tiny = project_path("tools/demo/tiny.gguf");

struct OpenModel {
  kvt_model* p = nullptr;
  explicit OpenModel(kvt_source source = kvt_path(tiny.c_str()), kvt_model_options options = {}) {
    options.struct_size = sizeof options;
    ok(kvt_model_open(source, &options, &p));
  }
  OpenModel(const OpenModel&) = delete;
  ~OpenModel() { kvt_model_free(p); }
};

}  // namespace kvt
