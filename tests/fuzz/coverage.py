#!/usr/bin/env python3
"""Runs every fuzz target over its seeds and the inputs collected so far, and prints how much of each parser they run through:

    tests/fuzz/coverage.py BUILD CORPUS          BUILD: -Dfuzz=enabled with -fprofile-instr-generate -fcoverage-mapping
"""
import json, os, pathlib, subprocess, sys

PARSERS = {
    "gguf": ["engine/gguf.cpp", "engine/gguf_read.cpp"],
    "tokenizer": ["engine/tokenizer.cpp", "engine/bpe.cpp", "engine/spm.cpp", "engine/wordpiece.cpp"],
    "text": ["engine/pretokenize.cpp", "engine/unicode.cpp", "engine/tokenizer_models.h"],
    "safetensors": ["engine/safetensors.cpp"],
    "json": ["engine/json.cpp", "engine/json_fields.cpp"],
    "adapter": ["engine/adapter.cpp", "engine/ia3.cpp", "engine/kvt_adapter.cpp", "engine/bank.cpp", "engine/text_classes.cpp"],
    "checkpoint": ["engine/checkpoint.cpp"],
    "pairs": ["engine/text_data.cpp", "engine/data.cpp"],
    "chat": ["engine/chat.cpp"],
    "images": ["engine/images.cpp"],
    "picture": ["tools/picture.cpp"],
    "model": ["engine/load.cpp", "engine/load_encoder.cpp", "engine/hyperparameters.h", "engine/seq2seq_file.cpp"],
}
build, corpus = (pathlib.Path(p).resolve() for p in sys.argv[1:3])
project = pathlib.Path(__file__).resolve().parent.parent.parent
tool = lambda name: next((t for t in (f"{name}-19", name) if subprocess.run(["which", t], capture_output=True).returncode == 0), name)

subprocess.run([build / "tests/fuzz/seeds", build / "seeds", project], check=True)
print(f"{'target':<12} {'inputs':>7}  {'file':<28} {'lines':>6} {'run':>6}")
total = covered = 0
for target, files in PARSERS.items():
    program, raw, profile = build / f"tests/fuzz/{target}_fuzz", build / f"{target}.profraw", build / f"{target}.profdata"
    folders = [f for f in (build / "seeds" / target, corpus / target) if f.is_dir()]
    subprocess.run([program, "-runs=0", "-max_len=65536", *folders], check=True, capture_output=True, env={**os.environ, "LLVM_PROFILE_FILE": str(raw)})
    subprocess.run([tool("llvm-profdata"), "merge", "-sparse", raw, "-o", profile], check=True)
    report = json.loads(subprocess.run([tool("llvm-cov"), "export", "-summary-only", f"-instr-profile={profile}", program, *(project / f for f in files)],
                                       check=True, capture_output=True).stdout)
    inputs = sum(len(list(f.iterdir())) for f in folders)
    for entry in report["data"][0]["files"]:
        lines = entry["summary"]["lines"]
        total, covered = total + lines["count"], covered + lines["covered"]
        print(f"{target:<12} {inputs:>7}  {os.path.relpath(entry['filename'], project):<28} {lines['count']:>6} {lines['percent']:>5.1f}%")
print(f"{'all':<12} {'':>7}  {'':<28} {total:>6} {100 * covered / total:>5.1f}%")
print("Writers live in some of these files too (adapter, checkpoint, ia3, kvt_adapter, bank, safetensors, json): no input reaches those lines.")
