"""Whether a human is asked, and what the answer means. Pure; the facts are AutoGen 0.2's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent_client.conversation import Stop
from agent_client.messages import Message

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


def decide(situation: Situation, *, name: str, sender: str) -> str | Stop | None:
    """What to do with a received message before anything else: ask a human with this prompt, stop, or (None)
    reply as usual.
    """
    if situation.mode == "ALWAYS":
        return (
            f"Replying as {name}. Provide feedback to {sender}. Press enter to skip and use auto-reply, or"
            " type 'exit' to end the conversation: "
        )
    at_limit = situation.auto_replies >= situation.allowed
    if not at_limit and not situation.terminal:
        return None
    if situation.mode == "NEVER":
        return _terminal(sender) if situation.terminal else _limit(situation)
    skip = "" if situation.terminal else "to skip and use auto-reply, "
    return f"Please give feedback to {sender}. Press enter {skip}or type 'exit' to stop the conversation: "


def heed(situation: Situation, answer: str, *, sender: str) -> Message | Stop | None:
    """What the human's answer means: it is said, the conversation stops, or (None) goes on as usual."""
    if answer == EXIT:
        return Stop(reason="human: exit was typed")
    if not answer and situation.terminal:
        return _terminal(sender)
    if answer or situation.allowed == 0:  # no auto-reply at all: nothing is what is said
        return Message(content=answer, kind="human")
    return None


def _terminal(sender: str) -> Stop:
    return Stop(reason=f"termination message: from {sender}")


def _limit(situation: Situation) -> Stop:
    return Stop(reason=f"max_consecutive_auto_reply: {situation.allowed} auto-replies were made")
