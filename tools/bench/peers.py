#!/usr/bin/env python3
"""KVT and llama.cpp side by side on this machine: the same model, the same prompt, in turns.

    peers.py build   DIR                       fetch and build llama.cpp from the source package llama-cpp-python (PyPI)
    peers.py speed   DIR -m MODEL [-t 2] [-n 10] [--json FILE]
    peers.py adapter DIR -m MODEL -a ADAPTER   the adapter's next-token scores in both engines, on the model unpacked to F32

`speed` prints medians with 95% intervals of decoding (128 tokens) and of reading a prompt, process start to first token, and
peak resident memory, then ratios KVT / llama.cpp. llama.cpp is built by clang where there is one: built by GCC 12 it crashes on
processors with AMX, so GCC builds leave AMX out; the report names the compiler.
"""
import argparse
import glob
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import time

PACKAGE = "llama-cpp-python==0.3.36"
PROMPT = "The history of the city begins in the early Middle Ages when a small"
KVT = os.environ.get("KVT", "build/kvt")


def run(command, **options):
    done = subprocess.run(command, text=True, capture_output=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done


def build(folder):
    os.makedirs(folder, exist_ok=True)
    if not glob.glob(f"{folder}/llama_cpp_python-*.tar.gz"):
        run([sys.executable, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps", "--no-build-isolation", "-d", folder, PACKAGE])
    source = f"{folder}/source"
    if not os.path.isdir(source):
        with tarfile.open(glob.glob(f"{folder}/llama_cpp_python-*.tar.gz")[0]) as package:
            package.extractall(folder)
        os.rename(glob.glob(f"{folder}/llama_cpp_python-*/")[0], source)
    clang = shutil.which("clang-19")
    compiler = ["-DCMAKE_C_COMPILER=clang-19", "-DCMAKE_CXX_COMPILER=clang++-19"] if clang else [
        f"-DCMAKE_{c}_FLAGS=-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" for c in ("C", "CXX")]
    if not os.path.exists(f"{folder}/llama/build.ninja"):
        run(["cmake", "-S", f"{source}/vendor/llama.cpp", "-B", f"{folder}/llama", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
             "-DGGML_OPENMP=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_TESTS=OFF", *compiler])
    subprocess.run(["ninja", "-C", f"{folder}/llama", "llama-bench", "llama-completion", "llama-quantize"], check=True)


def measured(command):
    """Seconds, peak resident megabytes and standard error of a finished command."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed:\n{errors[-2000:]}")
    return time.monotonic() - start, usage.ru_maxrss / 1024, errors


def kvt_speed(model, threads):
    common = [KVT, "run", "-m", model, "-p", PROMPT, "-t", threads, "-c", "512", "--temp", "0", "--ignore-eos", "-n"]
    first, _, _ = measured(common + ["1"])
    _, memory, errors = measured(common + ["129"])
    prompt, text = (float(x) for x in re.search(r"prompt .* ([\d.]+) tokens/s \| text .* ([\d.]+) tokens/s", errors).groups())
    return {"decode": text, "prompt": prompt, "first": first, "memory": memory}


def llama_speed(folder, model, threads):
    tests = json.loads(run([f"{folder}/llama/bin/llama-bench", "-m", model, "-t", threads, "-p", "14", "-n", "128", "-r", "1", "-o", "json"]).stdout)
    common = [f"{folder}/llama/bin/llama-completion", "-m", model, "-p", PROMPT, "-t", threads, "-c", "512", "--temp", "0", "-no-cnv", "--ignore-eos", "-n"]
    first, _, _ = measured(common + ["1"])
    _, memory, _ = measured(common + ["128"])
    return {"decode": next(t["avg_ts"] for t in tests if t["n_gen"]), "prompt": next(t["avg_ts"] for t in tests if t["n_prompt"]),
            "first": first, "memory": memory}


def interval(values):
    """Half the width of the 95% interval of the mean (Student's t, by its quantiles up to 10 runs)."""
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
    n = len(values)
    return t.get(n, 2.0) * statistics.stdev(values) / n ** 0.5 if n > 1 else float("nan")


def speed(a):
    ours, theirs = [], []
    for i in range(a.n + 1):                       # the first round warms up
        pair = kvt_speed(a.model, a.threads), llama_speed(a.folder, a.model, a.threads)
        if i:
            ours.append(pair[0])
            theirs.append(pair[1])
        print(f"\r{i}/{a.n}", end="", file=sys.stderr)
    print(file=sys.stderr)
    cpu = re.search(r"model name\s*:\s*(.*)", open("/proc/cpuinfo").read())
    compiler = re.search(r"CMAKE_CXX_COMPILER:\w+=(.*)", open(f"{a.folder}/llama/CMakeCache.txt").read())[1]
    print(f"{cpu[1] if cpu else 'unknown processor'}, {a.threads} threads, median of {a.n}; llama.cpp of {PACKAGE}, built by {os.path.basename(compiler)}")
    names = {"decode": "decode 128, tokens/s", "prompt": "prompt 14, tokens/s", "first": "start to first token, s", "memory": "peak memory, MB"}
    result = {}
    for key, name in names.items():
        k, l = [x[key] for x in ours], [x[key] for x in theirs]
        ratio = statistics.median(x / y for x, y in zip(k, l))
        result[key] = {"kvt": statistics.median(k), "llama.cpp": statistics.median(l), "ratio": ratio}
        print(f"{name:26} KVT {statistics.median(k):8.2f} ± {interval(k):<7.2f} llama.cpp {statistics.median(l):8.2f} ± {interval(l):<7.2f} ratio {ratio:.2f}")
    if a.json:
        json.dump(result, open(a.json, "w"), indent=1)


def adapter(a):
    base = f"{a.folder}/base-f32.gguf"
    run([f"{a.folder}/llama/bin/llama-quantize", "--allow-requantize", a.model, base, "F32"])
    sys.path.insert(0, f"{a.folder}/source")
    os.environ["LLAMA_CPP_LIB_PATH"] = os.path.abspath(f"{a.folder}/llama/bin")
    import llama_cpp
    import numpy as np
    worst = 0.0
    for lora in (None, a.adapter):
        command = [KVT, "logits", "-m", base, "-p", PROMPT, "--top", "1000000", "--json"] + (["--adapter", lora, "--any-base"] if lora else [])
        ours = json.loads(run(command).stdout)
        engine = llama_cpp.Llama(model_path=base, lora_path=lora, n_ctx=512, n_threads=2, verbose=False, type_k=0, type_v=0)
        engine.eval(ours["prompt_ids"])
        logits = llama_cpp.llama_get_logits_ith(engine.ctx, -1)
        theirs = np.ctypeslib.as_array(logits, shape=(engine.n_vocab(),)).copy()
        got = np.empty_like(theirs)
        for t in ours["top"]:
            got[t["id"]] = t["logit"]
        worst = max(worst, float(np.abs(got - theirs).max()))
        print(f"{'with the adapter' if lora else 'base':17} best token KVT {got.argmax()}, llama.cpp {theirs.argmax()}; largest difference of "
              f"{len(got)} scores {np.abs(got - theirs).max():.2e}")
    os.remove(base)
    sys.exit(worst > 2e-2)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = parser.add_subparsers(dest="command", required=True)
for name in ("build", "speed", "adapter"):
    c = commands.add_parser(name)
    c.add_argument("folder")
    if name != "build":
        c.add_argument("-m", "--model", required=True)
    if name == "speed":
        c.add_argument("-t", "--threads", default="2")
        c.add_argument("-n", type=int, default=10)
        c.add_argument("--json")
    if name == "adapter":
        c.add_argument("-a", "--adapter", required=True)
args = parser.parse_args()
if args.command == "build":
    build(args.folder)
else:
    {"speed": speed, "adapter": adapter}[args.command](args)
