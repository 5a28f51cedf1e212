/* The lines of a text nearest to a question, by an encoder:  search encoder.gguf lines.txt "how warm is it" */
#include <kvt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { most = 1000 };

int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: search MODEL LINES QUESTION\n"), 2;
  static char line[most][512];
  static kvt_text text[most + 1]; /* the question first */
  size_t n = 0;
  FILE *f = fopen(argv[2], "r");
  while (f && n < most && fgets(line[n], sizeof line[n], f)) {
    line[n][strcspn(line[n], "\n")] = 0;
    text[n + 1].data = line[n], text[n + 1].size = KVT_TEXT_END;
    n += line[n][0] != 0;
  }
  if (!f || n == 0) return fprintf(stderr, "%s: no lines\n", argv[2]), 1;
  fclose(f);
  text[0].data = argv[3], text[0].size = KVT_TEXT_END;

  kvt_model *model = NULL;
  kvt_model_info info = {.struct_size = sizeof info};
  float *vectors = NULL;
  kvt_status status = kvt_model_open(kvt_path(argv[1]), NULL, &model);
  if (!status) status = kvt_model_get_info(model, &info);
  if (!status) vectors = malloc((n + 1) * info.channels * sizeof(float)); /* [n + 1, C] */
  if (!status) status = kvt_embed(model, text, n + 1, NULL, NULL, vectors);
  if (status) return fprintf(stderr, "%s\n", kvt_message()), 1;

  for (int shown = 0; shown < 3 && (size_t)shown < n; ++shown) {
    size_t best = 0;
    float score = -2;
    for (size_t i = 1; i <= n; ++i) {
      float cosine = 0; /* of unit vectors: their product */
      for (size_t c = 0; c < info.channels; ++c) cosine += vectors[c] * vectors[i * info.channels + c];
      if (text[i].data && cosine > score) score = cosine, best = i;
    }
    printf("%.4f  %s\n", (double)score, text[best].data);
    text[best].data = NULL;
  }
  free(vectors);
  kvt_model_free(model);
  return 0;
}
