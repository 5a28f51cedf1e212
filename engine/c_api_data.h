// Examples of the C interface as the engine takes them.
#pragma once
#include "engine/c_api.h"
#include "engine/text_data.h"

namespace kvt::c_api {

inline std::string_view view(const kvt_text& t) { return text_of(t.data, t.size); }
inline kvt_status without_training() {
  return guard({}, [] { refuse(KVT_UNSUPPORTED, "this build of the library is without training (", kvt_features(), ")"); });
}

inline void add(Examples& examples, const ModelState& m, const kvt_example& e) {
  if (e.prompt.data) add_pair(examples, *m.tokenizer, view(e.prompt), view(e.text));
  else add_text(examples, *m.tokenizer, view(e.text));
}

inline Examples examples_of(const ModelState& m, const kvt_data& data, int64_t length) {
  Examples examples(length);
  if (data.next) {
    for (kvt_example e{}; const int more = data.next(data.user, &e); e = {}) {
      if (more < 0) fail_as(Trouble::cancelled, "cancelled by the data callback");
      add(examples, m, e);
    }
  } else {
    expect(data.examples != nullptr || data.count == 0, "data: examples is NULL, count ", data.count);
    for (size_t i = 0; i < data.count; ++i) add(examples, m, data.examples[i]);
  }
  if (examples.truncated() > 0)
    m.log(KVT_LOG_WARNING, examples.truncated(), " pairs are longer than ", length, " tokens and were cut; ", examples.dropped(), " of them had nothing left to learn");
  expect(examples.learned() > 0, "data: there is nothing to learn: ", examples.size(), " examples, ", examples.dropped(), " prompts too long for ", length, " tokens");
  return examples;
}

}  // namespace kvt::c_api
