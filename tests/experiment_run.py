#!/usr/bin/env python3
"""An experiment from file to table:  tests/experiment_run.py BUILD/kvt

A small model, two domains, a method that gains, one whose steps gain nothing (it stays the base), KVT in Q8_0, an adapter that is stored with a fusion of its own. The runs' numbers are those of the commands they
consist of; what is done is not done again; a killed experiment goes on; a run that fails names its command.
"""
import json, os, pathlib, shutil, signal, subprocess, sys, tempfile, time

kvt = os.path.abspath(sys.argv[1])
demo = pathlib.Path(__file__).resolve().parent.parent / "tools/demo"
passed = failed = 0


def check(ok, what, more=""):
    global passed, failed
    passed += bool(ok)
    failed += not ok
    if not ok:
        print(f"FAILED: {what}\n  {more}")


def experiment(folder, *more):
    return subprocess.run([kvt, "experiment", folder / "e.json", "--data", folder, "-o", folder / "out", "--jobs", "2", *more], capture_output=True, text=True, timeout=600)


methods = [{"name": "LoRA", "args": ["--method", "lora", "--rank", "2", "--steps", "6", "--eval-every", "3"], "rates": ["1e-3", "1e-2"]},
           {"name": "too far", "args": ["--method", "lora-xs", "--rank", "4", "--steps", "4", "--eval-every", "2"], "rates": ["100"]},
           {"name": "KVT", "args": ["--method", "kvt", "--rounds", "1", "--k", "4", "--learn-validation", "--refine", "6", "--rank", "1", "--lr", "1e-2", "--mean-rank", "2", "--out-type", "Q8_0"],
            "fuse": False},
           {"name": "by itself", "args": ["--method", "lora", "--rank", "2", "--steps", "6", "--lr", "1e-2", "--fuse", "0"], "fuse": False}]      # lambda = 0: the base
settings = {"name": "small", "model": "tiny.gguf", "domains": [{"name": "tale", "text": "tale.txt"}, {"name": "manual", "text": "manual.txt"}], "kept": "manual.txt",
            "kept_bytes": 1024, "sizes": [1024], "validation_bytes": 1024, "test_bytes": 1024, "length": 32, "seeds": [0], "reference": "LoRA", "args": ["--batch", "2"], "methods": methods}

with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    for file in ("tiny.gguf", "manual.txt"):
        shutil.copy(demo / file, folder)
    (folder / "tale.txt").write_text((demo / "tiny_heldout.txt").read_text() + (demo / "tiny_validation.txt").read_text() + (demo / "tiny.txt").read_text())
    (folder / "e.json").write_text(json.dumps(settings))

    # Killed when the first runs are done, then run to the end
    first = subprocess.Popen([kvt, "experiment", folder / "e.json", "--data", folder, "-o", folder / "out", "--jobs", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)
    cells = folder / "out/cells"
    for _ in range(3000):
        if len(list(cells.glob("*.json"))) >= 2 or first.poll() is not None:
            break
        time.sleep(0.02)
    if first.poll() is None:
        os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = {p.name: p.stat().st_mtime_ns for p in cells.glob("*.json")}
    check(2 <= len(before) < 12, "killed in the middle", sorted(before))
    whole = experiment(folder)
    check(whole.returncode == 0, "goes on to the end", whole.stderr[-600:])
    done = {p.name: json.loads(p.read_text()) for p in cells.glob("*.json")}
    check(len(done) == 12, "2 bases and 10 runs", sorted(done))
    check(all((cells / n).stat().st_mtime_ns == t for n, t in before.items()), "what was done is not done again")
    check(not [p.name for p in cells.iterdir() if p.suffix != ".json"], "nothing else is left", [p.name for p in cells.iterdir()])
    for domain in ("tale", "manual"):
        base = done[f"{domain}-base-0.json"]
        nothing, kvt_run, lora = done[f"{domain}-1024-too-far-100-0.json"], done[f"{domain}-1024-KVT-0.json"], done[f"{domain}-1024-LoRA-1e-2-0.json"]
        check(nothing["test"] == nothing["fused"] == base["test"] and nothing["kept"] == base["kept"] and nothing["stored"] == 0, f"{domain}: no step gains: it stays the base", nothing)
        check(lora["test"] < base["test"] and kvt_run["test"] < base["test"], f"{domain}: LoRA and KVT gain", (base, lora, kvt_run))
        check(kvt_run["fused"] is None and lora["fused"] is not None and kvt_run["stored"] > 0 and kvt_run["passes"] > 1, f"{domain}: what is reported of KVT and LoRA", (lora, kvt_run))
        itself = done[f"{domain}-1024-by-itself-0.json"]
        check(abs(itself["test"] - base["test"]) < 1e-4 and itself["fused"] is None and itself["stored"] > 0, f"{domain}: an adapter's own fusion is part of it", (base, itself))
    table = (folder / "out/table.md").read_text()
    check(all(m["name"] in table for m in methods) and (folder / "out/plot.svg").read_text().startswith("<svg"), "table and plot", table[:400])

    # Of a classifier the head that was fitted stays, where rounds gain nothing
    lines = [f"{label}\tThe {word} is {i}" for i in range(12) for label, word in (("a", "pump"), ("b", "valve"))]
    (folder / "labelled.tsv").write_text("\n".join(lines) + "\n")
    model = ["-m", folder / "tiny.gguf"]
    adapt = subprocess.run([kvt, "adapt", *model, "--task", "classify", "--method", "kvt", "--eta", "1000", "--rounds", "1", "--data", folder / "labelled.tsv", "--valid",
                            folder / "labelled.tsv", "-o", folder / "head.gguf"], capture_output=True, text=True, timeout=600)
    judged = subprocess.run([kvt, "eval", *model, "--adapter", folder / "head.gguf", "--labelled", folder / "labelled.tsv", "--json"], capture_output=True, text=True, timeout=600)
    check(adapt.returncode == 0 and "in 0 rounds" in adapt.stderr + adapt.stdout and judged.returncode == 0 and json.loads(judged.stdout)["right"] > 12, "a head alone is kept",
          adapt.stderr[-300:] + adapt.stdout[-300:] + judged.stderr + judged.stdout)

    methods[0]["args"] += ["--rank", "no"]
    (folder / "e.json").write_text(json.dumps({**settings, "sizes": [1025]}))
    wrong = experiment(folder)
    check(wrong.returncode == 1 and "adapt -m" in wrong.stderr and "--rank no" in wrong.stderr, "a run that fails names its command", wrong.stderr[-300:])

print(f"test cases: {passed + failed} | {passed} passed | {failed} failed")
sys.exit(1 if failed else 0)
