"""When a human is asked and what the answer means: AutoGen 0.2's facts as a table."""

from __future__ import annotations

import pytest

from agent_client.agents.human import Ask, AutoReply, End, HumanInputMode, Say, Situation, decide, heed


def at(mode: HumanInputMode, *, terminal: bool = False, replies: int = 0, allowed: int = 10) -> Situation:
    """A situation."""
    return Situation(mode=mode, terminal=terminal, auto_replies=replies, allowed=allowed)


@pytest.mark.parametrize(
    ("situation", "kind"),
    [
        (at("ALWAYS"), Ask),
        (at("ALWAYS", terminal=True), Ask),
        (at("ALWAYS", replies=10), Ask),
        (at("TERMINATE"), AutoReply),
        (at("TERMINATE", terminal=True), Ask),
        (at("TERMINATE", replies=10), Ask),
        (at("NEVER"), AutoReply),
        (at("NEVER", terminal=True), End),
        (at("NEVER", replies=10), End),
        (at("NEVER", allowed=0), End),
        (at("TERMINATE", allowed=0), Ask),
    ],
)
def test_decide(situation: Situation, kind: type[object]) -> None:
    """ALWAYS asks always, TERMINATE at an end or the limit, NEVER stops there."""
    assert isinstance(decide(situation, name="me", sender="you"), kind)


@pytest.mark.parametrize(
    ("situation", "answer", "kind"),
    [
        (at("ALWAYS"), "exit", End),
        (at("ALWAYS"), "", AutoReply),
        (at("ALWAYS"), "do this", Say),
        (at("ALWAYS", terminal=True), "", End),
        (at("ALWAYS", terminal=True), "go on", Say),
        (at("TERMINATE", replies=10), "", AutoReply),
        (at("TERMINATE", terminal=True), "", End),
        (at("TERMINATE", terminal=True), "exit", End),
        (at("TERMINATE", terminal=True), "more", Say),
        (at("TERMINATE", allowed=0), "", Say),
    ],
)
def test_heed(situation: Situation, answer: str, kind: type[object]) -> None:
    """Exit stops, words are said, nothing goes on unless the message ended the conversation."""
    assert isinstance(heed(situation, answer, sender="you"), kind)
