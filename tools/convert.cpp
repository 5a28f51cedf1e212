// kvt convert: weights as published (safetensors, with config.json and tokenizer files) → GGUF. Names: engine/convert.h.
// A folder with model.bin is one of CTranslate2 (engine/ctranslate2.h).
#include <cstdio>
#include <filesystem>

#include "engine/convert.h"
#include "engine/ctranslate2.h"
#include "tools/commands.h"

namespace kvt {

void add_convert(CLI::App& app) {
  struct Options { std::string in, out, architecture, config, type = "F32"; };
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("convert", "safetensors weights, with config.json and tokenizer files, to GGUF");
  c->add_option("in", o->in, "a .safetensors file, a folder of them, or the folder of a CTranslate2 model")->required();
  c->add_option("out", o->out, "GGUF file to write")->required();
  c->add_option("--arch", o->architecture, "bert, gpt2, llama, qwen2, qwen3, phi3, gemma3 or vit (default: as the configuration says)");
  c->add_option("--config", o->config, "configuration (default: config.json beside the weights)")->check(CLI::ExistingFile);
  c->add_option("--type", o->type, "type of matrices: F32 (default), F16, BF16, Q8_0, …; rows that do not fill its blocks become F16");
  c->footer("Examples:\n  kvt convert all-MiniLM-L6-v2/ minilm.gguf\n  kvt convert model.safetensors model.gguf --type Q8_0");
  c->callback([o] {
    const DTypeInfo* type = find_dtype(o->type.c_str());
    require(type, "convert: unknown type '", o->type, "'");
    const bool ctranslate2 = std::filesystem::exists(std::filesystem::path(o->in) / "model.bin");
    require(!ctranslate2 || (type->type == DType::F32 && o->architecture.empty() && o->config.empty()), o->in,
            ": --arch, --config and --type are not for models of CTranslate2");
    const Gguf gguf = ctranslate2 ? read_ctranslate2(o->in) : convert(PublishedModel::open(o->in, o->config), {o->architecture, type->type});
    gguf.write(o->out);
    std::fprintf(stderr, "wrote %s: %s, %zu tensors%s\n", o->out.c_str(), gguf.string("general.architecture").c_str(), gguf.tensors().size(),
                 gguf.has("tokenizer.ggml.model") || gguf.has("seq2seq.source_tokens") ? "" : "; no tokenizer");
  });
}

}  // namespace kvt
