#!/usr/bin/env python3
"""Writes quant.gguf beside this script: for each block type a tensor of random blocks, and what gguf-py makes of it.

Needs numpy and gguf (0.19 made the committed file).

  <type>            [rows, n] random block bytes with sane scales; first blocks: zero d, negative d, all bits clear, all bits set
  <type>.values     F32 [rows, n], gguf-py's dequantized numbers
  input             F32 [4, 256], numbers to quantize
  <type>.packed     gguf-py's quantization of `input`, for the types it can quantize
"""
import pathlib
import gguf
import numpy as np

rng = np.random.default_rng(20)
T = gguf.GGMLQuantizationType
# byte offsets of the F16 scales within a block
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.IQ4_NL: [0], T.Q2_K: [80, 82],
          T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}

writer = gguf.GGUFWriter(pathlib.Path(__file__).with_name("quant.gguf"), "llama")
writer.add_description("block formats and the numbers they stand for")
writer.add_array("golden.types", [t.name for t in SCALES])
x = (rng.standard_normal((4, 256)) * 0.1).astype(np.float32)
x[1, :32] = 0            # a block without any scale
x[2, 32:64] = 0.25       # a block without any spread
x[3, 64] = -30.0         # an outlier
writer.add_tensor("input", x)
for t, offsets in SCALES.items():
    size, nbytes = gguf.GGML_QUANT_SIZES[t]
    rows, blocks = 2, 4 if size == 256 else 8
    b = rng.integers(0, 256, (rows, blocks, nbytes), dtype=np.uint8)
    b[0, 2], b[0, 3] = 0, 255
    d = np.abs(rng.standard_normal((rows, blocks, len(offsets)))).astype(np.float16) * np.float16(0.05) + np.float16(0.001)
    d[0, 0], d[0, 1, 0], d[1, 0] = 0, -d[0, 1, 0], np.float16(6e-8)     # zero; negative; the smallest subnormal
    for i, at in enumerate(offsets):
        b[:, :, at:at + 2] = d[:, :, i:i + 1].view(np.uint8)
    b = b.reshape(rows, blocks * nbytes)
    writer.add_tensor(t.name, b, raw_dtype=t)
    writer.add_tensor(t.name + ".values", gguf.dequantize(b, t))
    try:
        writer.add_tensor(t.name + ".packed", gguf.quantize(x, t), raw_dtype=t)
    except NotImplementedError:
        pass
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
