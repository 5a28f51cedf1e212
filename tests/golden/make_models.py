#!/usr/bin/env python3
"""Writes <architecture>/ beside this script: tiny random models of Hugging Face's transformers and what PyTorch makes of them.

  model.safetensors, config.json    the model as published ones are
  gradients.safetensors             d loss / d w, under the same names
  expected.safetensors              inputs (ids or images, labels, lengths) and results (logits or embedding, loss)

Needs torch and transformers (2.13 and 5.x made the committed files). `bert`: loss = sum(embedding * direction), the embedding being the mean of the
last states over each text, divided by its norm.
"""
import json
import pathlib
import torch
import transformers as hf
from safetensors.torch import save_file

torch.manual_seed(7)
HERE = pathlib.Path(__file__).parent
LLAMA = dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=32, pad_token_id=None, bos_token_id=1, eos_token_id=2)
CAUSAL = {
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2,
                                               resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**LLAMA, tie_word_embeddings=False, rope_scaling=dict(
        rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16))),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**LLAMA, tie_word_embeddings=True)),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config(**LLAMA, head_dim=8, tie_word_embeddings=True)),
    "phi3": (hf.Phi3ForCausalLM, hf.Phi3Config(**LLAMA, sliding_window=5, tie_word_embeddings=False, resid_pdrop=0)),
    "gemma3": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(**LLAMA | dict(num_hidden_layers=3), head_dim=8, sliding_window=4, query_pre_attn_scalar=8,
                                                         layer_types=["sliding_attention", "full_attention", "sliding_attention"])),
}


def randomize(model):
    for name, p in model.named_parameters():
        norm = any(n in name for n in ("norm", "Norm", "ln_")) and name.endswith("weight")
        p.data = torch.randn_like(p) * (0.3 if norm else 0.25) + (1.0 if norm and "gemma" not in type(model).__name__.lower() else 0.0)


def write(architecture, model, expected, loss):
    folder = HERE / architecture
    folder.mkdir(exist_ok=True)
    loss.backward()
    weights, gradients, seen = {}, {}, set()
    for name, p in model.named_parameters():
        weights[name], gradients[name] = p.detach().contiguous(), p.grad.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(gradients, folder / "gradients.safetensors")
    save_file({k: v.detach().contiguous() for k, v in expected.items()} | {"loss": loss.detach()}, folder / "expected.safetensors")
    config = {k: v for k, v in model.config.to_dict().items() if not k.startswith("_") and k not in ("transformers_version", "id2label", "label2id")}
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    print(architecture, sum(p.numel() for p in model.parameters()), "weights, loss", float(loss))


for architecture, (kind, config) in CAUSAL.items():
    config._attn_implementation = "eager"
    model = kind(config).float().eval()
    randomize(model)
    ids = torch.randint(0, 40, (2, 12))
    out = model(input_ids=ids, labels=ids)
    write(architecture, model, dict(ids=ids.int(), logits=out.logits), out.loss)

config = hf.BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=16, pad_token_id=None)
config._attn_implementation = "eager"
model = hf.BertModel(config, add_pooling_layer=False).float().eval()
randomize(model)
ids, lengths, direction = torch.randint(0, 40, (3, 9)), torch.tensor([9, 4, 1]), torch.randn(3, 16)
mask = (torch.arange(9) < lengths[:, None]).float()
states = model(input_ids=ids, attention_mask=mask).last_hidden_state
embedding = torch.nn.functional.normalize((states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True), dim=1)
write("bert", model, dict(ids=ids.int(), lengths=lengths.int(), direction=direction, embedding=embedding), (embedding * direction).sum())

config = hf.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4, num_channels=3,
                      num_labels=5)
config._attn_implementation = "eager"
model = hf.ViTForImageClassification(config).float().eval()
randomize(model)
images, labels = torch.randn(3, 3, 8, 8), torch.tensor([4, 0, 2])
logits = model(pixel_values=images).logits
write("vit", model, dict(images=images, labels=labels.int(), logits=logits), torch.nn.functional.cross_entropy(logits, labels))
