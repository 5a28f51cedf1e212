"""Run, adapt and question Transformers from GGUF files.

    import kvt

    model = kvt.Model("model.gguf")
    session = model.session()
    for piece in session.generate("Once upon a time", max_tokens=64, temperature=0.7):
        print(piece, end="", flush=True)

    adapter = model.adapt(["The zindle lives in the tower.", ...], method="kvt")
    session.attach(adapter)
    adapter.write("zindle.gguf")

Long calls take `progress=`, a function of a Progress; what it raises ends the call and comes out of it, and so does ^C.
"""
from ._library import (BadFile, Busy, Cancelled, ContextFull, Error, FileError, InvalidArgument, MemoryLimit, Mismatch, OutOfMemory, Progress,
                       Unsupported, features, version)
from ._model import Adapter, Classifier, Knowledge, Memory, Model, memory_needed
from ._session import Session

__version__ = version()
__all__ = ["Adapter", "BadFile", "Busy", "Cancelled", "Classifier", "ContextFull", "Error", "FileError", "InvalidArgument", "Knowledge", "Memory",
           "MemoryLimit", "Mismatch", "Model", "OutOfMemory", "Progress", "Session", "Unsupported", "features", "memory_needed", "version"]
