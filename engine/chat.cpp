#include "engine/chat.h"

#include "tensor/error.h"

namespace kvt {

struct ChatTemplate::Format {
  std::string name;
  Turn system, user, assistant;
  std::string generate, between;
  bool system_in_user, trim;
};

const std::vector<ChatTemplate::Format>& ChatTemplate::formats() {
  static const std::vector<Format> all = {
      {"chatml", {"<|im_start|>system\n", "<|im_end|>", "\n"}, {"<|im_start|>user\n", "<|im_end|>", "\n"},
       {"<|im_start|>assistant\n", "<|im_end|>", "\n"}, "<|im_start|>assistant\n", "", false, false},
      {"llama2", {"<<SYS>>\n", "", "\n<</SYS>>\n\n"}, {"[INST] ", "", " [/INST]"}, {" ", " {eos}", ""}, "", "{bos}", true, true},
      {"llama3", {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>", ""}, {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>", ""},
       {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", ""}, "<|start_header_id|>assistant<|end_header_id|>\n\n", "", false, true},
      {"gemma", {"", "", "\n\n"}, {"<start_of_turn>user\n", "<end_of_turn>", "\n"}, {"<start_of_turn>model\n", "<end_of_turn>", "\n"},
       "<start_of_turn>model\n", "", true, true},
      {"phi3", {"<|system|>\n", "<|end|>", "\n"}, {"<|user|>\n", "<|end|>", "\n"}, {"<|assistant|>\n", "<|end|>", "\n"}, "<|assistant|>\n", "", false, false},
      {"mistral", {"", "", "\n\n"}, {"[INST] ", "", " [/INST]"}, {" ", "{eos}", ""}, "", "", true, false},
      {"mistral-v3", {"", "", "\n\n"}, {"[INST] ", "", "[/INST]"}, {" ", "{eos}", ""}, "", "", true, false},
      {"mistral-tekken", {"", "", "\n\n"}, {"[INST]", "", "[/INST]"}, {"", "{eos}", ""}, "", "", true, false},
      {"zephyr", {"<|system|>\n", "{eos}", "\n"}, {"<|user|>\n", "{eos}", "\n"}, {"<|assistant|>\n", "{eos}", "\n"}, "<|assistant|>\n", "", false, false},
  };
  return all;
}

static std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t found; (found = text.find(from)) != std::string_view::npos; text.remove_prefix(found + from.size())) out.append(text.substr(0, found)).append(to);
  return out.append(text);
}

static std::string trimmed(const std::string& text) {
  constexpr std::string_view space = " \t\n\v\f\r";
  const size_t begin = text.find_first_not_of(space);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(space) + 1 - begin);
}

static std::string list(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& n : names) out += (out.empty() ? "" : ", ") + n;
  return out;
}

// A template that brings its own system message holds that whole turn as one piece of text: opening, message, end. Where the message
// is the user's, an expression stands between the two.
static std::string find_default_system(const std::string& jinja, const std::string& open, const std::string& end) {
  if (open.empty() || end.empty()) return "";
  for (size_t at = 0; (at = jinja.find(open, at)) != std::string::npos;) {
    const char quote = at > 0 ? jinja[at - 1] : ' ';
    const bool quoted = quote == '\'' || quote == '"';
    at += open.size();
    const size_t stop = jinja.find(end, at);
    if (stop == std::string::npos) return "";
    std::string message;
    bool literal = true;
    for (size_t i = at; i < stop && literal; ++i) {
      if (quoted && jinja[i] == '\\' && i + 1 < stop && (jinja[i + 1] == '\'' || jinja[i + 1] == '"' || jinja[i + 1] == '\\')) ++i;
      else literal = quoted ? jinja[i] != quote : jinja[i] != '{';
      message += jinja[i];
    }
    if (literal && !message.empty()) return message;
  }
  return "";
}

ChatTemplate::ChatTemplate(const Format& f, const Vocab& vocab)
    : name_(f.name), system_(f.system), user_(f.user), assistant_(f.assistant), between_(f.between), generate_(f.generate),
      system_in_user_(f.system_in_user), trim_(f.trim) {
  const auto text = [&](int32_t id) { return id < 0 ? std::string() : vocab.text[size_t(id)]; };
  for (std::string* s : {&system_.end, &user_.end, &assistant_.end, &between_})
    *s = replace_all(replace_all(*s, "{eos}", text(vocab.eos)), "{bos}", text(vocab.bos));
}

const std::vector<std::string>& ChatTemplate::names() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> names;
    for (const Format& f : formats()) names.push_back(f.name);
    return names;
  }();
  return all;
}

ChatTemplate ChatTemplate::named(std::string_view name, const Vocab& vocab) {
  for (const Format& f : formats())
    if (f.name == name) return ChatTemplate(f, vocab);
  fail("chat: unknown template '", name, "'; known are ", list(names()));
}

ChatTemplate ChatTemplate::recognise(std::string_view jinja, const Vocab& vocab, std::string_view source) {
  const std::string text = replace_all(jinja, "\\n", "\n");        // a newline in a Jinja string may be either
  const auto has = [&](const char* marker) { return text.find(marker) != std::string::npos; };
  const char* name = nullptr;
  if (has("<|im_start|>")) name = "chatml";
  else if (has("<|start_header_id|>") && has("<|eot_id|>")) name = "llama3";
  else if (has("<start_of_turn>")) name = "gemma";
  else if (has("<|assistant|>") && has("<|end|>")) name = "phi3";
  else if (has("<|assistant|>") && has("<|user|>") && has("eos_token")) name = "zephyr";
  else if (has("[INST]") && has("<<SYS>>")) name = "llama2";
  else if (has("[INST]") && !has("[SYSTEM_PROMPT]")) name = has(" [/INST]") ? "mistral" : has("[INST] ") ? "mistral-v3" : "mistral-tekken";
  require(name, source, ": tokenizer.chat_template is none of the known formats ", list(names()), "; choose one of them by --chat-template");
  ChatTemplate t = named(name, vocab);
  t.default_system_ = find_default_system(text, t.system_.open, t.system_.end);
  return t;
}

ChatTemplate ChatTemplate::from(const Gguf& gguf, const Vocab& vocab, std::string_view name) {
  if (!name.empty()) return named(name, vocab);
  require(gguf.has("tokenizer.chat_template"), gguf.path(), ": the file has no tokenizer.chat_template; choose one of ", list(names()),
          " by --chat-template");
  return recognise(gguf.string("tokenizer.chat_template"), vocab, gguf.path());
}

std::string ChatTemplate::turn(const Turn& t, const std::string& content) const { return t.open + (trim_ ? trimmed(content) : content) + t.end + t.after; }

std::string ChatTemplate::format(const std::vector<ChatMessage>& messages, bool generate) const {
  const bool own_system = !messages.empty() && messages[0].role == "system";
  std::string text, system;
  if (own_system || !default_system_.empty()) system = turn(system_, own_system ? messages[0].content : default_system_);
  if (!system_in_user_) text = system;

  bool first = true;
  for (size_t i = own_system ? 1 : 0; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    require(role == "user" || role == "assistant", "chat: message ", i, " has role '", role, "'; expected user or assistant, or system as the first");
    if (role == "assistant") {
      text += turn(assistant_, content);
      continue;
    }
    const std::string said = trim_ ? trimmed(content) : content;
    text += (first ? "" : between_) + user_.open + (first && system_in_user_ ? system : "") + said + user_.end + user_.after;
    first = false;
  }
  require(!system_in_user_ || !own_system || !first, "chat: the template '", name_, "' puts the system message into the user's first, and there is none");
  return generate ? text + generate_ : text;
}

std::string ChatTemplate::next_turn(const std::string& user, bool ended) const {
  return (ended ? "" : assistant_.end) + assistant_.after + between_ + turn(user_, user) + generate_;
}

}  // namespace kvt
