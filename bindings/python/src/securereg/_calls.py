"""What stands between a method and a C function.

Owns: calls, handles, arguments. Promises: a failed call is an exception, and its error object is freed; a handle belongs to
one Handle from before the call that fills it, so no exception in between, Ctrl-C included, can lose it; what ctypes would cut
short or wrap round in silence (a string at its NUL, a number over 64 bits) is refused. Leaves out: long work (`_work`).
"""

from __future__ import annotations

import ctypes
import operator
import os
import warnings
from ctypes import byref
from types import TracebackType
from typing import Any, NoReturn, SupportsIndex, TypeVar

from . import _abi
from ._errors import Closed, InvalidInput, failure


def call(function: Any, *arguments: Any) -> None:
    """Calls a function that takes a securereg_error last, or raises what it says."""
    error = _abi.securereg_error()
    status = function(*arguments, byref(error))
    if status == _abi.SECUREREG_OK:
        return
    try:
        raise failure(status, error)
    finally:
        _abi.lib.securereg_error_free(error)


class Handle:
    """One token of the library, given back when this is closed or collected.

    Tokens never come back, and closing one while another thread uses it is safe: that call finishes.
    """

    __slots__ = ("_free", "_kind", "_what", "pid", "raw")

    def __init__(self, kind: type[ctypes.Structure], free: str, what: str) -> None:
        self.raw = kind()
        # Held here, because a module's names may be gone when the interpreter collects what is left at its end.
        self._free = getattr(_abi.lib, free)
        self._kind = kind
        #: Whose it is: in a forked child it is nobody's.
        self.pid = os.getpid()
        self._what = what

    def out(self) -> Any:
        """Where a call puts the token."""
        return byref(self.raw)

    def live(self) -> Any:
        """The token, to be passed by value."""
        raw = self.raw
        if not raw.id:
            raise Closed(f"the {self._what} is closed")
        return raw

    def close(self) -> None:
        """Gives it back; twice is fine."""
        raw, self.raw = self.raw, self._kind()
        if raw.id:
            # Its only failures: another thread was faster, or this is a forked child.
            self._free(raw)

    def __del__(self) -> None:
        # Nothing to do where __init__ did not get so far.
        if hasattr(self, "_what"):
            self.close()


_Self = TypeVar("_Self", bound="Resource")


class Resource:
    """Something to close: by close(), by leaving a `with`, at the latest by being collected, with a ResourceWarning."""

    _handle: Handle

    def close(self) -> None:
        """Closes it; twice is fine."""
        self._handle.close()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return not self._handle.raw.id

    def __enter__(self: _Self) -> _Self:
        self._handle.live()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        warn_unclosed(self)

    def __reduce__(self) -> NoReturn:
        # A copied token would be closed twice, and means nothing, or something else, in another process.
        raise TypeError(f"cannot copy or pickle a {type(self).__name__}: open it where it is used")


def warn_unclosed(resource: Any, getpid: Any = os.getpid, warn: Any = warnings.warn) -> None:
    """Closes what nobody did, and says so: what __init__ finished, and not in a forked child, whose parent may close it yet.
    Its names are its own, as a module's may be gone when the interpreter ends."""
    handle = getattr(resource, "_handle", None)
    if handle is None or not handle.raw.id or handle.pid != getpid():
        return
    resource.close()
    warn(f"unclosed {resource!r}", ResourceWarning, stacklevel=3, source=resource)


def text(value: str, what: str) -> bytes:
    """An argument, for C."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    try:
        return c_bytes(value.encode(), what)
    except UnicodeEncodeError as e:
        raise InvalidInput(f"{what} is not Unicode: {e}") from None


def optional(value: str | None, what: str) -> bytes | None:
    """An argument that may be left out."""
    return None if value is None else text(value, what)


def path_text(value: str | os.PathLike[str], what: str) -> bytes:
    """A path of the file system, for C."""
    return c_bytes(os.fsencode(value), what)


def c_bytes(value: bytes, what: str) -> bytes:
    if b"\0" in value:
        # C would read up to it: another name than the one that is meant.
        raise InvalidInput(f"{what} holds a NUL")
    return value


def u64(value: SupportsIndex, what: str) -> int:
    """A number that C takes as 64 bits without a sign."""
    number = operator.index(value)
    if not 0 <= number < 1 << 64:
        raise InvalidInput(f"{what} is {number}: it must be from 0 to 2^64 - 1")
    return number


def sized(kind: Any, **fields: Any) -> Any:
    """A struct that begins with its size."""
    return kind(size=ctypes.sizeof(kind), **fields)


def said(value: bytes | None) -> str:
    """A string of the library's, which is UTF-8."""
    return (value or b"").decode()


def given_text(function: Any, *arguments: Any) -> str:
    """The text that a function gives to its caller."""
    owned = Handle(_abi.securereg_text, "securereg_text_free", "text")
    call(function, *arguments, owned.out())
    data, length = ctypes.c_void_p(), ctypes.c_size_t()
    call(_abi.lib.securereg_text_data, owned.live(), byref(data), byref(length))
    return ctypes.string_at(data.value or 0, length.value).decode()
