#!/usr/bin/env python3
"""Reference values for tests/extract_test.cpp: one round of extraction on the two-layer Llama of llama_untied.gguf by PyTorch.

    python3 tests/golden/make_extract.py        (torch, transformers, gguf, numpy; writes extract.gguf; make_llama.py first)

The gradient of the mean loss over llama_untied.gguf's batch, as autograd gives it; of each linear layer of the blocks the leading K
singular triplets (u, s, v); then W - eta U (S/s_1) V^T for all of them at once, with eta = 2^n / 4 for n = -8 ... 8: the loss of
each, and the logits at the best one. Rows of q and k are put back into transformers' order on the way in and reordered on the way out.
"""
import pathlib
import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
import make_llama as llama

K = 3
HERE = pathlib.Path(__file__).parent
source = {t.name: np.array(t.data) for t in gguf.GGUFReader(HERE / "llama_untied.gguf").tensors}


def halves(x, heads):        # the inverse of llama.interleaved
    return x.reshape(heads, x.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(x.shape)


def heads_of(name):
    return llama.HEADS if "q_proj" in name else llama.KV_HEADS if "k_proj" in name else 0


model = LlamaForCausalLM(LlamaConfig(
    vocab_size=llama.VOCABULARY, hidden_size=llama.CHANNELS, intermediate_size=llama.HIDDEN, num_hidden_layers=llama.LAYERS,
    num_attention_heads=llama.HEADS, num_key_value_heads=llama.KV_HEADS, max_position_embeddings=64, rms_norm_eps=1e-5,
    tie_word_embeddings=False, attention_bias=False, rope_theta=10000.0)).double()
with torch.no_grad():
    for name, p in model.named_parameters():
        x = source[llama.gguf_name(name)].astype(np.float64)
        p.copy_(torch.from_numpy(np.array(halves(x, heads_of(name)) if heads_of(name) else x)).reshape(p.shape))
ids, labels = (torch.from_numpy(source[f"golden.{n}"].astype(np.int64)) for n in ("ids", "labels"))


def forward():
    logits = model(ids).logits
    return logits, torch.nn.functional.cross_entropy(logits.reshape(-1, llama.VOCABULARY), labels.reshape(-1), ignore_index=llama.IGNORED)


_, loss = forward()
loss.backward()
out = gguf.GGUFWriter(str(HERE / "extract.gguf"), "llama")
out.add_uint32("golden.k", K)
linears = {name: p for name, p in model.named_parameters() if "proj" in name}
start, directions = {}, {}
for name, p in linears.items():
    u, s, vt = torch.linalg.svd(p.grad)
    start[name], directions[name] = p.detach().clone(), u[:, :K] @ torch.diag(s[:K] / s[0]) @ vt[:K]
    uk = u[:, :K].numpy()
    stem = llama.gguf_name(name).removesuffix(".weight")
    for part, x in (("u", llama.interleaved(uk, heads_of(name)) if heads_of(name) else uk), ("s", s[:K].numpy()), ("v", vt[:K].T.numpy())):
        out.add_tensor(f"{stem}.{part}", np.array(x, dtype=np.float32, order="C"))


@torch.no_grad()
def stepped(eta):
    for name, p in linears.items():
        p.copy_(start[name] - eta * directions[name])
    logits, loss = forward()
    return logits, loss.item()


etas = [2.0 ** n / 4 for n in range(-8, 9)]
losses = [stepped(eta)[1] for eta in etas]
best = etas[int(np.argmin(losses))]
out.add_tensor("golden.etas", np.array(etas, dtype=np.float32))
out.add_tensor("golden.losses", np.array(losses, dtype=np.float32))
out.add_tensor("golden.loss", np.array([loss.item()], dtype=np.float32))
out.add_tensor("golden.logits", stepped(best)[0].numpy().astype(np.float32))
out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
print("loss", loss.item(), "best eta", best, "of", " ".join(f"{e:g}: {l:.4f}" for e, l in zip(etas, losses)))
