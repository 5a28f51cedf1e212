/* Writes on from a prompt:  hello model.gguf "Once upon a time" */
#include <kvt.h>
#include <stdio.h>

static int print(void *user, int32_t id, const char *text, size_t size) {
  (void)user, (void)id;
  fwrite(text, 1, size, stdout);
  fflush(stdout);
  return 0; /* anything else would stop it */
}

static int failed(const char *what) {
  fprintf(stderr, "%s: %s\n", what, kvt_message());
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: hello MODEL PROMPT\n"), 2;
  kvt_session_options so = {.struct_size = sizeof so, .context = 512};
  kvt_memory need = {.struct_size = sizeof need};
  if (kvt_memory_needed(kvt_path(argv[1]), NULL, &so, &need)) return failed("memory");
  fprintf(stderr, "needs %.1f MB\n", (double)need.total / 1e6);

  kvt_model *model;
  if (kvt_model_open(kvt_path(argv[1]), NULL, &model)) return failed("open");
  kvt_session *session = NULL;
  kvt_sampler *sampler = NULL;
  kvt_sampler_options draw = {.struct_size = sizeof draw, .temperature = 0.7f, .top_k = 40, .top_p = 0.95f, .seed = 1};
  kvt_generate_options write = {.struct_size = sizeof write, .most = 48};
  kvt_generation done = {.struct_size = sizeof done};
  int status = 0;
  if (kvt_session_new(model, &so, &session) || kvt_sampler_new(&draw, &sampler)) status = failed("session");
  write.sampler = sampler;
  printf("%s", argv[2]);
  if (!status && kvt_generate_text(session, argv[2], KVT_TEXT_END, &write, print, NULL, &done)) status = failed("generate");
  printf("\n");
  fprintf(stderr, "%llu tokens, %.0f a second\n", (unsigned long long)done.tokens, (double)done.tokens / (done.seconds + 1e-9));
  kvt_sampler_free(sampler);
  kvt_session_free(session);
  kvt_model_free(model);
  return status;
}
