// The domain report: which words a tuned model, or a text, makes likelier and less likely, by how much, and where. As text, JSON and HTML.
#pragma once
#include "engine/json.h"
#include "engine/shift.h"
#include "engine/tokenizer.h"

namespace kvt {

struct ShiftReport {
  // One word (a token that begins one, of at least three letters) and how its probability changes.
  struct Word {
    int32_t token;
    std::string text;
    double before, after;                  // mean probability
    double change;                         // after − before; within a concept from the largest changes of each position alone
    double log_change = 0;                 // δ = log p_tuned − log p_base where the probability changes most
    std::string context;                   // what stands before it there
  };
  struct Topic {
    int64_t positions;
    std::vector<Word> risen, fallen;
    std::string context;                   // of the position nearest to the centre
  };
  std::string base, tuned, text;           // names; tuned is empty if the text's own tokens took its place
  int64_t positions = 0;
  double divergence = 0, same_choice = 0;
  std::vector<Word> risen, fallen, distinctive;      // by Δp; and risen words by Δp · log(after/before), which favours what was rare
  std::vector<Topic> topics;

  std::string plain(size_t width) const;
  Json json() const;
  std::string html() const;                // one file, nothing fetched
};

ShiftReport shift_report(const Shift& shift, const Concepts& concepts, const Examples& text, const Tokenizer& tokenizer, int64_t words);

}  // namespace kvt
