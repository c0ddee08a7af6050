"""What is remembered, and for how long: operations, closed sessions, pages of lists."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from executor_service.errors import InvalidRequest
from executor_service.events import Stdout
from executor_service.sessions.expiry import Lifetime, expired, instant
from executor_service.sessions.kept import Kept
from executor_service.sessions.operation import Operation
from executor_service.sessions.paging import page
from executor_service.sessions.tombstones import Tombstones
from tests.fakes import Clock


def operation(clock: Clock, *, done: bool = True, size: int = 0) -> Operation:
    """One that ended now, or runs."""
    made = Operation(kind="run", owner="me", detached=True, clock=clock)
    made.journal.append(Stdout(text="x" * size))
    if done:
        made.complete({"outcome": "ok"})
    return made


def test_ids_are_long_and_random(clock: Clock) -> None:
    """128 random bits, and a prefix that says what it is."""
    first, second = operation(clock), operation(clock)
    assert first.id.startswith("run_")
    assert len(first.id) == 4 + 32
    assert first.id != second.id


def test_what_ended_is_dropped_after_its_time(clock: Clock) -> None:
    """What runs is not."""
    kept = Kept(seconds=10, count=9, size=1 << 20)
    ended, running = operation(clock), operation(clock, done=False)
    kept.add(ended)
    kept.add(running)
    assert kept.get(ended.id, clock.now + 9) is ended
    assert kept.get(ended.id, clock.now + 10) is None
    assert kept.get(running.id, clock.now + 99) is running


def test_of_too_many_the_oldest_that_ended_goes_first(clock: Clock) -> None:
    """By the end, not by the start."""
    kept = Kept(seconds=10, count=2, size=1 << 20)
    late = operation(clock, done=False)
    others = []
    for each in (late, operation(clock, done=False), operation(clock, done=False)):
        kept.add(each)
        others.append(each)
    for each in (others[1], others[2], late):
        clock.now += 1
        each.complete({"outcome": "ok"})
    kept.trim(clock.now)
    assert list(kept) == [late, others[2]]


def test_of_too_much_the_oldest_goes_first(clock: Clock) -> None:
    """Bytes count as well as numbers."""
    kept = Kept(seconds=10, count=99, size=25_000)
    for _ in range(5):
        clock.now += 1
        kept.add(operation(clock, size=10_000))
    kept.trim(clock.now)
    assert len(kept) == 2


def test_tombstones() -> None:
    """The owner hears why for an hour; nobody else hears anything; there are only so many."""
    stones = Tombstones(seconds=3600, count=2)
    stones.add("a", "me", "idle", 0.0)
    assert stones.get("a", "me", 3599.0) == "idle"
    assert stones.get("a", "you", 0.0) is None
    assert stones.get("a", "me", 3600.0) is None
    for name in "bcd":
        stones.add(name, "me", name, 4000.0)
    assert stones.get("b", "me", 4000.0) is None
    assert stones.get("d", "me", 4000.0) == "d"
    assert len(stones) == 2


@pytest.mark.parametrize(
    ("now", "active", "reason"),
    [
        (109.0, False, None),
        (110.0, False, "idle_ttl"),
        (110.0, True, None),
        (200.0, False, "ttl"),
        (200.0, True, "ttl"),
    ],
)
def test_when_a_sessions_time_is_over(now: float, active: bool, reason: str | None) -> None:
    """What runs keeps it from idling, and not from the end of its ttl."""
    why = expired(Lifetime(expires_at=200.0, last_used_at=100.0, idle_ttl=10.0, active=active), now)
    assert why is None if reason is None else why and reason in why


def test_instants() -> None:
    """RFC 3339, UTC, milliseconds."""
    assert instant(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"


@dataclass
class Thing:
    """Has a number."""

    number: int


def test_pages_neither_repeat_nor_skip() -> None:
    """Even when things come and go between them."""
    things = [Thing(number) for number in range(7)]
    first, cursor = page(things, limit=3, cursor=None)
    assert [each.number for each in first] == [0, 1, 2]
    remaining = [*things[3:], Thing(9)]
    second, cursor = page(remaining, limit=3, cursor=cursor)
    assert [each.number for each in second] == [3, 4, 5]
    third, cursor = page(remaining, limit=3, cursor=cursor)
    assert [each.number for each in third] == [6, 9]
    assert cursor is None
    assert page([], limit=1, cursor=None) == ([], None)


@pytest.mark.parametrize("cursor", ["", "!", "abc", "czE=x", "c8K5", "s1", "cy0x", "\ud800", "é", "c" * 500])
def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    """With the field named."""
    with pytest.raises(InvalidRequest) as refusal:
        page([], limit=1, cursor=cursor)
    assert refusal.value.errors[0].loc == "cursor"
