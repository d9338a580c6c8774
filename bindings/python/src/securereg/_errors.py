"""How a call fails.

Owns: one exception for each status of the C ABI. Promises: each is a SecureRegError that says which model and which digests,
and survives pickling; it is a KeyError, an OSError and so on as well only where that is what a Python programmer would catch
(damaged bytes are never an OSError: who retries or skips those must not skip these). Leaves out: calling the library.
"""

from __future__ import annotations

import errno
from typing import ClassVar

from . import _abi
from ._numbers import Status


class SecureRegError(Exception):
    """Any failure of securereg. One with a status that this package does not know is of this class itself."""

    #: How the call ended.
    status: Status = Status(-1)
    #: Its word, such as "not_found".
    kind: str = "unknown"
    #: What went wrong, on which name, and the remedy.
    message: str
    #: The model it is about, "" where it is about none.
    model: str
    #: The digest that was promoted or claimed, bare hex, where digests differ; else "".
    expected: str
    #: The digest that was found, where digests differ; else "".
    actual: str

    _errno: ClassVar[int | None] = None

    def __init__(self, message: str = "", *, model: str = "", expected: str = "", actual: str = "") -> None:
        super().__init__(message or self.kind)
        self.message = message or self.kind
        self.model = model
        self.expected = expected
        self.actual = actual
        if isinstance(self, OSError):
            _number(self, self._errno, self.message)

    def __str__(self) -> str:
        # Not KeyError's, which shows the repr of a key, nor OSError's, which wants two arguments.
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message,), self.__dict__


def _number(error: OSError, number: int | None, message: str) -> None:
    # OSError would take them as arguments, of which there is one here.
    error.errno, error.strerror = number, message


class InvalidInput(SecureRegError, ValueError):
    """An argument is malformed: a name outside the allow-list, a bad digest, an offset below zero."""

    status = Status.INVALID_INPUT


class DigestMismatch(SecureRegError):
    """The source's bytes are not what was claimed (SHA-256 or size)."""

    status = Status.DIGEST_MISMATCH


class Refused(SecureRegError):
    """Policy refused the content."""

    status = Status.REFUSED


class SourceChanged(SecureRegError):
    """The source changed while it was read."""

    status = Status.SOURCE_CHANGED


class Conflict(SecureRegError):
    """The name, the mount path or the bytes are taken, or the bytes are under an incident."""

    status = Status.CONFLICT


class NotFound(SecureRegError, KeyError, FileNotFoundError):
    """No such model, file or registry."""

    status = Status.NOT_FOUND
    _errno = errno.ENOENT


class Quarantined(SecureRegError):
    """The model is quarantined."""

    status = Status.QUARANTINED


class Corrupt(SecureRegError):
    """Stored bytes are not what was promoted. They were not given out, and the model is quarantined."""

    status = Status.CORRUPT


class Unreadable(SecureRegError, OSError):
    """Stored bytes could not be read; nothing is said about their content."""

    status = Status.UNREADABLE
    _errno = errno.EIO


class ManifestError(SecureRegError):
    """manifest.yaml is missing, torn, edited or older than one already seen: nothing is served."""

    status = Status.MANIFEST


class AuditError(SecureRegError):
    """The audit log is broken."""

    status = Status.AUDIT


class NotMounted(SecureRegError):
    """No live mount shows the model."""

    status = Status.NOT_MOUNTED


class NoSpace(SecureRegError, OSError):
    """No space left on the disk."""

    status = Status.NO_SPACE
    _errno = errno.ENOSPC


class TooLarge(SecureRegError):
    """Something is over a limit."""

    status = Status.TOO_LARGE


class PermissionDenied(SecureRegError, PermissionError):
    """The operating system refused access, or the registry was opened read-only."""

    status = Status.PERMISSION
    _errno = errno.EACCES


class Unsupported(SecureRegError):
    """Not possible on this machine, file system or root."""

    status = Status.UNSUPPORTED


class Cancelled(SecureRegError):
    """The work was asked to stop. A progress callback may raise it, like any other exception, to stop the work."""

    status = Status.CANCELLED


class IoError(SecureRegError, OSError):
    """Another failure of the operating system."""

    status = Status.IO
    _errno = errno.EIO


class NotEnoughMemory(SecureRegError, MemoryError):
    """Not enough memory for what was asked."""

    status = Status.NO_MEMORY


class Closed(SecureRegError, ValueError):
    """What it was called on is closed. A ValueError, as of any closed file."""

    status = Status.CLOSED


class Forked(SecureRegError):
    """This process was forked from one that uses the library: nothing works here until exec."""

    status = Status.FORKED


class NullPointer(SecureRegError):
    """A bug in this package: a pointer is NULL that may not be."""

    status = Status.NULL


class WrongSize(SecureRegError):
    """A bug in this package, or a library of another version: a struct has a size that the library does not know."""

    status = Status.WRONG_SIZE


class TooManyHandles(SecureRegError):
    """Too many things are open."""

    status = Status.TOO_MANY


class Panic(SecureRegError):
    """A bug in the library: it panicked, and was stopped at the boundary."""

    status = Status.PANIC


_CLASSES: dict[int, type[SecureRegError]] = {}
for _class in SecureRegError.__subclasses__():
    _class.kind = Status(_class.status).name.lower()
    _CLASSES[_class.status] = _class


def failure(status: int, error: _abi.securereg_error) -> SecureRegError:
    """The exception for a failed call, of which `error` says more, if it does."""

    def text(of: str) -> str:
        # A copy: the library's string is gone when the error is freed.
        said: bytes = getattr(_abi.lib, of)(error)
        return said.decode("utf-8", "replace")

    if status == _abi.SECUREREG_FORKED:
        # The library touches nothing then, so it cannot tell more.
        return Forked(
            "this process was forked from one that uses securereg, and cannot use it until exec: start it by spawn instead "
            '(multiprocessing.get_context("spawn"))'
        )
    cls = _CLASSES.get(status, SecureRegError)
    raised = cls(
        text("securereg_error_message"),
        model=text("securereg_error_model"),
        expected=text("securereg_error_expected"),
        actual=text("securereg_error_actual"),
    )
    if cls is SecureRegError:
        raised.status = Status(status)
        raised.kind = _abi.lib.securereg_status_name(status).decode()
    return raised
