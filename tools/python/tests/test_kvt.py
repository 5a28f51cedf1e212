"""The package as a user has it: an installed wheel, and the tiny model of the repository (KVT_ROOT, else two folders up)."""
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import kvt

ROOT = Path(os.environ.get("KVT_ROOT") or Path(__file__).resolve().parents[3])
TINY = ROOT / "tools/demo/tiny.gguf"
TEXTS = [line for line in (ROOT / "tools/demo/tiny.txt").read_text().splitlines() if line]
QUICK = dict(rounds=2, k=4, rank=4, steps=4, length=48, validation_split=0.25)


@pytest.fixture(scope="module")
def model():
    return kvt.Model(TINY, threads=2)


def story(model, **options):
    return "".join(model.session().generate("Once upon a time", max_tokens=24, **options))


def test_versions_and_info(model):
    assert kvt.__version__.count(".") == 2
    assert "llama" in kvt.features()
    assert model.architecture == "llama" and model.vocabulary > 100 and not model.is_encoder
    assert "fingerprint" in repr(model)


def test_generate_is_an_iterator(model):
    pieces = model.session().generate("Once upon a time", max_tokens=24)
    first = next(pieces)
    assert isinstance(first, str) and first
    text = first + "".join(pieces)
    assert len(text) > 20
    assert story(model) == text
    assert story(model, temperature=0.9, seed=1) != story(model, temperature=0.9, seed=2)
    assert story(model, temperature=0.9, seed=1) == story(model, temperature=0.9, seed=1)


def test_from_memory_and_descriptor(model):
    data = TINY.read_bytes()
    assert story(kvt.Model(data)) == story(model)
    array = np.frombuffer(data, np.uint8)
    in_place = kvt.Model(array)
    assert in_place.memory_used()[0] < len(data)
    with open(TINY, "rb") as f:
        assert story(kvt.Model((f.fileno(), 0, 0))) == story(model)
    assert story(kvt.Model(TINY, map=True)) == story(model)


def test_arranged_weights_and_cache_types(model):
    expected = story(model)
    for arrange in (True, False):
        for map in (True, False):
            need = kvt.memory_needed(TINY, map=map, arrange=arrange)
            other = kvt.Model(TINY, map=map, arrange=arrange)
            assert other.memory_used()[0] == need.weights + need.tables
            assert story(other) == expected
    caches = [kvt.memory_needed(TINY, cache_type=t).cache for t in ("f32", "f16", "q8_0")]
    assert caches[0] == 2 * caches[1] and 64 * caches[2] == 34 * caches[1]
    for cache_type in ("f32", "f16", "q8_0"):
        assert "".join(model.session(cache_type=cache_type).generate("Once upon a time", max_tokens=24))
    with pytest.raises(KeyError):
        model.session(cache_type="q4_0")


def test_tokens(model):
    ids = model.tokenize("Once upon a time – größer")
    assert model.detokenize(ids) == "Once upon a time – größer"
    assert model.tokenize("") == []
    assert "Hello" in model.chat([("system", "Be brief."), ("user", "Hello")], template="llama3")


def test_scores_are_not_copied_and_keep_their_session_alive(model):
    session = model.session(context=64)
    scores = session.evaluate(model.tokenize("Once upon a"))
    assert scores.shape == (model.vocabulary,) and scores.dtype == np.float32 and not scores.flags.writeable and not scores.flags.owndata
    assert np.shares_memory(scores, session.logits)
    before = scores.copy()
    session.evaluate([int(scores.argmax())])
    assert not np.array_equal(before, scores)      # the same numbers, which have changed
    last = scores.copy()
    del session
    gc.collect()
    assert np.array_equal(last, scores)
    session = model.session(context=64)
    assert len(session) == 0 and session.context == 64
    session.evaluate([1, 2, 3])
    session.truncate(1)
    assert session.tokens.tolist() == [1]


@pytest.mark.parametrize("method", ["kvt", "lora"])
def test_adapt_attach_write_open(model, method, tmp_path):
    seen = []
    options = dict(QUICK) if method == "kvt" else dict(QUICK, learning_rate=1e-2)
    adapter = model.adapt(TEXTS, method, progress=seen.append, **options)
    assert {p.stage for p in seen} >= {"validating", "extracting" if method == "kvt" else "training"}
    adapter.write(tmp_path / "a.gguf")
    again = model.adapter(tmp_path / "a.gguf")
    session = model.session()

    def loss(*attached):
        session.detach(cache="clear")
        for a in attached:
            session.attach(a, 1.0)
        ids, total = model.tokenize(TEXTS[0])[:40], 0.0
        for now, following in zip(ids, ids[1:]):
            z = session.evaluate([now]).astype(np.float64)
            total += np.log(np.exp(z - z.max()).sum()) + z.max() - z[following]
        return total

    assert loss(adapter) < loss()
    assert loss(adapter) == loss(again)
    with pytest.raises(kvt.InvalidArgument, match="attached already"):
        session.attach(again), session.attach(again)


def test_pairs_generators_and_validation(model):
    adapter = model.adapt(((p, c) for p, c in [("The zindle is afraid of", " drums."), ("It sleeps in a", " hat.")]), "lora", steps=2, learning_rate=1e-3)
    assert isinstance(adapter, kvt.Adapter)
    model.adapt(TEXTS, validation=TEXTS[-2:], rounds=1, k=2, length=48)
    assert model.adapt_memory_needed("lora", rank=4) > 1000
    with pytest.raises(TypeError, match="no option 'magic'.*learning_rate"):
        model.adapt(TEXTS, magic=1)
    with pytest.raises(ZeroDivisionError):
        model.adapt((1 / 0 for _ in range(3)), "lora", steps=1)


def test_cancel_and_resume(model, tmp_path):
    whole = tmp_path / "whole.gguf"
    options = dict(QUICK, learning_rate=1e-2)
    model.adapt(TEXTS, "lora", **options).write(whole)
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(kvt.Cancelled, match="resume"):
        model.adapt(TEXTS, "lora", checkpoint=checkpoint, progress=lambda p: p.stage == "training" and p.done == 2, **options)
    assert checkpoint.exists()
    model.adapt(TEXTS, "lora", checkpoint=checkpoint, resume=True, **options).write(tmp_path / "resumed.gguf")
    assert (tmp_path / "resumed.gguf").read_bytes() == whole.read_bytes()

    def raises(p):
        raise RuntimeError("from the progress function")
    with pytest.raises(RuntimeError, match="from the progress function"):
        model.adapt(TEXTS, "lora", progress=raises, **options)


def test_adapters_between_tokens(model):
    a, b = (model.adapt(TEXTS, "lora", seed=s, **dict(QUICK, learning_rate=3e-2)) for s in (1, 2))
    session = model.session()
    prompt = model.tokenize("The zindle lives")
    plain = session.evaluate(prompt).copy()
    session.attach(a, cache="reevaluate")
    with_a = session.logits.copy()
    assert not np.array_equal(plain, with_a)
    session.swap(b, cache="reevaluate")
    assert not np.array_equal(session.logits, with_a)
    session.swap(a, cache="reevaluate")
    assert np.array_equal(session.logits, with_a)
    session.scale(a, 0.0, cache="reevaluate")
    assert np.allclose(session.logits, plain, atol=1e-5)
    session.detach(cache="clear")
    assert len(session) == 0


def test_knowledge(model, tmp_path):
    knowledge = model.extract(TEXTS, length=48, concepts=3)
    assert knowledge.before.shape == (model.vocabulary,) and np.isclose(knowledge.before.sum(), 1, atol=1e-3)
    assert knowledge.directions.shape == (knowledge.positions, model.channels)
    assert np.allclose(np.linalg.norm(knowledge.concepts, axis=1), 1, atol=1e-4)
    assert "zindle" in knowledge.report() and "<html" in knowledge.report("html")
    assert knowledge.report("json")["positions"] == knowledge.positions
    knowledge.write(tmp_path / "k.gguf")
    directions = knowledge.directions
    del knowledge
    gc.collect()
    assert np.isfinite(directions).all()


def test_exceptions_carry_the_message(model, tmp_path):
    with pytest.raises(kvt.FileError, match="none.gguf") as e:
        kvt.Model(tmp_path / "none.gguf")
    assert isinstance(e.value, OSError) and isinstance(e.value, kvt.Error)
    (tmp_path / "short.gguf").write_bytes(TINY.read_bytes()[:5000])
    with pytest.raises(kvt.BadFile, match="short.gguf"):
        kvt.Model(tmp_path / "short.gguf")
    with pytest.raises(kvt.MemoryLimit, match="memory limit of 1000"):
        kvt.Model(TINY, memory_limit=1000)
    with pytest.raises(kvt.ContextFull):
        model.session(context=8).evaluate(range(9))
    with pytest.raises(kvt.Unsupported):
        model.embed(["a text"])
    with pytest.raises(ValueError):
        model.session().evaluate([10 ** 8])
    need = kvt.memory_needed(TINY, context=64)
    assert need.total == need.weights + need.tables + need.cache + need.work


def test_threads(model):
    expected, got = story(model), [None] * 4

    def work(i):
        got[i] = story(model)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert got == [expected] * 4


@pytest.mark.parametrize("call", ["model.adapt(texts * 50, 'lora', steps=100000)", "model.adapt(texts * 200, rounds=50)",
                                  "model.session(context=400000).evaluate([5] * 390000)"])
def test_interrupt(call):
    """^C ends a long call at once, as KeyboardInterrupt."""
    program = ("import sys, time, kvt\nmodel = kvt.Model(sys.argv[1], threads=1)\ntexts = open(sys.argv[2]).read().splitlines()\nprint('ready', flush=True)\n"
               f"try:\n    {call}\nexcept KeyboardInterrupt:\n    print('interrupted')\n")
    p = subprocess.Popen([sys.executable, "-c", program, TINY, ROOT / "tools/demo/tiny.txt"], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "ready\n"
    time.sleep(0.5)
    p.send_signal(signal.SIGINT)
    out, _ = p.communicate(timeout=20)
    assert out == "interrupted\n" and p.returncode == 0
