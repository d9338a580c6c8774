"""Verified reads.

Owns: File. Promises: every byte it gives was hashed against what was promoted, or it raises; nothing is written into a buffer
past what was asked. Leaves out: buffering (io.BufferedReader), whole files in memory (`_sealed`).
"""

from __future__ import annotations

import ctypes
import io
import threading
from ctypes import byref
from typing import TYPE_CHECKING, NoReturn, SupportsIndex

from . import _abi
from ._calls import Handle, call, optional, text, u64, warn_unclosed
from ._errors import InvalidInput

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class File(io.RawIOBase):
    """One file of a promoted model, open for verified reads: a raw, seekable, read-only file of the io module.

    Registry.open makes it. Any number of threads may use one: read_at and read_at_into run side by side; read and readinto
    share a position, and take turns. Each read hashes the 64 KiB groups it touches, so put an io.BufferedReader before many
    small ones. It outlives the Registry it came from.
    """

    def __init__(self, registry: Handle, model: str, path: str | None) -> None:
        super().__init__()
        self._handle = Handle(_abi.securereg_file, "securereg_file_close", "file")
        self._position = 0
        # Held over a read: the position is one for all who use it.
        self._turn = threading.Lock()
        #: The model it is a file of.
        self.model = model
        #: Its path inside the model, as it was given: None for the only file.
        self.path = path
        name, inside = text(model, "the model's name"), optional(path, "the path")
        call(_abi.lib.securereg_file_open, registry.live(), name, inside, self._handle.out())

    @property
    def mode(self) -> str:
        """As of a file that was opened by open()."""
        return "rb"

    @property
    def size(self) -> int:
        """Its size in bytes, as promoted."""
        size = ctypes.c_uint64()
        call(_abi.lib.securereg_file_size, self._handle.live(), byref(size))
        return size.value

    def read_at(self, offset: SupportsIndex, size: SupportsIndex) -> bytes:
        """Up to `size` bytes from `offset` on: fewer only at the end of the file. Does not move the position."""
        offset, size = u64(offset, "the offset"), u64(size, "the size")
        # What is not there needs no memory.
        buffer = bytearray(max(0, min(size, self.size - offset)))
        return bytes(buffer[: self._read_into(buffer, offset)])

    def read_at_into(self, buffer: WriteableBuffer, offset: SupportsIndex) -> int:
        """Fills `buffer` from `offset` on; how many bytes: fewer than fit only at the end of the file. After a failure the
        buffer may hold bytes, but none that were not checked. Does not move the position."""
        return self._read_into(buffer, u64(offset, "the offset"))

    def _read_into(self, buffer: WriteableBuffer, offset: int) -> int:
        with memoryview(buffer) as view:
            length = view.nbytes
        handle = self._handle.live()
        if not length:
            return 0
        # Fails for what is read-only or not in one piece, and keeps the buffer where it is until the call is over.
        pinned = ctypes.c_char.from_buffer(buffer)
        read = ctypes.c_size_t()
        try:
            # By its address: a reference to the object itself would live on in the traceback of a failure.
            call(_abi.lib.securereg_read_at, handle, ctypes.addressof(pinned), length, offset, byref(read))
        finally:
            del pinned
        return read.value

    def readable(self) -> bool:
        """Yes."""
        self._handle.live()
        return True

    def seekable(self) -> bool:
        """Yes."""
        self._handle.live()
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fills `buffer` from the position on, and moves it."""
        with self._turn:
            count = self._read_into(buffer, self._position)
            self._position += count
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes from the position on, all that is left for -1 or None; moves the position."""
        with self._turn:
            whole = size is None or size < 0
            # Not RawIOBase's, which takes memory for `size` bytes whether they are there or not.
            data = self.read_at(self._position, self.size if whole or size is None else size)
            self._position += len(data)
        return data

    def readall(self) -> bytes:
        """All that is left."""
        return self.read()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves the position, by the rules of io.IOBase.seek; past the end is fine, and reads nothing."""
        with self._turn:
            if whence == io.SEEK_SET:
                start = 0
            elif whence == io.SEEK_CUR:
                start = self._position
            elif whence == io.SEEK_END:
                start = self.size
            else:
                raise InvalidInput(f"whence is {whence}: it must be SEEK_SET, SEEK_CUR or SEEK_END")
            self._handle.live()
            self._position = u64(start + offset, "the position")
            return self._position

    def tell(self) -> int:
        """The position."""
        self._handle.live()
        return self._position

    def close(self) -> None:
        """Closes it; twice is fine. Reads of this moment in other threads finish."""
        try:
            super().close()
        finally:
            # Not there when __init__ was never run.
            if hasattr(self, "_handle"):
                self._handle.close()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<securereg.File {self.model!r}{'' if self.path is None else ' ' + repr(self.path)}{state}>"

    def __del__(self) -> None:
        # Before IOBase's own, which closes without a word.
        warn_unclosed(self)
        super().__del__()

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot copy or pickle a File: open it where it is used")
