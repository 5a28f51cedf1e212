#!/usr/bin/env python3
"""A bad day of the command line:  tests/badday.py BUILD/kvt

Files that cannot grow (a full disk, a limit), folders that cannot be written, models that shrink while they are mapped, pictures that claim to be large,
^C at each stage. Each time the
exit status says so (1 failed, 130 interrupted), one line on standard error says why, and the user's files are as they were. Needs Linux.
"""
import contextlib, os, pathlib, resource, shutil, signal, struct, subprocess, sys, tempfile, time, zlib

kvt = os.path.abspath(sys.argv[1])
demo = pathlib.Path(__file__).resolve().parent.parent / "tools/demo"
model, text = str(demo / "tiny.gguf"), str(demo / "tiny.txt")
passed = failed = 0
skipped = []


def check(ok, what, more=""):
    global passed, failed
    passed += bool(ok)
    failed += not ok
    if not ok:
        print(f"FAILED: {what}\n  {more}")


def run(*arguments, **options):
    return subprocess.run([kvt, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


def adapt(out, steps=4, *more):
    return ["adapt", "-m", model, "--data", text, "--rank", "2", "--length", "32", "--batch", "1", "--steps", steps, "-t", "1", "-o", out, *more]


def is_error(result, words, what):
    """Exit status 1, one line `kvt: …` with these words on standard error, no crash."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    check(result.returncode == 1 and lines and lines[-1].startswith("kvt: ") and all(w in lines[-1] for w in words), what,
          f"status {result.returncode}, standard error: {result.stderr[-300:]!r}")


def commands(folder):
    """What writes files, with its output; the checkpoint comes first in a run that stores one."""
    adapter = folder / "in" / "adapter.gguf"
    return [("adapt", adapt(folder / "out.gguf"), "out.gguf"),
            ("merge", ["merge", "-m", model, "--adapter", adapter, "-o", folder / "out.gguf"], "out.gguf"),
            ("export", ["export", "-m", model, "--adapter", adapter, "--to", "lora", "-o", folder / "out.gguf"], "out.gguf"),
            ("checkpoint", adapt(folder / "other.gguf", 4, "--save-every", "1", "--checkpoint", folder / "out.gguf"), "out.gguf"),
            ("train-tokenizer", ["train-tokenizer", text, "--size", "300", "-o", folder / "out.gguf"], "out.gguf")]


def with_old_file(folder, name):
    (folder / name).write_bytes(b"what the user had")


def refused(folder, words, what, **options):
    for name, arguments, out in commands(folder):
        with_old_file(folder, out)
        result = run(*arguments, **options)
        is_error(result, [out, *words], f"{what}: {name}")
        check((folder / out).read_bytes() == b"what the user had", f"{what}: {name}: the old file is intact")
        left = sorted(p.name for p in folder.iterdir())
        check(left == ["in", out], f"{what}: {name}: nothing else is left", left)
        (folder / out).unlink()


@contextlib.contextmanager
def folder_with_adapter():
    with tempfile.TemporaryDirectory(prefix="kvt-badday-") as name:
        folder = pathlib.Path(name)
        os.chmod(folder, 0o777)
        (folder / "in").mkdir()
        result = run(*adapt(folder / "in" / "adapter.gguf"))
        check(result.returncode == 0, "an adapter to begin with", result.stderr)
        yield folder


def file_size_limit(folder):
    def limited(ignore):
        def prepare():
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
            if ignore:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        return prepare
    for ignore in (True, False):
        refused(folder, ["File too large"], f"file size limit, SIGXFSZ {'ignored' if ignore else 'as it is'}", preexec_fn=limited(ignore))


def full_disk(folder):
    disk = folder / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], stderr=subprocess.DEVNULL).returncode != 0:
        skipped.append("a full disk: no right to mount a tmpfs")
        return disk.rmdir()
    try:
        (disk / "in").mkdir()
        shutil.copy(folder / "in" / "adapter.gguf", disk / "in")
        ballast = os.open(disk / "in" / "ballast", os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while os.write(ballast, b"\0" * 4096):
                pass
        os.ftruncate(ballast, os.fstat(ballast).st_size - 8192)                        # room for the old file and little more
        os.close(ballast)
        refused(disk, ["No space left"], "full disk")
    finally:
        subprocess.run(["umount", disk])
        disk.rmdir()


def read_only_folder(folder):
    """As a user who may not write there: root may write anywhere."""
    nobody = (lambda: os.setuid(65534)) if os.geteuid() == 0 else None
    closed = folder / "closed"
    closed.mkdir()
    (closed / "out.gguf").write_bytes(b"what the user had")
    os.chmod(closed, 0o555)
    can = subprocess.run([kvt, "--version"], capture_output=True, preexec_fn=nobody)
    if can.returncode != 0:
        skipped.append("a read-only folder: the program cannot be run as another user")
    else:
        began = time.monotonic()
        is_error(run(*adapt(closed / "out.gguf", 10000), preexec_fn=nobody), ["out.gguf", "Permission denied"], "read-only folder: adapt")
        check(time.monotonic() - began < 20, "read-only folder: told before the work, not after it")
        is_error(run("merge", "-m", model, "--adapter", folder / "in" / "adapter.gguf", "-o", closed / "out.gguf", preexec_fn=nobody), ["out.gguf", "Permission denied"],
                 "read-only folder: merge")
        check((closed / "out.gguf").read_bytes() == b"what the user had", "read-only folder: the old file is intact")
    os.chmod(closed, 0o755)


def start(*arguments):
    process = subprocess.Popen([kvt, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))      # jobs in the background of a shell ignore it
    while process.poll() is None and os.readlink(f"/proc/{process.pid}/exe") != os.path.realpath(kvt):      # before that a signal would be Python's
        time.sleep(0.001)
    return process


def shrinking_model(folder):
    """The file is cut while a generation reads it through its mapping."""
    for options, expect_error in (([], True), (["--no-mmap"], False)):
        copy = folder / "shrinks.gguf"
        shutil.copy(model, copy)
        process = start("run", "-m", copy, "-p", "Once", "-n", "200", "--ignore-eos", "--temp", "0", "-t", "1", *options)
        process.stdout.read(8)                                 # it is at work
        os.truncate(copy, 4096)
        _, error = process.communicate(timeout=60)
        error = error.decode(errors="replace")
        if expect_error:
            check(process.returncode == 1 and "shrinks.gguf" in error and "while" in error, "a model cut while mapped", f"status {process.returncode}, {error[-300:]!r}")
        else:
            check(process.returncode == 0, "a model cut after it was read", f"status {process.returncode}, {error[-300:]!r}")
    is_error(run("run", "-m", folder / "shrinks.gguf", "-p", "x"), ["shrinks.gguf"], "a model cut before it is opened")


def picture_that_claims_to_be_large(folder):
    """A PNG of 100 bytes whose header says 9000 × 9000, and one whose data says it goes on for a gigabyte."""
    vit = folder / "vit.gguf"
    check(run("convert", demo.parent.parent / "tests/golden/vit/model.safetensors", vit).returncode == 0, "a ViT to look at pictures")

    def chunk(kind, data, length=None):
        body = kind + data
        return struct.pack(">I", len(data) if length is None else length) + body + struct.pack(">I", zlib.crc32(body))

    for name, size, length, words in (("pixels", 9000, None, ["fill the memory"]), ("data", 8, 1 << 30, [])):
        pictures = folder / name / "class"
        pictures.mkdir(parents=True)
        header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
        (pictures / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64)), length) + chunk(b"IEND", b""))
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        if run("--version", preexec_fn=limit).returncode != 0:                        # a sanitizer's build takes more
            limit = None
        is_error(run("eval", "-m", vit, "--images", folder / name, "-t", "1", preexec_fn=limit), ["large.png", *words], f"a picture with too many {name}")


def interrupt(process, delay):
    time.sleep(delay)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    return time.monotonic() - began, out.decode(errors="replace"), error.decode(errors="replace")


def interrupts(folder):
    def gone(status):
        return status in (130, -signal.SIGINT)                 # a shell shows 130 for both
    for delay in (0, 0.005, 0.02, 0.1):
        process = start("run", "-m", model, "-p", "Once", "-n", "100000", "-c", "8192", "--ignore-eos", "-t", "1")
        interrupt(process, delay)
        check(gone(process.returncode), f"^C {delay} s after the start of run", process.returncode)
    prompt = folder / "long.txt"
    prompt.write_text("Once there was a cat. " * 2400)
    process = start("run", "-m", model, "-f", prompt, "--no-echo", "-c", "32768", "-n", "1", "-t", "1")
    seconds, _, error = interrupt(process, 0.3)
    check(gone(process.returncode), "^C while a long prompt is read", f"{process.returncode} {error[-200:]}")
    check(seconds < 2, "^C while a long prompt is read: at once", f"{seconds:.1f} s")
    process = start("run", "-m", model, "-p", "Once", "-n", "100000", "-c", "8192", "--ignore-eos", "-t", "1")
    process.stdout.read(20)
    interrupt(process, 0)
    check(process.returncode == 130, "^C while text is written", process.returncode)

    # Training: the checkpoint is kept, and the resumed run ends as one that was not interrupted.
    whole, cut = folder / "whole.gguf", folder / "cut.gguf"
    began = time.monotonic()
    check(run(*adapt(whole, 400)).returncode == 0, "training to compare with")
    process = start(*adapt(cut, 400))
    interrupt(process, (time.monotonic() - began) / 2)
    if process.returncode == 0:
        skipped.append("^C in training: the run was done before")
        return
    check(process.returncode == 130 and not cut.exists(), "^C in training", process.returncode)
    if pathlib.Path(f"{cut}.checkpoint").exists():
        check(run(*adapt(cut, 400, "--resume")).returncode == 0 and cut.read_bytes() == whole.read_bytes(), "resumed after ^C: the same bytes")
    else:
        check(False, "^C in training: the checkpoint is kept", sorted(p.name for p in folder.iterdir()))
    # A second ^C does not wait.
    process = start(*adapt(cut, 100000))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    check(gone(process.returncode), "^C twice in training", process.returncode)


with folder_with_adapter() as folder:
    file_size_limit(folder)
    full_disk(folder)
    read_only_folder(folder)
    shrinking_model(folder)
    picture_that_claims_to_be_large(folder)
    interrupts(folder)
for reason in skipped:
    print("SKIPPED:", reason)
print(f"test cases: {passed + failed} | {passed} passed | {failed} failed")
sys.exit(failed > 0)
