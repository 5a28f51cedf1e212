#!/usr/bin/env python3
"""Writes kvt.gguf beside this script: knowledge extraction and generated cores as PyTorch computes them, forward and backward.

Needs torch and gguf (2.13 and 0.19 made the committed file). Weights are [out, in]. All is computed in double.

  dke.h, dke.mask, dke.<weight>        hidden states [T, C], a sampled gate mask, the extractor's weights
  dke.K, dke.G, dke.plain_K, .plain_G  with the mask; without it, gates below 0.3 zero
  dke.grad.<weight>, dke.grad.h        of  sum(K * dke.u) + 0.1 mean(G)  with the mask
  lka.<weight>                         the generator's; lka.emb [B, T, C], lka.x [B, T, in], lka.base [B, T, out], lka.a, lka.b
  lka.alpha_word, _sentence, _concept  α [B, T, m] (causal means), the concept level's [m]
  lka.<levels>.cores, .y               cores [.., layers k t], and what layer 1 makes of base and x;  levels like "csw", "w", "none"
  lka.<levels>.grad.<weight>           of  sum(y * lka.u)
"""
import math
import pathlib

import gguf
import torch
import torch.nn.functional as F

torch.manual_seed(5)
writer = gguf.GGUFWriter(pathlib.Path(__file__).with_name("kvt.gguf"), "kvt")


def put(name, t):
    t = t.detach().float().contiguous()
    writer.add_tensor(name, (t if t.dim() else t[None]).numpy())


def leaf(*shape, spread=0.5):
    return (torch.randn(shape) * spread).double().requires_grad_()


# --- DKE ---
T, C, m, k = 6, 16, 3, 4
w = {"w_s.weight": leaf(C, 2 * C), "w_s.bias": leaf(C), "norm.weight": leaf(C), "norm.bias": leaf(C), "w_c.weight": leaf(C, 2 * C), "w_c.bias": leaf(C),
     "w_g.weight": leaf(C, 3 * C), "q_k": leaf(m, C, spread=2), "w_k.weight": leaf(k, C), "h": leaf(T, C, spread=1)}
p = min(0.5, math.sqrt(k / C))
mask = (torch.rand(T, C) < p).double() / p
position = torch.arange(T).double()[:, None]
rate = 10000 ** (-2 * torch.arange(C // 2).double() / C)
PE = torch.zeros(T, C).double()
PE[:, 0::2], PE[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)


def dke(mask):
    H = w["h"]
    Z_s = F.layer_norm(torch.cat([H, PE], 1) @ w["w_s.weight"].T + w["w_s.bias"], (C,), w["norm.weight"], w["norm.bias"])
    Z_c = F.gelu(torch.cat([H.mean(0, keepdim=True).expand(T, C), PE], 1) @ w["w_c.weight"].T + w["w_c.bias"])
    G = torch.sigmoid(torch.cat([H, Z_s, Z_c], 1) @ w["w_g.weight"].T)
    G = G * mask if mask is not None else torch.where(G < 0.3, 0, G)
    features = G * (Z_s + Z_c)
    return torch.softmax(w["q_k"] @ features.T / math.sqrt(C), 1) @ features @ w["w_k.weight"].T, G


K, G = dke(mask)
u = torch.randn(m, k)
((K * u).sum() + 0.1 * G.mean()).backward()
for name, t in w.items():
    put("dke." + name, t)
    put("dke.grad." + name, t.grad)
for name, t in {"mask": mask, "u": u, "K": K, "G": G}.items():
    put("dke." + name, t)
plain_K, plain_G = dke(None)
put("dke.plain_K", plain_K)
put("dke.plain_G", plain_G)

# --- LKA ---
B, T, t, h, layers, n_in, n_out, scale = 2, 5, 3, 7, 2, 8, 9, 1.5
w = {"bank": leaf(m, k, spread=1), "w_alpha": leaf(k), "alpha.weight": leaf(k, C), "mlp_up.weight": leaf(h, k), "mlp_up.bias": leaf(h),
     "mlp_down.weight": leaf(layers * k * t, h), "mlp_down.bias": leaf(layers * k * t), "gates": leaf(3, spread=1),
     "a": leaf(t, n_in), "b": leaf(n_out, k)}
emb, x, base, u = torch.randn(B, T, C).double(), torch.randn(B, T, n_in).double(), torch.randn(B, T, n_out).double(), torch.randn(B, T, n_out).double()
unit = emb / (emb.square().mean(-1, keepdim=True) + 1e-6).sqrt()
for name, v in {"emb": emb, "x": x, "base": base, "u": u, **w}.items():
    put("lka." + name, v)


def alpha(e):
    return torch.softmax((w["w_alpha"] + e @ w["alpha.weight"].T) @ w["bank"].T, -1)


running = unit.cumsum(1) / torch.arange(1, T + 1).double()[None, :, None]
inputs = {"c": torch.zeros(C).double(), "s": running, "w": unit}
for level, name in {"c": "concept", "s": "sentence", "w": "word"}.items():
    put("lka.alpha_" + name, alpha(inputs[level]))
for levels in ["csw", "c", "s", "w", "none"]:
    phi = 0
    for i, level in enumerate("csw"):
        if level in levels and levels != "none":
            phi = phi + w["gates"][i] * F.gelu(alpha(inputs[level]) @ w["bank"] @ w["mlp_up.weight"].T + w["mlp_up.bias"])
    cores = w["mlp_down.bias"] + (phi @ w["mlp_down.weight"].T if levels != "none" else 0)
    core = cores.view(*cores.shape[:-1], layers, k, t)[..., 1, :, :].expand(B, T, k, t)
    y = base + scale * torch.einsum("ok,btkj,btj->bto", w["b"], core, x @ w["a"].T)
    for v in w.values():
        v.grad = None
    (y * u).sum().backward()
    put(f"lka.{levels}.cores", cores.reshape(-1, cores.shape[-1]))
    put(f"lka.{levels}.y", y)
    for name, v in w.items():
        if v.grad is not None:
            put(f"lka.{levels}.grad.{name}", v.grad)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
