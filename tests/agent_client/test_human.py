"""When a human is asked and what the answer means: AutoGen 0.2's facts as a table."""

from __future__ import annotations

from types import NoneType

import pytest

from agent_client.agents.human import HumanInputMode, Situation, decide, heed
from agent_client.conversation import Stop
from agent_client.messages import Message


def at(mode: HumanInputMode, *, terminal: bool = False, replies: int = 0, allowed: int = 10) -> Situation:
    """A situation."""
    return Situation(mode=mode, terminal=terminal, auto_replies=replies, allowed=allowed)


@pytest.mark.parametrize(
    ("situation", "kind"),
    [
        (at("ALWAYS"), str),
        (at("ALWAYS", terminal=True), str),
        (at("ALWAYS", replies=10), str),
        (at("TERMINATE"), NoneType),
        (at("TERMINATE", terminal=True), str),
        (at("TERMINATE", replies=10), str),
        (at("NEVER"), NoneType),
        (at("NEVER", terminal=True), Stop),
        (at("NEVER", replies=10), Stop),
        (at("NEVER", allowed=0), Stop),
        (at("TERMINATE", allowed=0), str),
    ],
)
def test_decide(situation: Situation, kind: type[object]) -> None:
    """ALWAYS asks always, TERMINATE at an end or the limit, NEVER stops there."""
    assert isinstance(decide(situation, name="me", sender="you"), kind)


@pytest.mark.parametrize(
    ("situation", "answer", "kind"),
    [
        (at("ALWAYS"), "exit", Stop),
        (at("ALWAYS"), "", NoneType),
        (at("ALWAYS"), "do this", Message),
        (at("ALWAYS", terminal=True), "", Stop),
        (at("ALWAYS", terminal=True), "go on", Message),
        (at("TERMINATE", replies=10), "", NoneType),
        (at("TERMINATE", terminal=True), "", Stop),
        (at("TERMINATE", terminal=True), "exit", Stop),
        (at("TERMINATE", terminal=True), "more", Message),
        (at("TERMINATE", allowed=0), "", Message),
    ],
)
def test_heed(situation: Situation, answer: str, kind: type[object]) -> None:
    """Exit stops, words are said, nothing goes on unless the message ended the conversation."""
    assert isinstance(heed(situation, answer, sender="you"), kind)
