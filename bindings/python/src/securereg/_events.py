"""What changes in a registry.

Owns: Events. Promises: a descriptor to wait on and no thread; close() ends a wait in another thread. Leaves out: why it
changed; the audit log says that.
"""

from __future__ import annotations

import ctypes
import os
import select
import threading
import time
from collections.abc import Iterator
from ctypes import byref
from dataclasses import dataclass

from . import _abi
from ._calls import Handle, Resource, call, said, sized
from ._errors import Closed
from ._numbers import EventKind


@dataclass(frozen=True)
class Event:
    """One change of one model."""

    kind: EventKind
    #: The model's name.
    name: str
    #: The generation of the catalog that shows it.
    generation: int
    #: How many of the model's files this process holds in sealed memory: stopping their use is the program's to do.
    sealed: int


class Events(Resource):
    """A subscription to what changes in a registry, by whatever process, from when Registry.events made it.

    Iterating gives what has happened and ends, without waiting: do it when select, poll or asyncio's add_reader says that
    this is readable (it has a fileno()). wait() waits. Of several changes of one model in between, what they came to is
    told; a quarantine always. It may be used by any number of threads: each event is given to one of them.
    """

    def __init__(self, registry: Handle) -> None:
        # What ends a wait, and the lock that is held while one lasts: no descriptor is closed under a poll of another
        # thread. One of the same thread is a signal handler's: it must not wait for what it interrupted.
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waiting = threading.RLock()
        self._closing = threading.RLock()
        self._ended = False
        handle = Handle(_abi.securereg_events, "securereg_events_close", "subscription")
        try:
            call(_abi.lib.securereg_events_open, registry.live(), handle.out())
        except BaseException:
            os.close(self._bell)
            raise
        self._handle = handle

    def fileno(self) -> int:
        """The descriptor to wait on. Do not read or close it."""
        fd = ctypes.c_int()
        call(_abi.lib.securereg_events_fd, self._handle.live(), byref(fd))
        return fd.value

    def poll(self) -> Event | None:
        """The next event, or None when nothing else has happened. Does not wait."""
        event = sized(_abi.securereg_event)
        call(_abi.lib.securereg_events_next, self._handle.live(), byref(event))
        if event.kind == _abi.SECUREREG_EVENT_NONE:
            return None
        return Event(
            kind=EventKind(event.kind), name=said(event.name), generation=event.generation, sealed=event.sealed
        )

    def __iter__(self) -> Iterator[Event]:
        return iter(self.poll, None)

    def wait(self, timeout: float | None = None) -> Event | None:
        """The next event, waiting for it; None when none came within `timeout` seconds. One thread waits at a time, and
        others for their turn. Raises Closed when another thread closes this meanwhile."""
        end = None if timeout is None else time.monotonic() + timeout
        while (event := self.poll()) is None:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not self._waiting.acquire(timeout=-1 if left is None else min(left, threading.TIMEOUT_MAX)):
                return None
            try:
                if self._ended:
                    # Its bell may be closed by now.
                    raise Closed("the subscription is closed")
                ready = select.poll()
                ready.register(self.fileno(), select.POLLIN)
                ready.register(self._bell, select.POLLIN)
                # Its limit is an int of milliseconds: 24 days, after which it is simply asked again.
                ready.poll(None if left is None else min(left * 1000, 2**31 - 1))
            finally:
                self._waiting.release()
            if left == 0:
                return self.poll()
        return event

    def close(self) -> None:
        """Ends the subscription; twice is fine. A thread that waits gets Closed."""
        with self._closing:
            if self._ended:
                return
            self._ended = True
            os.eventfd_write(self._bell, 1)
            with self._waiting:
                self._handle.close()
                os.close(self._bell)

    def __repr__(self) -> str:
        return f"<securereg.Events{' closed' if self.closed else ''}>"
