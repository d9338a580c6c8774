"""What the tests share: the repository's test data, registries in temporary folders, damage."""

from __future__ import annotations

import gc
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import securereg

#: The clone these tests lie in.
REPOSITORY = Path(__file__).resolve().parents[3]
DATA = REPOSITORY / "tests" / "data"
#: What is hashed as one, in bytes.
GROUP = 64 << 10


def gguf_start(size: int) -> bytes:
    """The first 64 bytes of a GGUF of one tensor: any bytes may follow, up to its size."""
    tensor = struct.pack("<Q1sIQIQ", 1, b"t", 1, size - 64, 24, 0)  # ggml's type I8, at the start of the data
    return (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor).ljust(64, b"\0")


def gguf(size: int, seed: int = 1) -> bytes:
    """A GGUF of one tensor and of exactly this size, more than 64, with bytes that differ everywhere."""
    body = b"".join((seed * 1_000_003 + at).to_bytes(8, "little") for at in range((size - 64) // 8 + 1))
    return (gguf_start(size) + body)[:size]


def blob(root: Path, model: securereg.Model, index: int = 0) -> Path:
    """The stored file of a model's file."""
    return root / "blobs" / "sha256" / model.files[index].sha256


def flip(path: Path, offset: int) -> None:
    """Damages one byte, as whoever may write to the disk can."""
    path.chmod(path.stat().st_mode | stat.S_IWUSR)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def run_python(
    code: str, *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of its own, in which every warning is an error."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    given = {**os.environ, **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=given, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def registry(root: Path) -> Iterator[securereg.Registry]:
    with securereg.Registry(root, create=True) as registry:
        yield registry


@pytest.fixture
def promote(registry: securereg.Registry, tmp_path: Path) -> Callable[[str, bytes], securereg.Model]:
    """Promotes bytes under a name."""

    def promote(name: str, content: bytes) -> securereg.Model:
        source = tmp_path / f"{name.replace(':', '-')}.gguf"
        source.write_bytes(content)
        return registry.promote(source, name).model

    return promote


@pytest.fixture
def tiny(registry: securereg.Registry) -> securereg.Model:
    return registry.promote(DATA / "tiny-llama.gguf", "tiny").model


@pytest.fixture
def folder(registry: securereg.Registry, tmp_path: Path) -> securereg.Model:
    """A model of three files, one of them empty."""
    source = tmp_path / "folder"
    source.mkdir()
    (source / "config.json").write_text('{"a": "ä"}\n', encoding="utf-8")
    (source / "empty.txt").touch()
    (source / "model.safetensors").write_bytes((DATA / "hostile" / "s00_ok.safetensors").read_bytes())
    return registry.promote(source, "folder").model


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    """Each test gives back every descriptor that it took."""
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    left = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in set(os.listdir("/proc/self/fd")) - before if _open(fd)}
    assert not left


def _open(fd: str) -> bool:
    # The one that listed the folder is gone by now.
    return os.path.exists(f"/proc/self/fd/{fd}") or os.path.islink(f"/proc/self/fd/{fd}")
