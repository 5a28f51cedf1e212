"""Running a language model: decoding, prefill, process start to first token, peak memory; beside llama.cpp."""
import json
import os
import re
import subprocess

import llama_peer
from side_by_side import OURS, Job, Metric

TYPES = ["F32", "F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL"]
PROMPT = "The history of the city begins in the early Middle Ages when a small"      # 14 tokens
WRITTEN, READ = 128, 512


class Worker:
    """A process that answers each line with a line."""

    def __init__(self, command, **environment):
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(self.command[:3])} … ended with status {self.process.wait()}")
        return answer.split()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def sizes(kvt, model):
    """Of a model file: bytes of the weights that every token reads, and multiply-adds of its matrices, those of the blocks and that of the output."""
    tensors = json.loads(llama_peer.run([kvt, "inspect", "--json", model]).stdout)["tensors"]
    names = {t["name"] for t in tensors}
    read = sum(t["bytes"] for t in tensors if t["name"] != "token_embd.weight" or "output.weight" not in names)
    products = lambda wanted: sum(t["shape"][0] * t["shape"][1] for t in tensors if len(t["shape"]) == 2 and wanted(t["name"]))
    return read, products(lambda n: n.startswith("blk.")), products(lambda n: n == ("output.weight" if "output.weight" in names else "token_embd.weight"))


def model_job(o, limits, part, type_name):
    """Decoding or prefill with one type of weights. Decoding is measured against reading the weights, prefill against the arithmetic of its type."""
    model = llama_peer.model_file(o.folder, o.model, type_name)
    read, blocks, _ = sizes(o.kvt, model)
    decode = part == "decode"
    tokens = WRITTEN if decode else READ
    worker = Worker([f"{o.bench}/lm_bench", model, str(o.threads)])
    engines = {OURS: lambda: {"rate": tokens / float(worker.ask(f"{part} {tokens}")[0])}}
    for name, folder in llama_peer.builds().items():
        engines[name] = lambda folder=folder: {"rate": llama_peer.bench(f"{o.folder}/{folder}", model, o.threads, 0 if decode else tokens, tokens if decode else 0)}
    if decode:
        limit = ("read bandwidth", lambda: limits.rate("read", read / 1e6, o.threads))
    elif type_name != "F32" and limits.has_amx():
        limit = ("AMX bf16 peak", lambda: limits.rate("amx-bf16", o.threads)) if type_name in ("F16", "BF16") else ("AMX int8 peak", lambda: limits.rate("amx-int8", o.threads))
    else:
        limit = ("FMA peak", lambda: limits.rate("fma", o.threads))
    work = read if decode else 2 * blocks            # prefill: only the last token's scores are computed
    return Job(part, type_name, [Metric("rate", "tokens/s", scale=work / 1e9, goal=1.0)], engines, list(llama_peer.builds()), limit, [worker.close])


def start_job(o):
    """kvt run beside llama-completion: from the start of the process to its first token, and peak memory after 128 more."""
    common = [o.kvt, "run", "-m", o.model, "-p", PROMPT, "-t", str(o.threads), "-c", "512", "--temp", "0", "--ignore-eos", "-n"]

    def ours():
        return {"first": llama_peer.measured(common + ["1"])[0], "memory": llama_peer.measured(common + [str(WRITTEN + 1)])[1]}

    def theirs(folder):
        return {"first": llama_peer.completion(f"{o.folder}/{folder}", o.model, o.threads, PROMPT, 1)[0],
                "memory": llama_peer.completion(f"{o.folder}/{folder}", o.model, o.threads, PROMPT, WRITTEN + 1)[1]}

    engines = {OURS: ours} | {name: (lambda f=folder: theirs(f)) for name, folder in llama_peer.builds().items()}
    metrics = [Metric("first", "s", False, digits=3, goal=1.0), Metric("memory", "MB", False, digits=0, goal=1.0)]
    own = re.search(r"\.([A-Z0-9_]+)\.gguf$", o.model)
    return Job("start", f"prompt of 14, {own[1] if own else 'model'}", metrics, engines, list(llama_peer.builds()))
