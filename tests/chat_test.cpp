#include "tests/main.h"

#include "engine/chat.h"
#include "tests/check.h"

using namespace kvt;

namespace {

const std::vector<ChatMessage> talk = {{"system", " Be brief. "}, {"user", " Hi "}, {"assistant", "Hello."}, {"user", "Bye"}};

Vocab vocab() {
  Vocab v;
  v.text = {"<s>", "</s>"};
  v.bos = 0;
  v.eos = 1;
  return v;
}

// The shape of SmolLM2's and Qwen2's templates, with the newline and quotes as given.
std::string chatml_with(const std::string& literal) {
  return "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ " + literal +
         " }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}";
}

}  // namespace

// Expected texts: written out from the published templates of the model families.
TEST_CASE("each format lays a conversation out as its models were trained") {
  const Vocab v = vocab();
  const auto format = [&](const char* name) { return ChatTemplate::named(name, v).format(talk, true); };
  CHECK(format("chatml") == "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
                            "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n");
  CHECK(format("llama2") == "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Bye [/INST]");
  CHECK(format("llama3") == "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                            "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
                            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  CHECK(format("gemma") == "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
                           "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n");
  CHECK(format("phi3") == "<|system|>\n Be brief. <|end|>\n<|user|>\n Hi <|end|>\n<|assistant|>\nHello.<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>\n");
  CHECK(format("zephyr") == "<|system|>\n Be brief. </s>\n<|user|>\n Hi </s>\n<|assistant|>\nHello.</s>\n<|user|>\nBye</s>\n<|assistant|>\n");
  CHECK(format("mistral") == "[INST]  Be brief. \n\n Hi  [/INST] Hello.</s>[INST] Bye [/INST]");
  CHECK(format("mistral-v3") == "[INST]  Be brief. \n\n Hi [/INST] Hello.</s>[INST] Bye[/INST]");
  CHECK(format("mistral-tekken") == "[INST] Be brief. \n\n Hi [/INST]Hello.</s>[INST]Bye[/INST]");
}

TEST_CASE("a conversation grown turn by turn is the conversation formatted at once") {
  const Vocab v = vocab();
  for (const std::string& name : ChatTemplate::names()) {
    const ChatTemplate t = ChatTemplate::named(name, v);
    const std::vector<ChatMessage> before = {{"system", "S"}, {"user", "one"}};
    const std::string start = t.format(before, true), whole = t.format({{"system", "S"}, {"user", "one"}, {"assistant", "reply"}, {"user", "two"}}, true);
    INFO(name);
    // Where the opening of a reply is not written, the model writes it (the space behind [/INST]).
    const size_t reply = whole.find("reply", start.size());
    CHECK(whole.substr(0, start.size()) == start);
    CHECK(whole.substr(reply + 5) == t.next_turn("two", false));
    CHECK(t.next_turn("two", false).ends_with(t.next_turn("two", true)));
    CHECK(t.next_turn("two", false) != t.next_turn("two", true));
  }
}

TEST_CASE("templates are recognised by their markers") {
  const Vocab v = vocab();
  const auto name = [&](const char* jinja) { return ChatTemplate::recognise(jinja, v, "file").name(); };
  CHECK(name("{{'<|im_start|>' + message['role'] + '\n'}}") == "chatml");
  CHECK(name("{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + content + '<|eot_id|>' }}") == "llama3");
  CHECK(name("{{ '<start_of_turn>' + role + '\n' + content | trim + '<end_of_turn>\n' }}") == "gemma");
  CHECK(name("{{'<|user|>\n' + content + '<|end|>\n<|assistant|>\n'}}") == "phi3");
  CHECK(name("{{ '<|user|>\n' + content + eos_token }}{{ '<|assistant|>' }}") == "zephyr");
  CHECK(name("{{ bos_token + '[INST] ' + '<<SYS>>\\n' + content + ' [/INST]' }}") == "llama2");
  CHECK(name("{{ '[INST] ' + content + ' [/INST]' }}") == "mistral");
  CHECK(name("{{- \"[INST] \" + content + \"[/INST]\" }}") == "mistral-v3");
  CHECK(name("{{- \"[INST]\" + content + \"[/INST]\" }}") == "mistral-tekken");
  CHECK_THROWS_WITH_AS(name("### Instruction: {{ content }}"), doctest::Contains("none of the known formats chatml, llama2, llama3"), Error);
  CHECK_THROWS_WITH_AS(ChatTemplate::named("alpaca", v), doctest::Contains("unknown template 'alpaca'; known are chatml"), Error);
}

TEST_CASE("a template's own system message is found in its text, whichever way it is written") {
  const Vocab v = vocab();
  const auto found = [&](const std::string& jinja) { return ChatTemplate::recognise(jinja, v, "file").default_system(); };
  CHECK(found(chatml_with("'<|im_start|>system\nYou are kind.<|im_end|>\n'")) == "You are kind.");
  CHECK(found(chatml_with("'<|im_start|>system\\nYou are kind.<|im_end|>\\n'")) == "You are kind.");
  CHECK(found(chatml_with("\"<|im_start|>system\\nIt's \\\"you\\\".<|im_end|>\\n\"")) == "It's \"you\".");
  CHECK(found("{% if x %}<|im_start|>system\nPlain text.<|im_end|>\n{% endif %}") == "Plain text.");
  CHECK(found("{{ '<|im_start|>system\n' + content + '<|im_end|>' }}").empty());
  CHECK(found("<|im_start|>system\n{{ content }}<|im_end|>").empty());
  CHECK(found("{{ '<|im_start|>system\n").empty());

  const ChatTemplate t = ChatTemplate::recognise(chatml_with("'<|im_start|>system\nYou are kind.<|im_end|>\n'"), v, "file");
  CHECK(t.format({{"user", "Hi"}}, false) == "<|im_start|>system\nYou are kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
  CHECK(t.format({{"system", ""}, {"user", "Hi"}}, false) == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
}

TEST_CASE("roles that a format has no place for are refused") {
  const ChatTemplate t = ChatTemplate::named("gemma", vocab());
  CHECK_THROWS_WITH_AS(t.format({{"tool", "x"}}, true), doctest::Contains("message 0 has role 'tool'; expected user or assistant"), Error);
  CHECK_THROWS_AS(t.format({{"user", "x"}, {"system", "y"}}, true), Error);
  CHECK_THROWS_WITH_AS(t.format({{"system", "y"}}, true), doctest::Contains("puts the system message into the user's first"), Error);
}

TEST_CASE("SmolLM2: the template of the file gives the prompt the model was trained with") {
  const char* set = std::getenv("KVT_SMOLLM2");
  const std::string path = set ? set : project_path(".cache/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (!std::filesystem::exists(path)) {
    MESSAGE("SKIPPED: no ", path, " (set KVT_SMOLLM2)");
    return;
  }
  const Gguf gguf = Gguf::open(path);
  const auto tokenizer = Tokenizer::from(gguf);
  const ChatTemplate t = ChatTemplate::from(gguf, tokenizer->vocab());
  CHECK(t.name() == "chatml");
  const std::string prompt = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                             "<|im_start|>user\nName three primary colours.<|im_end|>\n<|im_start|>assistant\n";
  CHECK(t.format({{"user", "Name three primary colours."}}, true) == prompt);
  CHECK(ChatTemplate::from(gguf, tokenizer->vocab(), "zephyr").name() == "zephyr");
  CHECK_THROWS_WITH_AS(ChatTemplate::from(Gguf(), vocab()), doctest::Contains("has no tokenizer.chat_template; choose one of chatml"), Error);
}
