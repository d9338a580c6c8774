"""Verified reads: the right bytes, at every border, or an error."""

from __future__ import annotations

import gc
import io
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import securereg
from conftest import GROUP, blob, flip, gguf

Promote = Callable[[str, bytes], securereg.Model]
BYTES = gguf(2 * GROUP + 100)
END = len(BYTES)
OFFSETS = [0, 1, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP, END - 1, END, END + 1, 1 << 40, (1 << 64) - 1]
SIZES = [0, 1, 2, 4096, GROUP - 1, GROUP, GROUP + 1, len(BYTES), 1 << 40]


@pytest.fixture
def model(promote: Promote) -> securereg.Model:
    return promote("m", BYTES)


def test_every_read_gives_the_promoted_bytes(registry: securereg.Registry, model: securereg.Model) -> None:
    with registry.open("m") as file, registry.open("m", "m.gguf") as same:
        assert file.size == same.size == len(BYTES)
        for offset in OFFSETS:
            for size in SIZES:
                expected = BYTES[offset : offset + size]
                assert file.read_at(offset, size) == expected, (offset, size)
                buffer = bytearray(b"\xaa" * min(size, len(BYTES) + 5))
                count = same.read_at_into(buffer, offset)
                assert (count, bytes(buffer[:count])) == (len(expected), expected)
                assert set(buffer[count:]) <= {0xAA}
        assert (file.tell(), same.tell()) == (0, 0)


def test_it_is_a_raw_file_of_the_io_module(registry: securereg.Registry, model: securereg.Model) -> None:
    with registry.open("m") as file:
        assert isinstance(file, io.RawIOBase)
        assert (file.readable(), file.seekable(), file.writable(), file.isatty()) == (True, True, False, False)
        assert (file.mode, file.model, file.path) == ("rb", "m", None)
        with pytest.raises(OSError):
            file.fileno()
        with pytest.raises(OSError):
            file.truncate(0)
        assert (file.read(10), file.tell()) == (BYTES[:10], 10)
        assert (file.seek(-100, io.SEEK_END), file.read(), file.read(5)) == (len(BYTES) - 100, BYTES[-100:], b"")
        assert (file.seek(5), file.seek(7, io.SEEK_CUR), file.read(3)) == (5, 12, BYTES[12:15])
        assert (file.seek(len(BYTES) + 9), file.read(1), file.readall()) == (len(BYTES) + 9, b"", b"")
        assert (file.seek(0), file.readall()) == (0, BYTES)
        assert (file.seek(0), file.read(1 << 50)) == (0, BYTES)
        for position, whence in ((-1, io.SEEK_SET), (1 << 64, io.SEEK_SET), (0, 7), (-len(BYTES) - 1, io.SEEK_END)):
            with pytest.raises(ValueError):
                file.seek(position, whence)


def test_buffered_readers_and_text_stand_on_it(
    registry: securereg.Registry, model: securereg.Model, folder: securereg.Model
) -> None:
    with io.BufferedReader(registry.open("m"), 1000) as reader:
        parts = [reader.read(777) for _ in range(len(BYTES) // 777 + 1)]
        assert b"".join(parts) == BYTES
        assert reader.seek(GROUP - 3) == GROUP - 3
        assert (reader.peek(1)[:1], reader.read(6)) == (BYTES[GROUP - 3 : GROUP - 2], BYTES[GROUP - 3 : GROUP + 3])
    assert reader.raw.closed
    with io.TextIOWrapper(io.BufferedReader(registry.open("folder", "config.json")), encoding="utf-8") as lines:
        assert list(lines) == ['{"a": "ä"}\n']
    with registry.open("folder", "empty.txt") as empty:
        assert (empty.size, empty.read(), empty.read_at(0, 9), empty.readinto(bytearray(3))) == (0, b"", b"", 0)


def test_any_writable_buffer_is_filled(registry: securereg.Registry, model: securereg.Model) -> None:
    with registry.open("m") as file:
        array = np.zeros((4, 8), np.float32)
        assert file.read_at_into(array.data, 24) == 128
        assert array.tobytes() == BYTES[24:152]
        part = bytearray(10)
        assert file.readinto(memoryview(part)[3:7]) == 4
        assert part == b"\0\0\0" + BYTES[:4] + b"\0\0\0"
        assert file.read_at_into(np.zeros((0, 3), np.int64).data, 0) == 0
        for bad in (b"read-only", memoryview(b"read-only"), np.zeros((4, 4))[:, ::2].data):
            with pytest.raises((TypeError, ValueError, BufferError)):
                file.read_at_into(bad, 0)
        # Nothing of ours keeps hold of the caller's buffer.
        part.extend(b"it can be resized")


@pytest.mark.parametrize("offset", [-1, 1 << 64, 1 << 70])
def test_an_offset_that_c_would_wrap_round_is_refused(
    registry: securereg.Registry, model: securereg.Model, offset: int
) -> None:
    with registry.open("m") as file:
        for read in (lambda: file.read_at(offset, 1), lambda: file.read_at_into(bytearray(1), offset)):
            with pytest.raises(securereg.InvalidInput):
                read()
        with pytest.raises(securereg.InvalidInput):
            file.read_at(0, offset)
        with pytest.raises(TypeError):
            file.read_at(1.5, 1)  # type: ignore[arg-type]


def test_damage_is_an_error_and_never_a_byte(registry: securereg.Registry, root: Path, model: securereg.Model) -> None:
    with registry.open("m") as file:
        flip(blob(root, model), GROUP + 5)
        assert file.read_at(0, GROUP) == BYTES[:GROUP], "what is not damaged is served"
        buffer = bytearray(3 * GROUP)
        with pytest.raises(securereg.Corrupt) as caught:
            file.read_at_into(buffer, 0)
        # The error with its traceback is alive, and holds no buffer.
        buffer.extend(b"it can be resized")
        assert caught.value.model == "m"
        assert buffer[GROUP + 5] in (0, BYTES[GROUP + 5])
        reader = io.BufferedReader(file, GROUP)
        reader.seek(GROUP)
        with pytest.raises(securereg.Corrupt):
            reader.read(1)
        reader.detach()
    with pytest.raises(securereg.Quarantined):
        registry.open("m")


def test_an_incident_ends_an_open_file(registry: securereg.Registry, model: securereg.Model) -> None:
    with registry.open("m") as file:
        registry.quarantine("m", "CVE-2026-1")
        with pytest.raises(securereg.Quarantined):
            file.read(4)


def test_a_closed_file_says_so(registry: securereg.Registry, model: securereg.Model) -> None:
    file = registry.open("m")
    assert "closed" not in repr(file)
    file.close()
    file.close()
    assert file.closed and "closed" in repr(file)
    for use in (
        lambda: file.size,
        lambda: file.read(1),
        lambda: file.read_at(0, 1),
        lambda: file.readinto(bytearray(1)),
        lambda: file.readinto(bytearray()),
        lambda: file.seek(0),
        file.tell,
        file.readable,
        file.seekable,
        file.__enter__,
    ):
        with pytest.raises(ValueError):
            use()


def test_what_is_not_there_or_not_said_is_not_opened(
    registry: securereg.Registry, model: securereg.Model, folder: securereg.Model
) -> None:
    for name, path, error in (
        ("none", None, securereg.NotFound),
        ("m", "other.gguf", securereg.NotFound),
        ("m", "../m.gguf", securereg.InvalidInput),
        ("m", "m.gguf\0", securereg.InvalidInput),
        ("folder", None, securereg.InvalidInput),
    ):
        with pytest.raises(error):
            registry.open(name, path)


def test_threads_read_side_by_side_and_share_one_position(registry: securereg.Registry, model: securereg.Model) -> None:
    with registry.open("m") as file, ThreadPoolExecutor(8) as pool:

        def scattered(seed: int) -> bool:
            buffer = bytearray(100)
            offsets = [(seed * 7919 + i * 104_729) % (len(BYTES) - 100) for i in range(200)]
            return all(file.read_at_into(buffer, at) == 100 and buffer == BYTES[at : at + 100] for at in offsets)

        assert all(pool.map(scattered, range(16)))

        def take(_: int) -> list[bytes]:
            # Read to the end: each byte goes to one thread.
            return list(iter(lambda: file.read(64), b""))

        parts = [part for taken in pool.map(take, range(8)) for part in taken]
        assert sorted(parts) == sorted(BYTES[at : at + 64] for at in range(0, len(BYTES), 64))


def test_a_file_closed_under_a_reader_ends_it_and_harms_nothing(
    registry: securereg.Registry, model: securereg.Model
) -> None:
    for _ in range(20):
        file = registry.open("m")
        begun = threading.Event()

        def read(file: securereg.File = file, begun: threading.Event = begun) -> None:
            with pytest.raises(securereg.Closed):
                while file.read_at(0, GROUP) == BYTES[:GROUP]:
                    begun.set()

        with ThreadPoolExecutor(1) as pool:
            reader = pool.submit(read)
            begun.wait(60)
            file.close()
            reader.result(60)


def test_a_file_that_nobody_closes_is_closed_with_a_warning(
    registry: securereg.Registry, model: securereg.Model
) -> None:
    file = registry.open("m")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.warns(ResourceWarning, match="unclosed <securereg.File 'm'"):
        del file
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) < before
