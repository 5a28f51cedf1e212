// Chat templates: a Jinja text of any kind, and a conversation. Pieces are separated by bytes 0: template, then messages.
#include "engine/chat.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/vocabularies.h"

using namespace kvt;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto tokenizer = Tokenizer::from(fuzz::bpe_vocabulary("gpt-2"));
  if (size == 0) return 0;
  std::vector<std::string> pieces(1);
  for (size_t i = 1; i < size; ++i)
    if (data[i] == 0) pieces.emplace_back();
    else pieces.back() += char(data[i]);
  std::vector<ChatMessage> messages;
  static constexpr const char* roles[] = {"system", "user", "assistant", "user", "tool"};
  for (size_t i = 1; i < pieces.size(); ++i) messages.push_back({roles[(i - 1 + data[0]) % std::size(roles)], pieces[i]});
  const auto talk = [&](const ChatTemplate& chat) {
    fuzz::works_or_refuses([&] { tokenizer->encode(chat.format(messages, data[0] % 2 == 0)); });
    chat.next_turn(pieces.back(), data[0] % 3 == 0);
  };
  fuzz::works_or_refuses([&] { talk(ChatTemplate::recognise(pieces[0], tokenizer->vocab(), "f.gguf")); });
  const auto& names = ChatTemplate::names();
  fuzz::works_or_refuses([&] { talk(ChatTemplate::named(names[data[0] % names.size()], tokenizer->vocab())); });
  return 0;
}
