"""Which stored sessions live on; what is known of work that has begun. Pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from executor_service.events import Completed, Started, Stdout
from executor_service.limits import Limits
from executor_service.sessions.adoption import judge, limits_again, plan_again, start_again
from executor_service.sessions.claim import Claim
from executor_service.sessions.decode import TextStreams
from executor_service.sessions.journal import Journal
from executor_service.sessions.policy import Policy
from executor_service.sessions.store import SessionRow
from tests.fakes import catalog, find
from tests.sessions.test_store import OPERATION, SESSION

ROW = replace(SESSION, network=False)


def verdict(row: SessionRow, now: float = 100.0, **more: object) -> Claim | str:
    """What becomes of a stored session."""
    known = {"catalog": catalog(), "policy": Policy(), "backend": "docker", **more}
    return judge(row, now=now, **known)  # type: ignore[arg-type]


def test_a_session_is_what_it_was() -> None:
    """Owner, limits, times and metadata; its variables come from elsewhere."""
    claim = verdict(ROW)
    assert isinstance(claim, Claim)
    assert (claim.owner, claim.offer.language.name, claim.backend) == ("key", "python", "docker")
    assert (claim.limits.memory_bytes, claim.ttl, claim.idle_ttl) == (1 << 29, 3600.0, 600.0)
    assert (claim.env, claim.metadata, claim.network, claim.grant) == ({}, {"for": "mé"}, False, None)


def test_a_limit_that_this_version_does_not_know_is_left_out() -> None:
    """A later version may have written it."""
    claim = verdict(replace(ROW, limits={"memory_bytes": 5, "nosuch": 1}))
    assert isinstance(claim, Claim)
    assert claim.limits == replace(Limits(), memory_bytes=5)


@pytest.mark.parametrize(
    ("row", "now", "why"),
    [
        (ROW, ROW.expires_at, "ttl"),
        (replace(ROW, image="other"), 100.0, "offers less"),
        (replace(ROW, language="perl"), 100.0, "offers less"),
        (replace(ROW, network=True), 100.0, "offers less"),
        (SESSION, 100.0, "offers less"),
    ],
)
def test_a_session_that_cannot_go_on_says_why(row: SessionRow, now: float, why: str) -> None:
    """Its time is over, or what it was made from is not offered any more: never less than was asked."""
    reason = verdict(row, now, catalog=catalog(find("python")))
    assert isinstance(reason, str)
    assert why in reason


def test_work_that_has_begun_keeps_its_limits_and_its_readings() -> None:
    """What it runs only the guest knows."""
    row = replace(
        OPERATION, limits={"wall_time": 7.0, "output_bytes": 9}, stdin="open", cpu_time=1.5, oom_kills=2
    )
    assert (limits_again(row).wall_time, limits_again(row).output_bytes) == (7.0, 9)
    plan = plan_again(row)
    assert (plan.spec.wall_time, plan.spec.stdin, plan.keep_stdin, plan.spec.argv) == (7.0, True, True, ())
    assert not plan_again(replace(row, stdin="given")).keep_stdin
    start = start_again(row)
    assert (start.again, start.before.usage.cpu_time, start.before.oom_kills) == (True, 1.5, 2)


def test_a_decoder_goes_on_in_the_middle_of_a_character() -> None:
    """As if there had been one all the time."""
    data = "aé€😀b".encode()
    for cut in range(len(data) + 1):
        first = TextStreams(limit=100)
        begun = first.feed("stdout", data[:cut])
        second = TextStreams(limit=100)
        second.restore(first.state())
        rest = second.feed("stdout", data[cut:])
        assert "".join(each.text for each in (begun, rest) if each) == "aé€😀b"


@pytest.mark.parametrize(
    "state", [{}, {"pending": 1, "left": 2}, {"pending": {"stdout": "zz"}, "left": {"stdout": "x"}}]
)
def test_a_state_that_makes_no_sense_changes_nothing(state: dict[str, object]) -> None:
    """It comes back from a sandbox."""
    streams = TextStreams(limit=3)
    streams.restore(state)
    assert streams.feed("stdout", b"abcdef") == Stdout(text="abc")


async def test_a_journal_without_its_head_keeps_its_numbers() -> None:
    """The first event is 1, the next one has the number that it always had; one may ask within the gap."""
    journal = Journal(growing=False)
    journal.append(Started(id="x"))
    journal.skip(10)
    for text in "ab":
        journal.append(Stdout(text=text))
    journal.append(Completed(fields={}))
    numbers = {after: [n async for n, _ in journal.follow(after)] for after in (0, 1, 5, 11, 12, 14, 99)}
    assert numbers == {
        0: [1, 12, 13, 14],
        1: [12, 13, 14],
        5: [12, 13, 14],
        11: [12, 13, 14],
        12: [13, 14],
        14: [],
        99: [],
    }
    assert journal.last == 14


async def test_a_journal_that_must_be_found_again_does_not_grow_its_events() -> None:
    """What the guest sent at once is one event, whether somebody listens or not."""
    journal = Journal(growing=False)
    for text in "abc":
        journal.append(Stdout(text=text))
    assert [event.text for event in journal.events if isinstance(event, Stdout)] == ["a", "b", "c"]
