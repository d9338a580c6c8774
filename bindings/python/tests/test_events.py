"""Events: what changed, told to whoever waits, by select, by asyncio and by a thread."""

from __future__ import annotations

import asyncio
import gc
import select
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import pytest

import securereg
from conftest import DATA, GROUP, gguf
from securereg import Event, EventKind

Promote = Callable[[str, bytes], securereg.Model]


def readable(events: securereg.Events) -> bool:
    return select.select([events], [], [], 0)[0] == [events]


def test_each_change_is_told_once_by_select_and_iteration(
    registry: securereg.Registry, root: Path, promote: Promote
) -> None:
    with registry.events() as events, securereg.Registry(root, write=True) as other:
        assert (readable(events), list(events), events.poll()) == (False, [], None)
        promote("t:1", gguf(GROUP, 1))
        assert readable(events)
        assert list(events) == [Event(EventKind.PROMOTED, "t:1", 1, 0)]
        assert (readable(events), list(events)) == (False, [])
        promote("t:1", gguf(GROUP, 2))
        assert list(events) == [Event(EventKind.REPLACED, "t:1", 2, 0)]
        held = registry.map("t:1")
        other.quarantine("t:1", "why")
        assert list(events) == [Event(EventKind.QUARANTINED, "t:1", 3, 1)], "and this process holds its bytes"
        other.release("t:1", "good")
        assert list(events) == [Event(EventKind.RELEASED, "t:1", 4, 1)]
        del held
        gc.collect()
        other.quarantine("t:1", "why")
        other.delete("t:1")
        assert [(e.kind, e.sealed) for e in events] == [(EventKind.QUARANTINED, 0), (EventKind.DELETED, 0)]


def test_a_wait_ends_with_an_event_a_timeout_or_a_close(registry: securereg.Registry, promote: Promote) -> None:
    with ThreadPoolExecutor(2) as pool:
        events = registry.events()
        assert (events.wait(0), events.wait(-5), events.wait(0.01)) == (None, None, None)
        waiting = pool.submit(events.wait)
        promote("m", gguf(GROUP))
        event = waiting.result(60)
        assert event is not None and (event.kind, event.name) == (EventKind.PROMOTED, "m")
        forever = [pool.submit(events.wait), pool.submit(events.wait, 1e9)]
        events.close()
        events.close()
        for waiting in forever:
            with pytest.raises(securereg.Closed):
                waiting.result(60)
    assert events.closed and "closed" in repr(events)
    for use in (events.poll, events.wait, events.fileno, lambda: list(events), events.__enter__):
        with pytest.raises(securereg.Closed):
            use()


def test_a_signal_handler_may_close_what_it_interrupts(registry: securereg.Registry) -> None:
    events = registry.events()

    def close(number: int, frame: FrameType | None) -> None:
        events.close()

    before = signal.signal(signal.SIGALRM, close)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(securereg.Closed):
            events.wait()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_asyncio_waits_for_it(registry: securereg.Registry) -> None:
    async def first(events: securereg.Events) -> list[Event]:
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Event] = asyncio.Queue()

        def ask() -> None:
            # Readable means that it should be asked: there may be nothing to tell yet.
            for event in events:
                told.put_nowait(event)

        loop.add_reader(events, ask)
        try:
            await loop.run_in_executor(None, registry.promote, DATA / "tiny-llama.gguf", "tiny")
            return [await asyncio.wait_for(told.get(), 60)]
        finally:
            loop.remove_reader(events)

    with registry.events() as events:
        found = asyncio.run(first(events)) + list(events)
    assert [(event.kind, event.name) for event in found] == [(EventKind.PROMOTED, "tiny")]


def test_it_outlives_the_registry_it_came_from(root: Path, registry: securereg.Registry) -> None:
    other = securereg.Registry(root)
    with other.events() as events:
        other.close()
        registry.promote(DATA / "tiny-llama.gguf", "tiny")
        assert [event.name for event in events] == ["tiny"]


def test_each_event_goes_to_one_of_many_threads(registry: securereg.Registry, promote: Promote) -> None:
    with registry.events() as events, ThreadPoolExecutor(4) as pool:
        for i in range(20):
            promote(f"m{i}", gguf(100, i))
        told = [event.name for taken in pool.map(lambda _: list(events), range(4)) for event in taken]
        assert sorted(told) == sorted(f"m{i}" for i in range(20))


def test_one_that_nobody_closes_is_closed_with_a_warning(registry: securereg.Registry) -> None:
    events = registry.events()
    assert not events.closed
    with pytest.warns(ResourceWarning, match="unclosed <securereg.Events"):
        del events
        gc.collect()
    assert threading.active_count() == 1
