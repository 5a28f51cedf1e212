// What several subcommands share: the options that name a model, and opening it.
#pragma once
#include <CLI/CLI.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "models/fusion.h"

namespace kvt {

// For what wants to share something that its owner keeps.
template <class T> std::shared_ptr<T> unowned(T& x) { return {&x, [](T*) {}}; }

struct ModelOptions {
  std::string model;
  std::vector<std::string> adapters;      // FILE or FILE:SCALE
  std::string activations;                // "", f32 or q8
  int threads = 0;
  bool no_mmap = false, check_tensors = false;
  bool any_base = false;                  // adapters trained on another base are taken too
  std::optional<Fusion> fusion;           // instead of what the last adapter's file says
  bool no_fusion = false;                 // adapters alone, whatever their files say
  std::string domain, route = "sentence"; // of a bank: this domain alone; else how tokens choose theirs
};

// -m, -t, --activations, --no-mmap, --check-tensors; and --adapter, --any-base if `with_adapters`.
void add_model_options(CLI::App& command, ModelOptions& options, bool with_adapters = true);
// --fuse, --extrapolate, --no-fusion, --domain, --route: for commands that compute with the scores of adapters.
void add_fusion_options(CLI::App& command, ModelOptions& options);
// --cache: what keys and values are kept as.
void add_cache_option(CLI::App& command, DType& cache);

struct LoadedModel {
  Gguf gguf;
  std::shared_ptr<CausalLm> model;
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<Fusion> fusion;           // as the last adapter's file or the options say, whether it was asked for or not
};
// With its adapters. Fused with the base if a file or an option says so, the last adapter over the base and all before it; unless
// `fused` is false: then all of them are the base's, for what is trained on top.
LoadedModel open_model(const ModelOptions& options, bool fused = true);
std::string describe(const Fusion& fusion);      // "lambda 0.7"

// LoRA and IA3 adapters and class heads, FILE or FILE:SCALE each, on a model that `base` was read into; the fusion that the last one's
// file asks for. All but the last are the base's, that one, too, if `as_base`. Throws an Error naming the file.
std::optional<Fusion> load_adapters(Model& model, const Gguf& base, const std::vector<std::string>& adapters, bool any_base = false, bool as_base = false);

// FILE:SCALE → (FILE, SCALE); scale 1 when there is none. A colon that no number follows belongs to the name.
std::pair<std::string, float> split_scale(const std::string& adapter);

// The whole of a text file, or of standard input for "-". A name ending in .gz is decompressed. Throws an Error naming it.
std::string read_text(const std::string& path);
std::vector<std::string> read_lines(const std::string& path);      // of such a text, without line ends (\n or \r\n)

// "1 2 3" or "1,2,3" → ids. Throws an Error naming what is not a number.
std::vector<int32_t> parse_ids(const std::string& text);

// Set once ^C (SIGINT) came; the first call installs the handler. A second ^C ends the process at once.
bool interrupted();

}  // namespace kvt
