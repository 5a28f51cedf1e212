// Adapters of the C interface, as files in memory.
#include "engine/adapted.h"
#include "engine/c_api.h"

using namespace kvt;
using namespace kvt::c_api;

kvt_status kvt_adapter_open(kvt_model* model, kvt_source source, kvt_adapter** adapter) {
  return guard({.model = model ? model->state.get() : nullptr, .otherwise = KVT_BAD_FILE}, [&] {
    given(model, "model");
    given(adapter, "adapter");
    const auto a = std::make_shared<AdapterState>();
    a->model = model->state;
    std::string name;
    const Storage bytes = read_source(source, name, false, [](uint64_t, uint64_t) {});
    a->file = Gguf::parse(bytes, name);
    // Put on for a moment: what does not fit is told here.
    const std::vector<AdapterUse> use{{&a->file, 1}};
    if (a->model->encoder) attach_adapters(*a->model->encoder_view(), use, a->model->fingerprint);
    else with_adapters(a->model->view(), use, a->model->fingerprint);
    *adapter = new kvt_adapter{a};
  });
}

void kvt_adapter_free(kvt_adapter* adapter) { release(adapter); }

kvt_status kvt_adapter_write(const kvt_adapter* adapter, const char* path) {
  return guard({.otherwise = KVT_IO_ERROR}, [&] { given(adapter, "adapter").state->file.write(&given(path, "path")); });
}
