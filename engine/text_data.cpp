#include "engine/text_data.h"

#include <algorithm>

#include "engine/json.h"

namespace kvt {

void add_text(Examples& data, const Tokenizer& tokenizer, std::string_view text) {
  data.add_text(tokenizer.encode(text, {.add_special = false, .parse_special = false}));
}

void add_pair(Examples& data, const Tokenizer& tokenizer, std::string_view prompt, std::string_view completion) {
  const Vocab& vocab = tokenizer.vocab();
  Ids ids = tokenizer.encode(prompt, {.add_special = false, .parse_special = true});
  if (vocab.add_bos && vocab.bos >= 0) ids.insert(ids.begin(), vocab.bos);
  const Ids learned = tokenizer.encode(completion, {.add_special = false, .parse_special = true});
  require(!learned.empty(), "the completion is empty");
  data.add_pair(ids, learned, vocab.eos);
}

void add_pairs(Examples& data, const Tokenizer& tokenizer, std::string_view lines, const std::string& source) {
  for (int64_t number = 1; !lines.empty(); ++number) {
    const std::string_view line = lines.substr(0, lines.find('\n'));
    lines.remove_prefix(std::min(line.size() + 1, lines.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string place = source + ":" + std::to_string(number);
    const Json pair = Json::parse(line, place);
    require(std::holds_alternative<Json::Object>(pair.value), place, ": expected an object {\"prompt\": …, \"completion\": …}, got ", pair.type_name());
    const auto text = [&](const char* key) -> const std::string& {
      const Json* member = pair.find(key);
      require(member, place, ": \"", key, "\" is missing");
      const auto* string = std::get_if<std::string>(&member->value);
      require(string, place, ": \"", key, "\" is ", member->type_name(), ", expected a string");
      return *string;
    };
    const std::string& completion = text("completion");
    require(!completion.empty(), place, ": the completion is empty");
    add_pair(data, tokenizer, text("prompt"), completion);
  }
}

}  // namespace kvt
