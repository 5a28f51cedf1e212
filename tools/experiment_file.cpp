// An experiment's file (tools/experiments/README.md).
#include <cstdlib>

#include "tools/experiment.h"
#include "tools/train_config.h"

namespace kvt {

Experiment Experiment::open(const std::string& path, const std::string& data) {
  const auto file = [&](const std::string& name) { return data.empty() || name.starts_with("/") ? name : data + "/" + name; };
  Config c = Config::open(path);
  Experiment e;
  e.name = c.text("name");
  const std::string kind = c.text("kind", "language");
  if (kind != "language" && kind != "labelled" && kind != "images") c.bad("kind", "expected language, labelled or images");
  e.kind = kind == "language" ? Kind::language : kind == "labelled" ? Kind::labelled : Kind::images;
  e.model = file(c.text("model"));
  e.reference = c.text("reference", "");
  for (Config& d : c.objects("domains")) {
    ExperimentDomain domain;
    domain.name = d.text("name");
    domain.text = file(d.text(e.kind == Kind::language ? "text" : "train"));
    if (e.kind != Kind::language) domain.test = file(d.text("test"));
    d.finish();
    e.domains.push_back(std::move(domain));
  }
  for (Config& m : c.objects("methods")) {
    ExperimentMethod method;
    method.name = m.text("name");
    if (m.has("model")) method.model = file(m.text("model"));
    if (e.kind == Kind::images) {
      method.config = m.value("method");
      if (m.has("training")) method.training = m.value("training");
    }
    if (e.kind != Kind::images && m.has("args")) method.args = m.texts("args");
    if (m.has("rates")) method.rates = m.texts("rates");
    for (const std::string& rate : method.rates) {
      char* end = nullptr;
      if (rate.empty() || !(std::strtod(rate.c_str(), &end) > 0) || *end != 0) m.bad("rates", "'" + rate + "' is no rate");
    }
    method.whole_model = m.flag("whole_model", false);
    method.fuse = m.flag("fuse", true);
    m.finish();
    e.methods.push_back(std::move(method));
  }
  const int64_t least = e.kind == Kind::language ? 1024 : 2, most = int64_t(1) << 30;
  e.sizes = c.counts("sizes", least, most);
  e.seeds = c.counts("seeds", 0, 1 << 20);
  if (e.kind == Kind::language) {
    e.validation = c.count("validation_bytes", 1024, most, e.validation);
    e.test = c.count("test_bytes", 1024, most, e.test);
    if (c.has("kept")) e.kept = file(c.text("kept"));
    e.kept_bytes = c.count("kept_bytes", 1024, most, e.kept_bytes);
  } else {
    e.validation = c.count("validation", 1, most);
    e.test = e.kind == Kind::labelled ? c.count("test", 0, most, 0) : 0;
  }
  if (e.kind == Kind::images) e.training = c.value("training");
  else e.length = c.count("length", 8, 1 << 16, e.length);
  e.fuse = c.flag("fuse", true);
  if (e.kind != Kind::images && c.has("args")) e.args = c.texts("args");
  c.finish();
  bool there = e.reference.empty();
  for (const ExperimentMethod& m : e.methods) there |= m.name == e.reference;
  if (!there) c.bad("reference", "no method is called '" + e.reference + "'");
  return e;
}

}  // namespace kvt
