// Models of CTranslate2, read strictly: a folder with model.bin, source_vocabulary.txt and target_vocabulary.txt.
//
//   model.bin, version 2, little-endian:
//     u32 version   string specification   u32 revision   u32 variables
//     each variable:  string name   u8 axes   u32 extents[axes]   u8 bytes of an item   u32 items   data
//     string = u16 length with the closing NUL, bytes
//   Items of 4 bytes are float32. Those of 2 or 1 bytes are integers, value = integer / scale, with the scale in NAME_scale: one number,
//   or one for each row.  self_attention/linear_0 = [q; k; v],  attention/linear_0 = q,  attention/linear_1 = [k; v] of the memory.
//
// Specifications TransformerBase (8 heads) and TransformerBig (16 heads): pre-norm, ReLU, embeddings times √C, positions in halves.
#pragma once
#include "engine/gguf.h"

namespace kvt {

// The same model as the engine's own file (engine/seq2seq_file.h), all weights F32. Throws an Error naming file, variable and offset.
Gguf read_ctranslate2(const std::string& folder);

}  // namespace kvt
