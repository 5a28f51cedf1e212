// kvt eval for classifiers of texts.
#pragma once
#include <string>

#include "tools/common.h"

namespace kvt {

struct EvalTextsOptions {
  ModelOptions model;
  std::string file;                        // lines of LABEL, tab, text
  std::string label_words, text = "{text}";      // classification by the model's own next word, for a model without a head
  int64_t length = 256, batch = 8;
  bool json = false;
};
// Prints accuracy, the F-measures and the mean loss; as one JSON object, or as text.
void eval_texts(const EvalTextsOptions& options);

}  // namespace kvt
