// Chat templates: how turns of a conversation become the text a model was trained on.
//
// A GGUF file carries its template as a Jinja program (tokenizer.chat_template). The engine does not run Jinja; it knows the common
// formats and recognises them by their markers:
//
//   chatml          <|im_start|>user\n…<|im_end|>\n<|im_start|>assistant\n
//   llama2          [INST] <<SYS>>\n…\n<</SYS>>\n\n… [/INST]
//   llama3          <|start_header_id|>user<|end_header_id|>\n\n…<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n
//   gemma           <start_of_turn>user\n…<end_of_turn>\n<start_of_turn>model\n
//   phi3            <|user|>\n…<|end|>\n<|assistant|>\n
//   mistral         [INST] … [/INST]       mistral-v3   [INST] …[/INST]       mistral-tekken   [INST]…[/INST]
//   zephyr          <|user|>\n…{eos}\n<|assistant|>\n
//
// The text does not begin with BOS: Tokenizer::encode adds it where the file asks.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer.h"

namespace kvt {

struct ChatMessage {
  std::string role, content;                   // role: system, user or assistant
};

class ChatTemplate {
 public:
  // The template of the file, or the one called `name`. Throws an Error listing the known names if there is none or it is not recognised.
  static ChatTemplate from(const Gguf& gguf, const Vocab& vocab, std::string_view name = "");
  // From the Jinja text; {bos} and {eos} stand in formats for the texts of those tokens.
  static ChatTemplate recognise(std::string_view jinja, const Vocab& vocab, std::string_view source);
  static ChatTemplate named(std::string_view name, const Vocab& vocab);
  static const std::vector<std::string>& names();

  // The conversation; with `generate`, and the opening of the assistant's turn. A missing system message is replaced by the
  // template's own, if it has one. Throws for other roles and for a system message that is not the first.
  std::string format(const std::vector<ChatMessage>& messages, bool generate) const;
  // What continues a formatted conversation after a reply of the model: the rest of its turn, the user's, the opening of the next.
  // `ended`: the model closed its turn with its end token, which is in the context; otherwise the reply was cut off.
  std::string next_turn(const std::string& user, bool ended) const;

  const std::string& name() const { return name_; }
  const std::string& default_system() const { return default_system_; }

 private:
  struct Format;
  static const std::vector<Format>& formats();
  ChatTemplate(const Format& format, const Vocab& vocab);

  struct Turn { std::string open, end, after; };   // content stands between open and end; end is the token that ends a reply
  std::string turn(const Turn& turn, const std::string& content) const;

  std::string name_, default_system_;
  Turn system_, user_, assistant_;
  std::string between_, generate_;                 // before a user turn that is not the first; to open the reply
  bool system_in_user_ = false, trim_ = false;
};

}  // namespace kvt
