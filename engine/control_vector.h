// Control vectors: what adapters add to the residual stream on average, as llama.cpp reads it.
//
//   D_l = mean over tokens of (h_l of the adapted model − h_l of the base),   h_l the output of block l
//   direction.l = D_l − D_{l−1}   (l ≥ 1; direction.1 = D_1, for none can be given to block 0):   h_l ← h_l + strength · direction.l
//
//   general.architecture "controlvector"    controlvector.model_hint = the base's    controlvector.layer_count i32 = blocks − 1
//   direction.<l>  F32 [C]
//
// A change that depends on the token is lost: of a LoRA this keeps the part that all tokens share.
#pragma once
#include "engine/adapter.h"
#include "engine/data.h"
#include "models/causal_lm.h"

namespace kvt {

// The control vector of the adapters in `set`, attached to `model`, over the tokens of `data`. Throws for fewer than two blocks and for
// architectures whose blocks do not add attn_output and ffn_down to the residual stream as they are (gemma3 normalises them first).
Gguf control_vector(CausalLm& model, const LoraSet& set, const Examples& data);

}  // namespace kvt
