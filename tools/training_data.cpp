#include "tools/training_data.h"

#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/text_data.h"
#include "tools/common.h"

namespace kvt {

static void read_pairs(const std::string& path, const Tokenizer& tokenizer, Examples& data) {
  std::istringstream lines(read_text(path));
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const nlohmann::json pair = nlohmann::json::parse(line, nullptr, false);
    require(!pair.is_discarded(), path, ":", number, ": not valid JSON");
    require(pair.is_object(), path, ":", number, ": expected an object {\"prompt\": …, \"completion\": …}, got ", pair.type_name());
    const auto text = [&](const char* key) {
      const auto found = pair.find(key);
      require(found != pair.end(), path, ":", number, ": \"", key, "\" is missing");
      require(found->is_string(), path, ":", number, ": \"", key, "\" is ", found->type_name(), ", expected a string");
      return found->get<std::string>();
    };
    const std::string completion = text("completion");
    require(!completion.empty(), path, ":", number, ": the completion is empty");
    add_pair(data, tokenizer, text("prompt"), completion);
  }
}

Examples read_examples(const std::string& path, const Tokenizer& tokenizer, int64_t length) {
  Examples data(length);
  if (path.ends_with(".jsonl") || path.ends_with(".json")) read_pairs(path, tokenizer, data);
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
