// What engine/shift.h found, as a file.
//
//   general.type "knowledge"      general.architecture = the base's       kvt.base.fingerprint
//   kvt.shift.tuned               string: fingerprint of the tuned model, or "text"
//   kvt.shift.positions  u64      kvt.shift.divergence  f64       kvt.concepts.sizes  i64[]
//   kvt.shift.before, .after [V]  mean probabilities              kvt.direction [C]  mean u        kvt.concepts [k, C]  unit directions
#pragma once
#include "engine/gguf.h"
#include "engine/shift.h"

namespace kvt {

Tensor as_floats(const std::vector<double>& x);
Gguf knowledge_file(const std::string& architecture, const std::string& base, const std::string& tuned, const Shift& shift, const Concepts& concepts);

}  // namespace kvt
