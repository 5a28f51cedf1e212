// JSON: what is read is written, and what is written is read as the same.
#include "engine/json.h"
#include "tests/fuzz/fuzz.h"

using namespace kvt;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::works_or_refuses([&] {
    const Json json = Json::parse(fuzz::text(data, size), "f.json");
    const std::string once = json.dump(2);
    std::string twice;
    try {
      twice = Json::parse(once, "written").dump(2);
    } catch (const Error& e) {
      fuzz::expect(false, e.what());
    }
    fuzz::expect(once == twice, "a value that was written reads as another");
    Fields fields(json, "f.json");
    fuzz::works_or_refuses([&] { fields.integer("a", -1, 100); });
    fuzz::works_or_refuses([&] { fields.real("a"); });
    fuzz::works_or_refuses([&] { fields.string("a", "none"); });
    fuzz::works_or_refuses([&] { fields.boolean("b", true); });
    fuzz::works_or_refuses([&] { fields.one_of("a", {"x", "y"}); });
    fuzz::works_or_refuses([&] { fields.reals("b"); });
    fuzz::works_or_refuses([&] { fields.strings("b"); });
    fuzz::works_or_refuses([&] { fields.object("a").refuse_unknown(); });
    fields.refuse_unknown();
  });
  return 0;
}
