// Loads a model, generates, and frees all, many times: resident memory must not grow.
//
//   cycles model.gguf adapter.gguf [cycles]        prints resident memory on the way; exit status 1 if it grew by more than 1 MB behind the first tenth
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "engine/kvt.h"

static double resident_mb() {
  long pages = 0, resident = 0;
  if (FILE* f = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(f, "%ld %ld", &pages, &resident) != 2) resident = 0;
    std::fclose(f);
  }
  return double(resident) * double(sysconf(_SC_PAGESIZE)) / 1e6;
}

static void check(kvt_status status) {
  if (status == KVT_OK) return;
  std::fprintf(stderr, "%s: %s\n", kvt_status_name(status), kvt_message());
  std::exit(1);
}

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: cycles MODEL ADAPTER [CYCLES]\n"), 2;
  const long cycles = argc > 3 ? std::atol(argv[3]) : 10000;
  double begin = 0, now = 0;
  for (long i = 1; i <= cycles; ++i) {
    kvt_model_options o{};
    o.struct_size = sizeof o, o.threads = 2;
    kvt_model* model = nullptr;
    kvt_adapter* adapter = nullptr;
    kvt_session* session = nullptr;
    check(kvt_model_open(kvt_path(argv[1]), &o, &model));
    check(kvt_adapter_open(model, kvt_path(argv[2]), &adapter));
    check(kvt_session_new(model, nullptr, &session));
    kvt_generate_options g{};
    g.struct_size = sizeof g, g.most = 4;
    check(kvt_generate_text(session, "Once upon a time", KVT_TEXT_END, &g, nullptr, nullptr, nullptr));
    check(kvt_session_attach(session, adapter, 1, KVT_CACHE_REEVALUATE));
    check(kvt_generate_text(session, " and", KVT_TEXT_END, &g, nullptr, nullptr, nullptr));
    kvt_session_free(session);
    kvt_adapter_free(adapter);
    kvt_model_free(model);
    now = resident_mb();
    if (i == cycles / 10) begin = now;
    if (i % (cycles / 10) == 0) std::printf("%6ld cycles: %.2f MB resident\n", i, now), std::fflush(stdout);
  }
  std::printf("growth behind the first tenth: %+.2f MB\n", now - begin);
  return now - begin > 1.0;
}
