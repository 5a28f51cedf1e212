// Weights as published (safetensors, with config.json and tokenizer files beside them) → one GGUF file.
//
// Names, ours on the right; N is the block. Prefixes in brackets may be absent; what is listed under "without" is left out; any other
// tensor is an error.
//
//   bert    [bert.]                                                              without pooler.*, cls.*, *position_ids
//     embeddings.{word_embeddings, position_embeddings, token_type_embeddings}   token_embd, position_embd, token_types
//     embeddings.LayerNorm                                                       token_embd_norm
//     encoder.layer.N.attention.self.{query, key, value}                         blk.N.{attn_q, attn_k, attn_v}
//     encoder.layer.N.attention.output.{dense, LayerNorm}                        blk.N.{attn_output, attn_output_norm}
//     encoder.layer.N.{intermediate.dense, output.dense, output.LayerNorm}       blk.N.{ffn_up, ffn_down, layer_output_norm}
//   gpt2    [transformer.]      all projections transposed: they are stored [in, out]       without h.N.attn.{bias, masked_bias}
//     wte, wpe, ln_f, lm_head                                                    token_embd, position_embd, output_norm, output
//     h.N.{ln_1, attn.c_attn, attn.c_proj}                                       blk.N.{attn_norm, attn_qkv, attn_output}
//     h.N.{ln_2, mlp.c_fc, mlp.c_proj}                                           blk.N.{ffn_norm, ffn_up, ffn_down}
//   llama, qwen2, qwen3, phi3, gemma3     [model.]                               without *.rotary_emb.inv_freq
//     embed_tokens, norm, lm_head                                                token_embd, output_norm, output
//     layers.N.self_attn.{q_proj, k_proj, v_proj, qkv_proj, o_proj}              blk.N.{attn_q, attn_k, attn_v, attn_qkv, attn_output}
//     layers.N.self_attn.{q_norm, k_norm}                                        blk.N.{attn_q_norm, attn_k_norm}
//     layers.N.mlp.{gate_proj, up_proj, gate_up_proj, down_proj}                 blk.N.{ffn_gate, ffn_up, ffn_up, ffn_down}
//     layers.N.{input_layernorm, post_attention_layernorm}                       blk.N.{attn_norm, ffn_norm}; gemma3: the latter is post_attention_norm
//     layers.N.{pre_feedforward_layernorm, post_feedforward_layernorm}           blk.N.{ffn_norm, post_ffw_norm}
//     llama: the rows of q and k change places, from halves (i, i + D/2) to neighbours (2i, 2i + 1); gemma3: norms are stored as 1 + w
//   vit     Hugging Face   [vit.]                                                without pooler.*
//     embeddings.{cls_token, position_embeddings, patch_embeddings.projection}   cls_embd, position_embd, patch_embd
//     encoder.layer.N.attention.attention.{query, key, value}                    blk.N.{attn_q, attn_k, attn_v}
//     encoder.layer.N.attention.output.dense, .intermediate.dense, .output.dense blk.N.{attn_output, ffn_up, ffn_down}
//     encoder.layer.N.{layernorm_before, layernorm_after}, layernorm, classifier blk.N.{attn_norm, ffn_norm}, output_norm, output
//     as of transformers 5: layers.N.attention.{q_proj, k_proj, v_proj, o_proj}, layers.N.{layernorm_before, layernorm_after, mlp.fc1, mlp.fc2}
//   vit     vit-pytorch (told by to_patch_embedding)
//     cls_token, pos_embedding, to_patch_embedding.1, mlp_head.0, mlp_head.1     cls_embd, position_embd, patch_embd, output_norm, output
//     transformer.layers.N.{0.norm, 0.fn.to_qkv, 0.fn.to_out.0}                  blk.N.{attn_norm, attn_q + attn_k + attn_v, attn_output}
//     transformer.layers.N.{1.norm, 1.fn.net.0, 1.fn.net.3}                      blk.N.{ffn_norm, ffn_up, ffn_down}
#pragma once
#include "engine/gguf.h"
#include "engine/json.h"
#include "engine/safetensors.h"

namespace kvt {

// What lies in a model's folder.
struct PublishedModel {
  std::string folder;                       // where tokenizer.json, vocab.txt, … are looked for
  std::vector<Safetensors> files;
  Json config;                              // config.json, or the members of the first file's metadata; null if there is neither
  std::string config_source;                // its path, for errors

  // `input` is a .safetensors file or a folder of them; `config` replaces config.json beside it. Throws an Error naming the path.
  static PublishedModel open(const std::string& input, const std::string& config = "");
  const Safetensors& file_with(const std::string& tensor) const;          // throws if none has it
  bool has(const std::string& tensor) const;
};

struct ConvertOptions {
  std::string architecture;                 // GGUF's name; empty: as the configuration says
  DType type = DType::F32;                  // of matrices; vectors, positions and patches stay F32. Rows that do not fill its blocks become F16
};
Gguf convert(const PublishedModel& model, const ConvertOptions& options);

// The parts of it: convert_config.cpp, convert_tokenizer.cpp.
std::string published_architecture(const PublishedModel& model);
void convert_config(Gguf& out, const PublishedModel& model, const std::string& architecture);
// False if the folder has no tokenizer; an Error if it has one that cannot be expressed.
bool convert_tokenizer(Gguf& out, const PublishedModel& model, const std::string& architecture);

}  // namespace kvt
