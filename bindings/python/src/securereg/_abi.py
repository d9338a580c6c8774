"""include/securereg.h in Python.

Owns: every constant, struct and function of the header, under its own name, and the loaded library. Promises: it says what
the header says, in the header's order; tests/test_header.py compares the two. Leaves out: everything that is pleasant.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

SECUREREG_VERSION_MAJOR = 0
SECUREREG_VERSION_MINOR = 1
SECUREREG_VERSION_PATCH = 0
SECUREREG_VERSION = "0.1.0"

SECUREREG_PHASE_COPY = 0
SECUREREG_PHASE_VERIFY = 1

SECUREREG_OPEN_WRITE = 1
SECUREREG_OPEN_CREATE = 2

SECUREREG_PROMOTE_MOVE = 1

SECUREREG_OUTCOME_PROMOTED = 0
SECUREREG_OUTCOME_ALREADY_THERE = 1
SECUREREG_OUTCOME_MOVED = 2

SECUREREG_METHOD_SHARED = 0
SECUREREG_METHOD_ADOPTED = 1
SECUREREG_METHOD_REFLINKED = 2
SECUREREG_METHOD_COPIED = 3

SECUREREG_MODEL_PROMOTED = 0
SECUREREG_MODEL_QUARANTINED = 1

SECUREREG_EVENT_NONE = 0
SECUREREG_EVENT_PROMOTED = 1
SECUREREG_EVENT_REPLACED = 2
SECUREREG_EVENT_QUARANTINED = 3
SECUREREG_EVENT_RELEASED = 4
SECUREREG_EVENT_DELETED = 5

SECUREREG_NAME_MAX = 256

securereg_status = c_int32
SECUREREG_OK = 0
SECUREREG_INVALID_INPUT = 1
SECUREREG_DIGEST_MISMATCH = 2
SECUREREG_REFUSED = 3
SECUREREG_SOURCE_CHANGED = 4
SECUREREG_CONFLICT = 5
SECUREREG_NOT_FOUND = 6
SECUREREG_QUARANTINED = 7
SECUREREG_CORRUPT = 8
SECUREREG_UNREADABLE = 9
SECUREREG_MANIFEST = 10
SECUREREG_AUDIT = 11
SECUREREG_NOT_MOUNTED = 12
SECUREREG_NO_SPACE = 13
SECUREREG_TOO_LARGE = 14
SECUREREG_PERMISSION = 15
SECUREREG_UNSUPPORTED = 16
SECUREREG_CANCELLED = 17
SECUREREG_IO = 18
SECUREREG_NO_MEMORY = 19
SECUREREG_CLOSED = 64
SECUREREG_FORKED = 65
SECUREREG_NULL = 66
SECUREREG_WRONG_SIZE = 67
SECUREREG_TOO_MANY = 68
SECUREREG_PANIC = 69


class securereg_error(ctypes.Structure):
    _fields_ = [("id", c_uint64)]


class securereg_text(ctypes.Structure):
    _fields_ = [("id", c_uint64)]


class securereg_open_options(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("flags", c_uint32), ("reserved", c_uint32)]


class securereg_registry(ctypes.Structure):
    _fields_ = [("id", c_uint64)]


class securereg_list(ctypes.Structure):
    _fields_ = [("id", c_uint64)]


class securereg_model(ctypes.Structure):
    _fields_ = [("id", c_uint64)]


class securereg_promote_options(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("sha256", c_char_p),
        ("format", c_char_p),
        ("filename", c_char_p),
        ("source", c_char_p),
        ("evidence", c_char_p),
        ("size_bytes", c_uint64),
        ("flags", c_uint32),
        ("reserved", c_uint32),
    ]


securereg_progress = ctypes.CFUNCTYPE(c_int32, c_void_p, c_uint32, c_uint64, c_uint64)


class securereg_task(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("progress", securereg_progress), ("user", c_void_p)]


class securereg_promotion(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("outcome", c_uint32), ("method", c_uint32)]


class securereg_model_info(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("name", c_char_p),
        ("sha256", c_char_p),
        ("format", c_char_p),
        ("layout", c_char_p),
        ("source", c_char_p),
        ("promoted_at", c_char_p),
        ("quarantine_reason", c_char_p),
        ("quarantine_cause", c_char_p),
        ("incident_id", c_char_p),
        ("size_bytes", c_uint64),
        ("file_count", c_uint64),
        ("status", c_uint32),
        ("reserved", c_uint32),
    ]


class securereg_file_info(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("path", c_char_p),
        ("sha256", c_char_p),
        ("blake3", c_char_p),
        ("size_bytes", c_uint64),
    ]


class securereg_file(ctypes.Structure):
    _fields_ = [("id", c_uint64)]


class securereg_sealed(ctypes.Structure):
    _fields_ = [("id", c_uint64)]


class securereg_events(ctypes.Structure):
    _fields_ = [("id", c_uint64)]


class securereg_event(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("kind", c_uint32),
        ("sealed", c_uint32),
        ("generation", c_uint64),
        ("name", c_char * SECUREREG_NAME_MAX),
    ]


class securereg_gguf(ctypes.Structure):
    _fields_ = [("id", c_uint64)]


class securereg_gguf_info(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("pair_count", c_uint64),
        ("tensor_count", c_uint64),
        ("data_offset", c_uint64),
        ("alignment", c_uint64),
        ("version", c_uint32),
        ("reserved", c_uint32),
    ]


class securereg_gguf_pair(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("key", c_char_p),
        ("data", c_void_p),
        ("data_size", c_uint64),
        ("count", c_uint64),
        ("u64_value", c_uint64),
        ("i64_value", c_int64),
        ("f64_value", c_double),
        ("value_type", c_uint32),
        ("array_type", c_uint32),
        ("index", c_uint64),
    ]


class securereg_gguf_tensor(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("name", c_char_p),
        ("type_name", c_char_p),
        ("type_id", c_uint32),
        ("dimension_count", c_uint32),
        ("dimensions", c_uint64 * 4),
        ("offset", c_uint64),
        ("size_bytes", c_uint64),
    ]


# A pointer that is handed out is taken as an address: read as a C string by ctypes itself, one that ends in no NUL
# (securereg_gguf_string) would be read past its end.
_ADDRESS = POINTER(c_void_p)
_ERROR = POINTER(securereg_error)

# Name: what it returns, what it takes.
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "securereg_status_name": (c_char_p, [c_int32]),
    "securereg_version": (c_char_p, []),
    "securereg_error_status": (securereg_status, [securereg_error]),
    "securereg_error_message": (c_char_p, [securereg_error]),
    "securereg_error_model": (c_char_p, [securereg_error]),
    "securereg_error_expected": (c_char_p, [securereg_error]),
    "securereg_error_actual": (c_char_p, [securereg_error]),
    "securereg_error_free": (securereg_status, [securereg_error]),
    "securereg_text_data": (securereg_status, [securereg_text, _ADDRESS, POINTER(c_size_t), _ERROR]),
    "securereg_text_free": (securereg_status, [securereg_text]),
    "securereg_open": (
        securereg_status,
        [c_char_p, POINTER(securereg_open_options), POINTER(securereg_registry), _ERROR],
    ),
    "securereg_close": (securereg_status, [securereg_registry]),
    "securereg_generation": (securereg_status, [securereg_registry, POINTER(c_uint64), _ERROR]),
    "securereg_list_models": (securereg_status, [securereg_registry, POINTER(securereg_list), _ERROR]),
    "securereg_lookup": (securereg_status, [securereg_registry, c_char_p, POINTER(securereg_model), _ERROR]),
    "securereg_describe": (securereg_status, [securereg_registry, c_char_p, POINTER(securereg_text), _ERROR]),
    "securereg_mount_path": (securereg_status, [securereg_registry, c_char_p, POINTER(securereg_text), _ERROR]),
    "securereg_promote": (
        securereg_status,
        [
            securereg_registry,
            c_char_p,
            c_char_p,
            POINTER(securereg_promote_options),
            POINTER(securereg_task),
            POINTER(securereg_promotion),
            POINTER(securereg_model),
            _ERROR,
        ],
    ),
    "securereg_verify": (securereg_status, [securereg_registry, c_char_p, POINTER(securereg_task), _ERROR]),
    "securereg_verify_all": (securereg_status, [securereg_registry, POINTER(securereg_task), _ERROR]),
    "securereg_integrity": (securereg_status, [securereg_registry, POINTER(securereg_text), _ERROR]),
    "securereg_quarantine": (securereg_status, [securereg_registry, c_char_p, c_char_p, c_char_p, _ERROR]),
    "securereg_release": (securereg_status, [securereg_registry, c_char_p, c_char_p, POINTER(securereg_task), _ERROR]),
    "securereg_delete": (securereg_status, [securereg_registry, c_char_p, _ERROR]),
    "securereg_model_get": (securereg_status, [securereg_model, POINTER(securereg_model_info), _ERROR]),
    "securereg_model_file": (securereg_status, [securereg_model, c_uint64, POINTER(securereg_file_info), _ERROR]),
    "securereg_model_free": (securereg_status, [securereg_model]),
    "securereg_list_count": (securereg_status, [securereg_list, POINTER(c_uint64), _ERROR]),
    "securereg_list_at": (securereg_status, [securereg_list, c_uint64, POINTER(securereg_model), _ERROR]),
    "securereg_list_free": (securereg_status, [securereg_list]),
    "securereg_file_open": (
        securereg_status,
        [securereg_registry, c_char_p, c_char_p, POINTER(securereg_file), _ERROR],
    ),
    "securereg_file_size": (securereg_status, [securereg_file, POINTER(c_uint64), _ERROR]),
    "securereg_read_at": (
        securereg_status,
        [securereg_file, c_void_p, c_size_t, c_uint64, POINTER(c_size_t), _ERROR],
    ),
    "securereg_file_close": (securereg_status, [securereg_file]),
    "securereg_open_sealed": (
        securereg_status,
        [securereg_registry, c_char_p, c_char_p, POINTER(securereg_task), POINTER(securereg_sealed), _ERROR],
    ),
    "securereg_map": (
        securereg_status,
        [
            securereg_registry,
            c_char_p,
            c_char_p,
            POINTER(securereg_task),
            POINTER(securereg_sealed),
            _ADDRESS,
            POINTER(c_size_t),
            _ERROR,
        ],
    ),
    "securereg_sealed_map": (securereg_status, [securereg_sealed, _ADDRESS, POINTER(c_size_t), _ERROR]),
    "securereg_sealed_fd": (securereg_status, [securereg_sealed, POINTER(c_int), _ERROR]),
    "securereg_sealed_path": (securereg_status, [securereg_sealed, _ADDRESS, _ERROR]),
    "securereg_sealed_close": (securereg_status, [securereg_sealed]),
    "securereg_events_open": (securereg_status, [securereg_registry, POINTER(securereg_events), _ERROR]),
    "securereg_events_fd": (securereg_status, [securereg_events, POINTER(c_int), _ERROR]),
    "securereg_events_next": (securereg_status, [securereg_events, POINTER(securereg_event), _ERROR]),
    "securereg_events_close": (securereg_status, [securereg_events]),
    "securereg_gguf_open": (
        securereg_status,
        [securereg_registry, c_char_p, c_char_p, POINTER(securereg_gguf), _ERROR],
    ),
    "securereg_gguf_get": (securereg_status, [securereg_gguf, POINTER(securereg_gguf_info), _ERROR]),
    "securereg_gguf_pair_at": (securereg_status, [securereg_gguf, c_uint64, POINTER(securereg_gguf_pair), _ERROR]),
    "securereg_gguf_find": (securereg_status, [securereg_gguf, c_char_p, POINTER(securereg_gguf_pair), _ERROR]),
    "securereg_gguf_string": (
        securereg_status,
        [securereg_gguf, c_uint64, c_uint64, _ADDRESS, POINTER(c_size_t), _ERROR],
    ),
    "securereg_gguf_tensor_at": (securereg_status, [securereg_gguf, c_uint64, POINTER(securereg_gguf_tensor), _ERROR]),
    "securereg_gguf_free": (securereg_status, [securereg_gguf]),
}


def _load() -> ctypes.CDLL:
    """The library that was bundled when the package was built: no variable and no search path leads elsewhere."""
    path = Path(__file__).with_name("libsecurereg.so")
    try:
        # CDLL, not PyDLL: the GIL is released during each call.
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as e:
        raise ImportError(f"securereg's library cannot be used, install the package again: {e}") from e
    version = library.securereg_version().decode()
    # Before 1.0 the minor number stands for the ABI.
    if version.split(".")[:2] != [str(SECUREREG_VERSION_MAJOR), str(SECUREREG_VERSION_MINOR)]:
        raise ImportError(
            f"{path} is securereg {version}, but this package is for {SECUREREG_VERSION}: install it again"
        )
    return library


lib = _load()
