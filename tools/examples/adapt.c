/* Teaches a model a text on the device:  adapt model.gguf text.txt adapter.gguf
 * ^C stops it; the same command goes on where it was. */
#include <kvt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static volatile sig_atomic_t stop;
static void on_interrupt(int signal) { stop = signal; }

static int show(void *user, const kvt_progress *p) {
  static const char *names[] = {"loading", "reading", "training", "validating", "extracting", "encoding"};
  const int width = 30, full = p->total ? (int)((double)width * (double)p->done / (double)p->total) : 0;
  (void)user;
  fprintf(stderr, "\rround %llu/%llu  %-10s [%.*s%*s] ", (unsigned long long)p->round, (unsigned long long)p->rounds, names[p->stage], full,
          "##############################", width - full, "");
  if (p->validation_loss == p->validation_loss) fprintf(stderr, "loss %.3f ", p->validation_loss);
  return stop != 0; /* not 0 cancels */
}

static char *read_all(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  char *text = malloc(1 << 20);
  *size = f && text ? fread(text, 1, 1 << 20, f) : 0;
  if (f) fclose(f);
  return text;
}

int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: adapt MODEL TEXT ADAPTER\n"), 2;
  signal(SIGINT, on_interrupt); /* the program's own affair; the library installs none */
  kvt_example example = {.prompt = {NULL, 0}};
  char *text = read_all(argv[2], &example.text.size);
  example.text.data = text;
  kvt_data data = {.examples = &example, .count = 1};
  char checkpoint[4096];
  snprintf(checkpoint, sizeof checkpoint, "%s.checkpoint", argv[3]);

  kvt_adapt_options options = {.struct_size = sizeof options, .method = "kvt", .rounds = 3, .length = 64, .validation_split = 0.25,
                               .checkpoint = checkpoint, .resume = 1, .progress = show};
  kvt_model *model = NULL;
  kvt_adapter *adapter = NULL;
  kvt_status status = kvt_model_open(kvt_path(argv[1]), NULL, &model);
  if (!status) status = kvt_adapt(model, &data, &options, &adapter);
  if (!status) status = kvt_adapter_write(adapter, argv[3]);
  fprintf(stderr, "\n%s\n", status ? kvt_message() : argv[3]);
  kvt_adapter_free(adapter);
  kvt_model_free(model);
  free(text);
  return status == KVT_OK ? 0 : status == KVT_CANCELLED ? 130 : 1;
}
