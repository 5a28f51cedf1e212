#!/usr/bin/env python3
"""Reference values for tests/train_test.cpp: a two-layer Llama by PyTorch, once with tied and once with separate output.

    python3 tests/golden/make_llama.py        (torch, transformers, gguf, numpy; writes llama_tied.gguf and llama_untied.gguf)

Each file is a loadable model, plus golden.*: ids and labels [B, T], logits, the loss, the gradient of every parameter
(golden.grad.<name>), and the losses of ten AdamW steps on that batch, in float32 and (golden.bf16.losses) with the forward pass under
autocast to bfloat16. The rows of q and k are reordered within each head, as
GGUF's `llama` wants them: transformers rotates pairs (i, i + D/2), GGUF's pairs are (2i, 2i + 1).
"""
import copy
import pathlib
import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

HEADS, KV_HEADS, LAYERS, CHANNELS, HIDDEN, VOCABULARY = 4, 2, 2, 32, 40, 48
LR, WEIGHT_DECAY, STEPS, IGNORED = 1e-2, 0.1, 10, -100
HERE = pathlib.Path(__file__).parent

BLOCK = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    name = name.removeprefix("model.")
    if name.startswith("layers."):
        _, block, rest = name.split(".", 2)
        return f"blk.{block}.{BLOCK[rest.removesuffix('.weight')]}.weight"
    return {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}[name]


def interleaved(x, heads):
    return x.reshape(heads, 2, x.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(x.shape)


def converted(name, tensor):
    x = tensor.detach().float().numpy()
    heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0
    return np.array(interleaved(x, heads) if heads else x, order="C")      # a copy: training goes on before the file is written


def make(tied):
    torch.manual_seed(11 + tied)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=CHANNELS, intermediate_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=tied, attention_bias=False,
        rope_theta=10000.0, initializer_range=0.2)).float()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(0.2 * torch.randn_like(p))

    path = HERE / ("llama_tied.gguf" if tied else "llama_untied.gguf")
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_context_length(64)
    out.add_embedding_length(CHANNELS)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(HIDDEN)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV_HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(10000.0)
    out.add_rope_dimension_count(CHANNELS // HEADS)
    out.add_uint32("golden.steps", STEPS)
    out.add_float32("golden.lr", LR)
    out.add_float32("golden.weight_decay", WEIGHT_DECAY)
    for name, p in model.named_parameters():
        out.add_tensor(gguf_name(name), converted(name, p))

    ids = torch.randint(0, VOCABULARY, (2, 9))
    labels = torch.randint(0, VOCABULARY, (2, 9))
    labels[0, :3] = IGNORED
    labels[1, -2:] = IGNORED

    def forward():
        logits = model(ids).logits
        return logits, torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), labels.reshape(-1), ignore_index=IGNORED)

    logits, loss = forward()
    loss.backward()
    out.add_tensor("golden.ids", ids.to(torch.int32).numpy())
    out.add_tensor("golden.labels", labels.to(torch.int32).numpy())
    out.add_tensor("golden.logits", logits.detach().numpy().copy())
    out.add_tensor("golden.loss", loss.detach().reshape(1).numpy().copy())
    for name, p in model.named_parameters():
        out.add_tensor("golden.grad." + gguf_name(name), converted(name, p.grad))

    def train(mixed):
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        adamw = torch.optim.AdamW([{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}], lr=LR)
        losses = []
        for _ in range(STEPS):
            adamw.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
                _, loss = forward()
            loss.backward()
            adamw.step()
            losses.append(loss.item())
        return losses

    start = copy.deepcopy(model.state_dict())
    losses = train(mixed=False)
    out.add_tensor("golden.losses", np.array(losses, dtype=np.float32))
    model.load_state_dict(start)
    mixed = train(mixed=True)
    out.add_tensor("golden.bf16.losses", np.array(mixed, dtype=np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    print(path.name, path.stat().st_size, "bytes; losses", " ".join(f"{x:.5f}" for x in losses), "mixed", " ".join(f"{x:.5f}" for x in mixed))


if __name__ == "__main__":
    for tied in (True, False):
        make(tied)
