#!/usr/bin/env python3
"""Code compiled for one instruction set must not serve the rest of the program: an inline function that the compiler left as a
weak symbol in an AVX object may be the copy that the linker keeps for everyone. So each object that holds kernels of one
instruction set defines no code but what carries that set's name. NEON and SSE2 are part of every CPU of their architecture: what
is compiled for them may serve everyone.

usage: isolation.py nm libkvt.a
"""
import re, subprocess, sys

nm, archive = sys.argv[1:]
allowed = re.compile(r"^kvt::(add_(\w+)_kernels\(\)|(sse2|avx2|avx512|vnni|bf16|amx|neon|dotprod|i8mm)::add_\w+\(\))$")
folder = re.compile(r"(^|[/:])(ops_simd|arm)_\w+\.cpp\.o")

leaks, objects = [], 0
listing = subprocess.run([nm, "-C", "--defined-only", archive], check=True, capture_output=True, text=True).stdout
for member in listing.split("\n\n"):
    name, _, symbols = member.strip().partition(":\n")
    if not folder.search(name):
        continue
    objects += 1
    # data under a weak name is the same for everyone: tables of constants, the exception machinery
    code = [m[1] for m in re.finditer(r"^[0-9a-f]+ [TW] (.*)$", symbols, re.M)]
    own = [m for m in map(allowed.match, code) if m]
    if not any((m[2] or m[3]) in ("neon", "sse2") for m in own):
        leaks += [f"{name}: {c}" for c in code if not allowed.match(c)]
print("\n".join(leaks) if leaks else f"{objects} objects, no leaks")
sys.exit(bool(leaks) or objects == 0)
