"""Bytes to text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_service.events import Stderr, Stdout
from executor_service.sessions.decode import TextStreams


def decoded(chunks: list[bytes]) -> str:
    """What a follower would read of stdout."""
    streams = TextStreams(limit=1 << 20)
    events = [streams.feed("stdout", chunk) for chunk in chunks] + streams.end()
    return "".join(event.text for event in events if event is not None)


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([b"ab", b"c"], "abc"),
        ([b"\xe2", b"\x82", b"\xac"], "€"),
        ([b"\xf0\x9f", b"\x98\x80!"], "😀!"),
        ([b"\xff\xfea"], "��a"),
        ([b"a\xe2\x82"], "a�"),
        ([b"a\x00b"], "a\0b"),
        ([b"\xed\xa0\x80"], "���"),
    ],
)
def test_text_of_chunks(chunks: list[bytes], text: str) -> None:
    """A character split over chunks comes whole, an invalid byte as U+FFFD."""
    assert decoded(chunks) == text


@given(st.text(), st.lists(st.integers(0, 200)))
def test_however_it_is_cut_the_text_is_the_same(text: str, cuts: list[int]) -> None:
    """The decoder never splits a character and never loses one."""
    data = text.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assert decoded([data[a:b] for a, b in itertools.pairwise(edges)]) == text


def test_streams_are_apart_and_know_their_stage() -> None:
    """Half a character on stdout does not disturb stderr."""
    streams = TextStreams(limit=100, stage="compile")
    assert streams.feed("stdout", b"\xe2") is None
    assert streams.feed("stderr", b"e") == Stderr(text="e", stage="compile")
    assert streams.feed("stdout", b"\x82\xac") == Stdout(text="€", stage="compile")


def test_no_more_than_the_limit_is_believed() -> None:
    """A guest that does not cut is cut here."""
    streams = TextStreams(limit=5)
    assert streams.feed("stdout", b"abcdefgh") == Stdout(text="abcde")
    assert streams.feed("stdout", b"x") is None
