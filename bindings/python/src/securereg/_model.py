"""What is recorded of a model.

Owns: Model and what it is made of, copied out of the library. Promises: a snapshot in plain Python values, that needs no
closing, can be pickled, and does not change. Leaves out: the model's bytes.
"""

from __future__ import annotations

from ctypes import byref
from dataclasses import dataclass
from typing import Any

from . import _abi
from ._calls import Handle, call, said, sized
from ._numbers import Method, ModelStatus, Outcome


@dataclass(frozen=True)
class FileInfo:
    """One file of a model."""

    #: Its path inside the model; of a single file its name.
    path: str
    #: Its SHA-256, bare hex.
    sha256: str
    #: Its BLAKE3 hash, bare hex.
    blake3: str
    #: Its size in bytes.
    size_bytes: int


@dataclass(frozen=True)
class Quarantine:
    """Why a model is not served."""

    reason: str
    #: Who decides over its release: "integrity" or "incident".
    cause: str
    #: The incident; None when none was named.
    incident_id: str | None


@dataclass(frozen=True)
class Model:
    """A model as it was when it was asked for."""

    name: str
    #: Its SHA-256, bare hex: of several files that of their list (`<hex>  <path>\\n`, sorted by path).
    sha256: str
    #: "gguf", "safetensors", "pytorch" or "onnx"; later versions may know more.
    format: str
    #: "file", "folder" or "split".
    layout: str
    #: Where it came from, in the promoter's words.
    source: str
    #: When it was promoted: RFC 3339, UTC.
    promoted_at: str
    #: The sum of its files, in bytes.
    size_bytes: int
    status: ModelStatus
    #: None while it is served.
    quarantine: Quarantine | None
    #: Sorted by path; at least one.
    files: tuple[FileInfo, ...]


@dataclass(frozen=True)
class Promotion:
    """What a promotion did."""

    outcome: Outcome
    method: Method
    model: Model


def new_model() -> Handle:
    """A place for a model that the library gives."""
    return Handle(_abi.securereg_model, "securereg_model_free", "model")


def model_of(handle: Handle) -> Model:
    """Copies what the library says of a model. Its strings are the handle's, which the caller holds meanwhile."""
    info = sized(_abi.securereg_model_info)
    call(_abi.lib.securereg_model_get, handle.live(), byref(info))
    return Model(
        name=said(info.name),
        sha256=said(info.sha256),
        format=said(info.format),
        layout=said(info.layout),
        source=said(info.source),
        promoted_at=said(info.promoted_at),
        size_bytes=info.size_bytes,
        status=ModelStatus(info.status),
        quarantine=_quarantine(info),
        files=tuple(_file(handle, index) for index in range(info.file_count)),
    )


def _quarantine(info: Any) -> Quarantine | None:
    if info.quarantine_reason is None:
        return None
    incident = None if info.incident_id is None else said(info.incident_id)
    return Quarantine(reason=said(info.quarantine_reason), cause=said(info.quarantine_cause), incident_id=incident)


def _file(handle: Handle, index: int) -> FileInfo:
    info = sized(_abi.securereg_file_info)
    call(_abi.lib.securereg_model_file, handle.live(), index, byref(info))
    return FileInfo(
        path=said(info.path), sha256=said(info.sha256), blake3=said(info.blake3), size_bytes=info.size_bytes
    )
