#!/usr/bin/env python3
"""Writes ops.gguf beside this script: operations as PyTorch computes them, forward and backward.

Needs torch and gguf (2.13 and 0.19 made the committed file).

  <case>.in0, .in1 …      inputs, F32
  <case>.out              the result
  <case>.u                what flows back into the result, random
  <case>.grad0 …          what flows back into the inputs: gradients of sum(out * u), computed in double

Targets of the losses, lengths and options stand in tests/ops_test.cpp beside the case's name.
"""
import pathlib

import gguf
import torch
import torch.nn.functional as F

torch.manual_seed(11)
writer = gguf.GGUFWriter(pathlib.Path(__file__).with_name("ops.gguf"), "ops")
names = []


def case(name, f, *shapes, spread=1.0):
    xs = [(torch.randn(s) * spread) for s in shapes]
    ds = [x.double().requires_grad_() for x in xs]
    out = f(*ds)
    u = torch.randn(out.shape)
    out.backward(u.double())
    tensors = {f"in{i}": x for i, x in enumerate(xs)} | {"out": out, "u": u} | {f"grad{i}": d.grad for i, d in enumerate(ds)}
    for key, t in tensors.items():
        t = t.detach().float().contiguous()
        writer.add_tensor(f"{name}.{key}", (t if t.dim() else t[None]).numpy())
    names.append(name)


def sdpa(causal=False, lengths=None, offset=0):
    """[B, T, H, D]; row t of a causal q sees keys up to offset + t; only the first lengths[b] keys count."""
    def f(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        T, S = q.shape[2], k.shape[2]
        mask = torch.ones(q.shape[0], 1, T, S, dtype=torch.bool)
        if causal:
            mask &= torch.ones(T, S, dtype=torch.bool).tril(offset)
        for b, n in enumerate(lengths or []):
            mask[b, :, :, n:] = False
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    return f


wide = (5, 13)
for name, f in {"relu": F.relu, "silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "sigmoid": torch.sigmoid,
                "tanh": torch.tanh, "softmax": lambda x: x.softmax(-1), "log_softmax": lambda x: x.log_softmax(-1)}.items():
    case(name, f, wide, spread=3.0)
case("swiglu", lambda g, u: F.silu(g) * u, wide, wide)
case("rms_norm", lambda x, w: F.rms_norm(x, (13,), w, eps=1e-5), wide, (13,))
case("layer_norm", lambda x, w, b: F.layer_norm(x, (13,), w, b, eps=1e-5), wide, (13,), (13,))
case("mul_repeated", lambda a, b: a * b, (2, 3, 4), (3, 4))
case("mean_axis", lambda x: x.mean(1), (2, 3, 4))
targets = torch.tensor([3, -100, 0, 12, -100])
case("cross_entropy", lambda x: F.cross_entropy(x, targets), wide, spread=3.0)
case("matmul", torch.matmul, (2, 3, 4), (2, 4, 5))
case("linear", F.linear, (2, 6, 7), (5, 7), (5,))
case("embedding", lambda w: F.embedding(torch.tensor([[3, 0, 3], [1, 3, 5]]), w), (6, 4))
case("patch_embedding", lambda x, w, b: F.conv2d(x, w, b, stride=3).flatten(2).transpose(1, 2), (2, 2, 6, 9), (5, 2, 3, 3), (5,))
case("permute", lambda x: x.permute(2, 0, 1), (2, 3, 4))
case("attention_full", sdpa(), (2, 5, 2, 6), (2, 7, 2, 6), (2, 7, 2, 6))
case("attention_causal", sdpa(causal=True), (2, 6, 2, 6), (2, 6, 2, 6), (2, 6, 2, 6))
case("attention_gqa", sdpa(causal=True), (1, 9, 6, 5), (1, 9, 2, 5), (1, 9, 2, 5))
case("attention_cached", sdpa(causal=True, offset=6), (1, 3, 4, 5), (1, 9, 2, 5), (1, 9, 2, 5))
case("attention_padded", sdpa(lengths=[7, 3]), (2, 5, 4, 6), (2, 7, 2, 6), (2, 7, 2, 6))
case("attention_blocks", sdpa(causal=True), (1, 75, 2, 4), (1, 75, 1, 4), (1, 75, 1, 4))


def rope(halves, base=100.0):
    def f(x):
        T, D = x.shape[1], x.shape[3]
        angle = torch.arange(T).double()[:, None] * base ** (-torch.arange(0, D, 2).double() / D)
        turn = torch.polar(torch.ones_like(angle), angle)[None, :, None]
        pairs = torch.complex(x[..., :D // 2], x[..., D // 2:]) if halves else torch.view_as_complex(x.reshape(*x.shape[:3], D // 2, 2))
        y = torch.view_as_real(pairs * turn)
        return torch.cat([y[..., 0], y[..., 1]], -1) if halves else y.flatten(3)
    return f


case("rope_interleaved", rope(False), (2, 5, 3, 6))
case("rope_halves", rope(True), (2, 5, 3, 6))

writer.add_array("golden.cases", names)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
