"""Whole files in sealed memory.

Owns: Sealed, and the mapping behind its buffers. Promises: no byte of it can change, and none is unmapped while anything
made from it is alive. Leaves out: filling and checking the memory (the library).

Who holds what, and so keeps it alive; nothing is ever unmapped by hand, only when the last holder is gone:

    Sealed ------> _Mapping (an mmap of its own) ------> Handle (the library's descriptor and path)
    memoryview --> _Mapping                              given back: close() gave up Sealed's hold, and no view is left
    ndarray -----> memoryview
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from ctypes import byref

from . import _abi
from ._calls import Handle, Resource, call, optional, text
from ._errors import IoError, NotEnoughMemory
from ._work import ProgressCallback, run


class _Mapping(mmap.mmap):
    """Read-only, shared, of all of the memory."""

    #: Kept until the mapping goes: so that the library knows of the memory (Event.sealed) and shares it while it is in use.
    handle: Handle


class Sealed(Resource):
    """One file of a promoted model in memory that nobody can change any more. Registry.open_sealed makes it.

    `data` is all of it as a read-only memoryview, without a copy. From Python 3.12 on a Sealed is a buffer itself:
    memoryview(sealed), numpy.frombuffer(sealed). Views, and what is made from them, stay good after close() and after a
    quarantine: the memory is given back when the Sealed is closed and the last of them is gone.
    """

    def __init__(self, registry: Handle, model: str, path: str | None, progress: ProgressCallback | None) -> None:
        handle = Handle(_abi.securereg_sealed, "securereg_sealed_close", "sealed memory")
        #: The model it is a file of.
        self.model = model
        name, inside = text(model, "the model's name"), optional(path, "the path")
        open_sealed, root = _abi.lib.securereg_open_sealed, registry.live()
        run(lambda task: call(open_sealed, root, name, inside, task, handle.out()), progress)
        self._none = Handle(_abi.securereg_sealed, "securereg_sealed_close", "sealed memory")
        self._turn = threading.Lock()
        self._mapping: _Mapping | bytes | None = None
        self._handle = handle
        self._size = os.fstat(self.fd).st_size

    @property
    def fd(self) -> int:
        """Its descriptor, read-only and close-on-exec. It belongs to this: do not close it, and do not use it after close();
        os.dup it, or open `path`, to have one of your own."""
        fd = ctypes.c_int()
        call(_abi.lib.securereg_sealed_fd, self._handle.live(), byref(fd))
        return fd.value

    @property
    def path(self) -> str:
        """A path that opens it in this process, until close(): what a loader is given."""
        handle, path = self._handle, ctypes.c_void_p()
        call(_abi.lib.securereg_sealed_path, handle.live(), byref(path))
        # The string is the handle's, which is held here.
        return ctypes.string_at(path.value or 0).decode()

    @property
    def data(self) -> memoryview:
        """All of its bytes: read-only, without a copy."""
        with self._turn:
            handle = self._handle
            handle.live()
            if self._mapping is None:
                self._mapping = _map(handle, self.fd) if self._size else b""
            return memoryview(self._mapping)

    def __buffer__(self, flags: int, /) -> memoryview:
        # PEP 688. Whoever wants to write is refused by the memoryview.
        return self.data

    def __len__(self) -> int:
        self._handle.live()
        return self._size

    def close(self) -> None:
        """Gives up this hold on the memory; twice is fine. Views of it stay good, and keep the memory."""
        with self._turn:
            # The library is told when the last holder drops the handle, which may be this line.
            self._handle, self._mapping = self._none, None

    def __repr__(self) -> str:
        return f"<securereg.Sealed {self.model!r}{' closed' if self.closed else ''}>"


def _map(handle: Handle, fd: int) -> _Mapping:
    try:
        # Of its own, by a descriptor of its own: independent of what the library does with its mapping.
        mapping = _Mapping(fd, 0, access=mmap.ACCESS_READ)
    except OSError as e:
        cls = NotEnoughMemory if e.errno == errno.ENOMEM else IoError
        raise cls(f"mapping sealed memory: {e}") from e
    mapping.handle = handle
    return mapping
