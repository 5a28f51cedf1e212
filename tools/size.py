#!/usr/bin/env python3
"""Sizes of libkvt.so, stripped, for 64-bit ARM: of the whole by its parts, and of builds with less in them.

usage: size.py [--folder build-size] [--json FILE]        exit status 1 if the whole is above 1 MB (2^20 bytes)

All are built for size: -Dbuildtype=minsize -Db_lto=true -Db_ndebug=true. Parts come from the linker's map of a build without link-time optimisation,
which leaves no borders to see: bytes of code and constants by the folder of the source. What the sections are padded with, unwinding tables, and the dynamic
symbols count as the rest.
"""
import argparse, collections, json, os, pathlib, re, subprocess, sys

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--folder", default="build-size")
options.add_argument("--json")
o = options.parse_args()

root = pathlib.Path(__file__).resolve().parent.parent
folder = pathlib.Path(o.folder).resolve()
strip = "aarch64-linux-gnu-strip"
goal = 1 << 20

common = ["--cross-file", str(root / "arm/aarch64.ini"), "-Dopenblas=disabled", "-Dtools=disabled", "-Dbuildtype=minsize", "-Ddebug=false", "-Db_ndebug=true", "-Dcpp_link_args=-Wl,-Map=link.map",
          f"-Dcpp_args=-isystem{root / 'build-arm/include'}"]
builds = {
    "all": [],
    "all, by parts": ["-Db_lto=false"],
    "without training": ["-Dtraining=disabled"],
    "llama and bert": ["-Dmodels=llama,bert"],
    "llama, without training": ["-Dmodels=llama", "-Dtraining=disabled"],
    "all, C++ library inside": ["-Dstatic_libstdcpp=true"],
}


def run(*command):
    p = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, "QEMU_LD_PREFIX": "/usr/aarch64-linux-gnu"})
    if p.returncode:
        sys.exit(f"{' '.join(map(str, command))}:\n{p.stdout[-3000:]}{p.stderr[-3000:]}")
    return p.stdout


def build(name, arguments):
    place = folder / re.sub(r"\W+", "-", name)
    again = ["--reconfigure"] if (place / "build.ninja").exists() else []         # with the options of today
    run("meson", "setup", *again, place, root, *common, "-Db_lto=true", *arguments)
    run("ninja", "-C", place, "libkvt.so.0.1.0")
    stripped = place / "stripped.so"
    run(strip, "--strip-all", "-o", stripped, place / "libkvt.so.0.1.0")
    return place, stripped.stat().st_size


# " .text.name  0x…  0x1234 libkvt.a.p/engine_gguf.cpp.o", the name possibly on a line of its own
def parts(link_map):
    sizes = collections.Counter()
    text = link_map.read_text(errors="replace").split("Linker script and memory map", 1)[-1]
    for section, size, place in re.findall(r"^ (\.(?:text|rodata|data|bss)\S*)\s+0x[0-9a-f]+\s+(0x[0-9a-f]+) (\S+\.o\)?)$", text, re.M):
        m = re.search(r"(tensor|ops_simd|ops|arm|models|engine)_(\w+)\.cpp\.o", place)
        if not m or section.startswith(".bss"):
            continue
        folder, name = m[1], m[2]
        if folder == "ops_simd" or folder == "arm":
            folder = "kernels of NEON"
        elif folder == "engine":
            folder = ("interface in C" if name.startswith("c_api") else "training" if re.match(r"train|rounds|extract|adapt$|optim|checkpoint|shift|kmeans|knowledge|data|text_data", name)
                      else "tokenizers, chat" if re.match(r"token|bpe|spm|wordpiece|pretoken|unicode|chat", name) else "files, adapters, generation")
        sizes[folder] += int(size, 16)
    return sizes


whole = build("all", builds["all"])[1]
print(f"libkvt.so for aarch64, stripped: {whole / 1024:.0f} KB (goal: at most {goal // 1024})")
sizes = {"all": whole}
for name, arguments in builds.items():
    if name == "all":
        continue
    place, sizes[name] = build(name, arguments)
    if name != "all, by parts":
        print(f"{name:<38}{sizes[name] / 1024:8.0f} KB")
        continue
    print(f"{'all, without link-time optimisation':<38}{sizes[name] / 1024:8.0f} KB")
    found = parts(place / "link.map")
    for part, size in sorted(found.items(), key=lambda x: -x[1]):
        print(f"  {part:<36}{size / 1024:8.0f} KB")
    print(f"  {'the rest':<36}{(sizes[name] - sum(found.values())) / 1024:8.0f} KB")
if o.json:
    pathlib.Path(o.json).write_text(json.dumps({"bytes": sizes, "parts": found}, indent=1) + "\n")
sys.exit(whole > goal)
