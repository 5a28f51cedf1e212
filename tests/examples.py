#!/usr/bin/env python3
"""The examples of tools/examples do what they say, on the tiny model of the repository and on a tiny BERT.

usage: examples.py hello adapt two_voices search small_bert      (programs; a wrapper for foreign ones may stand before each, as meson gives it)
"""
import os, pathlib, signal, subprocess, sys, tempfile

root = pathlib.Path(os.environ.get("KVT_ROOT", "."))
tiny, manual = root / "tools/demo/tiny.gguf", root / "tools/demo/tiny.txt"
programs = sys.argv[1:]
wrapper = os.environ.get("MESON_EXE_WRAPPER", "").split()
hello, adapt, two_voices, search, small_bert = programs


def run(*command, status=0):
    p = subprocess.run([*wrapper, *map(str, command)], capture_output=True, text=True)
    assert p.returncode == status, f"{command}: exit status {p.returncode}\n{p.stdout}{p.stderr}"
    return p.stdout, p.stderr


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    out, err = run(hello, tiny, "Once upon a time")
    assert out.startswith("Once upon a time") and len(out) > 60 and "needs " in err, (out, err)
    _, err = run(hello, folder / "none.gguf", "x", status=1)
    assert "none.gguf" in err, err

    first, second = folder / "first.gguf", folder / "second.gguf"
    _, err = run(adapt, tiny, manual, first)
    assert first.exists() and "round 1/3" in err and "####" in err and "loss" in err, err
    # ^C once the first round is done, then on from there: the same bytes
    p = subprocess.Popen([*wrapper, adapt, str(tiny), str(manual), str(second)], stderr=subprocess.PIPE, text=True, bufsize=1)
    seen = ""
    while "round 2/3" not in seen:
        piece = p.stderr.read(1)
        assert piece, seen
        seen += piece
    p.send_signal(signal.SIGINT)
    rest = p.communicate()[1]
    if p.returncode != 0:                      # else it was faster than the signal
        assert p.returncode == 130 and not second.exists() and second.with_name("second.gguf.checkpoint").exists(), (p.returncode, rest)
        run(adapt, tiny, manual, second)
    assert second.read_bytes() == first.read_bytes()

    heldout = root / "tools/demo/tiny_heldout.txt"
    run(adapt, tiny, heldout, folder / "other.gguf")
    out, _ = run(two_voices, tiny, first, folder / "other.gguf")
    assert out.count("voice 1:") == 2 and out.count("voice 2:") == 2 and "in one session" in out, out

    run(small_bert, folder / "bert.gguf")
    (folder / "lines.txt").write_text("the cat sat on the mat\na dog\nz y x\nthe cat\n")
    out, _ = run(search, folder / "bert.gguf", folder / "lines.txt", "the cat sat on the mat")
    assert out.splitlines()[0].startswith("1.0000  the cat sat"), out
print("hello, adapt, two_voices, search")
