"""One sequence of tokens on a model."""
from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Callable, Iterator, Optional, Sequence, Union

import numpy as np

from ._library import Callbacks, Handle, ProgressFunction, check, ffi, lib, struct, view

if TYPE_CHECKING:
    from ._model import Adapter, Model

_caches = {"keep": 0, "reevaluate": 1, "clear": 2}
cache_types = {"f16": 0, "f32": 1, "q8_0": 2}


class Session(Handle):
    """A sequence, its cache and its adapters. Belongs to one thread at a time; many sessions may share a model.

    Adapters change between tokens. `cache` says what becomes of the tokens that were read: "keep", they stay as they were computed;
    "reevaluate", they are read anew; "clear", the session is empty then.
    """

    def __init__(self, model: "Model", context: int = 0, batch: int = 0, cache_type: str = "f16", progress: Optional[ProgressFunction] = None) -> None:
        options = struct("kvt_session_options", context=context, batch=batch, cache_type=cache_types[cache_type])
        handle = ffi.new("kvt_session **")
        check(lib.kvt_session_new(model.pointer, options, handle))
        super().__init__(handle[0], lib.kvt_session_free)
        self.model = model
        self._callbacks = Callbacks(progress)
        check(lib.kvt_session_set_progress(self.pointer, self._callbacks.progress, ffi.NULL))

    @property
    def context(self) -> int:
        """The most tokens it can hold."""
        return lib.kvt_session_context(self.pointer)

    @property
    def tokens(self) -> np.ndarray:
        """The ids that it holds, int32: a copy."""
        ids, n = ffi.new("const int32_t **"), ffi.new("size_t *")
        check(lib.kvt_session_tokens(self.pointer, ids, n))
        return np.frombuffer(bytes(ffi.buffer(ids[0], n[0] * 4)), dtype=np.int32) if n[0] else np.zeros(0, np.int32)

    def __len__(self) -> int:
        return len(self.tokens)

    def evaluate(self, ids: Sequence[int]) -> np.ndarray:
        """Reads ids behind what is there. The next token's scores [V]: the session's own numbers, which the next call changes."""
        array = np.ascontiguousarray(ids, dtype=np.int32)
        logits = ffi.new("const float **")
        self._callbacks.check(lib.kvt_evaluate(self.pointer, ffi.cast("const int32_t *", ffi.from_buffer(array)), len(array), logits))
        return view(self, logits[0], (self.model.vocabulary,))

    @property
    def logits(self) -> np.ndarray:
        """The scores of the last evaluation, [V], as evaluate() gave them."""
        logits, n = ffi.new("const float **"), ffi.new("size_t *")
        check(lib.kvt_logits(self.pointer, logits, n))
        return view(self, logits[0], (n[0],))

    def truncate(self, count: int) -> None:
        """Forgets all behind the first `count` tokens."""
        check(lib.kvt_session_truncate(self.pointer, count))

    def generate(self, prompt: Union[str, Sequence[int]], max_tokens: Optional[int] = None, *, temperature: float = 0.0, top_k: int = 0, top_p: float = 0.0,
                 min_p: float = 0.0, repeat_penalty: float = 0.0, repeat_last: int = 0, seed: int = 0, ignore_end: bool = False) -> Iterator[str]:
        """Reads a prompt and writes on, piece by piece as tokens are chosen, until the model ends, `max_tokens` are written, or the context is
        full. Temperature 0 is always the likeliest token. The session then holds the prompt and what was written, but for the last token,
        which is read when more is generated. Text before the first token of an empty session gets what begins a text."""
        if isinstance(prompt, str):
            prompt = self.model.tokenize(prompt, special=len(self) == 0, parse=True)
        handle = ffi.new("kvt_sampler **")
        check(lib.kvt_sampler_new(struct("kvt_sampler_options", temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repeat_penalty=repeat_penalty,
                                         repeat_last=repeat_last, seed=seed), handle))
        sampler = Handle(handle[0], lib.kvt_sampler_free)
        return self._pieces(np.asarray(prompt, dtype=np.int32), max_tokens, sampler, ignore_end)

    def _pieces(self, prompt: np.ndarray, max_tokens: Optional[int], sampler: Handle, ignore_end: bool) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        chosen = ffi.new("int32_t *")
        buffer, length = ffi.new("char[256]"), ffi.new("size_t *")
        self.evaluate(prompt)
        written = 0
        while max_tokens is None or written < max_tokens:
            check(lib.kvt_sample(self.pointer, sampler.pointer, chosen))
            if not ignore_end and lib.kvt_ends_generation(self.model.pointer, chosen[0]):
                break
            check(lib.kvt_token_text(self.model.pointer, chosen[0], buffer, 256, length))
            written += 1
            piece = decoder.decode(bytes(ffi.buffer(buffer, length[0])))
            if piece:
                yield piece
            if len(self) == self.context or written == max_tokens:
                break
            self.evaluate([chosen[0]])
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    def attach(self, adapter: "Adapter", scale: float = 1.0, cache: str = "keep") -> None:
        """Adds an adapter at `scale` times its own strength."""
        self._change(lib.kvt_session_attach, adapter, scale, cache)

    def scale(self, adapter: "Adapter", scale: float, cache: str = "keep") -> None:
        """Changes the scale of an attached adapter."""
        self._change(lib.kvt_session_scale, adapter, scale, cache)

    def swap(self, adapter: "Adapter", scale: float = 1.0, cache: str = "keep") -> None:
        """Puts an adapter in the place of all that are attached."""
        self._change(lib.kvt_session_swap, adapter, scale, cache)

    def detach(self, adapter: Optional["Adapter"] = None, cache: str = "keep") -> None:
        """Takes an adapter off, or all of them."""
        self._callbacks.check(lib.kvt_session_detach(self.pointer, adapter.pointer if adapter else ffi.NULL, _caches[cache]))

    def _change(self, call: Callable[..., int], adapter: "Adapter", scale: float, cache: str) -> None:
        self._callbacks.check(call(self.pointer, adapter.pointer, scale, _caches[cache]))
