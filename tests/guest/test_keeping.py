"""What an operation keeps for a service that comes back: numbers, tail, marks; and process 1's book of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from executor_service.guest import channel, keeping, ledger
from executor_service.guest.keeping import Dropped, Log, Outbox, hear_keeping
from executor_service.guest.ledger import Ledger, Unknown
from executor_service.guest.protocol import Kind, ProtocolError, pack, pack_json, recv_frame, recv_json


def filled(count: int, size: int) -> Log:
    """A log with `count` frames of `size` bytes, all sent."""
    log = Log("op")
    for n in range(count):
        log.put(bytes([n % 256]) * size)
        log.take()
    return log


def test_frames_are_sent_once_and_again_after_a_rewind() -> None:
    """From the frame after the one that is named, or all that is held."""
    log = Log("op")
    for frame in (b"a", b"b", b"c"):
        log.put(frame)
    assert (log.take(), log.take(), log.last) == (b"abc", b"", 3)
    assert (log.rewind(1), log.take()) == (1, b"bc")
    assert (log.rewind(0), log.take()) == (0, b"abc")
    assert (log.rewind(99), log.take()) == (3, b"")


def test_the_head_is_given_up_at_marks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is held, frames after the last mark stay; the state of the mark is told with them."""
    monkeypatch.setattr(keeping, "TAIL_BYTES", 4 * (100 + keeping.FRAME_COST))
    log = filled(10, 100)
    assert (log.first, log.last) == (0, 10)
    log.mark(3, {"events": 3})
    assert (log.first, log.state) == (3, {"events": 3})
    log.mark(5, {"events": 5})
    log.mark(9, {"events": 9})
    assert (log.first, log.state) == (9, {"events": 9})
    assert (log.rewind(0), log.take()) == (9, bytes([9]) * 100)


@pytest.mark.parametrize("number", [0, -1, 11, 1 << 60])
def test_a_mark_that_makes_no_sense_is_left_out(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given up that was not sent."""
    monkeypatch.setattr(keeping, "TAIL_BYTES", 0)
    log = filled(10, 100)
    log.mark(number, {})
    assert log.first == 0


def test_what_waits_is_counted_and_pushes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that nobody takes fill the outbox; those that were sent do not."""
    monkeypatch.setattr(keeping, "AHEAD_BYTES", 3 * (100 + keeping.FRAME_COST))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        out = Outbox(ours)
        out.keep("op")
        out.lose()
        for _ in range(3):
            assert not out.full(1)
            out.put(bytes(100))
        assert out.full(1 << 30)
        assert out.flush()  # to nobody
        assert out.full(1)


@pytest.fixture
def kept() -> Iterator[tuple[Outbox, socket.socket, socket.socket]]:
    """A kept outbox, the service's end of its connection, and process 1's of its control."""
    ours, theirs = socket.socketpair()
    control, far = channel.pair()
    for each in (ours, control):
        each.setblocking(False)
    out = Outbox(ours, control)
    with ours, theirs, control, far:
        yield out, theirs, far
    if out.connection is not None:
        out.connection.close()


def test_another_connection_hears_what_was_said(kept: tuple[Outbox, socket.socket, socket.socket]) -> None:
    """First where it goes on and what the handler adds, then every frame; the old connection is closed."""
    out, theirs, far = kept
    assert hear_keeping(out, {"type": "keep", "operation": "exe_1"})
    assert recv_json_of(out, theirs) == {"type": "keeping", "operation": "exe_1"}
    out.put(pack(Kind.STDOUT, b"one"))
    out.flush()
    assert recv_frame(theirs) == (Kind.STDOUT, b"one")
    here, there = socket.socketpair()
    with here, there:
        channel.send(far, {"word": "attach", "after": 0}, [there.fileno()])
        out.heed(stdin=True)
        assert theirs.recv(1) == b""
        told = {"type": "attached", "operation": "exe_1", "from": 0, "last": 1, "state": None, "stdin": True}
        assert recv_json(here) == told
        assert recv_frame(here) == (Kind.STDOUT, b"one")
        out.put(pack(Kind.STDOUT, b"two"))
        out.flush()
        assert recv_frame(here) == (Kind.STDOUT, b"two")
        assert hear_keeping(out, {"type": "forget"})
        assert not out.lose()


def recv_json_of(out: Outbox, connection: socket.socket) -> dict[str, object]:
    """What the outbox says next."""
    out.flush()
    return recv_json(connection)


def test_losing_its_service_ends_only_what_is_not_kept(
    kept: tuple[Outbox, socket.socket, socket.socket],
) -> None:
    """An attached operation is told to end; a kept one goes on and can be dropped."""
    out, theirs, far = kept
    theirs.close()
    out.put(b"x")
    assert not out.flush()
    out.keep("op")
    assert out.flush()
    assert out.connection is None or out.lose()
    far.close()
    with pytest.raises(Dropped):
        out.heed()


@pytest.mark.parametrize(
    "order", [{"type": "keep"}, {"type": "mark", "frame": "x", "state": {}}, {"type": "hm"}]
)
def test_orders_that_make_no_sense_do_nothing(
    order: dict[str, object], kept: tuple[Outbox, socket.socket, socket.socket]
) -> None:
    """At most a KeyError, which ends the connection and no more."""
    out, _, _ = kept
    out.keep("op")
    try:
        assert hear_keeping(out, order) == (order["type"] == "mark")
    except KeyError:
        assert order["type"] == "keep"


# -- process 1's book ---------------------------------------------------------------------------------


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def stash(book: Ledger, name: str, data: bytes, seconds: float | None = None) -> None:
    """Store as a handler does."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(pack(Kind.DATA, data) + pack(Kind.DATA, b"") if data else pack(Kind.DATA, b""))
        ledger.fill(theirs, book.open(name, seconds))
        assert recv_json(ours) == {"type": "ok"}


def test_what_is_stashed_is_found_again(line: tuple[socket.socket, socket.socket]) -> None:
    """Whole, by its name, as often as it is asked for; a later item replaces it."""
    book = Ledger()
    stash(book, "env", b"first")
    stash(book, "env", b"second")
    for _ in range(2):
        ledger.pour(line[1], book.find("env"))
        assert recv_json(line[0]) == {"type": "ok"}
        assert recv_frame(line[0]) == (Kind.DATA, b"second")
        assert recv_frame(line[0]) == (Kind.DATA, b"")
    with pytest.raises(Unknown):
        book.find("other")


def test_half_an_item_is_none(line: tuple[socket.socket, socket.socket]) -> None:
    """What its writer did not finish is not there."""
    book = Ledger()
    memory = book.open("half", None)
    line[0].sendall(pack(Kind.DATA, b"some"))
    line[0].close()
    with pytest.raises(EOFError):
        ledger.fill(line[1], memory)
    with pytest.raises(Unknown):
        book.find("half")


def test_too_large_an_item_is_refused(
    line: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes no memory."""
    monkeypatch.setattr(ledger, "ITEM_BYTES", 10)
    memory = Ledger().open("large", None)
    line[0].sendall(pack(Kind.DATA, bytes(11)))
    with pytest.raises(ProtocolError):
        ledger.fill(line[1], memory)
    assert os.fstat(memory).st_size == 0


def test_the_stash_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of what is kept for a while goes first, and what is kept for good stays."""
    monkeypatch.setattr(ledger, "STASH_BYTES", 250)
    book = Ledger()
    stash(book, "env", bytes(50))
    for name in ("a", "b", "c"):
        stash(book, name, bytes(100), 60.0)
    with pytest.raises(Unknown):
        book.find("a")
    assert len({book.find("env"), book.find("b"), book.find("c")}) == 3
    stash(book, "brief", b"x", 0.0)
    with pytest.raises(Unknown):
        book.find("brief")


@pytest.mark.parametrize("name", ["", "x" * 129, None, 7])
def test_a_name_is_a_short_text(name: object) -> None:
    """Anything else is refused before it is remembered."""
    with pytest.raises(ValueError, match="name"):
        Ledger().open(name, None)  # type: ignore[arg-type]


def test_a_connection_is_passed_to_the_operation_that_is_kept(
    line: tuple[socket.socket, socket.socket],
) -> None:
    """By its name; unknown once it was dropped or has ended."""
    book = Ledger()
    control, far = channel.pair()
    with far:
        book.keep("cmd_1", control, 77)
        assert book.names() == ["cmd_1"]
        book.attach("cmd_1", line[0], 3)
        message, fds = channel.receive(far)
        assert (message, len(fds)) == ({"word": "attach", "after": 3}, 1)
        channel.close(fds)
        book.ended(77)
        with pytest.raises(Unknown):
            book.attach("cmd_1", line[0], 0)
        with pytest.raises(EOFError):
            channel.receive(far)


def test_questions_that_process_1_answers_itself(line: tuple[socket.socket, socket.socket]) -> None:
    """`kept` and `drop`; what it does not know is left to others."""
    book = Ledger()
    control, far = channel.pair()
    with far:
        book.keep("cmd_1", control, 77)
        assert ledger.answer(line[0], book, {"op": "kept"})
        assert recv_json(line[1]) == {"type": "kept", "ids": ["cmd_1"]}
        assert ledger.answer(line[0], book, {"op": "drop", "id": "cmd_1"})
        assert recv_json(line[1]) == {"type": "ok"}
        assert book.names() == []
        assert not ledger.answer(line[0], book, {"op": "other"})
    line[1].sendall(pack_json({"type": "bye"}))
