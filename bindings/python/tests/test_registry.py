"""The verbs of a registry: each does what it says, and says what it did not do."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import securereg
from conftest import DATA, GROUP, blob, flip, gguf, run_python
from securereg import EventKind, Method, ModelStatus, Outcome

Promote = Callable[[str, bytes], securereg.Model]
TINY = DATA / "tiny-llama.gguf"
SHA256 = hashlib.sha256(TINY.read_bytes()).hexdigest()


def test_a_promoted_model_is_recorded_as_it_was_given(registry: securereg.Registry) -> None:
    promotion = registry.promote(
        TINY,
        "org/tiny:v1",
        sha256=SHA256,
        format="gguf",
        filename="a.gguf",
        source="made for the tests, ä",
        evidence={"scan": {"clean": True, "note": "ü\0"}},
        size_bytes=TINY.stat().st_size,
    )
    assert (promotion.outcome, promotion.method) == (Outcome.PROMOTED, Method.COPIED)
    model = promotion.model
    assert (model.name, model.sha256, model.format, model.layout) == ("org/tiny:v1", SHA256, "gguf", "file")
    assert (model.source, model.size_bytes) == ("made for the tests, ä", TINY.stat().st_size)
    assert (model.status, model.quarantine) == (ModelStatus.PROMOTED, None)
    assert model.promoted_at.endswith("Z")
    [file] = model.files
    assert (file.path, file.sha256, file.size_bytes, len(file.blake3)) == ("a.gguf", SHA256, model.size_bytes, 64)
    assert registry.lookup("org/tiny:v1") == registry["org/tiny:v1"] == model
    assert registry.models() == [model]
    described = registry.describe("org/tiny:v1")
    assert (described["scan"], described["sha256"]) == ({"clean": True, "note": "ü\0"}, SHA256)
    assert pickle.loads(pickle.dumps(model)) == model


def test_a_registry_is_a_mapping_of_names(registry: securereg.Registry, promote: Promote) -> None:
    assert (list(registry), registry.models(), registry.generation) == ([], [], 0)
    promote("b", gguf(100, 1))
    promote("a", gguf(100, 2))
    assert list(registry) == [model.name for model in registry.models()] == ["a", "b"]
    assert registry.generation == 2
    assert "a" in registry
    for other in ("c", "no name", "", "a\0", "\ud800", 7, None):
        assert other not in registry


def test_a_name_stands_for_the_same_bytes_for_good(registry: securereg.Registry, tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(gguf(3 * GROUP, 1))
    assert registry.promote(source, "m").outcome is Outcome.PROMOTED
    again = registry.promote(str(source), "m")
    assert (again.outcome, again.method) == (Outcome.ALREADY_THERE, Method.SHARED)
    assert registry.promote(source, "other", filename="other.gguf").method is Method.SHARED
    assert registry.promote(source, "t:1").outcome is Outcome.PROMOTED
    source.write_bytes(gguf(3 * GROUP, 2))
    with pytest.raises(securereg.Conflict):
        registry.promote(source, "m")
    assert registry.promote(source, "t:1").outcome is Outcome.MOVED


def test_a_moved_source_is_gone(registry: securereg.Registry, tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(gguf(GROUP))
    promotion = registry.promote(source, "m", move=True)
    assert promotion.method in (Method.ADOPTED, Method.COPIED, Method.REFLINKED)
    assert not source.exists()


def test_folders_and_split_sets_are_models_too(registry: securereg.Registry, folder: securereg.Model) -> None:
    assert (folder.layout, folder.format) == ("folder", "safetensors")
    assert [file.path for file in folder.files] == ["config.json", "empty.txt", "model.safetensors"]
    split = registry.promote(DATA / "split" / "tiny-00001-of-00002.gguf", "split").model
    assert (split.layout, len(split.files)) == ("split", 2)
    assert split.size_bytes == sum(file.size_bytes for file in split.files)
    with pytest.raises(securereg.InvalidInput, match="2 files"):
        registry.open("split")


@pytest.mark.parametrize(
    ("claim", "error"),
    [
        ({"sha256": "0" * 64}, securereg.DigestMismatch),
        ({"size_bytes": 5}, securereg.DigestMismatch),
        ({"format": "safetensors"}, securereg.Refused),
        ({"sha256": "xyz"}, securereg.InvalidInput),
        ({"format": "pickle"}, securereg.Refused),
        ({"filename": "../m"}, securereg.InvalidInput),
        ({"filename": "m.gguf\0.txt"}, securereg.InvalidInput),
        ({"source": "a\0b"}, securereg.InvalidInput),
        ({"size_bytes": 0}, securereg.InvalidInput),
        ({"size_bytes": -1}, securereg.InvalidInput),
        ({"size_bytes": 1 << 64}, securereg.InvalidInput),
        ({"evidence": {"a": float("nan")}}, ValueError),
        ({"evidence": {"a": "\ud800"}}, securereg.InvalidInput),
        ({"evidence": {"a": object()}}, TypeError),
        ({"sha256": b"0" * 64}, TypeError),
    ],
)
def test_a_claim_that_does_not_hold_changes_nothing(
    registry: securereg.Registry, claim: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        registry.promote(TINY, "m", **claim)  # type: ignore[arg-type]
    assert (registry.models(), registry.generation) == ([], 0)


def test_both_digests_are_told_when_they_differ(registry: securereg.Registry) -> None:
    with pytest.raises(securereg.DigestMismatch) as caught:
        registry.promote(TINY, "m", sha256="0" * 64)
    assert (caught.value.model, caught.value.expected, caught.value.actual) == ("m", "0" * 64, SHA256)


def test_what_policy_refuses_is_refused(registry: securereg.Registry, tmp_path: Path) -> None:
    for name in ("p00_raw.pkl", "g01_empty.gguf", "x02_html.gguf"):
        with pytest.raises(securereg.Refused) as caught:
            registry.promote(DATA / "hostile" / name, "m")
        assert (caught.value.status, caught.value.kind) == (securereg.Status.REFUSED, "refused")
    with pytest.raises(securereg.NotFound):
        registry.promote(tmp_path / "nothing", "m")
    assert registry.models() == []


def test_names_that_c_would_read_differently_are_refused(registry: securereg.Registry, tiny: securereg.Model) -> None:
    for name in ("tiny\0", "tiny\0x", "\ud800"):
        for verb in (
            registry.lookup,
            registry.open,
            registry.open_sealed,
            registry.gguf,
            registry.verify,
            registry.delete,
        ):
            with pytest.raises(securereg.InvalidInput):
                verb(name)
    with pytest.raises(securereg.InvalidInput):
        registry.promote(os.fspath(TINY) + "\0x", "m")
    with pytest.raises(securereg.InvalidInput):
        registry.quarantine("tiny", "a\0b")
    with pytest.raises(TypeError):
        registry.lookup(b"tiny")  # type: ignore[arg-type]
    assert registry["tiny"].status is ModelStatus.PROMOTED


def test_quarantine_and_release(registry: securereg.Registry, tiny: securereg.Model) -> None:
    registry.quarantine("tiny", "CVE-2026-1", incident_id="INC-7")
    model = registry["tiny"]
    assert model.status is ModelStatus.QUARANTINED
    assert model.quarantine == securereg.Quarantine(reason="CVE-2026-1", cause="incident", incident_id="INC-7")
    for verb in (registry.open, registry.open_sealed, registry.map, registry.gguf, registry.mount_path):
        with pytest.raises(securereg.Quarantined) as caught:
            verb("tiny")
        assert caught.value.model == "tiny"
    # A verification alone does not lift an incident.
    registry.verify("tiny")
    assert registry["tiny"].status is ModelStatus.QUARANTINED
    registry.release("tiny", "a false alarm")
    assert registry["tiny"] == tiny


def test_delete_takes_the_name_away_and_leaves_open_files(registry: securereg.Registry, tiny: securereg.Model) -> None:
    with registry.open("tiny") as file:
        registry.delete("tiny")
        assert file.read(4) == b"GGUF"
    with pytest.raises(KeyError):
        registry["tiny"]
    with pytest.raises(securereg.NotFound):
        registry.delete("tiny")


def test_damage_is_found_and_quarantined(registry: securereg.Registry, root: Path, tiny: securereg.Model) -> None:
    stored = blob(root, tiny)
    flip(stored, 1_000_000)
    with pytest.raises(securereg.Corrupt) as caught:
        registry.verify("tiny")
    actual = hashlib.sha256(stored.read_bytes()).hexdigest()
    assert (caught.value.model, caught.value.expected, caught.value.actual) == ("tiny", SHA256, actual)
    assert not isinstance(caught.value, OSError)
    quarantine = registry["tiny"].quarantine
    assert quarantine is not None and quarantine.cause == "integrity"
    with pytest.raises(securereg.Corrupt):
        registry.release("tiny", "please")
    flip(stored, 1_000_000)
    registry.verify("tiny")
    assert registry["tiny"].status is ModelStatus.PROMOTED


def test_verify_all_names_the_first_and_keeps_the_result(
    registry: securereg.Registry, root: Path, promote: Promote
) -> None:
    with pytest.raises(securereg.NotFound):
        registry.integrity()
    promote("a", gguf(GROUP, 1))
    damaged = promote("b", gguf(GROUP, 2))
    registry.verify_all()
    assert registry.integrity()["checked"] == 2
    flip(blob(root, damaged), 30)
    with pytest.raises(securereg.Corrupt, match="1 of 2") as caught:
        registry.verify_all()
    assert caught.value.model == "b"
    assert [model["status"] for model in registry.integrity()["models"]] == ["verified", "failed"]


def test_a_live_mount_is_where_its_record_says(registry: securereg.Registry, root: Path, tiny: securereg.Model) -> None:
    with pytest.raises(securereg.NotMounted):
        registry.mount_path("tiny")
    # What a mount leaves: a record, live for as long as its maker holds the lock.
    record = root / "run" / "mounts" / "test.json"
    shown = {"mountpoint": "/models", "pid": os.getpid(), "since": "2026-01-01T00:00:00Z"}
    record.write_text(json.dumps(shown), encoding="utf-8")
    with record.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert registry.mount_path("tiny") == Path("/models/tiny-llama.gguf")
        with pytest.raises(securereg.NotFound):
            registry.mount_path("other")
    with pytest.raises(securereg.NotMounted):
        registry.mount_path("tiny")


def test_a_registry_opened_to_read_only_serves_and_changes_nothing(
    registry: securereg.Registry, root: Path, tiny: securereg.Model
) -> None:
    with securereg.Registry(root) as reader:
        assert reader.models() == [tiny]
        with reader.open("tiny") as file:
            assert file.read(4) == b"GGUF"
        reader.verify("tiny")
        for change in (
            lambda: reader.promote(TINY, "m", filename="m.gguf"),
            lambda: reader.quarantine("tiny", "why"),
            lambda: reader.release("tiny", "why"),
            lambda: reader.delete("tiny"),
        ):
            with pytest.raises(PermissionError) as caught:
                change()
            assert isinstance(caught.value, securereg.PermissionDenied)
    assert registry.generation == 1


def test_where_there_is_no_registry_none_is_opened(tmp_path: Path) -> None:
    for write in (False, True):
        with pytest.raises(FileNotFoundError) as caught:
            securereg.Registry(tmp_path / "none", write=write)
        assert isinstance(caught.value, securereg.NotFound)
    with pytest.raises(securereg.InvalidInput):
        securereg.Registry(str(tmp_path) + "\0")
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_others_may_write_to_is_refused(root: Path, registry: securereg.Registry) -> None:
    root.chmod(0o777)
    with pytest.raises(securereg.PermissionDenied, match="not private"):
        securereg.Registry(root)


def test_the_default_root_is_the_users(tmp_path: Path) -> None:
    code = (
        "import securereg\ntry: securereg.Registry().close(); print('open')\nexcept securereg.NotFound as e: print(e)"
    )
    shown = run_python(code, env={"XDG_DATA_HOME": str(tmp_path)}).stdout
    # Root's is a folder of the system, which is only looked at here.
    expected = "/var/lib/secure-ai/registry" if os.geteuid() == 0 else f"{tmp_path}/securereg/registry"
    assert expected in shown or shown == "open\n"


def test_two_registries_of_one_root_see_each_others_changes(root: Path, registry: securereg.Registry) -> None:
    with securereg.Registry(root, write=True) as other, registry.events() as events:
        other.promote(TINY, "tiny")
        assert [(event.kind, event.name) for event in events] == [(EventKind.PROMOTED, "tiny")]
        assert registry["tiny"].sha256 == SHA256


def test_a_closed_registry_says_so_and_closing_it_twice_is_fine(
    registry: securereg.Registry, tiny: securereg.Model
) -> None:
    file = registry.open("tiny")
    assert not registry.closed
    registry.close()
    registry.close()
    assert registry.closed and "closed" in repr(registry)
    for verb in (
        registry.models,
        registry.events,
        registry.verify_all,
        registry.__enter__,
        lambda: registry.generation,
    ):
        with pytest.raises(securereg.Closed, match="the registry is closed"):
            verb()
    # What came from it stays.
    with file:
        assert file.read(4) == b"GGUF"


def test_what_holds_a_handle_is_neither_copied_nor_pickled(registry: securereg.Registry, tiny: securereg.Model) -> None:
    with registry.open("tiny") as file, registry.open_sealed("tiny") as sealed, registry.events() as events:
        for thing in (registry, file, sealed, events, registry.gguf("tiny")):
            for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError):
                    attempt(thing)
