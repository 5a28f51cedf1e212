#!/usr/bin/env python3
"""Reference values for tests/methods_test.cpp and tests/classes_test.cpp: the two-layer Llama of llama_tied.gguf by PyTorch, with what other
methods of adaptation put into it.

    python3 tests/golden/make_methods.py        (torch, transformers, gguf, numpy; writes methods.gguf; make_llama.py first)

ia3.*      factors on keys, values and the hidden layer of the MLP: scores, loss and the gradient of every factor, on llama_tied.gguf's batch
probe.*    s B A beside the output matrix: scores, loss, gradients of A and B
head.*     a linear layer on the mean (first, last) of the last states of the first golden.lengths[b] tokens of each row: class scores, loss,
           gradients of the layer, and of one matrix below
words.*    scores of three tokens as the next behind each row, loss over these three, the gradient of that matrix
Rows of k are put back into transformers' order on the way in and reordered on the way out.
"""
import pathlib
import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
import make_llama as llama

HERE = pathlib.Path(__file__).parent
RANK, SCALE, LENGTHS, CLASSES, WORDS = 3, 2.0, [9, 6], [2, 0], [3, 17, 40]
torch.manual_seed(21)
source = {t.name: np.array(t.data) for t in gguf.GGUFReader(HERE / "llama_tied.gguf").tensors}


def halves(x, heads):        # the inverse of llama.interleaved
    return x.reshape(heads, x.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(x.shape)


def heads_of(name):
    return llama.HEADS if "q_proj" in name else llama.KV_HEADS if "k_proj" in name else 0


model = LlamaForCausalLM(LlamaConfig(
    vocab_size=llama.VOCABULARY, hidden_size=llama.CHANNELS, intermediate_size=llama.HIDDEN, num_hidden_layers=llama.LAYERS,
    num_attention_heads=llama.HEADS, num_key_value_heads=llama.KV_HEADS, max_position_embeddings=64, rms_norm_eps=1e-5,
    tie_word_embeddings=True, attention_bias=False, rope_theta=10000.0)).double()
with torch.no_grad():
    for name, p in model.named_parameters():
        x = source[llama.gguf_name(name)].astype(np.float64)
        p.copy_(torch.from_numpy(np.array(halves(x, heads_of(name)) if heads_of(name) else x)).reshape(p.shape))
model.requires_grad_(False)
ids, labels = (torch.from_numpy(source[f"golden.{n}"].astype(np.int64)) for n in ("ids", "labels"))
out = gguf.GGUFWriter(str(HERE / "methods.gguf"), "llama")


def add(name, x):
    out.add_tensor(name, np.array(x.detach().numpy() if torch.is_tensor(x) else x, dtype=np.float32, order="C"))


def language_loss(logits):
    return torch.nn.functional.cross_entropy(logits.reshape(-1, llama.VOCABULARY), labels.reshape(-1), ignore_index=llama.IGNORED)


# --- IA3: l on the outputs of k and v, and on the input of down
factors, hooks = {}, []
for i, layer in enumerate(model.model.layers):
    for name, module, size in (("attn_k", layer.self_attn.k_proj, layer.self_attn.k_proj.out_features),
                               ("attn_v", layer.self_attn.v_proj, layer.self_attn.v_proj.out_features),
                               ("ffn_down", layer.mlp.down_proj, layer.mlp.down_proj.in_features)):
        l = (0.5 + torch.rand(size, dtype=torch.float64)).requires_grad_()
        factors[f"blk.{i}.{name}"] = l
        if name == "ffn_down":
            hooks.append(module.register_forward_pre_hook(lambda m, args, l=l: (args[0] * l,)))
        else:
            hooks.append(module.register_forward_hook(lambda m, args, y, l=l: y * l))
logits = model(ids).logits
loss = language_loss(logits)
loss.backward()
add("ia3.logits", logits)
add("ia3.loss", loss.reshape(1))
for name, l in factors.items():
    order = (lambda x: llama.interleaved(x.detach().numpy().reshape(-1, 1), llama.KV_HEADS).reshape(-1)) if name.endswith("attn_k") else (lambda x: x)
    side = "ia3_in" if name.endswith("ffn_down") else "ia3_out"
    add(f"{name}.weight.{side}", order(l))
    add(f"ia3.grad.{name}", order(l.grad))
for hook in hooks:
    hook.remove()

# --- a low-rank change of the output matrix
a = (0.3 * torch.randn(RANK, llama.CHANNELS, dtype=torch.float64)).requires_grad_()
b = (0.3 * torch.randn(llama.VOCABULARY, RANK, dtype=torch.float64)).requires_grad_()
states = model.model(ids).last_hidden_state
logits = states @ (model.model.embed_tokens.weight + SCALE * b @ a).T
loss = language_loss(logits)
loss.backward()
for name, x in (("a", a), ("b", b), ("logits", logits), ("loss", loss.reshape(1)), ("grad.a", a.grad), ("grad.b", b.grad)):
    add(f"probe.{name}", x)
out.add_float32("golden.scale", SCALE)

# --- classes: a head on pooled states, and words
w = (0.3 * torch.randn(4, llama.CHANNELS, dtype=torch.float64)).requires_grad_()
c = (0.3 * torch.randn(4, dtype=torch.float64)).requires_grad_()
below = model.model.layers[0].mlp.up_proj.weight
below.requires_grad_(True)
targets = torch.tensor(CLASSES)
add("head.w", w)
add("head.b", c)
for pooling in ("mean", "first", "last"):
    for x in (w, c, below):
        x.grad = None
    states = model.model(ids).last_hidden_state
    pooled = torch.stack([states[i, :n].mean(0) if pooling == "mean" else states[i, 0] if pooling == "first" else states[i, n - 1] for i, n in enumerate(LENGTHS)])
    scores = pooled @ w.T + c
    loss = torch.nn.functional.cross_entropy(scores, targets)
    loss.backward()
    for name, x in (("scores", scores), ("loss", loss.reshape(1)), ("grad.w", w.grad), ("grad.b", c.grad), ("grad.below", below.grad)):
        add(f"head.{pooling}.{name}", x)
below.grad = None
logits = model(ids).logits
scores = torch.stack([logits[i, n - 1, WORDS] for i, n in enumerate(LENGTHS)])
loss = torch.nn.functional.cross_entropy(scores, targets)
loss.backward()
for name, x in (("scores", scores), ("loss", loss.reshape(1)), ("grad.below", below.grad)):
    add(f"words.{name}", x)
for name, x in (("lengths", LENGTHS), ("classes", CLASSES), ("words", WORDS)):
    out.add_tensor(f"golden.{name}", np.array(x, dtype=np.int32))
out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
print("methods.gguf written; class loss", loss.item())
