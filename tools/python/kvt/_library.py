"""The shared library by cffi, exceptions for its statuses, and callbacks that may raise."""
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Tuple

import cffi
import numpy as np

from ._declarations import DECLARATIONS

ffi = cffi.FFI()
ffi.cdef(DECLARATIONS)
# KVT_LIBRARY: another build of the library than the package's own.
lib = ffi.dlopen(os.environ.get("KVT_LIBRARY") or str(Path(__file__).with_name("libkvt.so")))


class Error(Exception):
    """What went wrong, in the library's words: file, tensor, operation, values."""


class Cancelled(Error):
    """A progress function returned something true."""


class InvalidArgument(Error, ValueError):
    """A value out of range."""


class FileError(Error, OSError):
    """A file cannot be opened, read or written."""


class BadFile(Error, ValueError):
    """A file is damaged, cut short, or contradicts itself."""


class Unsupported(Error, NotImplementedError):
    """An architecture, method or feature that this build does not compute."""


class Mismatch(Error):
    """An adapter of another base model, a checkpoint of another run."""


class ContextFull(Error):
    """More tokens than the session can hold."""


class OutOfMemory(Error, MemoryError):
    """The system has no more memory."""


class MemoryLimit(Error, MemoryError):
    """The model's memory_limit would be exceeded."""


class Busy(Error):
    """Another call is using the session."""


_exceptions = {1: Cancelled, 3: InvalidArgument, 4: FileError, 5: BadFile, 6: Unsupported, 7: Mismatch, 8: ContextFull, 9: OutOfMemory, 10: MemoryLimit,
               11: InvalidArgument, 12: Busy}


def check(status: int) -> None:
    """Raises the exception of a status, with the message of the thread."""
    if status:
        raise _exceptions.get(int(status), Error)(ffi.string(lib.kvt_message()).decode("utf-8", "replace"))


def version() -> str:
    """Version of the library, "major.minor.patch"."""
    v = lib.kvt_version()
    return f"{v // 10000}.{v // 100 % 100}.{v % 100}"


def features() -> str:
    """What the library was built with."""
    return ffi.string(lib.kvt_features()).decode()


@dataclass(frozen=True)
class Progress:
    """Where a long call is. Numbers that are unknown are NaN."""
    stage: str                   # loading, reading, training, validating, extracting, encoding
    done: int
    total: int
    round: int
    rounds: int
    loss: float
    validation_loss: float
    learning_rate: float
    tokens_per_second: float
    seconds_left: float


ProgressFunction = Callable[[Progress], Any]
_stages = ("loading", "reading", "training", "validating", "extracting", "encoding")


class Callbacks:
    """Functions that the library calls. What they raise is kept, ends the call, and is raised again behind it: ^C among it."""

    def __init__(self, progress: Optional[ProgressFunction] = None) -> None:
        self._raised: Optional[BaseException] = None
        self._user = progress
        # There is one in any case: it is where Python sees ^C.
        self.progress = ffi.callback("int(void *, kvt_progress *)", self._progress, error=1, onerror=self._failed)

    def _failed(self, kind, value, traceback) -> None:
        self._raised = value

    def _progress(self, _user, p) -> int:
        if self._raised is not None:
            return 1
        if self._user is None:
            return 0
        return 1 if self._user(Progress(_stages[p.stage], p.done, p.total, p.round, p.rounds, p.loss, p.validation_loss, p.learning_rate, p.tokens_per_second,
                                        p.seconds_left)) else 0

    def check(self, status: int) -> None:
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        check(status)


class Handle:
    """Owns a handle of the library."""

    def __init__(self, pointer, free) -> None:
        self.pointer = ffi.gc(pointer, free)


class _View:
    """Numbers of the library as numpy sees them; keeps their owner alive."""

    def __init__(self, owner: object, pointer, shape: Tuple[int, ...]) -> None:
        self.owner = owner
        self.__array_interface__ = {"version": 3, "typestr": np.dtype(np.float32).str, "shape": shape, "data": (int(ffi.cast("uintptr_t", pointer)), True)}


def view(owner: object, pointer, shape: Tuple[int, ...]) -> np.ndarray:
    return np.asarray(_View(owner, pointer, shape))


def struct(name: str, **values):
    """A struct of the header with its struct_size, all else zero but for `values`. Strings and other memory it refers to stay alive with it."""
    s = ffi.new(name + " *")
    if hasattr(s, "struct_size"):
        s.struct_size = ffi.sizeof(name)
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, str):
            value = ffi.new("char[]", value.encode())
        keep(s, value)
        setattr(s, key, value)
    return s


_kept: "dict[int, list]" = {}


def keep(owner, value) -> None:
    """Ties the life of `value` to that of the cdata `owner`."""
    import weakref
    if not isinstance(value, (int, float, bool)):
        key = id(owner)
        if key not in _kept:
            _kept[key] = []
            weakref.finalize(owner, _kept.pop, key, None)
        _kept[key].append(value)


def text(call) -> str:
    """What a call writes into a buffer: call(buffer, capacity, length) -> status."""
    length = ffi.new("size_t *")
    buffer, capacity = ffi.NULL, 0
    status = call(buffer, capacity, length)
    if status == lib.KVT_TOO_SMALL:
        capacity = length[0] + 1
        buffer = ffi.new("char[]", capacity)
        status = call(buffer, capacity, length)
    check(status)
    return bytes(ffi.buffer(buffer, length[0])).decode("utf-8", "replace")


def source(file):
    """A path, an open file's descriptor as (descriptor, offset, size), or bytes-like memory that is used in place."""
    s = ffi.new("kvt_source *")
    if isinstance(file, (str, os.PathLike)):
        path = ffi.new("char[]", os.fsencode(file))
        s.kind, s.path = lib.KVT_SOURCE_PATH, path
        keep(s, path)
    elif isinstance(file, tuple):
        s.kind = lib.KVT_SOURCE_DESCRIPTOR
        s.descriptor, s.offset, s.size = file
    else:
        memory = ffi.from_buffer(file)
        s.kind, s.memory, s.size = lib.KVT_SOURCE_MEMORY, ffi.cast("void *", memory), len(memory)
        keep(s, memory)
    return s
