#!/usr/bin/env python3
"""What arithmetic in half precision would give attention's scores: cycles by llvm-mca, and the error it adds.

usage: halves.py [CORE ...]          llvm-mca's names; default neoverse-n1 neoverse-n2

Cycles: 3 queries and 4 keys of 64 numbers, operands in registers. Error: the largest of an output beside the largest output, of attention over 300 keys
in F16 with the scores so computed and all else in double precision, normal random numbers. Needs numpy and llvm-mca-19. arm/README.md draws conclusions.
"""
import re
import subprocess
import sys

import numpy as np

QUERIES, KEYS, D = 3, 4, 64


def widened():
    """FCVTL of four numbers of each key, FMLA in F32."""
    return [line for _ in range(D // 4) for k in range(KEYS) for line in
            [f"fcvtl v{20 + k}.4s, v{24 + k}.4h"] + [f"fmla v{k * QUERIES + r}.4s, v{20 + k}.4s, v{28 + r}.4s" for r in range(QUERIES)]]


def summed(n):
    """n products of a lane summed in half, then added to sums in F32."""
    to_f32 = [line for r in range(QUERIES) for line in (f"fcvtl v{8 + r}.4s, v{r}.4h", f"fcvtl2 v{12 + r}.4s, v{r}.8h", f"fadd v{16 + r}.4s, v{16 + r}.4s, v{8 + r}.4s",
                                                        f"fadd v{20 + r}.4s, v{20 + r}.4s, v{12 + r}.4s")]
    products = [f"{'fmla' if i else 'fmul'} v{r}.8h, v{24 + i % 4}.8h, v{28 + r}.8h" for i in range(n) for r in range(QUERIES)]
    return (products + to_f32) * (D // 8 // n * KEYS)


def fmlal(parts):
    """FMLAL: halves multiplied into F32; `parts` halves make up a number of the queries."""
    return [f"fmlal v{k * QUERIES + r}.4s, v{24 + k}.4h, v{28 + r}.4h" for _ in range(D // 4 * parts) for k in range(KEYS) for r in range(QUERIES)]


def rounded(x):
    return x.astype(np.float16).astype(float)


def scores(q, k, n):
    """q kᵀ with q rounded to half, n products of a lane of 8 summed in half; n = 0: all in F32 and better, queries as they are."""
    if n == 0:
        return q.astype(np.float32).astype(float) @ k.T
    if n == -1:
        return rounded(q) @ k.T
    if n == -2:
        return (rounded(q) + rounded(q - rounded(q))) @ k.T
    total = np.zeros((len(q), len(k)))
    for d0 in range(0, D, 8 * n):
        lanes = np.zeros((len(q), len(k), 8))
        for d in range(d0, d0 + 8 * n, 8):
            lanes = rounded(lanes + rounded(q)[:, None, d:d + 8] * k[None, :, d:d + 8])
        total += lanes.sum(2)
    return total


def error(n):
    rng, worst = np.random.default_rng(1), 0
    for _ in range(5):
        q, k, v = rng.standard_normal((64, D)) / np.sqrt(D) * np.log2(np.e), rounded(rng.standard_normal((300, D))), rounded(rng.standard_normal((300, D)))

        def attention(s):
            p = 2.0 ** (s - s.max(1, keepdims=True))
            return p @ v / p.sum(1, keepdims=True)

        exact = attention(q @ k.T)
        worst = max(worst, np.abs(attention(scores(q, k, n)) - exact).max() / np.abs(exact).max())
    return worst


def cycles(core, code):
    command = ["llvm-mca-19", "-mtriple=aarch64", f"-mcpu={core}", "-mattr=+all", "-iterations=100", "-instruction-info=0", "-resource-pressure=0"]
    return int(re.search(r"Total Cycles:\s+(\d+)", subprocess.run(command, input="\n".join(code), text=True, capture_output=True, check=True).stdout)[1]) / 100


def main():
    cores = sys.argv[1:] or ["neoverse-n1", "neoverse-n2"]
    print(f"{'':36}" + "".join(f"{core:>14}" for core in cores) + f"{'error':>10}")
    for name, code, n in [("FCVTL, FMLA in F32", widened(), 0), *((f"FMLA on halves, sums of {n}", summed(n), n) for n in (8, 4, 2)),
                          ("FMLAL, queries rounded to halves", fmlal(1), -1), ("FMLAL, queries as two halves", fmlal(2), -2)]:
        print(f"{name:36}" + "".join(f"{cycles(core, code):14.0f}" for core in cores) + f"{error(n):10.1e}")


if __name__ == "__main__":
    main()
