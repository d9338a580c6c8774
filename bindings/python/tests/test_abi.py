"""What the package itself has no need to call, and what it never does wrong: the C ABI as ctypes sees it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import byref
from pathlib import Path

import pytest

import securereg
from conftest import DATA, run_python
from securereg import Status, _abi
from securereg._calls import Handle, call, sized

lib = _abi.lib
TINY = (DATA / "tiny-llama.gguf").read_bytes()


@pytest.fixture
def raw(root: Path, registry: securereg.Registry, tiny: securereg.Model) -> Iterator[_abi.securereg_registry]:
    handle = Handle(_abi.securereg_registry, "securereg_close", "registry")
    call(lib.securereg_open, str(root).encode(), None, handle.out())
    yield handle.live()
    handle.close()


def test_the_gil_is_released_during_each_call() -> None:
    assert isinstance(lib, ctypes.CDLL) and not isinstance(lib, ctypes.PyDLL)
    holds_the_gil = 4  # FUNCFLAG_PYTHONAPI
    assert not any(getattr(lib, name)._flags_ & holds_the_gil for name in _abi.FUNCTIONS)


def test_the_library_is_of_this_version() -> None:
    assert lib.securereg_version().decode() == securereg.__version__ == _abi.SECUREREG_VERSION


def test_every_status_has_its_word() -> None:
    for status in Status:
        assert lib.securereg_status_name(status).decode() == status.name.lower()
    assert lib.securereg_status_name(12345) == b"unknown"


def test_the_librarys_own_mappings_are_the_same_bytes(raw: _abi.securereg_registry) -> None:
    sealed = Handle(_abi.securereg_sealed, "securereg_sealed_close", "sealed memory")
    data, length = ctypes.c_void_p(), ctypes.c_size_t()
    call(lib.securereg_map, raw, b"tiny", None, None, sealed.out(), byref(data), byref(length))
    assert ctypes.string_at(data.value or 0, length.value) == TINY
    again, same = ctypes.c_void_p(), ctypes.c_size_t()
    call(lib.securereg_sealed_map, sealed.live(), byref(again), byref(same))
    assert (again.value, same.value) == (data.value, length.value)
    sealed.close()


def test_a_metadata_pair_is_found_by_its_key(raw: _abi.securereg_registry) -> None:
    gguf = Handle(_abi.securereg_gguf, "securereg_gguf_free", "header")
    call(lib.securereg_gguf_open, raw, b"tiny", None, gguf.out())
    pair = sized(_abi.securereg_gguf_pair)
    call(lib.securereg_gguf_find, gguf.live(), b"llama.block_count", byref(pair))
    assert (pair.key, pair.value_type, pair.u64_value) == (b"llama.block_count", 4, 2)
    with pytest.raises(securereg.NotFound):
        call(lib.securereg_gguf_find, gguf.live(), b"nothing", byref(pair))
    data, length = ctypes.c_void_p(), ctypes.c_size_t()
    with pytest.raises(securereg.InvalidInput):
        call(lib.securereg_gguf_string, gguf.live(), 0, 0, byref(data), byref(length))
    gguf.close()


def test_misuse_has_a_status_of_its_own_and_writes_nothing(raw: _abi.securereg_registry) -> None:
    out = _abi.securereg_model()
    for arguments, error in (
        ((_abi.securereg_registry(), b"tiny", byref(out)), securereg.Closed),
        ((_abi.securereg_registry(raw.id + (1 << 32)), b"tiny", byref(out)), securereg.Closed),
        ((raw, None, byref(out)), securereg.NullPointer),
        ((raw, b"tiny", None), securereg.NullPointer),
        ((raw, b"\xff", byref(out)), securereg.InvalidInput),
    ):
        with pytest.raises(error):
            call(lib.securereg_lookup, *arguments)
        assert out.id == 0
    for size in (0, 8, 1 << 20):
        with pytest.raises(securereg.WrongSize):
            options = _abi.securereg_open_options(size=size)
            call(lib.securereg_open, b"/", byref(options), byref(_abi.securereg_registry()))


def test_a_handle_that_a_failed_call_left_empty_is_closed() -> None:
    handle = Handle(_abi.securereg_file, "securereg_file_close", "file")
    with pytest.raises(securereg.Closed, match="the file is closed"):
        handle.live()
    handle.close()
    handle.close()


def test_a_package_without_its_library_says_so(tmp_path: Path) -> None:
    package = tmp_path / "securereg"
    package.mkdir()
    for module in Path(securereg.__file__).parent.glob("*.py"):
        (package / module.name).write_bytes(module.read_bytes())
    for library in (None, b"no library"):
        if library:
            (package / "libsecurereg.so").write_bytes(library)
        shown = run_python("import sys; sys.path.insert(0, sys.argv[1]); import securereg", tmp_path)
        assert shown.returncode == 1
        assert "ImportError: securereg's library cannot be used, install the package again" in shown.stderr
