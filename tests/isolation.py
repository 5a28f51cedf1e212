#!/usr/bin/env python3
"""Code compiled for one instruction set must not serve the rest of the program: an inline function that the compiler left as a
weak symbol in an AVX object may be the copy that the linker keeps for everyone. So each object that holds kernels of one
instruction set defines no code but what carries that set's name.

usage: isolation.py nm libkvt.a
"""
import re, subprocess, sys

nm, archive = sys.argv[1:]
allowed = re.compile(r"^kvt::(add_(\w+)_kernels\(\)|(sse2|avx2|avx512|vnni|neon|dotprod)::add_\w+\(\))$")
folder = re.compile(r"(^|[/:])(ops_simd|arm)_\w+\.cpp\.o")

leaks, objects, name = [], 0, ""
for line in subprocess.run([nm, "-C", "--defined-only", archive], check=True, capture_output=True, text=True).stdout.splitlines():
    if line.endswith(":"):
        name = line[:-1]
        objects += bool(folder.search(name))
    elif folder.search(name) and (m := re.match(r"[0-9a-f]+ ([TWuV]) (.*)", line)):
        # data under a weak name is the same for everyone: tables of constants, the exception machinery
        if m[1] in "TW" and not allowed.match(m[2]):
            leaks.append(f"{name}: {m[1]} {m[2]}")
print("\n".join(leaks) if leaks else f"{objects} objects, no leaks")
sys.exit(bool(leaks) or objects == 0)
