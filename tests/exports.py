#!/usr/bin/env python3
"""What the shared library exports equals what kvt.h declares, under the symbol versions of kvt.map, and it asks the system for nothing
beyond the C, C++ and maths libraries (and OpenBLAS, where the build has it).

usage: exports.py nm readelf libkvt.so engine/kvt.h
"""
import re, subprocess, sys

nm, readelf, library, header = sys.argv[1:]
run = lambda *command: subprocess.run(command, check=True, capture_output=True, text=True).stdout
declared = set(re.findall(r"^KVT_API [^;(]*?\b(kvt_\w+)\(", open(header).read(), re.M))
exported = {}
for line in run(nm, "-D", "--defined-only", library).splitlines():
    kind, symbol = line.split()[-2:]
    name, _, version = symbol.partition("@@")
    if kind != "A":                      # A: the versions themselves
        exported[name] = version
needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run(readelf, "-d", library))

faults = [f"declared, not exported: {name}" for name in sorted(declared - exported.keys())]
faults += [f"exported, not declared: {name}" for name in sorted(exported.keys() - declared)]
faults += [f"without a version: {name}" for name, version in exported.items() if not version.startswith("KVT_")]
faults += [f"needs {name}" for name in needed if not re.match(r"(libc|libm|libstdc\+\+|libgcc_s|libopenblas|libpthread|ld-linux.*)\.so", name)]
print("\n".join(faults) if faults else f"{len(exported)} symbols; needs {', '.join(needed)}")
sys.exit(bool(faults) or not declared)
