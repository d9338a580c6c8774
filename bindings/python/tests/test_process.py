"""Processes: a forked child is refused and harms nothing, a spawned one works; leaks are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import securereg
from conftest import run_python

FORK = """
import os, sys, traceback, warnings
import securereg

registry = securereg.Registry(sys.argv[1], write=True)
file, sealed, events, gguf = registry.open("tiny"), registry.open_sealed("tiny"), registry.events(), registry.gguf("tiny")
view = sealed.data
child = os.fork()
if child == 0:
    uses = [
        lambda: securereg.Registry(sys.argv[1]),
        lambda: registry.generation,
        registry.models,
        lambda: registry.verify("tiny"),
        lambda: registry.verify("tiny", progress=print),
        lambda: registry.promote("x", "y"),
        lambda: file.read(1),
        lambda: file.size,
        lambda: sealed.fd,
        events.poll,
        lambda: events.wait(0),
        lambda: gguf.metadata["tokenizer.ggml.tokens"],
    ]
    try:
        for use in uses:
            try:
                use()
            except securereg.Forked as e:
                assert e.kind == "forked" and "spawn" in str(e)
            else:
                raise AssertionError("it worked")
        # What was mapped before stays; what is inherited is dropped without a word.
        assert view[:4] == b"GGUF"
        for thing in (file, sealed, events, registry):
            thing.close()
        del file, sealed, events, gguf, registry, view, uses, thing
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
# The parent is as it was.
assert file.read(4) == b"GGUF" and registry.generation == 1 and events.poll() is None and view[:4] == b"GGUF"
for thing in (file, sealed, events, registry):
    thing.close()
print("fine")
"""


def test_a_forked_child_is_refused_and_the_parent_is_as_it_was(
    root: Path, registry: securereg.Registry, tiny: object
) -> None:
    shown = run_python(FORK, root)
    assert (shown.stdout, shown.stderr) == ("fine\n", "")


def test_a_child_that_forks_before_the_first_use_works(root: Path, registry: securereg.Registry, tiny: object) -> None:
    code = """
import os, sys, securereg
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
with securereg.Registry(sys.argv[1]) as registry:
    print(list(registry), flush=True)
"""
    shown = run_python(code, root)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "['tiny']\n" * 2, "")


SPAWN = """
import multiprocessing, sys
import securereg

def magic(root, name):
    with securereg.Registry(root) as registry, registry.open(name) as file:
        return file.read(4)

if __name__ == "__main__":
    with securereg.Registry(sys.argv[1]) as registry:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(magic, (sys.argv[1], "tiny")))
            try:
                pool.apply(magic, (sys.argv[1], "none"))
            except securereg.NotFound as e:
                print(type(e).__name__, e.model)
            pool.close()
            pool.join()
"""


def test_a_spawned_child_works_and_errors_come_back(
    root: Path, registry: securereg.Registry, tiny: object, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SPAWN, encoding="utf-8")
    command = [sys.executable, str(script), str(root)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (shown.stdout, shown.stderr) == ("b'GGUF'\nNotFound none\n", "")


def test_what_is_left_at_the_end_of_the_interpreter_is_no_crash(
    root: Path, registry: securereg.Registry, tiny: object
) -> None:
    code = """
import sys, securereg
registry = securereg.Registry(sys.argv[1])
kept = [registry.open("tiny"), registry.open_sealed("tiny"), registry.events(), registry.gguf("tiny"), registry.map("tiny")]
kept.append(kept)
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(root)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_a_registry_that_nobody_closes_is_closed_with_a_warning(root: Path, registry: securereg.Registry) -> None:
    with pytest.warns(ResourceWarning, match="unclosed <securereg.Registry"):
        securereg.Registry(root)


def test_one_that_was_never_opened_is_dropped_without_a_word(tmp_path: Path) -> None:
    for attempt in (
        lambda: securereg.Registry(tmp_path / "none"),
        lambda: securereg.Registry(7),  # type: ignore[arg-type]
        lambda: securereg.Registry.__new__(securereg.Registry).__del__(),
        lambda: securereg.File.__new__(securereg.File).__del__(),
        lambda: securereg.Sealed.__new__(securereg.Sealed).__del__(),
        lambda: securereg.Events.__new__(securereg.Events).__del__(),
    ):
        try:
            attempt()
        except (securereg.NotFound, TypeError):
            pass


def test_importing_it_needs_the_standard_library_only() -> None:
    code = "import sys; before = set(sys.modules); import securereg; print(*set(sys.modules) - before)"
    loaded = {module.split(".")[0] for module in run_python(code).stdout.split()}
    assert "securereg" in loaded
    assert loaded - {"securereg"} <= sys.stdlib_module_names
