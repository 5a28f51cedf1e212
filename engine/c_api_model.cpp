// Models of the C interface: opening, what they are, what they hold, and their tokens.
#include "engine/c_api.h"
#include "engine/chat.h"
#include "engine/fingerprint.h"
#include "engine/load.h"
#include "engine/load_encoder.h"
#include "engine/memory.h"

namespace kvt::c_api {

std::unique_ptr<CausalLm> ModelState::view() const { return load_model(gguf); }
std::unique_ptr<Bert> ModelState::encoder_view() const { return load_bert(gguf); }

static bool is_encoder(const Gguf& gguf) { return gguf.string("general.architecture") == "bert"; }

static void check(kvt_access access) { expect(access == KVT_ACCESS_READ || access == KVT_ACCESS_MAP, "access: unknown ", int(access)); }

// For this model's views, those that are made from here on.
static void arrange_weights(const ModelState& m) {
  const auto lm = m.view();
  kvt::arrange_weights(*lm);
  lm->each_parameter([&](const std::string& name, const Parameter& p) {
    if (!p) return;
    const Tensor shared = m.gguf.tensor(name);
    shared.move_to(p.tensor.storage());
    shared.set_interleaved(p.tensor.interleaved());
  });
}

static Shared open_model(const kvt_source& source, const kvt_model_options& o) {
  const auto m = std::make_shared<ModelState>();
  m->log = {o.log, o.log_user};
  check(o.access);
  expect(o.memory_limit <= uint64_t(Budget::none), "memory_limit is ", o.memory_limit);
  m->budget = std::make_shared<Budget>(o.memory_limit ? int64_t(o.memory_limit) : Budget::none);
  m->pool = std::make_unique<ThreadPool>(ThreadPool::Options{.threads = o.threads});
  const Budget::Scope budget(m->budget.get());
  const ThreadPool::Use pool(*m->pool);
  Reporter report(o.progress, o.progress_user);
  std::string name;
  const Storage bytes = read_source(source, name, o.access == KVT_ACCESS_MAP, [&](uint64_t done, uint64_t total) {
    report(KVT_STAGE_LOADING, done, total);
    report.stop_if_cancelled();
  });
  m->gguf = Gguf::parse(bytes, name);
  const int64_t tables = tokenizer_bytes(m->gguf);
  m->budget->take(tables);
  m->tables = tables;
  if (o.check_weights) m->gguf.check_tensors();
  int64_t vocabulary = 0;
  if (is_encoder(m->gguf)) {
    m->encoder = load_bert(m->gguf);
    vocabulary = m->encoder->config().vocabulary;
  } else {
    m->config = m->view()->config();
    vocabulary = m->config.vocabulary;
  }
  m->tokenizer = Tokenizer::from(m->gguf);
  require(m->tokenizer->vocab().size() == vocabulary, name, ": the tokenizer has ", m->tokenizer->vocab().size(), " tokens, the model ", vocabulary);
  m->fingerprint = fingerprint(m->gguf);
  if (o.arrange_weights && !m->encoder) arrange_weights(*m);
  m->architecture = m->gguf.string("general.architecture");
  m->name = m->gguf.string("general.name", "");
  m->log(KVT_LOG_INFO, name, ": ", m->architecture, ", ", m->gguf.tensors().size(), " tensors, ", bytes.size(), " bytes ",
         source.kind == KVT_SOURCE_MEMORY ? "used in place" : o.access == KVT_ACCESS_MAP ? "mapped" : "read", ", ", m->pool->threads(), " threads");
  return m;
}

DType cache_dtype(kvt_cache_type type, int64_t head_size) {
  expect(type >= KVT_CACHE_TYPE_F16 && type <= KVT_CACHE_TYPE_Q8_0, "cache_type: unknown ", int(type));
  const DType dtype = type == KVT_CACHE_TYPE_F32 ? DType::F32 : type == KVT_CACHE_TYPE_Q8_0 ? DType::Q8_0 : DType::F16;
  if (head_size % info(dtype).block) refuse(KVT_UNSUPPORTED, "cache_type: heads of ", head_size, " numbers do not fill whole blocks of ", dtype);
  return dtype;
}

static kvt_memory memory_needed(const kvt_source& source, const kvt_model_options& model, const kvt_session_options& session) {
  check(model.access);
  uint64_t size = 0;
  const Gguf gguf = read_header(source, &size);
  kvt_memory m{};
  m.weights = model.access == KVT_ACCESS_MAP || source.kind == KVT_SOURCE_MEMORY ? 0 : size;
  m.tables = uint64_t(tokenizer_bytes(gguf));
  if (is_encoder(gguf)) {
    const BertConfig c = load_bert(gguf)->config();
    m.work = uint64_t(work_bytes(c, encode_batch, c.context));
  } else {
    const auto lm = load_model(gguf);
    const LmConfig& c = lm->config();
    if (model.arrange_weights) m.weights += uint64_t(arranged_bytes(*lm, model.access == KVT_ACCESS_MAP && source.kind != KVT_SOURCE_MEMORY));
    const int64_t context = counted(session.context, std::min<int64_t>(c.context, 4096), INT32_MAX, "context");
    m.cache = uint64_t(cache_bytes(c, context, cache_dtype(session.cache_type, c.head_size)));
    m.work = uint64_t(work_bytes(c, std::min(context, counted(session.batch, 256, INT32_MAX, "batch"))));
  }
  m.total = m.weights + m.tables + m.cache + m.work;
  return m;
}

}  // namespace kvt::c_api

using namespace kvt;
using namespace kvt::c_api;

kvt_status kvt_model_open(kvt_source source, const kvt_model_options* options, kvt_model** model) {
  return guard({.otherwise = KVT_BAD_FILE}, [&] {
    given(model, "model");
    *model = new kvt_model{open_model(source, options_of(options))};
  });
}

void kvt_model_free(kvt_model* model) { release(model); }

kvt_status kvt_model_get_info(const kvt_model* model, kvt_model_info* info) {
  return guard({.otherwise = KVT_INVALID_ARGUMENT}, [&] {
    const ModelState& m = *given(model, "model").state;
    given(info, "info");
    kvt_model_info i{};
    i.architecture = m.architecture.c_str();
    i.name = m.name.c_str();
    i.fingerprint = m.fingerprint.c_str();
    i.is_encoder = m.encoder != nullptr;
    i.vocabulary = uint64_t(m.tokenizer->vocab().size());
    i.channels = uint64_t(m.encoder ? m.encoder->config().channels : m.config.channels);
    i.layers = uint64_t(m.encoder ? m.encoder->config().layers : m.config.layers);
    i.context = uint64_t(m.encoder ? m.encoder->config().context : m.config.context);
    for (const Gguf::Entry& e : m.gguf.tensors()) i.parameters += uint64_t(e.tensor.size()), i.weight_bytes += uint64_t(e.tensor.bytes());
    i.bos = m.tokenizer->vocab().bos;
    i.eos = m.tokenizer->vocab().eos;
    write_result(info, i);
  });
}

kvt_status kvt_memory_needed(kvt_source source, const kvt_model_options* model, const kvt_session_options* session, kvt_memory* memory) {
  return guard({.otherwise = KVT_BAD_FILE}, [&] {
    given(memory, "memory");
    write_result(memory, memory_needed(source, options_of(model), options_of(session)));
  });
}

kvt_status kvt_memory_used(const kvt_model* model, uint64_t* now, uint64_t* most) {
  return guard({}, [&] {
    const Budget& b = *given(model, "model").state->budget;
    if (now) *now = uint64_t(b.held());
    if (most) *most = uint64_t(b.most());
  });
}

// --- tokens ---

kvt_status kvt_tokenize(const kvt_model* model, const char* text, size_t size, int flags, int32_t* ids, size_t capacity, size_t* count) {
  return guard({.otherwise = KVT_INVALID_ARGUMENT}, [&] {
    given(model, "model");
    given(count, "count");
    expect(ids != nullptr || capacity == 0, "ids is NULL, capacity ", capacity);
    const auto found = model->state->tokenizer->encode(text_of(text, size), {.add_special = (flags & KVT_TOKENIZE_SPECIAL) != 0, .parse_special = (flags & KVT_TOKENIZE_PARSE) != 0});
    *count = found.size();
    if (found.size() > capacity) refuse(KVT_TOO_SMALL, "room for ", capacity, " ids, the text has ", found.size());
    std::copy(found.begin(), found.end(), ids);
  });
}

kvt_status kvt_detokenize(const kvt_model* model, const int32_t* ids, size_t count, char* text, size_t capacity, size_t* length) {
  return guard({.otherwise = KVT_INVALID_ARGUMENT}, [&] {
    given(model, "model");
    expect(ids != nullptr || count == 0, "ids is NULL, count ", count);
    write_text(model->state->tokenizer->decode({ids, ids + count}), text, capacity, length);
  });
}

kvt_status kvt_token_text(const kvt_model* model, int32_t id, char* text, size_t capacity, size_t* length) {
  return guard({.otherwise = KVT_INVALID_ARGUMENT}, [&] { write_text(given(model, "model").state->tokenizer->piece(id), text, capacity, length); });
}

int kvt_ends_generation(const kvt_model* model, int32_t id) { return model && model->state->tokenizer->ends_generation(id); }

static ChatTemplate chat_template(const ModelState& m, const char* format) {
  try {
    return ChatTemplate::from(m.gguf, m.tokenizer->vocab(), format ? format : "");
  } catch (const Error& e) {
    refuse(KVT_UNSUPPORTED, e.what());
  }
}

kvt_status kvt_chat_start(const kvt_model* model, const char* format, const kvt_chat_message* messages, size_t count, char* text, size_t capacity, size_t* length) {
  return guard({.otherwise = KVT_INVALID_ARGUMENT}, [&] {
    given(model, "model");
    expect(messages != nullptr && count > 0, "messages: ", count);
    std::vector<ChatMessage> all;
    for (size_t i = 0; i < count; ++i) all.push_back({&given(messages[i].role, "role"), &given(messages[i].content, "content")});
    write_text(chat_template(*model->state, format).format(all, true), text, capacity, length);
  });
}

kvt_status kvt_chat_continue(const kvt_model* model, const char* format, const char* message, int ended, char* text, size_t capacity, size_t* length) {
  return guard({.otherwise = KVT_INVALID_ARGUMENT}, [&] {
    given(model, "model");
    write_text(chat_template(*model->state, format).next_turn(&given(message, "message"), ended != 0), text, capacity, length);
  });
}
