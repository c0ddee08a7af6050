"""Whether a human is asked, and what the answer means. Pure; the facts are AutoGen 0.2's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HumanInputMode = Literal["ALWAYS", "TERMINATE", "NEVER"]
EXIT = "exit"


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the decision rests on: the mode, whether the received message ends the conversation, and the
    auto-replies made and allowed.
    """

    mode: HumanInputMode
    terminal: bool
    auto_replies: int
    allowed: int

    @property
    def at_limit(self) -> bool:
        return self.auto_replies >= self.allowed


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Ask a human with this prompt first."""

    prompt: str


@dataclass(frozen=True, kw_only=True)
class End:
    """End the conversation."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Say:
    """The human's words are the reply."""

    text: str


@dataclass(frozen=True, kw_only=True)
class AutoReply:
    """Reply by code, model or default."""


def decide(situation: Situation, *, name: str, sender: str) -> Ask | End | AutoReply:
    """What to do with a received message before anything else."""
    if situation.mode == "ALWAYS":
        return Ask(
            prompt=f"Replying as {name}. Provide feedback to {sender}. Press enter to skip and use"
            " auto-reply, or type 'exit' to end the conversation: "
        )
    if not situation.at_limit and not situation.terminal:
        return AutoReply()
    if situation.mode == "NEVER":
        return End(reason=_limit(situation) if not situation.terminal else _terminal(sender))
    skip = "" if situation.terminal else "to skip and use auto-reply, "
    return Ask(
        prompt=f"Please give feedback to {sender}. Press enter {skip}or type 'exit' to stop the"
        " conversation: "
    )


def heed(situation: Situation, answer: str, *, sender: str) -> Say | End | AutoReply:
    """What the human's answer means."""
    if answer == EXIT:
        return End(reason="human: exit was typed")
    if answer:
        return Say(text=answer)
    if situation.terminal:
        return End(reason=_terminal(sender))
    if situation.allowed == 0:  # no auto-reply at all: nothing is what is said
        return Say(text="")
    return AutoReply()


def _terminal(sender: str) -> str:
    return f"termination message: from {sender}"


def _limit(situation: Situation) -> str:
    return f"max_consecutive_auto_reply: {situation.allowed} auto-replies were made"
