#!/usr/bin/env python3
"""Modelled cycles of an AArch64 program on cores that are not at hand.

usage: armcycles.py [--core NAME ...] [--functions] [--json FILE] PROGRAM [ARGUMENT ...]

The program runs once per core under QEMU with the plugin blocks.c, which counts how often each block of instructions runs and how many
cache lines its data miss. llvm-mca prices each block for the core: cycles a run when the block repeats, every load a hit in L1, every
branch foreseen. A section's modelled cycles are the sum of price times runs. Misses are printed beside them, not added.

The program marks sections by close(-1 - n) and close(-1) (blocks.c) and says on standard output what they are, one line each:

    section N CALLS FLOPS NAME              FLOPS of one call; 0: not counted, the column of the peak stays empty

These are figures of a model, of use to compare code with code. They are not hardware times. README.md says what the model leaves out.
"""
import argparse
import bisect
import collections
import json
import os
import re
import subprocess
import sys

# What llvm-mca calls the core, F32 operations per cycle at most, first- and second-level data cache as bytes:ways, OpenBLAS's name, and what
# QEMU runs as: QEMU 7.2 has no Neoverse N2, so all that it has, of which N2's matrix instructions are a part.
Core = collections.namedtuple("Core", "peak l1 l2 openblas qemu")
CORES = {
    "cortex-a53": Core(8, "32768:4", "524288:16", "CORTEXA53", "cortex-a53"),
    "cortex-a72": Core(8, "32768:2", "1048576:16", "CORTEXA72", "cortex-a72"),
    "neoverse-n1": Core(16, "65536:4", "1048576:8", "NEOVERSEN1", "neoverse-n1"),
    "neoverse-n2": Core(16, "65536:4", "1048576:8", "NEOVERSEN1", "max"),
}
COVERED = 0.9995       # of a section's instructions: the rest is priced at the section's mean
REPEATS = 100
FOLDER = os.path.dirname(os.path.abspath(__file__))


def run(command, **options):
    done = subprocess.run(command, text=True, capture_output=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command[:6])} … failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done


def plugin(folder):
    source, built = f"{FOLDER}/blocks.c", f"{folder}/blocks.so"
    if not os.path.exists(built) or os.path.getmtime(built) < os.path.getmtime(source):
        run(["cc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", source, "-o", built])
    return built


Section = collections.namedtuple("Section", "name calls flops misses runs")      # misses (L1, L2), runs {block: count}
Block = collections.namedtuple("Block", "address words")


def count(program, core, folder):
    """Sections in the order of the program's words about them, and all blocks."""
    counts = f"{folder}/{core}.blocks"
    about = CORES[core]
    command = ["qemu-aarch64", "-cpu", about.qemu, "-E", f"OPENBLAS_CORETYPE={about.openblas}", "-E", "OPENBLAS_NUM_THREADS=1", "-plugin",
               f"{plugin(folder)},out={counts},l1={about.l1},l2={about.l2}", *program]
    said = run(command).stdout
    runs, misses, blocks, now = {}, {}, {}, None
    with open(counts) as file:
        for line in file:
            word, *rest = line.split()
            if word == "section":
                now = runs.setdefault(int(rest[0]), collections.Counter())
                misses[int(rest[0])] = int(rest[1]), int(rest[2])
            elif word == "runs":
                now[rest[0]] += int(rest[1])
            else:
                blocks[rest[0]] = Block(int(rest[1], 16), tuple(rest[2:]))
    sections = []
    for line in said.splitlines():
        word, *rest = line.split(None, 4)
        if word == "section":
            n = int(rest[0])
            if n not in runs or any(s.name == rest[3] for s in sections):
                sys.exit(f"{program[0]}: section {n}, '{rest[3]}', was not marked or is named twice")
            sections.append(Section(rest[3], int(rest[1]), float(rest[2]), misses[n], runs[n]))
    return sections, blocks


def disassembled(words):
    """The text of each instruction, {word: text}; what LLVM does not know is priced as nothing at all."""
    words = sorted(words)
    source = "".join(",".join(f"0x{word[i:i + 2]}" for i in (6, 4, 2, 0)) + "\n" for word in words)
    done = run(["llvm-mc-19", "--disassemble", "--triple=aarch64", "--mattr=+all"], input=source)
    unknown = {int(n) for n in re.findall(r"^<stdin>:(\d+):\d+: warning: invalid instruction", done.stderr, re.M)}
    known = [word for n, word in enumerate(words, 1) if n not in unknown]
    text = [line for line in done.stdout.splitlines() if line.startswith("\t") and not line.startswith("\t.")]
    if len(text) != len(known):
        sys.exit(f"llvm-mc disassembled {len(text)} of {len(known)} instructions")
    return dict(zip(known, text)) | {words[n - 1]: "" for n in unknown}


def branches(word):
    """Does the instruction end a block of its own accord?"""
    w = int(word, 16)
    return (w & 0x7C000000 in (0x14000000, 0x34000000) or        # b, bl; cbz, cbnz, tbz, tbnz
            w >> 24 in (0x54, 0xD4, 0xD6, 0xD7))                 # b.cond; svc and the like; br, blr, ret


def joined(section, blocks):
    """Runs of whole blocks, {Block: runs}: QEMU splits what is long or lies on two pages, and goes on where it stopped."""
    at, runs = {}, collections.Counter()
    for name, count in section.runs.items():
        at.setdefault(blocks[name].address, []).append(blocks[name])
        runs[blocks[name]] += count
    whole = collections.Counter()
    for block in sorted(runs):                # the parts of a block in order: what enters in its middle is what the first parts leave over
        left, words = runs[block], list(block.words)
        while left > 0 and not branches(words[-1]):
            rest = max(at.get(block.address + 4 * len(words), []), key=lambda b: runs[b], default=None)
            if rest is None or runs[rest] < left:
                break
            runs[rest] -= left
            words += rest.words
        if left > 0:
            whole[Block(block.address, tuple(words))] += left
    return whole


def main_blocks(section, blocks):
    """Runs of those that hold nearly all executed instructions, {Block: runs}, and the factor for the rest."""
    work = sorted(((runs * len(b.words), b) for b, runs in joined(section, blocks).items()), reverse=True)
    total, covered, chosen = sum(w for w, _ in work), 0, {}
    for instructions, b in work:
        chosen[b] = instructions // len(b.words)
        covered += instructions
        if covered >= COVERED * total:
            break
    return chosen, total / max(covered, 1)


def prices(core, chosen):
    """Modelled cycles of one run of each block, {Block: cycles}."""
    text = disassembled({word for b in chosen for word in b.words})
    regions = "".join(f"# LLVM-MCA-BEGIN {n}\n" + "".join(text[w] + "\n" for w in b.words) + f"# LLVM-MCA-END {n}\n" for n, b in enumerate(chosen))
    command = ["llvm-mca-19", "-mtriple=aarch64", f"-mcpu={core}", "-mattr=+all", f"-iterations={REPEATS}", "-call-latency=1",
               "--skip-unsupported-instructions=any", "-instruction-info=0", "-resource-pressure=0"]
    report = run(command, input=regions).stdout
    found = re.findall(r"Code Region - (\d+)\n.*?Total Cycles:\s+(\d+)", report, re.S)
    return {chosen[int(n)]: int(cycles) / REPEATS for n, cycles in found}


def functions(program):
    """name(address) by the program's symbols."""
    symbols = [line.split(None, 2) for line in run(["llvm-nm-19", "-n", "-C", "--defined-only", program]).stdout.splitlines()]
    symbols = [(int(s[0], 16), s[2]) for s in symbols if len(s) == 3 and s[1] in "tTwW"]
    starts = [start for start, _ in symbols]
    return lambda address: symbols[bisect.bisect_right(starts, address) - 1][1] if starts and address >= starts[0] else "?"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", action="append", choices=CORES, help="all of them unless named")
    parser.add_argument("--functions", action="store_true", help="where the cycles of each section are spent")
    parser.add_argument("--json", metavar="FILE", help="all figures, for programs")
    parser.add_argument("--folder", default=".cache/armcycles", help="for the built plugin and its counts (default %(default)s)")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    o = parser.parse_args()
    if not o.program:
        parser.error("which program?")
    os.makedirs(o.folder, exist_ok=True)
    results = []
    for core in o.core or CORES:
        sections, blocks = count(o.program, core, o.folder)
        chosen = {s.name: main_blocks(s, blocks) for s in sections}
        price = prices(core, sorted({b for runs, _ in chosen.values() for b in runs}))
        name_of = functions(o.program[0]) if o.functions else None
        print(f"\n{core}: modelled, a call. FMA peak {CORES[core].peak} flop/cycle; L1 {CORES[core].l1}, L2 {CORES[core].l2} (bytes:ways)\n")
        print(f"{'':44} {'cycles':>12} {'flop/cycle':>11} {'of peak':>8} {'L1 misses':>10} {'L2 misses':>10}")
        for s in sections:
            runs, rest = chosen[s.name]
            cost = {b: price.get(b, len(b.words)) * n * rest / s.calls for b, n in runs.items()}
            cycles, rate = sum(cost.values()), s.flops / max(sum(cost.values()), 1)
            share = f"{rate:11.2f} {100 * rate / CORES[core].peak:7.1f}%" if s.flops else " " * 20
            print(f"{s.name:44} {cycles:12.0f} {share} {s.misses[0] / s.calls:10.0f} {s.misses[1] / s.calls:10.0f}", flush=True)
            results.append({"core": core, "name": s.name, "modelled_cycles": cycles, "flop_per_cycle": rate, "share_of_peak": rate / CORES[core].peak,
                            "l1_misses": s.misses[0] / s.calls, "l2_misses": s.misses[1] / s.calls})
            if name_of:
                by_function = collections.Counter()
                for b, c in cost.items():
                    by_function[name_of(b.address)] += c
                for name, c in by_function.most_common(8):
                    if c > 0.005 * cycles:
                        print(f"    {100 * c / cycles:5.1f}%  {name}")
    if o.json:
        with open(o.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
