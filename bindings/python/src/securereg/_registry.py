"""A registry: opening it, asking it, changing it.

Owns: Registry. Promises: what the C ABI promises; an argument that C would misread is refused first. Leaves out: model bytes
(`_file`, `_sealed`), the header of a GGUF (`_gguf`), changes as they come (`_events`).
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator, Mapping
from ctypes import byref
from pathlib import Path
from typing import Any

from . import _abi
from ._calls import Handle, Resource, call, given_text, optional, path_text, sized, text, u64
from ._errors import InvalidInput, NotFound
from ._events import Events
from ._file import File
from ._gguf import Gguf
from ._model import Model, Promotion, model_of, new_model
from ._numbers import Method, Outcome
from ._sealed import Sealed
from ._work import ProgressCallback, run


class Registry(Resource):
    """An open registry: a context manager, and a mapping of names to models as far as that goes.

    `root` is its folder; None is /var/lib/secure-ai/registry for root, $XDG_DATA_HOME/securereg/registry for anyone else.
    Without `write` nothing at all is written to it, and damage that is found is refused by this process only. `create` makes
    the registry where there is none, and implies `write`. Any number of threads may use one at once. What was opened from it
    stays open when it is closed.

    `progress`, wherever it is taken, is called in the calling thread with how far the work is. What it raises stops the work
    and comes out of the call, as does Ctrl-C, with or without it; it must not call the library.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, write: bool = False, create: bool = False
    ) -> None:
        #: As it was given; None for the default.
        self.root = None if root is None else Path(root)
        handle = Handle(_abi.securereg_registry, "securereg_close", "registry")
        flags = _abi.SECUREREG_OPEN_WRITE if write or create else 0
        flags |= _abi.SECUREREG_OPEN_CREATE if create else 0
        options = sized(_abi.securereg_open_options, flags=flags)
        folder = None if root is None else path_text(root, "the root")
        call(_abi.lib.securereg_open, folder, byref(options), handle.out())
        self._handle = handle

    @property
    def generation(self) -> int:
        """The generation of the catalog: it counts up with each change, by whatever process."""
        generation = ctypes.c_uint64()
        call(_abi.lib.securereg_generation, self._handle.live(), byref(generation))
        return generation.value

    def models(self) -> list[Model]:
        """All models, quarantined ones too, sorted by name, as they are this moment."""
        models = Handle(_abi.securereg_list, "securereg_list_free", "list")
        call(_abi.lib.securereg_list_models, self._handle.live(), models.out())
        count = ctypes.c_uint64()
        call(_abi.lib.securereg_list_count, models.live(), byref(count))
        found = []
        for index in range(count.value):
            model = new_model()
            call(_abi.lib.securereg_list_at, models.live(), index, model.out())
            found.append(model_of(model))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter([model.name for model in self.models()])

    def lookup(self, name: str) -> Model:
        """The model `name`, quarantined or not, as it is this moment."""
        model = new_model()
        call(_abi.lib.securereg_lookup, self._handle.live(), text(name, "the model's name"), model.out())
        return model_of(model)

    def __getitem__(self, name: str) -> Model:
        return self.lookup(name)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        try:
            self.lookup(name)
        except (NotFound, InvalidInput):
            return False
        return True

    def describe(self, name: str) -> dict[str, Any]:
        """Everything that is recorded of the model `name`: what the HTTP API shows, the evidence kept with it included."""
        shown = given_text(_abi.lib.securereg_describe, self._handle.live(), text(name, "the model's name"))
        described: dict[str, Any] = json.loads(shown)
        return described

    def mount_path(self, name: str) -> Path:
        """Where a live mount shows the model `name`: its file, its folder, or the first shard of a split set."""
        return Path(given_text(_abi.lib.securereg_mount_path, self._handle.live(), text(name, "the model's name")))

    def promote(
        self,
        path: str | os.PathLike[str],
        name: str,
        *,
        sha256: str | None = None,
        format: str | None = None,
        filename: str | None = None,
        source: str | None = None,
        evidence: Mapping[str, Any] | None = None,
        size_bytes: int | None = None,
        move: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Promotion:
        """Takes the file, folder or first shard at `path` in as the model `name`: copied, hashed, inspected, judged,
        registered, and synced to disk before this returns. A failure changes nothing, except that a refusal is in the audit
        log.

        `sha256`, `format` ("gguf", "safetensors", "pytorch" or "onnx") and `size_bytes` claim what it must be: the SHA-256
        of several files is that of their list (`<hex>  <path>\\n`, sorted by path). `filename` is the name of a single file
        in the mount, `source` says in words where it came from, `evidence` is kept with it as it is. `move` gives the source
        away: its file itself is taken where that is provably safe, else it is copied and then removed.
        """
        if size_bytes is not None and size_bytes < 1:
            # 0 claims nothing in C: it must not pass for a claim.
            raise InvalidInput(f"size_bytes is {size_bytes}: no model is that small")
        options = sized(
            _abi.securereg_promote_options,
            sha256=optional(sha256, "sha256"),
            format=optional(format, "format"),
            filename=optional(filename, "filename"),
            source=optional(source, "source"),
            evidence=None if evidence is None else _json(evidence),
            size_bytes=0 if size_bytes is None else u64(size_bytes, "size_bytes"),
            flags=_abi.SECUREREG_PROMOTE_MOVE if move else 0,
        )
        where, what = path_text(path, "the path"), text(name, "the model's name")
        result, model = sized(_abi.securereg_promotion), new_model()
        promote, root = _abi.lib.securereg_promote, self._handle.live()

        def work(task: Any) -> None:
            call(promote, root, where, what, byref(options), task, byref(result), model.out())

        run(work, progress)
        return Promotion(outcome=Outcome(result.outcome), method=Method(result.method), model=model_of(model))

    def verify(self, name: str, *, progress: ProgressCallback | None = None) -> None:
        """Hashes every byte of the model `name`, from the disk. Returns only if all are what was promoted; that restores a
        model which integrity had quarantined."""
        root, what = self._handle.live(), text(name, "the model's name")
        run(lambda task: call(_abi.lib.securereg_verify, root, what, task), progress)

    def verify_all(self, *, progress: ProgressCallback | None = None) -> None:
        """Hashes every byte of every model, each stored file once. Returns only if all models pass; the result is kept
        either way: integrity()."""
        root = self._handle.live()
        run(lambda task: call(_abi.lib.securereg_verify_all, root, task), progress)

    def integrity(self) -> dict[str, Any]:
        """The result of the last verification of all models, by whatever process: `models`, `checked`, `verified_at`.
        Raises NotFound when none has run yet."""
        result: dict[str, Any] = json.loads(given_text(_abi.lib.securereg_integrity, self._handle.live()))
        return result

    def quarantine(self, name: str, reason: str, *, incident_id: str | None = None) -> None:
        """Takes the model `name` out of service, everywhere; only a release brings it back. Sealed memory that is held
        already stays as it is."""
        what, why = text(name, "the model's name"), text(reason, "reason")
        incident = optional(incident_id, "incident_id")
        call(_abi.lib.securereg_quarantine, self._handle.live(), what, why, incident)

    def release(self, name: str, reason: str, *, progress: ProgressCallback | None = None) -> None:
        """Verifies the model `name` and, if every byte is good, lifts its quarantine, whoever put it. `reason` goes into the
        audit log."""
        root, what, why = self._handle.live(), text(name, "the model's name"), text(reason, "reason")
        run(lambda task: call(_abi.lib.securereg_release, root, what, why, task), progress)

    def delete(self, name: str) -> None:
        """Removes the model `name`, and the bytes that no other model holds. What is open stays readable, and verified."""
        call(_abi.lib.securereg_delete, self._handle.live(), text(name, "the model's name"))

    def open(self, name: str, path: str | None = None) -> File:
        """Opens the file at `path` inside the promoted model `name`; None means its only file. At once, however large it is,
        when the stored file is untouched since it was last checked, else after all of it was hashed again."""
        return File(self._handle, name, path)

    def open_sealed(self, name: str, path: str | None = None, *, progress: ProgressCallback | None = None) -> Sealed:
        """Puts a file of a promoted model into memory, hashes all of it, and seals it, so that nobody can change a byte
        afterwards. One content is one memory in a process: opening it again shares it. It takes as much memory as the file
        is large; NotEnoughMemory names the need before any is taken."""
        return Sealed(self._handle, name, path, progress)

    def map(self, name: str, path: str | None = None, *, progress: ProgressCallback | None = None) -> memoryview:
        """The bytes of a file in sealed memory, without a copy, as open_sealed(...).data: for who wants bytes and no file.
        The memory is given back when the last view of it is gone; there is nothing to close."""
        with self.open_sealed(name, path, progress=progress) as sealed:
            return sealed.data

    def events(self) -> Events:
        """Subscribes to what changes from now on, by whatever process."""
        return Events(self._handle)

    def gguf(self, name: str, path: str | None = None) -> Gguf:
        """Reads the header of a GGUF file, verified, and none of its weights. Raises Refused when it is not a sound GGUF."""
        return Gguf(self._handle, name, path)

    def __repr__(self) -> str:
        where = "the default root" if self.root is None else repr(str(self.root))
        return f"<securereg.Registry {where}{' closed' if self.closed else ''}>"


def _json(evidence: Mapping[str, Any]) -> bytes:
    # What is no JSON (NaN, a set) is refused here, and not kept as something else.
    return json.dumps(dict(evidence), allow_nan=False).encode()
