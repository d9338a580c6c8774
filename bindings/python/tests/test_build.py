"""The wheel: it holds the library or is not made, and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import securereg
from conftest import REPOSITORY

HERE = REPOSITORY / "bindings" / "python"
LIBRARY = Path(securereg.__file__).with_name("libsecurereg.so")
NAME = f"securereg-{securereg.__version__}-py3-none-{sysconfig.get_platform().replace('-', '_')}.whl"


def build(source: Path, out: Path, hook: str = "build_wheel", **env: str) -> subprocess.CompletedProcess[str]:
    """Calls the build backend as pip does."""
    code = f"import sys; from hatchling.build import {hook} as build; print(build(sys.argv[1]))"
    given = {name: value for name, value in os.environ.items() if name not in ("SECUREREG_LIBRARY", "CARGO")}
    given.update(env)
    command = [sys.executable, "-c", code, str(out)]
    return subprocess.run(command, cwd=source, env=given, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of this folder that lies in no clone."""
    copy = tmp_path / "copy" / "bindings" / "python"
    ignored = shutil.ignore_patterns("tests", "*.so", "__pycache__", "dist")
    return Path(shutil.copytree(HERE, copy, ignore=ignored))


def cargo(folder: Path, text: str) -> str:
    """A stand-in for cargo that tells how it was called."""
    folder.mkdir(exist_ok=True)
    script = folder / "cargo"
    script.write_text(f'#!/bin/sh\necho "$PWD: $*" >"{folder}/called"\n{text}\n', encoding="utf-8")
    script.chmod(0o755)
    return str(script)


def test_a_wheel_holds_the_package_and_the_library_that_is_given(tmp_path: Path) -> None:
    built = build(HERE, tmp_path, SECUREREG_LIBRARY=str(LIBRARY), PATH="/nowhere")
    assert built.returncode == 0, built.stderr
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    with zipfile.ZipFile(tmp_path / NAME) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
        modules = [f"securereg/{path.name}" for path in (HERE / "src" / "securereg").glob("*.py")]
        assert sorted(names) == sorted([*modules, "securereg/py.typed", "securereg/libsecurereg.so"])
        assert wheel.read("securereg/libsecurereg.so") == LIBRARY.read_bytes()
        about = wheel.read(f"securereg-{securereg.__version__}.dist-info/WHEEL").decode()
        assert "Root-Is-Purelib: false" in about and "Tag: py3-none-linux" in about


def test_cargo_builds_the_library_and_says_where_it_is(copied: Path, tmp_path: Path) -> None:
    (copied.parent.parent / "Cargo.toml").touch()
    artifact = '{"reason":"compiler-artifact","target":{"kind":["rlib","cdylib"]},"filenames":["/x.rlib","%s"]}'
    fake = cargo(tmp_path, f"echo '{{\"reason\":\"other\"}}'\necho '{artifact % LIBRARY}'")
    built = build(copied, tmp_path, CARGO=fake)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / NAME).is_file()
    called = (tmp_path / "called").read_text(encoding="utf-8")
    assert called.startswith(f"{copied.parent.parent}: build --release --locked -p securereg ")


def test_an_editable_install_finds_the_library_where_the_package_lies(copied: Path, tmp_path: Path) -> None:
    built = build(copied, tmp_path, "build_editable", SECUREREG_LIBRARY=str(LIBRARY))
    assert built.returncode == 0, built.stderr
    assert (copied / "src" / "securereg" / LIBRARY.name).read_bytes() == LIBRARY.read_bytes()
    # Its copy is not what a wheel takes.
    (copied / "src" / "securereg" / LIBRARY.name).write_bytes(b"stale")
    next(tmp_path.glob("*.whl")).unlink()
    assert build(copied, tmp_path, SECUREREG_LIBRARY=str(LIBRARY)).returncode == 0
    with zipfile.ZipFile(tmp_path / NAME) as wheel:
        assert wheel.read("securereg/libsecurereg.so") == LIBRARY.read_bytes()


def test_without_a_library_there_is_no_wheel(copied: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    text = tmp_path / "text.so"
    text.write_text("no library", encoding="utf-8")
    for source, env, why in (
        (HERE, {"PATH": "/nowhere"}, "cargo was not found"),
        (HERE, {"CARGO": cargo(tmp_path / "fails", "exit 101")}, "cargo failed (101)"),
        (HERE, {"CARGO": cargo(tmp_path / "idle", "true")}, "cargo built no libsecurereg.so"),
        (HERE, {"SECUREREG_LIBRARY": "/no/such.so"}, "there is no /no/such.so"),
        (HERE, {"SECUREREG_LIBRARY": str(text)}, "is not a shared library"),
        (copied, {}, "is no clone of securereg"),
    ):
        built = build(source, out, **env)
        assert built.returncode != 0 and why in built.stderr + built.stdout, (built, why)
        assert "Traceback" not in built.stderr
        assert list(out.iterdir()) == []
