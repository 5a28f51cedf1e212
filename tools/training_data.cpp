#include "tools/training_data.h"

#include "engine/text_data.h"
#include "tools/common.h"

namespace kvt {

Examples read_examples(const std::string& path, const Tokenizer& tokenizer, int64_t length) {
  Examples data(length);
  if (path.ends_with(".jsonl") || path.ends_with(".json")) add_pairs(data, tokenizer, read_text(path), path);
  else add_text(data, tokenizer, read_text(path));
  require(data.learned() > 0, path, ": there is nothing to learn: ", data.size(), " examples, ", data.dropped(), " prompts too long for ", length, " tokens");
  return data;
}

std::vector<LabelledText> read_labelled(const std::string& path) {
  const std::vector<std::string> lines = read_lines(path);
  std::vector<LabelledText> texts;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].find_first_not_of(" \t") == std::string::npos) continue;
    const size_t tab = lines[i].find('\t');
    require(tab != std::string::npos && tab > 0 && tab + 1 < lines[i].size(), path, ":", i + 1, ": expected LABEL, a tab, and a text");
    texts.push_back({lines[i].substr(0, tab), lines[i].substr(tab + 1)});
  }
  require(!texts.empty(), path, ": there are no texts");
  return texts;
}

}  // namespace kvt
