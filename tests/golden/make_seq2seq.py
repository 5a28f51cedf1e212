#!/usr/bin/env python3
"""Encoder-decoder goldens by PyTorch: logits, loss with label smoothing and every gradient of tiny random models: pre- and post-norm, and one whose
positions are learned and whose two sides and output share one embedding.

  python3 tests/golden/make_seq2seq.py tests/golden

Writes seq2seq_pre.gguf, seq2seq_post.gguf and seq2seq_shared.gguf: a model in the engine's format, its inputs as golden.* keys, logits and gradients as
golden.logits and golden.grad.NAME. The layers are torch.nn.TransformerEncoderLayer and TransformerDecoderLayer.
"""
import math, sys
import gguf, numpy as np, torch
from torch import nn

C, H, F, V, L, CONTEXT = 16, 4, 24, 23, 2, 32       # channels, heads, hidden, source vocabulary, layers, positions
SMOOTHING = 0.1

def sinusoids(n):
    t, i = torch.arange(n)[:, None].double(), torch.arange(C // 2)[None].double()
    a = t * 10000 ** (-2 * i / C)
    return torch.stack([a.sin(), a.cos()], -1).reshape(n, C).float()

def names(prefix, layer, cross):
    out = {}
    def attention(ours, module):
        for k, part in enumerate("qkv"):
            out[f"{prefix}.{ours}_{part}.weight"] = (module.in_proj_weight, k)
            out[f"{prefix}.{ours}_{part}.bias"] = (module.in_proj_bias, k)
        out[f"{prefix}.{ours}_output.weight"], out[f"{prefix}.{ours}_output.bias"] = (module.out_proj.weight, None), (module.out_proj.bias, None)
    def both(ours, module):
        out[f"{prefix}.{ours}.weight"], out[f"{prefix}.{ours}.bias"] = (module.weight, None), (module.bias, None)
    attention("attn", layer.self_attn)
    if cross: attention("cross_attn", layer.multihead_attn)
    both("attn_norm", layer.norm1)
    if cross: both("cross_attn_norm", layer.norm2)
    both("ffn_norm", layer.norm3 if cross else layer.norm2)
    both("ffn_up", layer.linear1); both("ffn_down", layer.linear2)
    return out

def make(path, seed, pre, activation, shared=False):
    torch.manual_seed(seed)
    W = V if shared else 19
    options = dict(d_model=C, nhead=H, dim_feedforward=F, dropout=0.0, activation=activation, batch_first=True, norm_first=pre)
    enc = [nn.TransformerEncoderLayer(**options) for _ in range(L)]
    dec = [nn.TransformerDecoderLayer(**options) for _ in range(L)]
    table = {}
    for k in range(L):
        table |= names(f"enc.blk.{k}", enc[k], False) | names(f"dec.blk.{k}", dec[k], True)
    source_e, output_b = nn.Parameter(torch.empty(V, C)), nn.Parameter(torch.empty(W))
    target_e = source_e if shared else nn.Parameter(torch.empty(W, C))
    output_w = source_e if shared else nn.Parameter(torch.empty(W, C))
    places = [nn.Parameter(torch.empty(CONTEXT, C)) for _ in range(2)]
    table |= {"enc.token_embd.weight": (source_e, None)}
    if shared: table |= {"enc.position_embd": (places[0], None), "dec.position_embd": (places[1], None)}
    else: table |= {"dec.token_embd.weight": (target_e, None), "output.weight": (output_w, None)}
    table["output.bias"] = (output_b, None)
    norms = [nn.LayerNorm(C), nn.LayerNorm(C)]
    if pre:
        for side, norm in zip(("enc", "dec"), norms):
            table[f"{side}.output_norm.weight"], table[f"{side}.output_norm.bias"] = (norm.weight, None), (norm.bias, None)
    for p in {id(p): p for p, _ in table.values()}.values():
        with torch.no_grad():
            p.copy_(torch.randn_like(p) * (0.3 if p.dim() == 2 else 0.1) + (1.0 if any(q is p for n, (q, _) in table.items() if n.endswith("norm.weight")) else 0.0))

    B, S, T = 2, 5, 4
    source, target = torch.randint(0, V, (B, S)), torch.randint(0, W, (B, T))
    lengths = torch.tensor([5, 3])
    labels = torch.randint(0, W, (B, T)); labels[0, 3] = -100
    padding = torch.arange(S)[None] >= lengths[:, None]
    causal = torch.ones(T, T, dtype=torch.bool).triu(1)
    x = source_e[source] * math.sqrt(C) + (places[0][:S] if shared else sinusoids(S))
    for layer in enc: x = layer(x, src_key_padding_mask=padding)
    if pre: x = norms[0](x)
    y = target_e[target] * math.sqrt(C) + (places[1][:T] if shared else sinusoids(T))
    for layer in dec: y = layer(y, x, tgt_mask=causal, memory_key_padding_mask=padding)
    if pre: y = norms[1](y)
    logits = y @ output_w.T + output_b
    loss = nn.functional.cross_entropy(logits.reshape(-1, W), labels.reshape(-1), ignore_index=-100, label_smoothing=SMOOTHING)
    loss.backward()

    w = gguf.GGUFWriter(path, "seq2seq")
    for key, value in (("embedding_length", C), ("feed_forward_length", F), ("attention.head_count", H), ("encoder.block_count", L), ("decoder.block_count", L), ("context_length", CONTEXT)):
        w.add_uint32("seq2seq." + key, value)
    w.add_float32("seq2seq.attention.layer_norm_epsilon", 1e-5)
    w.add_string("seq2seq.positions", "learned" if shared else "sinusoidal")
    w.add_string("seq2seq.normalization", "pre" if pre else "post")
    w.add_string("seq2seq.activation", activation)
    w.add_bool("seq2seq.embedding_scale", True)
    for key, value in (("source", source), ("target", target), ("lengths", lengths), ("labels", labels)):
        w.add_array("golden." + key, [int(v) for v in value.reshape(-1)])
    w.add_float32("golden.loss", loss.item())
    w.add_float32("golden.smoothing", SMOOTHING)
    part = lambda p, k: (p if k is None else p.reshape(3, p.shape[0] // 3, *p.shape[1:])[k]).detach().numpy().copy()
    w.add_tensor("golden.logits", logits.detach().numpy())
    for name, (p, k) in sorted(table.items()):
        w.add_tensor(name, part(p, k))
        w.add_tensor("golden.grad." + name, part(p.grad, k))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()

make(sys.argv[1] + "/seq2seq_pre.gguf", 5, True, "relu")
make(sys.argv[1] + "/seq2seq_post.gguf", 6, False, "gelu")
make(sys.argv[1] + "/seq2seq_shared.gguf", 7, True, "gelu", shared=True)
