#include "engine/knowledge_file.h"

#include <algorithm>

#include "ops/ops.h"

namespace kvt {

Tensor as_floats(const std::vector<double>& x) {
  Tensor t({int64_t(x.size())});
  std::transform(x.begin(), x.end(), t.data(), [](double d) { return float(d); });
  return t;
}

Gguf knowledge_file(const std::string& architecture, const std::string& base, const std::string& tuned, const Shift& shift, const Concepts& concepts) {
  Gguf file;
  file.set("general.type", std::string("knowledge"));
  file.set("general.architecture", architecture);
  file.set("kvt.base.fingerprint", base);
  file.set("kvt.shift.tuned", tuned);
  file.set("kvt.shift.positions", uint64_t(shift.positions));
  file.set("kvt.shift.divergence", shift.divergence);
  file.set("kvt.concepts.sizes", std::vector<int64_t>(concepts.clusters.sizes));
  file.add("kvt.shift.before", as_floats(shift.before));
  file.add("kvt.shift.after", as_floats(shift.after));
  file.add("kvt.direction", mean(shift.directions, 0));
  file.add("kvt.concepts", concepts.clusters.centres);
  return file;
}

}  // namespace kvt
