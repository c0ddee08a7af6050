"""What happens in a conversation, as typed events in order; `Console` prints them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agent_client.messages import Artifact, Message
from agent_client.usage import Usage


@dataclass(frozen=True, kw_only=True)
class MessageSent:
    """A message is said; its text may have been streamed before as `ModelText`."""

    sender: str
    recipient: str
    message: Message


@dataclass(frozen=True, kw_only=True)
class ModelText:
    """A piece of what the model is writing for `agent`."""

    agent: str
    recipient: str
    text: str


@dataclass(frozen=True, kw_only=True)
class CodeStarted:
    """The `index`-th block (from 0) of `count` starts."""

    agent: str
    language: str
    index: int
    count: int


@dataclass(frozen=True, kw_only=True)
class CodeOutput:
    """A piece of output, as it was printed; control sequences removed, colours excepted."""

    agent: str
    text: str
    stream: Literal["stdout", "stderr"]


@dataclass(frozen=True, kw_only=True)
class ArtifactCreated:
    """Code made a file or an image."""

    agent: str
    artifact: Artifact


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that is not said in the conversation: a missing answer, a file not copied."""

    agent: str
    text: str


@dataclass(frozen=True, kw_only=True)
class HumanAsked:
    """A human is asked for `agent`."""

    agent: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The conversation is over."""

    reason: str
    usage: Usage


ChatEvent = MessageSent | ModelText | CodeStarted | CodeOutput | ArtifactCreated | Notice | HumanAsked | Ended
EventSink = Callable[[ChatEvent], None]
