"""Errors: one class a status, caught as what they are, and complete."""

from __future__ import annotations

import errno
import pickle
from ctypes import byref

import pytest

import securereg
from securereg import Status, _abi
from securereg._calls import call
from securereg._errors import failure

NATURAL = {
    Status.INVALID_INPUT: (ValueError,),
    Status.NOT_FOUND: (KeyError, FileNotFoundError),
    Status.UNREADABLE: (OSError,),
    Status.NO_SPACE: (OSError,),
    Status.PERMISSION: (PermissionError,),
    Status.IO: (OSError,),
    Status.NO_MEMORY: (MemoryError,),
    Status.CLOSED: (ValueError,),
}
NUMBERS = {
    Status.NOT_FOUND: errno.ENOENT,
    Status.UNREADABLE: errno.EIO,
    Status.NO_SPACE: errno.ENOSPC,
    Status.PERMISSION: errno.EACCES,
    Status.IO: errno.EIO,
}
FAILURES = [status for status in Status if status is not Status.OK]


@pytest.mark.parametrize("status", FAILURES, ids=lambda status: status.name)
def test_each_status_has_a_class_of_its_own(status: Status) -> None:
    error = failure(status, _abi.securereg_error())
    assert type(error) is not securereg.SecureRegError
    assert sum(cls.status is status for cls in securereg.SecureRegError.__subclasses__()) == 1
    assert getattr(securereg, type(error).__name__) is type(error)
    assert (error.status, error.kind) == (status, _abi.lib.securereg_status_name(status).decode())
    for base in (KeyError, FileNotFoundError, OSError, PermissionError, ValueError, MemoryError):
        natural = any(issubclass(cls, base) for cls in NATURAL.get(status, ()))
        assert isinstance(error, base) is natural, base
    if isinstance(error, OSError):
        assert (error.errno, error.strerror) == (NUMBERS[status], error.message)


@pytest.mark.parametrize("status", FAILURES, ids=lambda status: status.name)
def test_each_survives_pickling_with_all_it_says(status: Status) -> None:
    cls = type(failure(status, _abi.securereg_error()))
    error = cls("what failed", model="m", expected="00", actual="ff")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    for one in (error, again):
        assert (str(one), one.message, one.args) == ("what failed", "what failed", ("what failed",))
        assert (one.model, one.expected, one.actual) == ("m", "00", "ff")
        assert (one.status, one.kind) == (status, status.name.lower())
        assert repr(one) == f"{cls.__name__}('what failed')"
    assert str(cls()) == status.name.lower()


def test_a_status_of_a_newer_library_is_a_failure_all_the_same() -> None:
    error = failure(7777, _abi.securereg_error())
    assert type(error) is securereg.SecureRegError
    assert (error.status, error.status.name, error.kind) == (7777, "UNKNOWN_7777", "unknown")
    again = pickle.loads(pickle.dumps(error))
    assert (again.status, again.kind) == (7777, "unknown")
    assert securereg.EventKind(99).name == "UNKNOWN_99"
    with pytest.raises(ValueError):
        securereg.EventKind("x")  # type: ignore[arg-type]


def test_a_failed_call_leaves_no_error_object() -> None:
    """The token of the next error is in the slot of the last: it was freed."""
    seen = set()
    for _ in range(100):
        with pytest.raises(securereg.NullPointer):
            call(_abi.lib.securereg_open, None, None, None)
        raw = _abi.securereg_error()
        assert _abi.lib.securereg_open(None, None, None, byref(raw)) == Status.NULL
        assert _abi.lib.securereg_error_status(raw) == Status.NULL
        assert _abi.lib.securereg_error_message(raw) == b"out is NULL"
        assert _abi.lib.securereg_error_free(raw) == Status.OK
        assert _abi.lib.securereg_error_status(raw) == Status.CLOSED
        seen.add(raw.id & 0xFFFF_FFFF)
    assert len(seen) == 1
    assert _abi.lib.securereg_error_status(_abi.securereg_error()) == Status.OK
