// Models that are no language models, from GGUF: BERT (llama.cpp's keys and names) and our own ViT.
//
//   vit.image_size, .patch_size, .image_channels             u32     square images in square patches
//   vit.embedding_length, .block_count, .feed_forward_length u32     C, blocks, width of the feed-forward layers
//   vit.attention.head_count, .attention.key_length          u32     heads, and numbers in a head
//   vit.attention.layer_norm_epsilon                         f32
//   vit.class_count                                          u32
//   vit.pooling                                              string  "cls" or "mean"
//   vit.activation                                           string  "gelu", "gelu_tanh" or "relu"
//   vit.qkv_bias                                             bool    do q, k and v have biases
//   vit.image_mean, vit.image_std                            f32[]   one for each image channel; pixels are (x/255 − mean)/std
//   vit.class_names                                          string[], optional
//   tensors: patch_embd, cls_embd (pooling cls), position_embd, blk.N.{attn_norm, attn_q, attn_k, attn_v, attn_output, ffn_norm,
//            ffn_up, ffn_down}, output_norm, output, each .weight and .bias where the layer has one
#pragma once
#include <memory>

#include "engine/gguf.h"
#include "engine/images.h"
#include "models/bert.h"
#include "models/vit.h"

namespace kvt {

// Both share the file's bytes and throw an Error naming file and key or tensor.
std::unique_ptr<Bert> load_bert(const Gguf& gguf);
std::unique_ptr<Vit> load_vit(const Gguf& gguf);

Normalisation vit_normalisation(const Gguf& gguf, int64_t image_channels);

// The keys of a ViT, set in `gguf`.
void describe_vit(Gguf& gguf, const VitConfig& config, const Normalisation& normalisation);

// Has the matrices leave a mapped file for large pages, in which they are read faster: 1.1 times as fast a pass over a short text, by a model of 340 MB.
// Nobody else may use the model meanwhile.
void arrange_weights(Bert& model);

}  // namespace kvt
