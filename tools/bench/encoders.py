#!/usr/bin/env python3
"""A BERT-base with random weights in KVT, ONNX Runtime and PyTorch, in turns on this machine.

    encoders.py DIR [-t 1] [-n 10] [--bench build-bench/encoder_bench] [--kvt build/kvt] [--json FILE]

Needs Python packages: torch, transformers, onnx, onnxscript, onnxruntime. DIR keeps the model in each engine's format. Each round runs every shape once in
each engine; printed are medians in GFLOP/s (a multiply-add counts as two) and the ratio to ONNX Runtime. The engines' last states
must agree to 1e-3 of their sum of magnitudes, else the run fails.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

LAYERS, C, HEADS, HIDDEN, VOCABULARY = 12, 768, 12, 3072, 30522
SHAPES = [(1, 50), (1, 128), (1, 512), (8, 50), (8, 128)]


def make(folder, kvt):
    import torch
    import transformers
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(1)
    config = transformers.BertConfig(vocab_size=VOCABULARY, hidden_size=C, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=HIDDEN)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(folder)
    with open(f"{folder}/vocab.txt", "w") as file:      # stands in for a vocabulary: this model reads no text
        file.write("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(VOCABULARY - 5)]) + "\n")
    ids = torch.zeros(1, 50, dtype=torch.long)
    free = {0: torch.export.Dim("B", min=1, max=64), 1: torch.export.Dim("S", min=2, max=512)}
    torch.onnx.export(model, (ids,), f"{folder}/model.onnx", input_names=["input_ids"], output_names=["states"], dynamic_shapes={"input_ids": free}, dynamo=True)
    subprocess.run([kvt, "convert", folder, f"{folder}/model.gguf"], check=True)


def worker(engine, folder, threads):
    """Reads lines "B S", prints "SECONDS SUM" for each, as encoder_bench does."""
    import time
    import numpy as np
    if engine == "torch":
        import torch
        import transformers
        torch.set_num_threads(threads)
        model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="sdpa").eval()

        def states(ids):
            with torch.inference_mode():
                return model(torch.from_numpy(ids)).last_hidden_state.numpy()
    else:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])

        def states(ids):
            return session.run(None, {session.get_inputs()[0].name: ids})[0]
    for line in sys.stdin:
        B, S = map(int, line.split())
        ids = (np.arange(B * S) * 7919 % VOCABULARY).reshape(B, S)
        start = time.monotonic()
        x = states(ids)
        print(time.monotonic() - start, float(np.abs(x.astype(np.float64)).sum()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("-n", "--rounds", type=int, default=10)
    parser.add_argument("--bench", default="build-bench/encoder_bench")
    parser.add_argument("--kvt", default="build/kvt")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--worker", choices=["torch", "onnxruntime"], help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.worker:
        return worker(o.worker, o.folder, o.threads)
    if not os.path.exists(f"{o.folder}/model.gguf"):
        make(o.folder, o.kvt)

    import onnxruntime
    import torch
    print(f"BERT-base shape ({LAYERS} x {C}), F32, {o.threads} thread(s), median of {o.rounds}; ONNX Runtime {onnxruntime.__version__}, PyTorch {torch.__version__}")
    me = [sys.executable, __file__, o.folder, "-t", str(o.threads), "--worker"]
    commands = {"kvt": [o.bench, f"{o.folder}/model.gguf", str(o.threads)], "onnxruntime": me + ["onnxruntime"], "torch": me + ["torch"]}
    engines = {name: subprocess.Popen(c, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name, c in commands.items()}

    def one(name, B, S):
        engines[name].stdin.write(f"{B} {S}\n")
        engines[name].stdin.flush()
        line = engines[name].stdout.readline()
        if not line:
            sys.exit(f"{name} ended; its command was: {' '.join(commands[name])}")
        return [float(x) for x in line.split()]

    report = []
    for B, S in SHAPES:
        sums = {name: one(name, B, S)[1] for name in engines}      # the first pass warms up
        for name, value in sums.items():
            if abs(value / sums["onnxruntime"] - 1) > 1e-3:
                sys.exit(f"{name} computes something else at {B} x {S}: {value} beside {sums['onnxruntime']}")
        times = {name: [] for name in engines}
        for _ in range(o.rounds):
            for name in engines:
                times[name].append(one(name, B, S)[0])
        flops = B * S * LAYERS * (8 * C * C + 4 * C * HIDDEN + 4 * S * C)
        rate = {name: flops / statistics.median(t) / 1e9 for name, t in times.items()}
        report.append({"B": B, "S": S, "flops": flops, "gflops": rate, "seconds": times})
        print(f"B {B}  S {S:3}   " + "   ".join(f"{name} {r:6.1f} GFLOP/s" for name, r in rate.items()) +
              f"   kvt/onnxruntime {rate['kvt'] / rate['onnxruntime']:.2f}  kvt/torch {rate['kvt'] / rate['torch']:.2f}", flush=True)
    for child in engines.values():
        child.stdin.close()
        child.wait()
    if o.json:
        with open(o.json, "w") as file:
            json.dump({"threads": o.threads, "rounds": o.rounds, "onnxruntime": onnxruntime.__version__, "torch": torch.__version__, "shapes": report}, file, indent=1)


if __name__ == "__main__":
    main()
