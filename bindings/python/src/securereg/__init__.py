"""Verified model bytes: a trusted model registry.

    import securereg

    with securereg.Registry() as registry:
        with registry.open("tiny") as file:
            magic = file.read(4)

Every byte that comes out of this package was hashed against what was promoted, or it raises. Failures are SecureRegError,
one class for each status. Everything may be used from any number of threads; the GIL is released during each call. A forked
child gets Forked from everything: with multiprocessing, use the start method "spawn".

Owns: the public names. Leaves out: everything else, which is private.
"""

from ._abi import SECUREREG_VERSION as __version__
from ._errors import (
    AuditError,
    Cancelled,
    Closed,
    Conflict,
    Corrupt,
    DigestMismatch,
    Forked,
    InvalidInput,
    IoError,
    ManifestError,
    NoSpace,
    NotEnoughMemory,
    NotFound,
    NotMounted,
    NullPointer,
    Panic,
    PermissionDenied,
    Quarantined,
    Refused,
    SecureRegError,
    SourceChanged,
    TooLarge,
    TooManyHandles,
    Unreadable,
    Unsupported,
    WrongSize,
)
from ._events import Event, Events
from ._file import File
from ._gguf import Gguf, MetadataValue, NestedArray, Tensor
from ._model import FileInfo, Model, Promotion, Quarantine
from ._numbers import EventKind, Method, ModelStatus, Outcome, Phase, Status
from ._registry import Registry
from ._sealed import Sealed
from ._work import Progress, ProgressCallback

__all__ = [
    "AuditError",
    "Cancelled",
    "Closed",
    "Conflict",
    "Corrupt",
    "DigestMismatch",
    "Event",
    "EventKind",
    "Events",
    "File",
    "FileInfo",
    "Forked",
    "Gguf",
    "InvalidInput",
    "IoError",
    "ManifestError",
    "MetadataValue",
    "Method",
    "Model",
    "ModelStatus",
    "NestedArray",
    "NoSpace",
    "NotEnoughMemory",
    "NotFound",
    "NotMounted",
    "NullPointer",
    "Outcome",
    "Panic",
    "PermissionDenied",
    "Phase",
    "Progress",
    "ProgressCallback",
    "Promotion",
    "Quarantine",
    "Quarantined",
    "Refused",
    "Registry",
    "Sealed",
    "SecureRegError",
    "SourceChanged",
    "Status",
    "Tensor",
    "TooLarge",
    "TooManyHandles",
    "Unreadable",
    "Unsupported",
    "WrongSize",
    "__version__",
]

# Shown where users meet them, and where pickles and tracebacks name them.
for _name in __all__:
    _public = globals()[_name]
    if getattr(_public, "__module__", "").startswith("securereg."):
        _public.__module__ = __name__
del _name, _public
