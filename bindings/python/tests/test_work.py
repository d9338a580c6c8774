"""Long work: told of in the calling thread, and stopped by whatever is raised there, Ctrl-C included."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import securereg
from conftest import DATA, gguf_start, run_python
from securereg import Phase, Progress

SIZE = 512 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough to be in the middle of for a while."""
    path = tmp_path_factory.mktemp("large") / "large.gguf"
    with path.open("wb") as file:
        file.write(gguf_start(SIZE))
        file.truncate(SIZE)
    return path


@pytest.fixture
def model(registry: securereg.Registry, large: Path) -> securereg.Model:
    return registry.promote(large, "large").model


def calls(registry: securereg.Registry, large: Path) -> list[Callable[[Callable[[Progress], object]], object]]:
    """Everything that takes a callback."""
    return [
        lambda progress: registry.promote(large, "other", filename="other.gguf", progress=progress),
        lambda progress: registry.verify("large", progress=progress),
        lambda progress: registry.verify_all(progress=progress),
        lambda progress: registry.open_sealed("large", progress=progress).close(),
        lambda progress: registry.map("large", progress=progress),
        lambda progress: registry.release("large", "why", progress=progress),
    ]


def test_progress_is_told_in_the_calling_thread_from_first_to_last(
    registry: securereg.Registry, large: Path, model: securereg.Model
) -> None:
    me = threading.get_ident()
    for run in calls(registry, large):
        steps: list[Progress] = []
        idents: set[int] = set()

        def progress(step: Progress, steps: list[Progress] = steps, idents: set[int] = idents) -> str:
            steps.append(step)
            idents.add(threading.get_ident())
            return "what it returns does not matter"

        run(progress)
        assert idents == {me}
        assert len(steps) > 1 and {type(step.phase) for step in steps} == {Phase}
        # Of two threads that hash, either may tell first: the largest is the last, but need not come last.
        assert {step.total for step in steps} == {SIZE} and max(step.done for step in steps) == SIZE
        assert all(0 < step.done <= SIZE for step in steps)


class Enough(Exception):
    pass


@pytest.mark.parametrize("error", [Enough, KeyboardInterrupt, SystemExit, securereg.Cancelled, GeneratorExit])
def test_what_a_callback_raises_stops_the_work_and_comes_out(
    registry: securereg.Registry, large: Path, model: securereg.Model, error: type[BaseException]
) -> None:
    generation = registry.generation
    for run in calls(registry, large):
        told: list[Progress] = []
        raised = error()

        def progress(step: Progress, told: list[Progress] = told, raised: BaseException = raised) -> None:
            told.append(step)
            raise raised

        with pytest.raises(error) as caught:
            run(progress)
        assert caught.value is raised
        assert len(told) == 1, "not asked again"
    assert "other" not in registry
    # A refused promotion may be told in the audit log; the catalog is as it was.
    assert registry.generation == generation
    registry.verify("large")
    assert threading.active_count() == 1


def test_a_signal_handler_runs_while_the_library_works(
    registry: securereg.Registry, large: Path, model: securereg.Model
) -> None:
    """And what it raises, also without a callback, stops the work."""
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(threading.current_thread()))
    try:
        registry.verify("large", progress=lambda step: signal.raise_signal(signal.SIGUSR1))
        assert set(heard) == {threading.main_thread()}
    finally:
        signal.signal(signal.SIGUSR1, before)


INTERRUPT = """
import os, signal, sys, threading, time
import securereg

# A shell starts what runs in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupt():
    # Once the work has begun: its thread is there.
    while not any(thread.name == "securereg" and thread.is_alive() for thread in threading.enumerate()):
        time.sleep(0)
    os.kill(os.getpid(), signal.SIGINT)

registry = securereg.Registry(sys.argv[1], create=True)
sender = threading.Thread(target=interrupt)
sender.start()
try:
    registry.promote(sys.argv[2], "m")
except KeyboardInterrupt:
    print("interrupted", list(registry), [t.name for t in threading.enumerate() if t.name == "securereg"])
sender.join()
registry.promote(sys.argv[2], "m")
print(list(registry))
registry.close()
"""


def test_ctrl_c_stops_a_call_without_a_callback(root: Path, large: Path) -> None:
    shown = run_python(INTERRUPT, root, large)
    assert (shown.stdout, shown.stderr) == ("interrupted [] []\n['m']\n", ""), shown


def test_other_threads_work_at_the_same_time_and_are_told_themselves(
    registry: securereg.Registry, large: Path, model: securereg.Model
) -> None:
    both = threading.Barrier(2, timeout=60)

    def verify(_: int) -> set[int]:
        idents: set[int] = set()

        def progress(step: Progress) -> None:
            if not idents:
                # Both are inside the library at once: neither holds the GIL, nor a lock of the registry.
                both.wait()
            idents.add(threading.get_ident())

        registry.verify("large", progress=progress)
        assert idents == {threading.get_ident()}
        return idents

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(verify, range(2))
    assert first != second


def test_threads_that_nobody_watches_need_no_thread_of_their_own(
    registry: securereg.Registry, model: securereg.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(len, "").result()
        monkeypatch.setattr(threading.Thread, "start", none)
        pool.submit(registry.verify, "large").result()
    # The main thread can do without one too, as when the interpreter ends; not when somebody watches.
    registry.verify("large")
    with pytest.raises(RuntimeError):
        registry.verify("large", progress=print)


def test_a_failure_of_the_work_comes_out_of_the_call(registry: securereg.Registry) -> None:
    for _ in range(3):
        with pytest.raises(securereg.NotFound) as caught:
            registry.verify("none", progress=print)
        assert caught.value.__context__ is None
    with pytest.raises(securereg.Refused):
        registry.promote(DATA / "hostile" / "p00_raw.pkl", "m", progress=lambda step: None)


def test_work_at_the_end_of_the_interpreter(root: Path, registry: securereg.Registry, tiny: securereg.Model) -> None:
    code = """
import atexit, sys, securereg
registry = securereg.Registry(sys.argv[1])
def last():
    registry.verify("tiny")
    print(registry.open_sealed("tiny").data[:4].tobytes())
    registry.close()
atexit.register(last)
kept = registry.map("tiny")
"""
    shown = run_python(code, root)
    assert (shown.returncode, shown.stdout) == (0, "b'GGUF'\n"), shown
