"""Models, adapters, classifiers and knowledge."""
from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from ._library import Callbacks, Error, Handle, ProgressFunction, check, ffi, keep, lib, source, struct, text, view
from ._session import Session, cache_types

File = Union[str, "os.PathLike[str]", Tuple[int, int, int], bytes, memoryview, np.ndarray]
Example = Union[str, Tuple[str, str]]
Data = Union[str, Iterable[Example]]


@dataclass(frozen=True)
class Memory:
    """Bytes: of weights, the tokenizer's tables, one session's cache, and its passing results."""
    weights: int
    tables: int
    cache: int
    work: int
    total: int


def _arranged(file: File, arrange: Optional[bool]) -> int:
    return int(isinstance(file, (str, os.PathLike, tuple)) if arrange is None else arrange)


def memory_needed(file: File, *, map: bool = False, arrange: Optional[bool] = None, context: int = 0, batch: int = 0,
                  cache_type: str = "f16") -> Memory:
    """What a model and one session on it will take. Reads the file's header alone."""
    where, memory = source(file), struct("kvt_memory")
    check(lib.kvt_memory_needed(where[0], struct("kvt_model_options", access=int(map), arrange_weights=_arranged(file, arrange)),
                                struct("kvt_session_options", context=context, batch=batch, cache_type=cache_types[cache_type]), memory))
    return Memory(memory.weights, memory.tables, memory.cache, memory.work, memory.total)


def _texts(texts: Sequence[str]):
    array = ffi.new("kvt_text[]", len(texts))
    for i, t in enumerate(texts):
        encoded = t.encode()
        buffer = ffi.from_buffer(encoded)
        keep(array, buffer)
        array[i].data, array[i].size = ffi.cast("char *", buffer), len(encoded)
    return array


class _DataSource:
    """A kvt_data over texts and (prompt, completion) pairs, taken one at a time."""

    def __init__(self, data: Data, callbacks: Callbacks) -> None:
        self._items: Iterator[Example] = iter([data] if isinstance(data, str) else data)
        self._held: List[Any] = []
        self._next = ffi.callback("int(void *, kvt_example *)", self._give, error=-1, onerror=callbacks._failed)
        self.data = ffi.new("kvt_data *")
        self.data.next = self._next

    def _text(self, to, value: str) -> None:
        buffer = ffi.from_buffer(value.encode() or b"\0")
        self._held.append(buffer)
        to.data, to.size = ffi.cast("char *", buffer), len(value.encode())

    def _give(self, _user, example) -> int:
        self._held.clear()
        item = next(self._items, None)
        if item is None:
            return 0
        if isinstance(item, str):
            self._text(example.text, item)
        else:
            prompt, completion = item
            self._text(example.prompt, prompt)
            self._text(example.text, completion)
        return 1


class Model(Handle):
    """Weights, configuration and tokenizer of a GGUF file; does not change, and may be used by any number of threads.

    file: a path; (descriptor, offset, size) of an open file; or memory, which is used in place.
    map: memory-map the path. If somebody cuts the file short meanwhile, the operating system ends the process.
    arrange: have the weights lie in memory as generating reads them fastest: 1.1 to 1.4 times as fast, but weights that are not mapped are there twice. By
        default yes, unless the file is memory.
    memory_limit: bytes that this model and all made of it may hold; 0 = any.
    """

    def __init__(self, file: File, *, threads: int = 0, map: bool = False, arrange: Optional[bool] = None, memory_limit: int = 0, check_weights: bool = False,
                 progress: Optional[ProgressFunction] = None) -> None:
        callbacks = Callbacks(progress)
        where = source(file)
        options = struct("kvt_model_options", threads=threads, access=int(map), arrange_weights=_arranged(file, arrange), memory_limit=memory_limit, check_weights=int(check_weights), progress=callbacks.progress)
        handle = ffi.new("kvt_model **")
        callbacks.check(lib.kvt_model_open(where[0], options, handle))
        super().__init__(handle[0], lib.kvt_model_free)
        keep(self.pointer, where)
        info = struct("kvt_model_info")
        check(lib.kvt_model_get_info(self.pointer, info))
        self.architecture: str = ffi.string(info.architecture).decode()
        self.name: str = ffi.string(info.name).decode("utf-8", "replace")
        self.fingerprint: str = ffi.string(info.fingerprint).decode()
        self.is_encoder: bool = bool(info.is_encoder)
        self.vocabulary: int = info.vocabulary
        self.channels: int = info.channels
        self.layers: int = info.layers
        self.context: int = info.context
        self.parameters: int = info.parameters
        self.weight_bytes: int = info.weight_bytes
        self.bos: int = info.bos
        self.eos: int = info.eos

    def __repr__(self) -> str:
        return f"<kvt.Model {self.architecture}, {self.parameters:,} parameters, fingerprint {self.fingerprint}>"

    def memory_used(self) -> Tuple[int, int]:
        """Bytes that the model and all made of it hold now, and the most they held at once."""
        now, most = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        check(lib.kvt_memory_used(self.pointer, now, most))
        return now[0], most[0]

    def tokenize(self, string: str, *, special: bool = False, parse: bool = False) -> List[int]:
        """Ids. special: with what begins and ends a text; parse: "<|im_end|>" in it is that token, not its letters."""
        encoded = string.encode()
        ids, n = ffi.new("int32_t[]", len(encoded) + 8), ffi.new("size_t *")
        check(lib.kvt_tokenize(self.pointer, ffi.from_buffer(encoded), len(encoded), (1 if special else 0) | (2 if parse else 0), ids, len(encoded) + 8, n))
        return list(ffi.unpack(ids, n[0])) if n[0] else []

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of ids, without control tokens."""
        array = np.ascontiguousarray(ids, dtype=np.int32)
        pointer = ffi.cast("const int32_t *", ffi.from_buffer(array))
        return text(lambda buffer, capacity, length: lib.kvt_detokenize(self.pointer, pointer, len(array), buffer, capacity, length))

    def chat(self, messages: Sequence[Tuple[str, str]], template: Optional[str] = None) -> str:
        """The prompt of a conversation of (role, content) in the model's own format, or in the one that is named."""
        array, name = ffi.new("kvt_chat_message[]", len(messages)), ffi.new("char[]", template.encode()) if template else ffi.NULL
        for i, (role, content) in enumerate(messages):
            array[i].role, array[i].content = (kept := ffi.new("char[]", role.encode())), (more := ffi.new("char[]", content.encode()))
            keep(array, kept), keep(array, more)
        return text(lambda buffer, capacity, length: lib.kvt_chat_start(self.pointer, name, array, len(messages), buffer, capacity, length))

    def session(self, context: int = 0, batch: int = 0, cache_type: str = "f16", progress: Optional[ProgressFunction] = None) -> Session:
        """A sequence of at most `context` tokens (0 = the model's, at most 4096). cache_type: "f16", "f32" or "q8_0", what keys and values are kept as."""
        return Session(self, context, batch, cache_type, progress)

    def adapter(self, file: File) -> "Adapter":
        """Opens an adapter file for this model."""
        where = source(file)
        handle = ffi.new("kvt_adapter **")
        check(lib.kvt_adapter_open(self.pointer, where[0], handle))
        adapter = Adapter(handle[0], lib.kvt_adapter_free)
        keep(adapter.pointer, where)
        return adapter

    def _adapt_options(self, options: Dict[str, Any], callbacks: Callbacks):
        validation = options.pop("validation", None)
        values = {key: int(value) if isinstance(value, bool) else os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in options.items()}
        if isinstance(values.get("targets"), (list, tuple)):
            values["targets"] = ",".join(values["targets"])
        known = {name for name, _ in ffi.typeof("kvt_adapt_options").fields}
        for key in values:
            if key not in known:
                raise TypeError(f"adapt() has no option {key!r}; there are: {', '.join(sorted(known - {'struct_size', 'progress', 'progress_user'}))}")
        o = struct("kvt_adapt_options", progress=callbacks.progress, **values)
        if validation is not None:
            held_out = _DataSource(validation, callbacks)
            keep(o, held_out)
            o.validation = held_out.data
        return o

    def adapt(self, data: Data, method: str = "kvt", *, validation: Optional[Data] = None, progress: Optional[ProgressFunction] = None, **options: Any) -> "Adapter":
        """Adapts the model to texts, of which all is learned, and (prompt, completion) pairs, of which the completion is.

        method: "kvt", "lora", "adapterdrop", "lora-xs", "ia3", "probe". Other options as in kvt_adapt_options of kvt.h: validation_split, targets,
        length, seed, k, rounds, rank, alpha, steps, epochs, batch, learning_rate, eval_every, checkpoint, resume, …"""
        callbacks = Callbacks(progress)
        o = self._adapt_options(dict(options, method=method, validation=validation), callbacks)
        examples = _DataSource(data, callbacks)
        handle = ffi.new("kvt_adapter **")
        callbacks.check(lib.kvt_adapt(self.pointer, examples.data, o, handle))
        return Adapter(handle[0], lib.kvt_adapter_free)

    def adapt_memory_needed(self, method: str = "kvt", **options: Any) -> int:
        """About how many bytes adapt() will take beside the weights."""
        bytes_ = ffi.new("uint64_t *")
        check(lib.kvt_adapt_memory_needed(self.pointer, self._adapt_options(dict(options, method=method), Callbacks()), bytes_))
        return bytes_[0]

    def extract(self, data: Data, tuned: Optional["Adapter"] = None, *, length: int = 0, positions: int = 0, concepts: int = 0, words: int = 0, seed: int = 0,
                progress: Optional[ProgressFunction] = None) -> "Knowledge":
        """What an adapter, or the text itself, changes in the model's predictions over a text."""
        callbacks = Callbacks(progress)
        o = struct("kvt_extract_options", length=length, positions=positions, concepts=concepts, words=words, seed=seed, progress=callbacks.progress)
        examples = _DataSource(data, callbacks)
        handle = ffi.new("kvt_knowledge **")
        callbacks.check(lib.kvt_extract(self.pointer, tuned.pointer if tuned else ffi.NULL, examples.data, o, handle))
        return Knowledge(handle[0], lib.kvt_knowledge_free)

    def embed(self, texts: Sequence[str], progress: Optional[ProgressFunction] = None) -> np.ndarray:
        """One unit vector for each text, [n, channels], by an encoder."""
        callbacks = Callbacks(progress)
        vectors = np.empty((len(texts), self.channels), np.float32)
        callbacks.check(lib.kvt_embed(self.pointer, _texts(texts), len(texts), callbacks.progress, ffi.NULL, ffi.cast("float *", ffi.from_buffer(vectors))))
        return vectors

    def classifier(self, adapter: Optional["Adapter"] = None) -> "Classifier":
        """A classifier of texts: an adapter with classes on this model, or the model's own."""
        handle = ffi.new("kvt_classifier **")
        check(lib.kvt_classifier_new(self.pointer, adapter.pointer if adapter else ffi.NULL, handle))
        return Classifier(handle[0], lib.kvt_classifier_free)


class Adapter(Handle):
    """What a model learned, in memory: attach it to sessions of the model, or write it."""

    def write(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Writes a GGUF file, whole or not at all."""
        check(lib.kvt_adapter_write(self.pointer, os.fsencode(path)))


class Classifier(Handle):
    """Tells classes of texts apart."""

    @property
    def names(self) -> List[str]:
        return [ffi.string(lib.kvt_classifier_name(self.pointer, i)).decode() for i in range(lib.kvt_classifier_count(self.pointer))]

    def __call__(self, texts: Sequence[str], progress: Optional[ProgressFunction] = None) -> np.ndarray:
        """Probabilities [n, classes]."""
        callbacks = Callbacks(progress)
        p = np.empty((len(texts), lib.kvt_classifier_count(self.pointer)), np.float32)
        callbacks.check(lib.kvt_classify(self.pointer, _texts(texts), len(texts), callbacks.progress, ffi.NULL, ffi.cast("float *", ffi.from_buffer(p))))
        return p


class Knowledge(Handle):
    """What a text changes in a model's predictions. Arrays are the library's own numbers and live as long as they are used."""

    def __init__(self, pointer, free) -> None:
        super().__init__(pointer, free)
        info = struct("kvt_knowledge_info")
        check(lib.kvt_knowledge_get_info(self.pointer, info))
        self.positions: int = info.positions
        self.divergence: float = info.divergence         # nats a token
        self.same_choice: float = info.same_choice       # share of positions whose likeliest token stays the same

    def _array(self, which: int) -> np.ndarray:
        numbers, rows, columns = ffi.new("const float **"), ffi.new("size_t *"), ffi.new("size_t *")
        check(lib.kvt_knowledge_get(self.pointer, which, numbers, rows, columns))
        return view(self, numbers[0], (rows[0], columns[0]))

    @property
    def before(self) -> np.ndarray:
        """Mean probability of each token, of the base: [V]."""
        return self._array(lib.KVT_KNOWLEDGE_BEFORE)[0]

    @property
    def after(self) -> np.ndarray:
        """The same of the tuned model, or in the text: [V]."""
        return self._array(lib.KVT_KNOWLEDGE_AFTER)[0]

    @property
    def directions(self) -> np.ndarray:
        """Where the base's last hidden states would have to move: [positions, C]."""
        return self._array(lib.KVT_KNOWLEDGE_DIRECTIONS)

    @property
    def concepts(self) -> np.ndarray:
        """Centres of the directions' clusters, unit vectors: [concepts, C]."""
        return self._array(lib.KVT_KNOWLEDGE_CONCEPTS)

    def report(self, format: str = "text") -> Any:
        """The report for people: "text", "html", or "json" (as Python's lists and dicts)."""
        formats = {"text": 0, "json": 1, "html": 2}
        if format not in formats:
            raise ValueError(f"format {format!r}, expected one of {', '.join(formats)}")
        report = text(lambda buffer, capacity, length: lib.kvt_knowledge_report(self.pointer, formats[format], buffer, capacity, length))
        return json.loads(report) if format == "json" else report

    def write(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Writes a GGUF file, whole or not at all."""
        check(lib.kvt_knowledge_write(self.pointer, os.fsencode(path)))
