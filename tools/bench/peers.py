#!/usr/bin/env python3
"""KVT beside llama.cpp, ONNX Runtime and PyTorch on this machine: the same work in turns, and beside the machine's own limits.

    peers.py build   DIR                        fetch and build llama.cpp from the source package llama-cpp-python (PyPI), with and without AMX
    peers.py speed   DIR -m MODEL [--only decode,prefill] [--work Q8_0,Q4_0] [-n 10] [-t 2] [--json FILE]
    peers.py adapter DIR -m MODEL -a ADAPTER    the adapter's next-token scores in both engines, on the model unpacked to F32
             [--vector V] [--text T]            and what the control vector V of that adapter moves in llama.cpp, on the prompt and in a text's perplexity

    peers.py table   DIR --json FILE            rows of earlier runs as a table in Markdown

Parts of `speed`, in this order (default: all):

    limits   F32, int8 and AMX arithmetic between registers, and reading buffers as large as the weights, by 1 and 2 threads
    decode   128 tokens into an empty context, for each type of weights, beside llama-bench
    prefill  512 tokens at once, likewise
    start    process start to first token, and peak memory after 128 more, beside llama-completion
    encode   a BERT-base in F32, one thread, beside ONNX Runtime and PyTorch (encoders.py)
    train    LoRA of rank 8 on all linear layers and full fine-tuning, 4 x 128 tokens a step, beside PyTorch and PEFT (training.py)

Models of other types are made of MODEL by llama-quantize (--allow-requantize). Printed are medians of the rounds with 95 % intervals, ratios (above 1: KVT is
ahead, in time and memory too), and the share of the host's limit, which is measured in the same rounds. With --json rows join those of earlier
runs in the file, and a drawing of the ratios is written beside it (.svg). What cannot be run here is said and left out.
"""
import argparse
import json
import os
import re
import subprocess
import sys

import language
import llama_peer
import training
from limits import Limits
from side_by_side import OURS, Report, markdown, measure, summary

PARTS = ["limits", "decode", "prefill", "start", "encode", "train"]
PYTHON = ".cache/encoders/venv/bin/python"      # where the Makefile installs PyTorch and the others


def version(package):
    """What the peers' Python has installed, or None."""
    if not os.path.exists(PYTHON):
        return None
    done = subprocess.run([PYTHON, "-c", f"import importlib.metadata as m; print(m.version('{package}'))"], text=True, capture_output=True)
    return done.stdout.strip() or None


def host(o):
    """The machine and the peers' versions, by name."""
    cpu = re.search(r"model name\s*:\s*(.*)", open("/proc/cpuinfo").read())
    amx = " with AMX" if "amx_int8" in llama_peer.cpu_flags() else " with AVX-512" if "avx512f" in llama_peer.cpu_flags() else ""
    there = {name: version(package) for name, package in (("PyTorch", "torch"), ("PEFT", "peft"), ("transformers", "transformers"), ("ONNX Runtime", "onnxruntime"))}
    for name in (n for n, v in there.items() if not v):
        print(f"{name} is not installed in {PYTHON}: left out", file=sys.stderr)
    versions = [f"llama.cpp of {llama_peer.PACKAGE.replace('==', ' ')} ({llama_peer.compiler(o.folder)})"] + [f"{n} {v}" for n, v in there.items() if v]
    return {"processor": (cpu[1] if cpu else os.uname().machine) + amx, "threads": o.threads, "versions": versions}, there


def encode_rows(o, limits):
    """encoders.py has its own rounds; its times become rows here."""
    out = f"{o.folder}/encoders.json"
    subprocess.run([PYTHON, os.path.join(os.path.dirname(__file__), "encoders.py"), ".cache/encoders/model", "-n", str(o.rounds), "--kvt", o.kvt,
                    "--bench", f"{o.bench}/encoder_bench", "--json", out], check=True, stdout=subprocess.DEVNULL)
    peak = max(limits.rate("fma", 1) for _ in range(3))
    names = {"kvt": OURS, "onnxruntime": "ONNX Runtime", "torch": "PyTorch"}
    goals = {(1, 50): 1.15, (1, 128): 1.05, (1, 512): 1.0, (8, 128): 1.05}
    for shape in json.load(open(out))["shapes"]:
        flops = shape["flops"] / 1e9
        engines = {names[n]: summary([flops / t for t in times]) for n, times in shape["seconds"].items()}
        ratios = {p: summary([a / b for a, b in zip(engines[OURS]["values"], engines[p]["values"])]) for p in engines if p != OURS}
        row = {"part": "encode", "work": f"BERT-base {shape['B']} x {shape['S']}", "metric": "GFLOP/s", "more_is_better": True, "digits": 1, "engines": engines,
               "peer": "ONNX Runtime", "ratios": ratios, "ratio": ratios["ONNX Runtime"],
               "limit": {"name": "FMA peak, 1 thread", "value": peak, "share": engines[OURS]["median"] / peak}}
        if (shape["B"], shape["S"]) in goals:
            row["goal"] = goals[shape["B"], shape["S"]]
        yield row


def speed(o):
    about, there = host(o)
    limits = Limits(f"{o.bench}/host_limits")
    print(f"{about['processor']}, {o.threads} threads, median of {o.rounds} [95 % interval]; {', '.join(about['versions'])}")
    report = Report(o.json, about, PARTS)
    types = [t for t in language.TYPES if not o.works or t in o.works]
    for part in o.only:
        print(f"\n{part}")
        if part == "limits":
            sizes = sorted({language.sizes(o.kvt, llama_peer.model_file(o.folder, o.model, t))[0] / 1e6 for t in types})
            report.host["limits"] = limits.all(sizes)
            for name, by in report.host["limits"].items():
                print(f"{name:28} 1 thread {by[1]:8.1f}   2 threads {by[2]:8.1f}")
            report.write()
        elif part in ("decode", "prefill"):
            for t in types:
                report.add(measure(language.model_job(o, limits, part, t), o.rounds))
        elif part == "start":
            report.add(measure(language.start_job(o), o.rounds))
        elif part == "encode" and there["ONNX Runtime"] and there["PyTorch"]:
            report.add(list(encode_rows(o, limits)))
        elif part == "train":
            for job in training.jobs(o, limits, PYTHON if there["PyTorch"] and there["PEFT"] else None):
                report.add(measure(job, o.rounds))


def control_vector(path, source, channels, layers):
    """Directions of a control vector's file as llama.cpp wants them: from layer 1 on, [layers - 1, channels]."""
    sys.path.insert(0, f"{source}/vendor/llama.cpp/gguf-py")
    import gguf
    import numpy as np
    data = np.zeros((layers - 1, channels), dtype=np.float32)
    for t in gguf.GGUFReader(path).tensors:
        data[int(t.name.removeprefix("direction.")) - 1] = t.data
    return data


def perplexity(o, base, *more):
    out = llama_peer.run([f"{o.folder}/llama/bin/llama-perplexity", "-m", base, "-f", o.text, "-c", "512", "-t", str(o.threads), *more])
    return float(re.search(r"Final estimate: PPL = ([\d.]+)", out.stdout + out.stderr)[1])


def adapter(o):
    if os.path.exists(PYTHON) and not os.path.samefile(sys.prefix, os.path.dirname(os.path.dirname(PYTHON))):      # it has what the package needs
        os.execv(PYTHON, [PYTHON, *sys.argv])
    base = f"{o.folder}/base-f32.gguf"
    llama_peer.run([f"{o.folder}/llama/bin/llama-quantize", "--allow-requantize", o.model, base, "F32"])
    source = f"{o.folder}/source"
    sys.path.insert(0, source)
    os.environ["LLAMA_CPP_LIB_PATH"] = os.path.abspath(f"{o.folder}/llama/bin")
    import ctypes

    import llama_cpp
    import numpy as np

    def theirs(ids, lora=None, vector=None):
        engine = llama_cpp.Llama(model_path=base, lora_path=lora, n_ctx=512, n_threads=2, verbose=False, type_k=0, type_v=0)
        if vector:
            data = control_vector(vector, source, engine.n_embd(), layers := llama_cpp.llama_model_n_layer(engine.model))
            taken = llama_cpp.llama_set_adapter_cvec(engine.ctx, data.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), data.size, data.shape[1], 1, layers)
            if taken != 0:
                sys.exit(f"{vector}: llama.cpp refuses it with status {taken}")
        engine.eval(ids)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(engine.ctx, -1), shape=(engine.n_vocab(),)).copy()

    worst, scores = 0.0, {}
    for lora in (None, o.adapter):
        command = [o.kvt, "logits", "-m", base, "-p", language.PROMPT, "--top", "1000000", "--json"] + (["--adapter", lora, "--any-base", "--no-fusion"] if lora else [])
        ours = json.loads(llama_peer.run(command).stdout)
        ids = ours["prompt_ids"]
        want = scores[lora] = theirs(ids, lora)
        got = np.empty_like(want)
        for t in ours["top"]:
            got[t["id"]] = t["logit"]
        worst = max(worst, float(np.abs(got - want).max()))
        print(f"{'with the adapter' if lora else 'base':17} best token KVT {got.argmax()}, llama.cpp {want.argmax()}; largest difference of "
              f"{len(got)} scores {np.abs(got - want).max():.2e}")
    failed = worst > 2e-2
    if o.vector:
        moved = [x - x.mean() for x in (scores[o.adapter] - scores[None], theirs(ids, vector=o.vector) - scores[None])]
        cosine = float(moved[0] @ moved[1] / np.sqrt((moved[0] @ moved[0]) * (moved[1] @ moved[1])))
        print(f"control vector    accepted; its change of the scores and the adapter's: correlation {cosine:.2f}, sizes {moved[1].std():.3f} and {moved[0].std():.3f}")
        failed |= cosine <= 0
    if o.text:
        values = {"base": perplexity(o, base), "adapter": perplexity(o, base, "--lora", o.adapter)}
        if o.vector:
            values["control vector"] = perplexity(o, base, "--control-vector", o.vector)
        print("perplexity        " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()) + f" (llama-perplexity, {os.path.basename(o.text)}, windows of 512)")
    os.remove(base)
    sys.exit(failed)


def names(allowed):
    def parse(text):
        wrong = [x for x in text.split(",") if x not in allowed]
        if wrong:
            raise argparse.ArgumentTypeError(f"no {', '.join(wrong)}; there are: {', '.join(allowed)}")
        return sorted(text.split(","), key=allowed.index)
    return parse


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("build", "speed", "table", "adapter"):
        c = commands.add_parser(name, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        c.add_argument("folder", metavar="DIR", help="where llama.cpp is built and models are kept")
        c.add_argument("--kvt", default=os.environ.get("KVT", "build/kvt"), help="(default %(default)s)")
        if name in ("speed", "adapter"):
            c.add_argument("-m", "--model", required=True)
        if name == "table":
            c.add_argument("--json", required=True)
        if name == "speed":
            c.add_argument("--only", type=names(PARTS), default=PARTS, help=f"parts: {','.join(PARTS)} (default: all)")
            c.add_argument("--work", dest="works", type=names(language.TYPES + [k[0] for k in training.KINDS]), help="of those parts only these types or kinds of training")
            c.add_argument("--bench", default="build", help="folder of the benchmark programs (default %(default)s)")
            c.add_argument("-t", "--threads", type=int, default=2)
            c.add_argument("-n", "--rounds", type=int, default=10)
            c.add_argument("--json", help="rows are written here, and the drawing beside it")
        if name == "adapter":
            c.add_argument("-a", "--adapter", required=True)
            c.add_argument("--vector", help="the same adapter as a control vector (kvt export --to control-vector)")
            c.add_argument("--text", help="a text of the adapter's domain")
            c.add_argument("-t", "--threads", type=int, default=2)
    o = parser.parse_args()
    if o.command == "build":
        llama_peer.build(o.folder)
    elif o.command == "table":
        with open(o.json) as file:
            print(markdown(json.load(file)["rows"]))
    else:
        {"speed": speed, "adapter": adapter}[o.command](o)


if __name__ == "__main__":
    main()
