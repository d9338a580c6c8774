"""The numbers of the C ABI by name.

Owns: its enumerations. Promises: a number that only a newer library knows becomes a member called UNKNOWN_n, so that it can
be compared and shown, and breaks nothing. Leaves out: flags, which are arguments here.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from . import _abi

_T = TypeVar("_T", bound="_Number")


class _Number(IntEnum):
    @classmethod
    def _missing_(cls: type[_T], value: object) -> _T | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        # By its number: some Pythons go by the name, which an unknown one has not got.
        return type(self), (self._value_,)


class Status(_Number):
    """How a call ended."""

    OK = _abi.SECUREREG_OK
    INVALID_INPUT = _abi.SECUREREG_INVALID_INPUT
    DIGEST_MISMATCH = _abi.SECUREREG_DIGEST_MISMATCH
    REFUSED = _abi.SECUREREG_REFUSED
    SOURCE_CHANGED = _abi.SECUREREG_SOURCE_CHANGED
    CONFLICT = _abi.SECUREREG_CONFLICT
    NOT_FOUND = _abi.SECUREREG_NOT_FOUND
    QUARANTINED = _abi.SECUREREG_QUARANTINED
    CORRUPT = _abi.SECUREREG_CORRUPT
    UNREADABLE = _abi.SECUREREG_UNREADABLE
    MANIFEST = _abi.SECUREREG_MANIFEST
    AUDIT = _abi.SECUREREG_AUDIT
    NOT_MOUNTED = _abi.SECUREREG_NOT_MOUNTED
    NO_SPACE = _abi.SECUREREG_NO_SPACE
    TOO_LARGE = _abi.SECUREREG_TOO_LARGE
    PERMISSION = _abi.SECUREREG_PERMISSION
    UNSUPPORTED = _abi.SECUREREG_UNSUPPORTED
    CANCELLED = _abi.SECUREREG_CANCELLED
    IO = _abi.SECUREREG_IO
    NO_MEMORY = _abi.SECUREREG_NO_MEMORY
    CLOSED = _abi.SECUREREG_CLOSED
    FORKED = _abi.SECUREREG_FORKED
    NULL = _abi.SECUREREG_NULL
    WRONG_SIZE = _abi.SECUREREG_WRONG_SIZE
    TOO_MANY = _abi.SECUREREG_TOO_MANY
    PANIC = _abi.SECUREREG_PANIC


class Phase(_Number):
    """What a long call is doing."""

    #: The source is being read, hashed and copied, or sealed memory filled.
    COPY = _abi.SECUREREG_PHASE_COPY
    #: Bytes are being hashed against what was promoted.
    VERIFY = _abi.SECUREREG_PHASE_VERIFY


class Outcome(_Number):
    """What became of a promotion."""

    #: The name is new.
    PROMOTED = _abi.SECUREREG_OUTCOME_PROMOTED
    #: The name already stood for these very bytes.
    ALREADY_THERE = _abi.SECUREREG_OUTCOME_ALREADY_THERE
    #: A tag points to new content now, or damaged bytes were replaced by good ones.
    MOVED = _abi.SECUREREG_OUTCOME_MOVED


class Method(_Number):
    """How a promotion took the bytes in; of several files the costliest."""

    #: They were in the registry already.
    SHARED = _abi.SECUREREG_METHOD_SHARED
    #: The source's own file was taken.
    ADOPTED = _abi.SECUREREG_METHOD_ADOPTED
    #: The file system shares the blocks until one side changes.
    REFLINKED = _abi.SECUREREG_METHOD_REFLINKED
    #: They were copied.
    COPIED = _abi.SECUREREG_METHOD_COPIED


class ModelStatus(_Number):
    """Whether a model is served."""

    PROMOTED = _abi.SECUREREG_MODEL_PROMOTED
    QUARANTINED = _abi.SECUREREG_MODEL_QUARANTINED


class EventKind(_Number):
    """What happened to a model."""

    #: It is new.
    PROMOTED = _abi.SECUREREG_EVENT_PROMOTED
    #: Its name stands for other content now.
    REPLACED = _abi.SECUREREG_EVENT_REPLACED
    #: It is not served any more. Sealed memory of it stays as it is.
    QUARANTINED = _abi.SECUREREG_EVENT_QUARANTINED
    #: It is served again.
    RELEASED = _abi.SECUREREG_EVENT_RELEASED
    #: It is gone.
    DELETED = _abi.SECUREREG_EVENT_DELETED
