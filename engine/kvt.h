/* KVT as a library: run, adapt and question Transformers from GGUF files. C11, and C++.
 *
 *   kvt_model *model; kvt_session *session;
 *   kvt_model_open(kvt_path("model.gguf"), NULL, &model);
 *   kvt_session_new(model, NULL, &session);
 *   kvt_generate_text(session, "Once upon a time", KVT_TEXT_END, NULL, print, NULL, NULL);
 *   kvt_session_free(session); kvt_model_free(model);
 *
 * Status      Every call that can fail returns a kvt_status. What went wrong is then told by kvt_message(), and for calls on a session
 *             by kvt_session_message() too: a sentence that names file, tensor, operation and values. After a failure handles are as
 *             they were before the call, unless the call says otherwise, and results that were asked for are not written.
 * The host    No exception leaves the library, and it never aborts, exits, prints, sets a locale or installs a signal handler. It keeps
 *             no state that two users in one process could see of each other. It reads the environment variables KVT_KERNELS and
 *             KVT_ACTIVATIONS once. On processors with AMX it asks Linux for the use of its tiles. A build with OpenBLAS (kvt_features)
 *             sets that library to one thread for the whole process: a host that uses OpenBLAS itself takes a build without.
 * Threads     A kvt_model, kvt_adapter, kvt_classifier and kvt_knowledge does not change: any number of threads may use one at the same
 *             time. A kvt_session and a kvt_sampler belong to one thread at a time; a second call on a session that is at work, also
 *             from within its own callbacks, is refused as KVT_BUSY. Callbacks come on the thread that made the call.
 *             Handles keep alive what they are made of: they may be freed in any order, though not from within a call on them. Freeing NULL
 *             does nothing. Threads of the library take no signals of the host. pthread_cancel() waits for the end of a call. After fork()
 *             the child leaves handles of its parent alone: their threads are not there.
 * Options     Structs of options begin with struct_size; all other members may be zero, which is their default, and NULL stands for
 *             all defaults:   kvt_model_options o = {.struct_size = sizeof o, .threads = 2};   A program built with an older header goes on
 *             working. Results that are structs take their struct_size from the caller likewise.
 * Texts       UTF-8, as pointer and size in bytes; the size KVT_TEXT_END stands for up to the terminating zero. What comes back into a
 *             buffer of the caller is terminated by zero; the length that is told does not count it. A buffer that is too small is
 *             KVT_TOO_SMALL, and the length is told all the same: ask with capacity 0 first, or try with a large one.
 * Shapes      Arrays are float32 or int32, row-major, outermost axis first: [n, C] is n rows of C numbers.
 */
#ifndef KVT_H
#define KVT_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define KVT_API
#else
#define KVT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version ---------------------------------------------------------------------------------------------------------------------- */

#define KVT_VERSION_MAJOR 0
#define KVT_VERSION_MINOR 1
#define KVT_VERSION_PATCH 0

/* Version of the library at run time: major * 10000 + minor * 100 + patch. */
KVT_API int kvt_version(void);
/* What this build has, e.g. "training models:llama,qwen2,qwen3,gpt2,phi3,gemma3,bert openblas". Valid for ever. */
KVT_API const char *kvt_features(void);

/* ---- Status and messages ---------------------------------------------------------------------------------------------------------- */

typedef enum kvt_status {
  KVT_OK = 0,
  KVT_CANCELLED = 1,        /* a callback asked to stop */
  KVT_ERROR = 2,            /* none of those below: the message says what */
  KVT_INVALID_ARGUMENT = 3, /* a value out of range, NULL where something is needed */
  KVT_IO_ERROR = 4,         /* a file cannot be opened, read, written, synced or renamed */
  KVT_BAD_FILE = 5,         /* a file is damaged, cut short, or contradicts itself */
  KVT_UNSUPPORTED = 6,      /* an architecture, method or feature that this build does not compute */
  KVT_MISMATCH = 7,         /* an adapter of another base model, a checkpoint of another run */
  KVT_CONTEXT_FULL = 8,     /* more tokens than a session can hold */
  KVT_OUT_OF_MEMORY = 9,    /* the system has no more */
  KVT_MEMORY_LIMIT = 10,    /* kvt_model_options.memory_limit would be exceeded */
  KVT_TOO_SMALL = 11,       /* the caller's buffer */
  KVT_BUSY = 12             /* a session that another call is using */
} kvt_status;

/* The name of a status, e.g. "KVT_IO_ERROR". Valid for ever. */
KVT_API const char *kvt_status_name(kvt_status status);
/* What the last call that failed on this thread said; "" if none did. Valid until the next call that fails on this thread. At most
 * 1023 bytes; never NULL; works without any memory left. */
KVT_API const char *kvt_message(void);

/* ---- Callbacks -------------------------------------------------------------------------------------------------------------------- */

typedef enum kvt_log_level { KVT_LOG_INFO = 0, KVT_LOG_WARNING = 1 } kvt_log_level;
/* `message` is one line without a line end, valid during the call. */
typedef void (*kvt_log_fn)(void *user, kvt_log_level level, const char *message);

typedef enum kvt_stage {
  KVT_STAGE_LOADING = 0,    /* done, total in bytes */
  KVT_STAGE_READING = 1,    /* tokens of a prompt */
  KVT_STAGE_TRAINING = 2,   /* steps */
  KVT_STAGE_VALIDATING = 3, /* loss is that of validation data; total 0: unknown */
  KVT_STAGE_EXTRACTING = 4, /* examples */
  KVT_STAGE_ENCODING = 5    /* texts that are embedded or classified */
} kvt_stage;

typedef struct kvt_progress {
  size_t struct_size;
  kvt_stage stage;
  uint64_t done, total;
  uint64_t round, rounds;   /* of method kvt, from 1; else 0 */
  double loss;              /* nats per token, NaN where there is none */
  double validation_loss;   /* the last one known; NaN before */
  double learning_rate;     /* NaN where there is none */
  double tokens_per_second; /* NaN where unknown */
  double seconds_left;      /* an estimate, NaN where unknown */
} kvt_progress;
/* Comes at least at each step, and in long steps about every 50 ms. Returns 0 to go on, anything else to cancel: the call then soon
 * returns KVT_CANCELLED (within one linear layer's work). */
typedef int (*kvt_progress_fn)(void *user, const kvt_progress *progress);

/* ---- Models ----------------------------------------------------------------------------------------------------------------------- */

typedef struct kvt_model kvt_model;         /* weights, configuration and tokenizer; immutable */
typedef struct kvt_adapter kvt_adapter;     /* an adapter's file in memory; immutable */
typedef struct kvt_session kvt_session;     /* one sequence of tokens, its cache, its adapters */
typedef struct kvt_sampler kvt_sampler;     /* how tokens are chosen, and the state of the draws */

/* Where a file comes from. Make one with the functions below. */
typedef enum kvt_source_kind { KVT_SOURCE_PATH = 0, KVT_SOURCE_DESCRIPTOR = 1, KVT_SOURCE_MEMORY = 2 } kvt_source_kind;
typedef struct kvt_source {
  kvt_source_kind kind;
  int descriptor;
  const char *path;
  const void *memory;
  uint64_t offset, size;
} kvt_source;

/* A file by its name. */
static inline kvt_source kvt_path(const char *path) {
  kvt_source s = {KVT_SOURCE_PATH, -1, NULL, NULL, 0, 0};
  s.path = path;
  return s;
}
/* `size` bytes (0 = all that follow) of an open regular file from `offset` on, read by pread: the descriptor's own position stays, and it is
 * neither kept nor closed. An Android asset that is stored uncompressed is one. */
static inline kvt_source kvt_descriptor(int descriptor, uint64_t offset, uint64_t size) {
  kvt_source s = {KVT_SOURCE_DESCRIPTOR, -1, NULL, NULL, 0, 0};
  s.descriptor = descriptor, s.offset = offset, s.size = size;
  return s;
}
/* `size` bytes at `memory`, a multiple of 8, used in place: they must neither change nor go away while anything made of them lives. */
static inline kvt_source kvt_bytes(const void *memory, uint64_t size) {
  kvt_source s = {KVT_SOURCE_MEMORY, -1, NULL, NULL, 0, 0};
  s.memory = memory, s.size = size;
  return s;
}

typedef enum kvt_access {
  KVT_ACCESS_READ = 0,      /* weights are read into memory of the library */
  /* The file is mapped: it is there at once, and pages are shared with other processes. The hazard: if anybody cuts the file short, or
   * the medium fails, while it is mapped, the operating system ends the process (SIGBUS); a library that installs no signal handler
   * cannot prevent it. For files that nobody else can write. Of path sources alone. */
  KVT_ACCESS_MAP = 1
} kvt_access;

typedef struct kvt_model_options {
  size_t struct_size;
  kvt_access access;
  int threads;              /* that compute together, the caller's included; 0 = one for each core this process may use. They belong to
                             * the model and end with it. Calls at the same time share them: one has them, the others compute alone. */
  uint64_t memory_limit;    /* bytes that this model and all made of it may hold together; 0 = no limit. A call that would exceed it
                             * fails as KVT_MEMORY_LIMIT. Counted are weights that are read, the tokenizer's tables (estimated), caches,
                             * activations, adapters, gradients and optimizer; not: small objects, and buffers of each computing thread
                             * (some 2 MB). */
  int check_weights;        /* not 0: refuse a file with infinities or NaNs among its numbers (reads all of it) */
  kvt_log_fn log;           /* about this model and what is done with it; NULL = none. May come on any thread that uses the model. */
  void *log_user;
  kvt_progress_fn progress; /* of opening */
  void *progress_user;
  int arrange_weights;      /* not 0: have the matrices of a language model lie in memory as generating reads them fastest, which makes it 1.1
                             * to 1.4 times as fast (README.md) and opening slower by the time of a copy. Takes the memory of mapped weights once, and again that of weights
                             * that are read or used in place (kvt_memory.weights says how much). */
} kvt_model_options;

/* Opens a GGUF model: a language model (llama, qwen2, qwen3, gpt2, phi3, gemma3) or an encoder of texts (bert).
 * KVT_IO_ERROR, KVT_BAD_FILE, KVT_UNSUPPORTED, KVT_OUT_OF_MEMORY, KVT_MEMORY_LIMIT, KVT_CANCELLED. */
KVT_API kvt_status kvt_model_open(kvt_source source, const kvt_model_options *options, kvt_model **model);
KVT_API void kvt_model_free(kvt_model *model);

typedef struct kvt_model_info {
  size_t struct_size;
  const char *architecture; /* "llama", …; strings are valid while the model lives */
  const char *name;         /* as its file says; "" if it does not */
  const char *fingerprint;  /* 16 hexadecimal digits: the same for the same weights. Adapters name the base they belong to by it */
  int is_encoder;           /* embeds and classifies texts, and does not generate */
  uint64_t vocabulary, channels, layers;      /* V, C, blocks */
  uint64_t context;         /* the longest sequence it was trained on */
  uint64_t parameters;      /* numbers in all tensors */
  uint64_t weight_bytes;
  int32_t bos, eos;         /* ids of the tokens that begin and end a text; -1 = none */
} kvt_model_info;
/* Fills `info` as far as its struct_size goes. */
KVT_API kvt_status kvt_model_get_info(const kvt_model *model, kvt_model_info *info);

/* ---- Memory ----------------------------------------------------------------------------------------------------------------------- */

/* What keys and values are kept as. Q8_0: blocks of 32 numbers in 34 bytes, about half of float16; KVT_UNSUPPORTED unless attention heads are of
 * a multiple of 32 numbers. */
typedef enum kvt_cache_type {
  KVT_CACHE_TYPE_F16 = 0,
  KVT_CACHE_TYPE_F32 = 1,
  KVT_CACHE_TYPE_Q8_0 = 2
} kvt_cache_type;

typedef struct kvt_session_options {
  size_t struct_size;
  uint64_t context;         /* the most tokens the session can hold; 0 = the model's, at most 4096 */
  uint64_t batch;           /* tokens of a prompt computed at once, 0 = 256: more is faster and takes more memory */
  kvt_cache_type cache_type;
} kvt_session_options;

typedef struct kvt_memory {
  size_t struct_size;
  uint64_t weights;         /* read into memory, and arranged there; 0 if only mapped or used in place */
  uint64_t tables;          /* of the tokenizer */
  uint64_t cache;           /* keys and values of one session */
  uint64_t work;            /* passing results of one session, at most */
  uint64_t total;
} kvt_memory;
/* What a model and one session on it will take, in bytes. Reads the file's header alone (some MB at most, freed again). Adapters
 * and further sessions come on top: each session cache + work. Errors as of kvt_model_open. */
KVT_API kvt_status kvt_memory_needed(kvt_source source, const kvt_model_options *model, const kvt_session_options *session, kvt_memory *memory);
/* What the model and all made of it hold now, and the most they held at once, in bytes: counted as the limit is. Either may be NULL. */
KVT_API kvt_status kvt_memory_used(const kvt_model *model, uint64_t *now, uint64_t *most);

/* ---- Tokens ----------------------------------------------------------------------------------------------------------------------- */

#define KVT_TEXT_END ((size_t)-1)

enum {
  KVT_TOKENIZE_SPECIAL = 1, /* add what begins and ends a text, as the model's file asks */
  KVT_TOKENIZE_PARSE = 2    /* "<|im_end|>" in the text is that token, not its letters */
};
/* ids of a text. *count becomes their number, also with KVT_TOO_SMALL. */
KVT_API kvt_status kvt_tokenize(const kvt_model *model, const char *text, size_t size, int flags, int32_t *ids, size_t capacity, size_t *count);
/* The text of ids, without control tokens. *length becomes its bytes, also with KVT_TOO_SMALL (`capacity` needs one more). */
KVT_API kvt_status kvt_detokenize(const kvt_model *model, const int32_t *ids, size_t count, char *text, size_t capacity, size_t *length);
/* The bytes of one token as it continues a text: may be part of a character. Control tokens give none. */
KVT_API kvt_status kvt_token_text(const kvt_model *model, int32_t id, char *text, size_t capacity, size_t *length);
/* 1 if the token ends a text or a turn, 0 if not (or if there is no such token). */
KVT_API int kvt_ends_generation(const kvt_model *model, int32_t id);

typedef struct kvt_chat_message {
  const char *role;         /* "system" (the first alone), "user", "assistant" */
  const char *content;      /* terminated by zero */
} kvt_chat_message;
/* The prompt text of a conversation in the format that the model was trained on, recognised from its file, or in the one called `format`
 * (chatml, llama2, llama3, gemma, phi3, mistral, …; NULL = the file's); ends with the opening of the assistant's turn. Tokenize it with both
 * flags. KVT_UNSUPPORTED if the file has no format that is known. */
KVT_API kvt_status kvt_chat_start(const kvt_model *model, const char *format, const kvt_chat_message *messages, size_t count, char *text,
                                  size_t capacity, size_t *length);
/* What continues it after a reply that the session holds: the end of that turn, the user's `message`, the opening of the next reply. `ended`:
 * the reply ended by its own token (KVT_STOP_END), which still has to be read: evaluate `unread` of kvt_generation before. Tokenize it
 * with KVT_TOKENIZE_PARSE. */
KVT_API kvt_status kvt_chat_continue(const kvt_model *model, const char *format, const char *message, int ended, char *text, size_t capacity,
                                     size_t *length);

/* ---- Sessions --------------------------------------------------------------------------------------------------------------------- */

/* A sequence on a language model. Takes the cache's memory at once. KVT_UNSUPPORTED on an encoder. */
KVT_API kvt_status kvt_session_new(kvt_model *model, const kvt_session_options *options, kvt_session **session);
KVT_API void kvt_session_free(kvt_session *session);
/* As kvt_message(), of the last call on this session that failed. */
KVT_API const char *kvt_session_message(const kvt_session *session);
/* Told the progress of all long calls on this session, until set anew; NULL = none. */
KVT_API kvt_status kvt_session_set_progress(kvt_session *session, kvt_progress_fn progress, void *user);

/* Reads `count` ids (at least one) behind what is there. *logits, unless NULL, becomes the V scores of the next token: the session's own
 * array, the same as long as it lives, whose numbers change with the next call on it. KVT_CONTEXT_FULL when they do not fit: none is read
 * then. After KVT_CANCELLED or a failure amid the work the session holds the first so many of them: kvt_session_tokens tells. */
KVT_API kvt_status kvt_evaluate(kvt_session *session, const int32_t *ids, size_t count, const float **logits);
/* The scores behind the last token that the session holds, of kvt_evaluate, kvt_generate or KVT_CACHE_REEVALUATE; KVT_INVALID_ARGUMENT where
 * there are none: before the first, after kvt_session_truncate, after other changes of adapters, and after a failure amid reading. */
KVT_API kvt_status kvt_logits(kvt_session *session, const float **logits, size_t *count);
/* The tokens that the session holds: its own array, valid until the next call on it. Either result may be NULL. */
KVT_API kvt_status kvt_session_tokens(kvt_session *session, const int32_t **ids, size_t *count);
/* The most tokens it can hold. */
KVT_API uint64_t kvt_session_context(const kvt_session *session);
/* Forgets all behind the first `count` tokens. There are no scores then, before the next kvt_evaluate. */
KVT_API kvt_status kvt_session_truncate(kvt_session *session, size_t count);

typedef struct kvt_sampler_options {
  size_t struct_size;
  float temperature;        /* 0 = the token of the highest score, always */
  int top_k;                /* keep the k likeliest tokens; 0 = all */
  float top_p;              /* keep the fewest that hold this much probability; 0 and 1 = all */
  float min_p;              /* drop tokens less likely than this share of the likeliest one; 0 = none */
  float repeat_penalty;     /* divides the scores of recent tokens; 0 and 1 = off */
  int repeat_last;          /* how many tokens count as recent; 0 = 64 */
  uint64_t seed;            /* the same seed gives the same draws */
} kvt_sampler_options;
KVT_API kvt_status kvt_sampler_new(const kvt_sampler_options *options, kvt_sampler **sampler);
KVT_API void kvt_sampler_free(kvt_sampler *sampler);
/* Chooses a token by the session's scores (kvt_logits). NULL sampler = the highest. Does not read it: kvt_evaluate does. */
KVT_API kvt_status kvt_sample(kvt_session *session, kvt_sampler *sampler, int32_t *id);

/* One token as it is chosen, with the text that it completes: whole characters, perhaps none, valid during the call, not terminated. Bytes
 * that never became a character come at the end, with id -1.
 * Returns 0 to go on, anything else to end here (which is no failure: KVT_STOP_CALLBACK). */
typedef int (*kvt_token_fn)(void *user, int32_t id, const char *text, size_t size);

typedef struct kvt_generate_options {
  size_t struct_size;
  uint64_t most;            /* tokens to write at most; 0 = until the end or until the context is full */
  int ignore_end;           /* not 0: go on behind the token that ends a text */
  kvt_sampler *sampler;     /* NULL = always the likeliest */
} kvt_generate_options;

typedef enum kvt_stop { KVT_STOP_END = 0, KVT_STOP_MOST = 1, KVT_STOP_CONTEXT = 2, KVT_STOP_CALLBACK = 3 } kvt_stop;
typedef struct kvt_generation {
  size_t struct_size;
  uint64_t prompt_tokens, tokens;
  kvt_stop stop;
  int32_t unread;           /* the token that was chosen last and not read: the end token, or the last one written; -1 = none */
  double prompt_seconds, seconds;
} kvt_generation;

/* Reads the `count` ids of a prompt and writes. `token` may be NULL, and so may `result`. The session then holds the prompt and all tokens
 * written, but for `unread`. */
KVT_API kvt_status kvt_generate(kvt_session *session, const int32_t *prompt, size_t count, const kvt_generate_options *options, kvt_token_fn token,
                                void *user, kvt_generation *result);
/* The same with the prompt as text; special tokens in it are recognised, and what begins a text is added if the session is empty. */
KVT_API kvt_status kvt_generate_text(kvt_session *session, const char *prompt, size_t size, const kvt_generate_options *options, kvt_token_fn token,
                                     void *user, kvt_generation *result);

/* ---- Adapters --------------------------------------------------------------------------------------------------------------------- */

/* Reads an adapter file for `model`: LoRA (llama.cpp's format), KVT, IA3, a bank of domains, a class head. KVT_MISMATCH when it was
 * trained on another base. Always read into memory, or used in place. */
KVT_API kvt_status kvt_adapter_open(kvt_model *model, kvt_source source, kvt_adapter **adapter);
KVT_API void kvt_adapter_free(kvt_adapter *adapter);
/* Writes its file: beside the place first, synced, then renamed, so that an old file survives any failure. */
KVT_API kvt_status kvt_adapter_write(const kvt_adapter *adapter, const char *path);

/* What becomes of the tokens that a session has read when its adapters change. */
typedef enum kvt_cache {
  KVT_CACHE_KEEP = 0,       /* their keys and values stay as they were computed; tokens from here on are read with the new adapters (and look
                             * at the old ones). Immediate. KVT_UNSUPPORTED where the cache would need another form: to and from adapters
                             * whose file asks for fusion with the base, banks, and cores that depend on the text */
  KVT_CACHE_REEVALUATE = 1, /* all are read anew, as if the adapters had been there from the start; scores are those behind the last */
  KVT_CACHE_CLEAR = 2       /* the session is empty */
} kvt_cache;

/* Adapters add up. All four leave the session as it was when they fail, but for KVT_CANCELLED or a lack of memory amid reading anew: it has its old
 * adapters then, and is empty. Scores of the next token are there only after KVT_CACHE_REEVALUATE.
 * Of several adapters the last decides about fusion with the base, the others belong to the base then.
 *
 * Adds an adapter, at `scale` times its own strength (1 = as trained; 0 = none of it; negative is allowed). KVT_INVALID_ARGUMENT if it is
 * attached already. */
KVT_API kvt_status kvt_session_attach(kvt_session *session, kvt_adapter *adapter, float scale, kvt_cache cache);
/* Changes the scale of an attached adapter. */
KVT_API kvt_status kvt_session_scale(kvt_session *session, kvt_adapter *adapter, float scale, kvt_cache cache);
/* Puts `adapter` at `scale` in the place of all that are attached. */
KVT_API kvt_status kvt_session_swap(kvt_session *session, kvt_adapter *adapter, float scale, kvt_cache cache);
/* Takes an adapter off, or all (NULL). */
KVT_API kvt_status kvt_session_detach(kvt_session *session, kvt_adapter *adapter, kvt_cache cache);

/* ---- Encoders: embedding and classifying ------------------------------------------------------------------------------------------ */

typedef struct kvt_text { const char *data; size_t size; } kvt_text;

/* One vector of length 1 for each text, vectors [count, C] (kvt_model_info.channels), by an encoder; texts that are too long are cut. The
 * cosine of two texts is the product of their vectors. `progress` may be NULL. KVT_UNSUPPORTED on a language model. */
KVT_API kvt_status kvt_embed(const kvt_model *model, const kvt_text *texts, size_t count, kvt_progress_fn progress, void *user, float *vectors);

typedef struct kvt_classifier kvt_classifier;
/* A classifier of texts, as `kvt adapt --task classify` makes them: an adapter with classes on a language model or an encoder, or a model that
 * has them itself (NULL adapter). KVT_BAD_FILE if neither names classes. */
KVT_API kvt_status kvt_classifier_new(kvt_model *model, kvt_adapter *adapter, kvt_classifier **classifier);
KVT_API void kvt_classifier_free(kvt_classifier *classifier);
/* How many classes there are, and the name of one; NULL beyond the last. Valid while the classifier lives. */
KVT_API size_t kvt_classifier_count(const kvt_classifier *classifier);
KVT_API const char *kvt_classifier_name(const kvt_classifier *classifier, size_t index);
/* Probabilities [count, classes] of texts. */
KVT_API kvt_status kvt_classify(const kvt_classifier *classifier, const kvt_text *texts, size_t count, kvt_progress_fn progress, void *user, float *probabilities);

/* ---- Adaptation on the device ----------------------------------------------------------------------------------------------------- */

/* One example: a text of which all is learned (prompt.data NULL), or what is to follow a prompt, of which that alone is learned. A long text
 * becomes as many examples of kvt_adapt_options.length tokens as it takes; a long pair is cut. */
typedef struct kvt_example { kvt_text prompt, text; } kvt_example;
/* Gives the next example, whose texts must stay valid until the next call: 1; or none is left: 0; or the work is to be cancelled: -1. Called
 * before training alone, once for each example. */
typedef int (*kvt_next_fn)(void *user, kvt_example *example);
/* Examples in memory, or, if `next` is not NULL, from there. */
typedef struct kvt_data {
  const kvt_example *examples;
  size_t count;
  kvt_next_fn next;
  void *user;
} kvt_data;

typedef struct kvt_adapt_options {
  size_t struct_size;
  const char *method;           /* "kvt" (default): directions of the text's gradient, rounds of extraction and line search, no learning rate;
                                 * "lora", "adapterdrop" (LoRA in the upper blocks), "ia3", "probe" (the output layer): trained by AdamW;
                                 * "lora-xs": a small trained core between the weight's own directions */
  const kvt_data *validation;   /* what the best step or round is chosen by; NULL = see validation_split */
  double validation_split;      /* without `validation`: this share from the end of the data; 0 = for kvt and lora-xs 0.2, else none */
  const char *targets;          /* layers, e.g. "attn_q,attn_v"; NULL = all */
  uint64_t first_layer;         /* blocks below are left as they are: less memory and time; 0 = as the method says */
  uint64_t length;              /* tokens of an example at most; 0 = 256 */
  uint64_t seed;
  /* kvt */
  const char *core;             /* "extracted" (default; nothing is trained), "spectral", "dense" */
  uint64_t k;                   /* directions a layer and round; 0 = 8 */
  uint64_t rounds;              /* at most; 0 = 8 */
  float eta;                    /* where the first line search starts; 0 = 1/32 */
  /* what is trained by AdamW */
  uint64_t rank;                /* of lora; 0 = 8 */
  float alpha;                  /* its scale is alpha/rank; 0 = 16 */
  uint64_t steps;               /* 0 = as many as `epochs` take */
  uint64_t epochs;              /* 0 = 1 */
  uint64_t batch;               /* examples in one forward pass; 0 = 4 */
  uint64_t accumulate;          /* forward passes in one step; 0 = 1 */
  float learning_rate;          /* at its peak; 0 = as the method says (lora 3e-4) */
  const char *schedule;         /* "cosine" (default), "linear", "constant" */
  uint64_t warmup;              /* steps of rising rate */
  uint64_t eval_every;          /* steps between validations; 0 = before the first and after the last */
  uint64_t patience;            /* stop after so many validations without a better loss; 0 = never */
  int bf16;                     /* not 0: products and what the backward pass keeps in 16 bits: less memory */
  int recompute;                /* not 0: activations are computed again in the backward pass: less memory, more time */
  /* going on later */
  const char *checkpoint;       /* a file that is written when the call is cancelled, after each round, and every save_every steps: whole or not
                                 * at all, and removed when the run is done. NULL = none */
  uint64_t save_every;          /* steps; 0 = when cancelled alone */
  int resume;                   /* not 0: go on from the checkpoint if there is one, to the same bytes as without a break; KVT_MISMATCH
                                 * if it is of another run (model, data or options) */
  kvt_progress_fn progress;     /* may cancel at any moment */
  void *progress_user;
  /* kvt, core "extracted" */
  uint64_t portion;             /* tokens, about, that a round extracts from, in turns through the data; 0 = all */
  int learn_validation;         /* not 0: validation data are learned as well, once they have told each round's step */
  uint64_t refine;              /* steps of AdamW at the end, on LoRA factors of `rank`; 0 = none */
  double mean_rank;             /* cut the result to factors of this mean rank: smaller; 0 = as it comes */
} kvt_adapt_options;

/* Adapts a language model to data. *adapter is then as one that was opened: attach it, write it. The model itself does not change, and sessions
 * on it go on meanwhile. Adapters of the result are in F32. The same data, options, model, build and number of threads give the same bytes.
 * KVT_CANCELLED (the checkpoint is written), KVT_UNSUPPORTED (on an encoder, and in a build without training), KVT_MEMORY_LIMIT, KVT_ERROR when
 * nothing lowers the validation loss, or the loss stops being finite. */
KVT_API kvt_status kvt_adapt(kvt_model *model, const kvt_data *data, const kvt_adapt_options *options, kvt_adapter **adapter);
/* About how many bytes that will take beside the model's weights. `examples` in the data, at most. */
KVT_API kvt_status kvt_adapt_memory_needed(const kvt_model *model, const kvt_adapt_options *options, uint64_t *bytes);

/* ---- Knowledge in texts ----------------------------------------------------------------------------------------------------------- */

typedef struct kvt_knowledge kvt_knowledge;

typedef struct kvt_extract_options {
  size_t struct_size;
  uint64_t length;              /* tokens read together; 0 = 256 */
  uint64_t positions;           /* measured at most, spread over the text; 0 = 20000 */
  uint64_t concepts;            /* clusters; 0 = 8 */
  uint64_t words;               /* in each list of the report; 0 = 20 */
  uint64_t seed;                /* of the clusters' first centres */
  kvt_progress_fn progress;
  void *progress_user;
} kvt_extract_options;

/* What an adapter (or, NULL, the text itself) changes in the model's predictions over a text: which words rise and fall, the directions of the
 * change and their clusters. KVT_UNSUPPORTED as of kvt_adapt. */
KVT_API kvt_status kvt_extract(kvt_model *model, kvt_adapter *tuned, const kvt_data *data, const kvt_extract_options *options, kvt_knowledge **knowledge);
KVT_API void kvt_knowledge_free(kvt_knowledge *knowledge);

typedef struct kvt_knowledge_info {
  size_t struct_size;
  uint64_t positions, concepts;
  double divergence;            /* mean KL(tuned || base), or without an adapter the cross-entropy, in nats a token */
  double same_choice;           /* share of positions whose likeliest token stays the same */
} kvt_knowledge_info;
KVT_API kvt_status kvt_knowledge_get_info(const kvt_knowledge *knowledge, kvt_knowledge_info *info);

typedef enum kvt_knowledge_array {
  KVT_KNOWLEDGE_BEFORE = 0,     /* [1, V] mean probability of each token, of the base */
  KVT_KNOWLEDGE_AFTER = 1,      /* [1, V] of the tuned model, or in the text */
  KVT_KNOWLEDGE_DIRECTIONS = 2, /* [positions, C] where the base's last hidden state would have to move */
  KVT_KNOWLEDGE_CONCEPTS = 3    /* [concepts, C] unit vectors: the clusters' centres */
} kvt_knowledge_array;
/* One of them: the handle's own numbers, valid while it lives. */
KVT_API kvt_status kvt_knowledge_get(const kvt_knowledge *knowledge, kvt_knowledge_array which, const float **numbers, size_t *rows, size_t *columns);

typedef enum kvt_format { KVT_FORMAT_TEXT = 0, KVT_FORMAT_JSON = 1, KVT_FORMAT_HTML = 2 } kvt_format;
/* The report for people, as text of 120 columns, JSON or one HTML page. */
KVT_API kvt_status kvt_knowledge_report(const kvt_knowledge *knowledge, kvt_format format, char *text, size_t capacity, size_t *length);
/* Writes it as GGUF, as `kvt extract` does: whole or not at all. */
KVT_API kvt_status kvt_knowledge_write(const kvt_knowledge *knowledge, const char *path);

#ifdef __cplusplus
}
#endif
#endif
