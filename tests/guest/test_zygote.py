"""The nursery's handle on a zygote: what it does when processes end. None is started."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from executor_service.guest import channel, zygote


class Started:
    """Stands for starting processes, and for the clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ends: list[socket.socket] = []  # theirs
        self.ours: list[socket.socket] = []

    @property
    def last(self) -> int:
        """The pid of the newest process."""
        return len(self.ends)

    def start(self, flavour: str, config: dict[str, Any]) -> zygote._Process:
        """As `zygote._start`; pids are counted from 1."""
        ours, theirs = channel.pair()
        self.ends.append(theirs)
        self.ours.append(ours)
        return zygote._Process(self.last, ours, self.now)

    def monotonic(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """Every start and every look at the clock."""
    found = Started()
    monkeypatch.setattr(zygote, "_start", found.start)
    monkeypatch.setattr(zygote, "time", found)
    monkeypatch.setattr(zygote, "RENEW_AFTER", 2)
    yield found
    for end in (*found.ends, *found.ours):
        end.close()


def test_a_zygote_that_does_not_start_is_given_up(started: Started) -> None:
    """The nursery hears it as an error; else it would start it for ever."""
    handle = zygote.Zygote("light", {})
    for _ in range(zygote.MAX_QUICK_ENDS - 1):
        handle.on_exit(started.last)
    with pytest.raises(RuntimeError, match="light zygote does not start"):
        handle.on_exit(started.last)
    assert started.last == zygote.MAX_QUICK_ENDS


def test_a_zygote_that_ends_now_and_then_is_replaced_always(started: Started) -> None:
    """One that lived for a while did start."""
    handle = zygote.Zygote("light", {})
    for number in range(10):
        started.now += zygote.QUICK if number % 2 else 0
        handle.on_exit(started.last)
    assert started.last == 11


def test_a_successor_that_fails_is_tried_again_after_a_pause(started: Started) -> None:
    """The zygote itself goes on meanwhile, and is retired when a successor is ready."""
    handle = zygote.Zygote("light", {})
    for _ in range(3):
        handle.fork_into([])
    assert started.last == 2
    handle.on_exit(2)
    handle.fork_into([])
    assert started.last == 2
    started.now += zygote.RENEW_PAUSE
    handle.fork_into([])
    assert started.last == 3
    started.ends[2].send(b"ready")
    handle.fork_into([])
    assert channel.receive(started.ends[2])[0] == {"op": "fork"}
    handle.on_exit(1)
    assert started.last == 3
    assert not handle.owns(1)


def test_a_zygote_that_ends_before_it_is_ready_is_told(started: Started) -> None:
    """Also where it left its configuration unread."""
    handle = zygote.Zygote("light", {})
    channel.send(handle._current.control, {})
    started.ends[0].close()
    with pytest.raises(RuntimeError, match="did not start"):
        handle.wait_ready()
