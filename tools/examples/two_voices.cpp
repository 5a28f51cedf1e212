// One conversation, two adapters in turns:  two_voices model.gguf first.gguf second.gguf
// The session keeps what was said; each reply is written by the other voice.
#include <kvt.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

static void check(kvt_status status) {
  if (status == KVT_OK) return;
  std::fprintf(stderr, "%s: %s\n", kvt_status_name(status), kvt_message());
  std::exit(1);
}

template <class T, class F>
std::unique_ptr<T, void (*)(T*)> made(F&& make, void (*free)(T*)) {
  T* p = nullptr;
  check(make(&p));
  return {p, free};
}

static int collect(void* reply, int32_t, const char* text, size_t size) {
  static_cast<std::string*>(reply)->append(text, size);
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: two_voices MODEL ADAPTER ADAPTER\n"), 2;
  const auto model = made<kvt_model>([&](auto m) { return kvt_model_open(kvt_path(argv[1]), nullptr, m); }, kvt_model_free);
  const auto open = [&](const char* path) { return made<kvt_adapter>([&](auto a) { return kvt_adapter_open(model.get(), kvt_path(path), a); }, kvt_adapter_free); };
  const auto first = open(argv[2]), second = open(argv[3]);
  const auto chat = made<kvt_session>([&](auto s) { return kvt_session_new(model.get(), nullptr, s); }, kvt_session_free);

  kvt_generate_options options{};
  options.struct_size = sizeof options, options.most = 16;
  const char* questions[] = {"Where does the zindle live?", " What does it eat?", " What is it afraid of?", " Where does it sleep?"};
  for (int turn = 0; turn < 4; ++turn) {
    // Between two tokens: what was read so far stays as it is, the rest is read and written with the other adapter.
    check(kvt_session_swap(chat.get(), turn % 2 ? second.get() : first.get(), 1, KVT_CACHE_KEEP));
    std::string reply;
    check(kvt_generate_text(chat.get(), questions[turn], KVT_TEXT_END, &options, collect, &reply, nullptr));
    std::printf("%s\n  voice %d: %s\n", questions[turn], turn % 2 + 1, reply.c_str());
  }
  const int32_t* ids;
  size_t count;
  check(kvt_session_tokens(chat.get(), &ids, &count));
  std::printf("%zu tokens in one session\n", count);
}
