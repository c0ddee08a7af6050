"""The journal: complete, numbered, followed by any number, and small."""

from __future__ import annotations

import asyncio

import pytest

from executor_service.errors import Internal
from executor_service.events import Completed, Event, Started, Stderr, Stdout
from executor_service.sessions import journal as journal_module
from executor_service.sessions.journal import GROW_TO, Journal

END = Completed(fields={"outcome": "ok"})


async def read(journal: Journal, after: int = 0) -> list[tuple[int, Event]]:
    """All that a follower gets."""
    return [item async for item in journal.follow(after)]


async def test_followers_get_every_event_with_its_number_and_then_the_end() -> None:
    """From the start, from the middle, before and after the end."""
    journal = Journal()
    early = asyncio.create_task(read(journal))
    journal.append(Started(id="run_1"))
    await asyncio.sleep(0)
    journal.append(Stdout(text="a"))
    await asyncio.sleep(0)
    journal.append(Stderr(text="b"))
    journal.append(END)
    everything = [(1, Started(id="run_1")), (2, Stdout(text="a")), (3, Stderr(text="b")), (4, END)]
    assert await early == everything
    assert await read(journal) == everything
    assert await read(journal, 2) == everything[2:]
    assert await read(journal, 4) == []
    assert await read(journal, 99) == []


async def test_text_reaches_a_follower_at_once() -> None:
    """An event is there as soon as it was appended; nothing waits for a line or for more."""
    journal = Journal()
    follower = journal.follow()
    for number, text in enumerate("abc", 1):
        journal.append(Stdout(text=text))
        assert await anext(follower) == (number, Stdout(text=text))
    await follower.aclose()  # type: ignore[attr-defined]


async def test_text_that_nobody_has_seen_grows_in_place() -> None:
    """A byte at a time costs few events, nothing is lost, and what was delivered does not change."""
    journal = Journal()
    for _ in range(3 * GROW_TO):
        journal.append(Stdout(text="x"))
    assert len(journal) == 3
    follower = journal.follow()
    assert await anext(follower) == (1, Stdout(text="x" * GROW_TO))
    assert await anext(follower) == (2, Stdout(text="x" * GROW_TO))
    assert await anext(follower) == (3, Stdout(text="x" * GROW_TO))
    journal.append(Stdout(text="y"))
    assert await anext(follower) == (4, Stdout(text="y"))
    await follower.aclose()  # type: ignore[attr-defined]


async def test_streams_and_stages_are_not_mixed() -> None:
    """Only text of the same stream and stage joins."""
    journal = Journal()
    for event in (Stdout(text="a"), Stderr(text="b"), Stdout(text="c"), Stdout(text="d", stage="compile")):
        journal.append(event)
    assert len(journal) == 4


async def test_a_long_journal_stays_small_even_when_streams_alternate_under_a_follower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Past its length a journal trades the order between the two streams for few events."""
    monkeypatch.setattr(journal_module, "LONG", 100)
    journal = Journal()
    follower = asyncio.create_task(read(journal))
    for _ in range(5000):
        journal.append(Stdout(text="o"))
        journal.append(Stderr(text="e"))
        await asyncio.sleep(0)
    journal.append(END)
    events = [event for _, event in await follower]
    assert len(events) < 1000
    assert "".join(event.text for event in events if isinstance(event, Stdout)) == "o" * 5000
    assert "".join(event.text for event in events if isinstance(event, Stderr)) == "e" * 5000


async def test_what_comes_after_the_end_is_dropped() -> None:
    """The grammar holds: one completed, and nothing behind it."""
    journal = Journal()
    journal.append(END)
    journal.append(Stdout(text="late"))
    journal.append(END)
    assert journal.events == (END,)


async def test_a_failure_of_the_service_reaches_followers_and_waiters() -> None:
    """There is no completed then; what was said before is still read."""
    journal = Journal()
    journal.append(Stdout(text="a"))
    journal.fail(Internal("broken"))
    follower = journal.follow()
    assert await anext(follower) == (1, Stdout(text="a"))
    with pytest.raises(Internal):
        await anext(follower)
    with pytest.raises(Internal):
        await journal.wait()


async def test_its_size_grows_with_what_it_holds() -> None:
    """The bound on kept operations counts text and data."""
    journal = Journal()
    journal.append(Stdout(text="x" * 10_000))
    journal.append(Completed(fields={"files": [{"content": "y" * 50_000}]}))
    assert 60_000 <= journal.size < 62_000
