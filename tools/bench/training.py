#!/usr/bin/env python3
"""Training steps of `kvt adapt` beside PyTorch with PEFT: the same weights, the same 4 x 128 tokens, the same loss.

Run as a program it is the PyTorch engine: training.py MODEL-F32.gguf IDS KIND THREADS answers each line with "SECONDS LOSS MEGABYTES" of one step.
KIND is lora or full, with -checkpointed, -bf16 or both behind it. IDS is a file of 513 token ids: four rows of 128, each predicting its next ones.
"""
import json
import os
import subprocess
import sys
import time

ROWS, LENGTH, RANK, LR = 4, 128, 8, 1e-3
PROJECTIONS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
               "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


# --- PyTorch ---

def load(path):
    """A transformers LlamaForCausalLM with the weights of a GGUF file in F32."""
    import gguf
    import numpy as np
    import torch
    import transformers
    reader = gguf.GGUFReader(path)
    key = lambda name: reader.fields["llama." + name].contents()
    heads, kv_heads = key("attention.head_count"), key("attention.head_count_kv")
    tensors = {t.name: np.array(t.data) for t in reader.tensors}
    vocabulary, channels = tensors["token_embd.weight"].shape
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=channels, intermediate_size=key("feed_forward_length"), num_hidden_layers=key("block_count"),
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"), rope_theta=key("rope.freq_base"), tie_word_embeddings="output.weight" not in tensors,
        use_cache=False))

    def halves(x, n):      # GGUF's `llama` rotates pairs (2i, 2i + 1), transformers (i, i + D/2)
        return x.reshape(n, x.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(x.shape)

    weights = {}
    for name, x in tensors.items():
        parts = name.split(".")
        if parts[0] == "blk":
            x = halves(x, heads) if parts[2] == "attn_q" else halves(x, kv_heads) if parts[2] == "attn_k" else x
            weights[f"model.layers.{parts[1]}.{PROJECTIONS[parts[2]]}.weight"] = x
        else:
            weights[{"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}[parts[0]] + ".weight"] = x
    missing, unknown = model.load_state_dict({n: torch.from_numpy(np.array(x, order="C")) for n, x in weights.items()}, strict=False)
    if unknown or set(missing) - {"lm_head.weight"}:
        sys.exit(f"{path}: missing {missing}, unknown {unknown}")
    return model


def peak_megabytes():
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def worker(path, ids, kind, threads):
    import contextlib
    import peft
    import torch
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = load(path)
    if kind.startswith("lora"):
        model = peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0, target_modules=[p.split(".")[1] for n, p in PROJECTIONS.items() if "norm" not in n]))
    if "checkpointed" in kind:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.01)
    with open(ids) as file:
        tokens = torch.tensor([int(x) for x in file.read().split()])
    x, y = tokens[:-1].view(ROWS, LENGTH), tokens[1:]
    for _ in sys.stdin:
        start = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16) if "bf16" in kind else contextlib.nullcontext():
            logits = model(input_ids=x).logits
        loss = torch.nn.functional.cross_entropy(logits.view(ROWS * LENGTH, -1).float(), y)
        del logits
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(time.monotonic() - start, loss.item(), peak_megabytes(), flush=True)


# --- KVT ---

STEPS = 3      # of a run of kvt adapt; the first warms up


def adapt(o, model, text, options):
    """Tokens/s of steps after the first, the first step's loss, and peak megabytes, of one run of kvt adapt."""
    command = [o.kvt, "adapt", "-m", model, "--data", text, "--length", str(LENGTH), "--batch", str(ROWS), "--steps", str(STEPS), "--lr", str(LR),
               "--schedule", "constant", "-t", str(o.threads), "-o", f"{o.folder}/trained.gguf", "--json", *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    steps = []
    for line in child.stdout:
        event = json.loads(line)
        if event["event"] == "step":
            steps.append((time.monotonic(), event["loss"]))
        if event["event"] == "plan" and (event.get("examples"), event.get("labels")) != (ROWS, ROWS * LENGTH):
            sys.exit(f"{text}: {event.get('examples')} examples and {event.get('labels')} labels, expected {ROWS} and {ROWS * LENGTH}")
    _, status, usage = os.wait4(child.pid, 0)
    if status or len(steps) != STEPS:
        sys.exit(f"{' '.join(command)} failed")
    return {"rate": ROWS * LENGTH * (STEPS - 1) / (steps[-1][0] - steps[0][0]), "memory": usage.ru_maxrss / 1024, "loss": steps[0][1]}


def make_data(o):
    """The first 513 tokens of a text: as a text for kvt, as ids for PyTorch. Returns both paths."""
    import llama_peer
    source = os.path.join(os.path.dirname(__file__), "../demo/manual.txt")
    text, ids = f"{o.folder}/training.txt", f"{o.folder}/training.ids"
    whole = open(source).read()
    low, high = 0, len(whole)
    while True:      # characters that make 513 tokens
        middle = (low + high) // 2
        with open(text, "w") as file:
            file.write(whole[:middle])
        got = llama_peer.run([o.kvt, "tokenize", "-m", o.model, "-f", text, "--ids", "--no-bos", "--no-special"]).stdout.split()
        if len(got) == ROWS * LENGTH + 1:
            break
        if high - low < 2:
            sys.exit(f"no beginning of {source} has {ROWS * LENGTH + 1} tokens")
        low, high = (middle, high) if len(got) <= ROWS * LENGTH else (low, middle)
    with open(ids, "w") as file:
        file.write(" ".join(got))
    return text, ids


# name in the report, kind for PyTorch (None: no peer), type of the base, options of kvt adapt, goals of the rate's and the memory's ratio
KINDS = [("LoRA F32", "lora", "F32", [], 1.7, 3), ("LoRA F32 checkpointed", "lora-checkpointed", "F32", ["--recompute"], 1.7, 3),
         ("LoRA bf16", "lora-bf16", "F32", ["--precision", "bf16"], 1.2, None), ("LoRA Q4_1 base", None, "Q4_1", [], 0.85, None),
         ("full F32", "full", "F32", ["--method", "full"], 1.5, 1.33)]
PEER, OWN_F32 = "PyTorch + PEFT", "KVT F32"


def jobs(o, limits, python):
    import llama_peer
    from language import Worker, sizes
    from side_by_side import OURS, Job, Metric
    text, ids = make_data(o)
    f32 = llama_peer.model_file(o.folder, o.model, "F32")
    for work, kind, base, options, rate_goal, memory_goal in KINDS:
        if o.works and work not in o.works:
            continue
        model = llama_peer.model_file(o.folder, o.model, base)
        engines, close, losses = {}, [], {}

        def noted(name, result):
            losses.setdefault(name, result["loss"])
            return result

        engines[OURS] = lambda model=model, options=options, noted=noted: noted(OURS, adapt(o, model, text, options))
        if kind and python:
            peer = Worker([python, __file__, f32, ids, kind, str(o.threads)])

            def step(peer=peer, noted=noted):
                seconds, loss, memory = map(float, peer.ask("step"))
                return noted(PEER, {"rate": ROWS * LENGTH / seconds, "memory": memory, "loss": loss})
            engines[PEER] = step
            close.append(peer.close)
        elif not kind:
            engines[OWN_F32] = lambda: adapt(o, f32, text, [])

        def same_work(losses=losses, work=work):      # both saw the same weights, tokens and labels; 16 bits and Q4_1's rounding of activations are coarser
            if PEER in losses and abs(losses[PEER] / losses[OURS] - 1) > (1e-4 if "bf16" not in work else 2e-2):
                sys.exit(f"{work}: first losses differ: {losses}")
        close.append(same_work)
        _, blocks, head = sizes(o.kvt, model)
        # Forward 2 FLOP a weight, as many for the gradient of its input, and for its own where it is trained. Recomputation is not counted as work.
        flops = (6 if kind == "full" else 4) * (blocks + head)
        bf16 = "bf16" in work and limits.has_amx()
        limit = ("AMX bf16 peak", lambda: limits.rate("amx-bf16", o.threads)) if bf16 else ("FMA peak", lambda: limits.rate("fma", o.threads))
        metrics = [Metric("rate", "tokens/s", scale=flops / 1e9, digits=0, goal=rate_goal), Metric("memory", "MB", False, digits=0, goal=memory_goal)]
        yield Job("train", work, metrics, engines, [PEER, OWN_F32], limit, close)


if __name__ == "__main__":
    worker(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
