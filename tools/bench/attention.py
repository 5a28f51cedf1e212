#!/usr/bin/env python3
"""Attention by our kernels, unfused, and by PyTorch, in turns on this machine.

    attention.py [-t 1] [-n 10] [--only forward,threads,backward,decoding] [--sizes 512,197] [--bench build-bench/attention_bench] [--json FILE]

Needs the Python package torch. Each round runs every engine at a shape for a tenth of a second and takes the median pass; printed are medians of the
rounds with 95 % intervals of the mean. One thread is timed by its processor time, several by the clock. A multiply-add counts
as two operations, and of a causal shape the unmasked half counts alone. The outputs' sums of magnitudes must agree to 1e-3 (inputs differ
between PyTorch and us, so among ours only, and PyTorch's with themselves), else the run fails. No process gives memory back to the system between passes
(MALLOC_TRIM_THRESHOLD_), so that nobody's time holds page faults of its outputs.

    fused          attention() with the best kernels; fused:avx2, fused:sse2 with those of that instruction set
    unfused        for each head two products by OpenBLAS's sgemm and the softmax between: by expf of the C library, and by our vector kernel
    torch          scaled_dot_product_attention: PyTorch's own choice (flash attention on CPUs), and its unfused form
    read           no attention: keys and values in F16 read once, in the fastest of several ways
    onednn         unfused, the two products by oneDNN as PyTorch calls it for linear layers, and PyTorch's softmax
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys

H, D = 12, 64
SHAPES = [(S, S, H, H, False) for S in (50, 128, 197, 384, 512, 2048)] + [(512, 512, H, H, True), (2048, 2048, H, H, True)]
PARTS = ("forward", "threads", "backward", "decoding")
DECODE = [(1, 4096, 9, 3), (4, 4096, 9, 3)]


def worker(threads, wall):
    """Reads attention_bench's lines, answers as it does."""
    import time
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 and not wall else time.perf_counter
    linear = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None
    for line in sys.stdin:
        what, passes, B, heads, kv, d, T, S, causal = [x if i == 0 else int(x) for i, x in enumerate(line.split())]
        torch.manual_seed(7)
        q, k, v = torch.randn(B, heads, T, d), torch.randn(B, kv, S, d), torch.randn(B, kv, S, d)
        backend = SDPBackend.MATH if what == "torch-unfused" else SDPBackend.FLASH_ATTENTION
        if what == "sgemm":
            a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)

            def run():
                return a @ b
        elif what == "onednn":
            def run():
                y, seen = torch.empty_like(q), torch.full((T, S), -math.inf).triu(S - T + 1) if causal else None
                for b in range(B):
                    for h in range(heads):
                        s = linear(q[b, h] * d ** -0.5, k[b, h * kv // heads], None, "none", [], "")
                        y[b, h] = linear(torch.softmax(s if seen is None else s + seen, -1), v[b, h * kv // heads].t().contiguous(), None, "none", [], "")
                return y
        else:
            def run():
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=bool(causal), enable_gqa=heads != kv)
        with torch.inference_mode(what != "torch-backward"), sdpa_kernel(backend):
            if what == "torch-backward":
                for x in (q, k, v):
                    x.requires_grad_()
                dy = torch.randn(q.shape)
            times = []
            for _ in range(passes):
                start = clock()
                y = run()
                if what == "torch-backward":
                    start = clock()
                    y.backward(dy)
                times.append(clock() - start)
        print(statistics.median(times), float(y.detach().double().abs().sum()), flush=True)


def interval(times, work):
    rates = [work / t / 1e9 for t in times]
    return statistics.median(rates), 1.96 * statistics.stdev(rates) / math.sqrt(len(rates)) if len(rates) > 1 else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("-n", "--rounds", type=int, default=10)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between: %(default)s")
    parser.add_argument("--sizes", help="of the forward passes and of two threads beside one: S, with commas between")
    parser.add_argument("--bench", default="build-bench/attention_bench")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--wall", action="store_true", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.worker:
        return worker(o.threads, o.wall)
    parts = o.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    sizes = [int(S) for S in o.sizes.split(",")] if o.sizes else None

    def chosen(part, shapes, size=lambda shape: shape[1]):
        return [s for s in shapes if sizes is None or size(s) in sizes] if part in parts else []

    def start(command, **environment):
        keep = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **keep, **environment})

    ours = [o.bench, str(o.threads)]
    processes = {"": start(ours), "blas": start(ours, KVT_KERNELS="matmul=blas"), "avx2": start(ours, KVT_KERNELS="avx2"), "sse2": start(ours, KVT_KERNELS="sse2"),
                 "torch": start([sys.executable, __file__, "--worker", "-t", str(o.threads)])}
    if o.threads == 1:                           # one thread beside two, by the clock
        for n in (1, 2):
            processes[f"clock{n}"] = start([o.bench, str(n), "wall"])
            processes[f"torch{n}"] = start([sys.executable, __file__, "--worker", "--wall", "-t", str(n)])

    def ask(engine, line):
        what, _, isa = engine.partition(":")
        process = processes[isa or ("torch" if what.startswith(("torch", "onednn", "sgemm")) else "")]
        process.stdin.write(f"{what} {line}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            sys.exit(f"{engine} ended at '{line}'")
        return [float(x) for x in answer.split()]

    def measure(engines, shape, work):
        line = "1 {B} {H} {Hkv} {D} {T} {S} {causal:d}".format(**shape)
        sums, passes = {}, {}
        for name in engines:                     # the first pass warms up, the second says how many fill a tenth of a second
            sums[name] = ask(name, line)[1]
            passes[name] = max(1, min(2000, int(0.1 / ask(name, line)[0])))
        first = sums[engines[0]] if engines[0] != "sgemm" else sums["fused"]
        for name, value in sums.items():
            if name.startswith(("fused", "unfused", "backward")) and abs(value / first - 1) > 1e-3:
                sys.exit(f"{name} computes something else at {shape}: {value} beside {first}")
        times = {name: [] for name in engines}
        for _ in range(o.rounds):
            for name in engines:
                times[name].append(ask(name, str(passes[name]) + line[1:])[0])
        return {name: interval(t, work) for name, t in times.items()}, times

    limit, _ = measure(["sgemm", "fused"], {"B": 1, "H": 1, "Hkv": 1, "D": 64, "T": 64, "S": 64, "causal": False}, 2 * 1024**3)
    print(f"heads of {D}, {o.threads} thread(s), GFLOP/s, median of {o.rounds} ± 95 %; sgemm of PyTorch, 1024³: {limit['sgemm'][0]:.0f}")
    report = []
    for T, S, heads, kv, causal in chosen("forward", SHAPES):
        shape = {"B": 1, "H": heads, "Hkv": kv, "D": D, "T": T, "S": S, "causal": causal}
        work = 4 * heads * T * S * D * (0.5 if causal else 1)
        engines = ["fused", "fused:avx2", "fused:sse2", "fused-f16", "unfused-vector:blas", "unfused-libm:blas", "torch", "torch-unfused", "onednn"]
        rates, times = measure(engines, shape, work)
        report.append({**shape, "gflops": rates, "seconds": times})
        print(f"S {S:4}{' causal' if causal else '       '}  " + "  ".join(f"{n} {r:.1f} ± {i:.1f}" for n, (r, i) in rates.items()) +
              f"   fused/torch {rates['fused'][0] / rates['torch'][0]:.2f}  fused/unfused-libm {rates['fused'][0] / rates['unfused-libm:blas'][0]:.2f}", flush=True)
    for S in chosen("threads", (128, 197, 512, 2048) if o.threads == 1 else (), lambda S: S):
        shape = {"B": 1, "H": H, "Hkv": H, "D": D, "T": S, "S": S, "causal": False}
        engines = ["fused:clock1", "fused:clock2", "torch:torch1", "torch:torch2"]
        rates, times = measure(engines, shape, 4 * H * S * S * D)
        report.append({**shape, "scaling": True, "gflops": rates, "seconds": times})
        one, two, torch_one, torch_two = (rates[n][0] for n in engines)
        print(f"S {S:4}  two threads beside one, by the clock: fused {two / one:.2f} ({one:.0f}, {two:.0f})  torch {torch_two / torch_one:.2f}", flush=True)
    for T, S, heads, kv, causal in [(512, 512, H, H, False), (512, 512, H, H, True)] if "backward" in parts else ():
        shape = {"B": 1, "H": heads, "Hkv": kv, "D": D, "T": T, "S": S, "causal": causal}
        rates, times = measure(["fused", "backward", "torch-backward"], shape, 4 * heads * T * S * D * (0.5 if causal else 1))
        rates = {n: (r * (1 if n == "fused" else 2.5), i) for n, (r, i) in rates.items()}        # five products beside the forward pass's two
        report.append({**shape, "backward": True, "gflops": rates, "seconds": times})
        print(f"S {S:4}{' causal' if causal else '       '}  backward: " + "  ".join(f"{n} {r:.1f}" for n, (r, _) in rates.items()) +
              f"   backward/forward {rates['backward'][0] / rates['fused'][0]:.2f}  backward/torch {rates['backward'][0] / rates['torch-backward'][0]:.2f}", flush=True)
    for T, S, heads, kv in DECODE if "decoding" in parts else ():
        shape = {"B": 1, "H": heads, "Hkv": kv, "D": D, "T": T, "S": S, "causal": True}
        rates, times = measure(["fused", "fused-f16", "read"], shape, 2 * S * kv * D * 2)        # bytes of F16 keys and values
        report.append({**shape, "gigabytes": rates, "seconds": times})
        print(f"decoding, T {T} S {S} heads {heads}/{kv}, GB/s of F16: fused-f16 {rates['fused-f16'][0]:.1f}  read alone {rates['read'][0]:.1f}"
              f"   share {rates['fused-f16'][0] / rates['read'][0]:.2f};  F32 keys and values {2 * rates['fused'][0]:.1f}", flush=True)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    if o.json:
        with open(o.json, "w") as file:
            json.dump({"threads": o.threads, "rounds": o.rounds, "sgemm": limit["sgemm"], "shapes": report}, file, indent=1)


if __name__ == "__main__":
    main()
