// Writes the small BERT of tests/small_bert.h: small_bert model.gguf
#include "tests/small_bert.h"

int main(int, char** argv) { kvt::SmallBert().gguf().write(argv[1]); }
