#!/usr/bin/env python3
"""Training that is killed (SIGKILL) at random moments and resumed ends with the same bytes as training that was not:

    tests/kills.py BUILD/kvt KILLS [--seed N]

Runs on tools/demo/tiny.gguf: 40 steps of LoRA, with a checkpoint after each, and KVT, with one after each round but the last, which refines. One is started, killed after a random part of the time it takes, and resumed,
until it is done; then the next run begins. At every kill the checkpoint must be whole, and at the end of each run the adapter equal and nothing else
left in the folder. Of the kills some hit the start, some a step, some the writing of a checkpoint.
"""
import argparse, pathlib, random, subprocess, sys, tempfile, time

parser = argparse.ArgumentParser()
parser.add_argument("kvt")
parser.add_argument("kills", type=int)
parser.add_argument("--seed", type=int, default=1)
arguments = parser.parse_args()
demo = pathlib.Path(__file__).resolve().parent.parent / "tools/demo"
rng = random.Random(arguments.seed)


METHODS = [["--method", "lora", "--steps", "40", "--eval-every", "10", "--save-every", "1"],
           ["--method", "kvt", "--rounds", "3", "--k", "2", "--refine", "20", "--learn-validation", "--mean-rank", "3"]]


def command(method, out, resume):
    return [arguments.kvt, "adapt", "-m", str(demo / "tiny.gguf"), "--data", str(demo / "tiny.txt"), "--valid", str(demo / "tiny_validation.txt"),
            "--rank", "2", "--length", "32", "--batch", "2", "-t", "1", "-o", str(out)] + METHODS[method] + (["--resume"] if resume else [])


def fail(message):
    print("FAILED:", message)
    sys.exit(1)


with tempfile.TemporaryDirectory(prefix="kvt-kills-") as name:
    folder = pathlib.Path(name)
    out, checkpoint = folder / "adapter.gguf", folder / "adapter.gguf.checkpoint"
    wholes, all_expected = [], []
    for method in range(len(METHODS)):
        began = time.monotonic()
        subprocess.run(command(method, out, False), check=True, capture_output=True)
        wholes.append(time.monotonic() - began)
        all_expected.append(out.read_bytes())
        out.unlink()

    kills = runs = before_first = stray = 0
    while kills < arguments.kills:
        whole, expected = wholes[runs % len(METHODS)], all_expected[runs % len(METHODS)]
        process = subprocess.Popen(command(runs % len(METHODS), out, checkpoint.exists()), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, error = process.communicate(timeout=rng.uniform(0, 1.1 * whole))
            if process.returncode != 0:
                fail(f"after {kills} kills the run ends with status {process.returncode}: {error.strip()}")
            if out.read_bytes() != expected:
                fail(f"after {kills} kills the adapter differs from that of the run that was not killed")
            out.unlink()
            left = [p.name for p in folder.iterdir()]
            if left:
                fail(f"left behind: {left}")
            runs += 1
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            before_first += not checkpoint.exists()
            for p in folder.iterdir():
                if p not in (out, checkpoint):           # a moment between the naming of a complete file and its move into place
                    stray += 1
                    p.unlink()
            if out.exists() and out.read_bytes() != expected:
                fail("a killed run left an adapter that is not whole")
            if out.exists():                             # it was done, but for its last words
                out.unlink()
                checkpoint.unlink(missing_ok=True)
    print(f"{kills} kills ({before_first} before the first checkpoint), {runs} runs done in between, each with the bytes of the run without kills; "
          f"{stray} temporary files left; whole runs take {' and '.join(f'{w:.2f}' for w in wholes)} s")
