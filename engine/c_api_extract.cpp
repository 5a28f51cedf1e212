// Knowledge in texts, of the C interface.
#include "engine/c_api.h"
#include "engine/c_api_data.h"

#ifdef KVT_TRAINING

#include "engine/adapted.h"
#include "engine/fingerprint.h"
#include "engine/knowledge_file.h"
#include "engine/shift_report.h"

struct kvt_knowledge {
  std::string architecture, base, tuned;
  kvt::Shift shift;
  kvt::Concepts concepts;
  kvt::ShiftReport report;
  kvt::Tensor before, after;             // [V]
};

using namespace kvt;
using namespace kvt::c_api;

kvt_status kvt_extract(kvt_model* model, kvt_adapter* tuned, const kvt_data* data, const kvt_extract_options* options, kvt_knowledge** knowledge) {
  return guard({.model = model ? model->state.get() : nullptr, .otherwise = KVT_ERROR}, [&] {
    const ModelState& m = *given(model, "model").state;
    given(data, "data");
    given(knowledge, "knowledge");
    if (m.encoder) refuse(KVT_UNSUPPORTED, "extract: a model of architecture '", m.architecture, "' is no language model");
    const kvt_extract_options o = options_of(options);
    const Examples text = examples_of(m, *data, counted(o.length, 256, 1 << 24, "length"));
    const auto base = m.view();
    std::shared_ptr<CausalLm> adapted;
    if (tuned) {
      AdaptedLm lm = with_adapters(m.view(), {{&tuned->state->file, 1}}, m.fingerprint);
      adapted = lm.fusion && lm.fusion->weight() != 1 ? std::make_shared<Fused>(lm.model, *lm.fusion) : lm.model;
    }
    Reporter report(o.progress, o.progress_user);
    ShiftOptions shift;
    shift.positions = counted(o.positions, 20000, INT32_MAX, "positions");
    auto k = std::make_unique<kvt_knowledge>();
    k->shift = measure_shift(*base, adapted.get(), text, shift, [&](int64_t done) {
      report(KVT_STAGE_EXTRACTING, uint64_t(done), uint64_t(text.size()));
      return !report.cancelled();
    });
    report.stop_if_cancelled();
    k->concepts = find_concepts(k->shift, counted(o.concepts, 8, 4096, "concepts"), o.seed);
    k->report = shift_report(k->shift, k->concepts, text, *m.tokenizer, counted(o.words, 20, 100000, "words"));
    k->architecture = m.architecture;
    k->base = m.fingerprint;
    k->tuned = tuned ? fingerprint(tuned->state->file) : "text";
    k->report.base = m.gguf.path();
    k->report.tuned = tuned ? (tuned->state->file.path().empty() ? "the adapter" : tuned->state->file.path()) : "";
    k->report.text = "the data";
    k->before = as_floats(k->shift.before);
    k->after = as_floats(k->shift.after);
    *knowledge = k.release();
  });
}

void kvt_knowledge_free(kvt_knowledge* knowledge) { release(knowledge); }

kvt_status kvt_knowledge_get_info(const kvt_knowledge* knowledge, kvt_knowledge_info* info) {
  return guard({.otherwise = KVT_INVALID_ARGUMENT}, [&] {
    const kvt_knowledge& k = given(knowledge, "knowledge");
    kvt_knowledge_info i{};
    i.positions = uint64_t(k.shift.positions);
    i.concepts = k.concepts.each.size();
    i.divergence = k.shift.divergence;
    i.same_choice = k.shift.same_choice;
    write_result(&given(info, "info"), i);
  });
}

kvt_status kvt_knowledge_get(const kvt_knowledge* knowledge, kvt_knowledge_array which, const float** numbers, size_t* rows, size_t* columns) {
  return guard({.otherwise = KVT_INVALID_ARGUMENT}, [&] {
    const kvt_knowledge& k = given(knowledge, "knowledge");
    given(numbers, "numbers");
    expect(which >= KVT_KNOWLEDGE_BEFORE && which <= KVT_KNOWLEDGE_CONCEPTS, "which: ", int(which));
    const Tensor x = which == KVT_KNOWLEDGE_BEFORE ? k.before : which == KVT_KNOWLEDGE_AFTER ? k.after
                   : which == KVT_KNOWLEDGE_DIRECTIONS ? k.shift.directions : k.concepts.clusters.centres;
    *numbers = x.data();
    if (rows) *rows = x.rank() == 1 ? 1 : size_t(x.dim(0));
    if (columns) *columns = size_t(x.dim(-1));
  });
}

kvt_status kvt_knowledge_report(const kvt_knowledge* knowledge, kvt_format format, char* text, size_t capacity, size_t* length) {
  return guard({.otherwise = KVT_INVALID_ARGUMENT}, [&] {
    const ShiftReport& r = given(knowledge, "knowledge").report;
    expect(format >= KVT_FORMAT_TEXT && format <= KVT_FORMAT_HTML, "format: ", int(format));
    write_text(format == KVT_FORMAT_TEXT ? r.plain(120) : format == KVT_FORMAT_JSON ? r.json().dump(1) : r.html(), text, capacity, length);
  });
}

kvt_status kvt_knowledge_write(const kvt_knowledge* knowledge, const char* path) {
  return guard({.otherwise = KVT_IO_ERROR}, [&] {
    const kvt_knowledge& k = given(knowledge, "knowledge");
    knowledge_file(k.architecture, k.base, k.tuned, k.shift, k.concepts).write(&given(path, "path"));
  });
}

#else

using namespace kvt::c_api;

kvt_status kvt_extract(kvt_model*, kvt_adapter*, const kvt_data*, const kvt_extract_options*, kvt_knowledge**) { return without_training(); }
void kvt_knowledge_free(kvt_knowledge*) {}
kvt_status kvt_knowledge_get_info(const kvt_knowledge*, kvt_knowledge_info*) { return without_training(); }
kvt_status kvt_knowledge_get(const kvt_knowledge*, kvt_knowledge_array, const float**, size_t*, size_t*) { return without_training(); }
kvt_status kvt_knowledge_report(const kvt_knowledge*, kvt_format, char*, size_t, size_t*) { return without_training(); }
kvt_status kvt_knowledge_write(const kvt_knowledge*, const char*) { return without_training(); }

#endif
