"""Work that takes long: watched, and stopped.

Owns: progress, and Ctrl-C. Promises: a progress callback runs in the thread that made the call, one step at a time, while
the work waits for it; whatever it raises stops the work and comes out of the call; so does a KeyboardInterrupt, with or
without a callback; the call returns only when the work has ended. Leaves out: what the work is.

The work runs in a thread of its own wherever it must be interruptible. Python runs signal handlers in the main thread only,
between two of its own instructions; a main thread that is inside the C function runs none. Nor would a callback that the
main thread runs from C do: a handler runs as it is entered, before any `try` of it, and ctypes drops what is raised there.

    calling thread                         thread of the work                 the library's threads
    asked.get() ............................ C function ........................ tell(step)
    progress(step)  <---------------- asked ------------------------------------ asked.put(step)
    answered.put(stop?) ------------- answered --------------------------------> return stop?
    returns or raises  <------------- asked: None, when it has ended
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from ctypes import byref
from queue import SimpleQueue
from typing import Any, NamedTuple

from . import _abi
from ._calls import sized
from ._numbers import Phase


class Progress(NamedTuple):
    """How far long work is."""

    phase: Phase
    #: Bytes done, of all files together.
    done: int
    #: Bytes to do, of all files together.
    total: int


#: Is told how far it is. What it returns does not matter; to stop, it raises something. It must not call the library.
ProgressCallback = Callable[[Progress], object]
#: What takes long; it is given a pointer to a securereg_task, or None.
Work = Callable[[Any], None]


def run(work: Work, progress: ProgressCallback | None) -> None:
    """Runs `work`, and tells `progress`."""
    if progress is None and threading.current_thread() is not threading.main_thread():
        # No signal can reach it, and nobody watches.
        work(None)
        return
    _Run(work, watched=progress is not None).watch(progress)


class _Run:
    def __init__(self, work: Work, *, watched: bool) -> None:
        self._work = work
        self._watched = watched
        self._stop = False
        self._failure: BaseException | None = None
        # SimpleQueue: its methods are single steps for a signal handler, unlike those of a Condition.
        self._asked: SimpleQueue[tuple[int, int, int] | None] = SimpleQueue()
        self._answered: SimpleQueue[bool] = SimpleQueue()

    def watch(self, progress: ProgressCallback | None) -> None:
        # Not a daemon: the interpreter must not end under a thread that is inside the library and will call back.
        thread = threading.Thread(target=self._run, name="securereg", daemon=False)
        try:
            thread.start()
            while (step := self._asked.get()) is not None:
                if progress is not None:
                    phase, done, total = step
                    progress(Progress(Phase(phase), done, total))
                self._answered.put(False)
            thread.join()
        except BaseException as e:
            self._stop = True
            self._answered.put(True)
            self._wait(thread)
            self._failure = None
            if isinstance(e, RuntimeError) and thread.ident is None and progress is None:
                # No thread is to be had, as when the interpreter is ending. Unwatched, the work needs none.
                self._work(None)
                return
            raise
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                # Else the exception would hold this frame, which holds the exception.
                del failure

    def _wait(self, thread: threading.Thread) -> None:
        """Waits until the work has noticed that it is to stop, also while Ctrl-C is pressed again. A thread that has not
        begun by now will do nothing."""
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt:
                continue

    def _run(self) -> None:
        tell = _abi.securereg_progress(self._tell)
        try:
            if not self._stop:
                self._work(byref(sized(_abi.securereg_task, progress=tell)))
        except BaseException as e:  # all of it belongs to the calling thread
            self._failure = e
        finally:
            self._asked.put(None)

    def _tell(self, user: int | None, phase: int, done: int, total: int) -> int:
        """What the library calls, from any of its threads but never the main one."""
        try:
            if self._stop:
                return 1
            if not self._watched:
                return 0
            self._asked.put((phase, done, total))
            return int(self._answered.get())
        except MemoryError:
            # ctypes would drop it, and the work would go on.
            return 1
