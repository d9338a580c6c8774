"""Sealed memory: the promoted bytes, for nobody to change, for as long as anything made from them is alive."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import securereg
from conftest import GROUP, blob, flip, gguf

Promote = Callable[[str, bytes], securereg.Model]
BYTES = gguf(3 * GROUP + 5, 3)


@pytest.fixture
def model(promote: Promote) -> securereg.Model:
    return promote("m", BYTES)


def mappings(model: securereg.Model) -> int:
    """How many mappings of this model's memory the process has."""
    return Path("/proc/self/maps").read_text(encoding="utf-8").count(f"memfd:securereg:{model.sha256[:16]}")


def descriptors(model: securereg.Model) -> int:
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return sum(f"memfd:securereg:{model.sha256[:16]}" in os.readlink(link) for link in links if os.path.islink(link))


def test_it_is_all_of_the_promoted_bytes(registry: securereg.Registry, model: securereg.Model) -> None:
    with registry.open_sealed("m") as sealed:
        assert (len(sealed), sealed.model, sealed.path) == (len(BYTES), "m", f"/proc/self/fd/{sealed.fd}")
        assert Path(sealed.path).read_bytes() == BYTES
        assert os.pread(sealed.fd, 10, GROUP) == BYTES[GROUP : GROUP + 10]
        data = sealed.data
        assert (data.tobytes(), data.readonly, data.format, data.nbytes) == (BYTES, True, "B", len(BYTES))
        array = np.frombuffer(data, np.uint8)
        assert array.tobytes() == BYTES
        # One mapping, and no copy.
        assert array.ctypes.data == np.frombuffer(sealed.data, np.uint8).ctypes.data
        assert mappings(model) == 1


def test_from_python_3_12_on_it_is_a_buffer_itself(registry: securereg.Registry, model: securereg.Model) -> None:
    with registry.open_sealed("m") as sealed:
        if sys.version_info < (3, 12):
            with pytest.raises(TypeError):
                memoryview(sealed)
            return
        view = memoryview(sealed)
        assert (view.tobytes(), view.readonly) == (BYTES, True)
        array = np.frombuffer(sealed, np.uint8)
    assert array.tobytes() == view.tobytes() == BYTES


def test_nobody_can_change_a_byte(registry: securereg.Registry, model: securereg.Model) -> None:
    with registry.open_sealed("m") as sealed:
        with pytest.raises(OSError) as caught:
            os.write(sealed.fd, b"x")
        assert caught.value.errno == errno.EBADF
        writer = os.open(sealed.path, os.O_RDWR)
        try:
            for change in (
                lambda: os.write(writer, b"x"),
                lambda: os.pwrite(writer, b"x", 5),
                lambda: os.ftruncate(writer, 0),
                lambda: os.ftruncate(writer, 1 << 30),
                lambda: mmap.mmap(writer, 0),
            ):
                with pytest.raises(OSError) as caught:
                    change()
                assert caught.value.errno in (errno.EPERM, errno.EACCES)
        finally:
            os.close(writer)
        array = np.frombuffer(sealed.data, np.uint8)
        with pytest.raises(TypeError):
            sealed.data[0] = 0
        with pytest.raises(ValueError):
            array[0] = 0
        with pytest.raises(ValueError):
            array.setflags(write=True)
        assert sealed.data == BYTES


def test_what_was_made_from_it_outlives_it(registry: securereg.Registry, model: securereg.Model) -> None:
    with registry.open_sealed("m") as sealed:
        view = sealed.data
        array = np.frombuffer(view, np.uint8)[GROUP:]
        part = view[7:11]
        del view
    # Closed, while both are in use: nothing was unmapped.
    assert sealed.closed
    del sealed
    gc.collect()
    assert (mappings(model), part.tobytes(), array.tobytes()) == (1, BYTES[7:11], BYTES[GROUP:])
    del part
    gc.collect()
    assert (mappings(model), array.tobytes()) == (1, BYTES[GROUP:])
    # The last one takes the memory with it.
    del array
    gc.collect()
    assert (mappings(model), descriptors(model)) == (0, 0)


def test_memory_is_given_back_at_once_where_nothing_was_made_from_it(
    registry: securereg.Registry, model: securereg.Model
) -> None:
    sealed = registry.open_sealed("m")
    assert sealed.data[:4].tobytes() == b"GGUF"
    assert (mappings(model), descriptors(model)) == (1, 3)
    sealed.close()
    sealed.close()
    assert (mappings(model), descriptors(model)) == (0, 0)


def test_a_consumer_that_holds_the_object_and_not_its_buffer_is_safe(
    registry: securereg.Registry, model: securereg.Model
) -> None:
    """As torch.frombuffer does: it takes the address, lets go of the buffer, and holds the object. An mmap that is closed by
    hand would be unmapped under it."""
    sealed = registry.open_sealed("m")
    held = sealed.data
    address = np.frombuffer(held, np.uint8).ctypes.data
    gc.collect()
    sealed.close()
    mapped = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    assert any(int(start, 16) <= address < int(end, 16) for start, end in mapped)
    del held
    gc.collect()
    assert mappings(model) == 0


def test_map_is_a_view_that_needs_no_closing(registry: securereg.Registry, model: securereg.Model) -> None:
    steps: list[securereg.Progress] = []
    view = registry.map("m", "m.gguf", progress=steps.append)
    assert (view.tobytes(), view.readonly, steps[-1].total) == (BYTES, True, len(BYTES))
    assert (mappings(model), descriptors(model)) == (1, 3)
    del view
    gc.collect()
    assert (mappings(model), descriptors(model)) == (0, 0)


def test_one_content_is_one_memory(registry: securereg.Registry, root: Path, model: securereg.Model) -> None:
    with securereg.Registry(root) as other, ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda i: (registry, other)[i % 2].open_sealed("m"), range(8)))
        assert len({os.fstat(sealed.fd).st_ino for sealed in opened}) == 1
        # The library's own, which it never gives out, and one a handle.
        assert descriptors(model) == 1 + 8
        for sealed in opened[:-1]:
            sealed.close()
        assert opened[-1].data == BYTES
        opened[-1].close()
        assert descriptors(model) == 0


def test_an_empty_file_is_sealed_too(registry: securereg.Registry, folder: securereg.Model) -> None:
    with registry.open_sealed("folder", "empty.txt") as sealed:
        assert (len(sealed), sealed.data.nbytes, sealed.data.readonly) == (0, 0, True)
        assert Path(sealed.path).read_bytes() == b""
    assert registry.map("folder", "empty.txt").tobytes() == b""


def test_damage_is_refused_and_a_quarantine_leaves_what_is_held(
    registry: securereg.Registry, root: Path, model: securereg.Model, promote: Promote
) -> None:
    view = registry.map("m")
    registry.quarantine("m", "CVE-2026-1")
    assert view == BYTES
    with pytest.raises(securereg.Quarantined):
        registry.open_sealed("m")
    damaged = promote("d", gguf(GROUP, 9))
    flip(blob(root, damaged), 100)
    with pytest.raises(securereg.Corrupt):
        registry.open_sealed("d")
    assert descriptors(damaged) == 0


def test_what_does_not_fit_is_a_memory_error_that_names_the_need(root: Path, registry: securereg.Registry) -> None:
    from conftest import DATA, run_python

    registry.promote(DATA / "tiny-llama.gguf", "tiny")
    # A limit of a process, so in one of its own.
    code = """
import resource, sys, securereg
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
with securereg.Registry(sys.argv[1]) as registry:
    try:
        registry.map("tiny")
    except MemoryError as e:
        print(type(e).__name__, e.model, e)
"""
    shown = run_python(code, root)
    assert shown.stdout.startswith("NotEnoughMemory tiny ") and "needs 1451776 bytes" in shown.stdout, shown


def test_a_closed_one_says_so(registry: securereg.Registry, model: securereg.Model) -> None:
    sealed = registry.open_sealed("m")
    sealed.close()
    assert "closed" in repr(sealed)
    for use in (lambda: sealed.fd, lambda: sealed.path, lambda: sealed.data, lambda: len(sealed), sealed.__enter__):
        with pytest.raises(securereg.Closed):
            use()


def test_one_that_nobody_closes_is_closed_with_a_warning(registry: securereg.Registry, model: securereg.Model) -> None:
    sealed = registry.open_sealed("m")
    array = np.frombuffer(sealed.data, np.uint8)
    with pytest.warns(ResourceWarning, match="unclosed <securereg.Sealed 'm'"):
        del sealed
        gc.collect()
    assert array.tobytes() == BYTES
