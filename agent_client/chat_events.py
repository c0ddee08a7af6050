"""What happens in a conversation, as typed events in order; `Console` prints them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agent_client.messages import Artifact, Message, ToolCall, ToolResponse
from agent_client.usage import Usage


@dataclass(frozen=True)
class ChatEvent:
    """Base of the events."""


@dataclass(frozen=True, kw_only=True)
class MessageSent(ChatEvent):
    """A message is said; its text may have been streamed before as `ModelText`."""

    sender: str
    recipient: str
    message: Message


@dataclass(frozen=True, kw_only=True)
class ModelText(ChatEvent):
    """A piece of what the model is writing for `agent`."""

    agent: str
    recipient: str
    text: str


@dataclass(frozen=True, kw_only=True)
class SpeakerSelected(ChatEvent):
    """It is `agent`'s turn, of several that take part."""

    agent: str


@dataclass(frozen=True, kw_only=True)
class CodeStarted(ChatEvent):
    """The `index`-th block (from 0) of `count` starts. `code` is its text, as the model wrote it."""

    agent: str
    language: str
    index: int
    count: int
    code: str = ""


@dataclass(frozen=True, kw_only=True)
class CodeOutput(ChatEvent):
    """A piece of output, as it was printed; control sequences removed, colours excepted."""

    agent: str
    text: str
    stream: Literal["stdout", "stderr"]


@dataclass(frozen=True, kw_only=True)
class ArtifactCreated(ChatEvent):
    """Code made a file or an image."""

    agent: str
    artifact: Artifact


@dataclass(frozen=True, kw_only=True)
class ToolCalled(ChatEvent):
    """A tool is about to be called for `agent`."""

    agent: str
    call: ToolCall


@dataclass(frozen=True, kw_only=True)
class ToolReturned(ChatEvent):
    """A tool call has ended, with an answer or an error for the model."""

    agent: str
    response: ToolResponse


@dataclass(frozen=True, kw_only=True)
class Notice(ChatEvent):
    """Something that is not said in the conversation: a missing answer, a file not copied."""

    agent: str
    text: str


@dataclass(frozen=True, kw_only=True)
class HumanAsked(ChatEvent):
    """A human is asked for `agent`."""

    agent: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class Ended(ChatEvent):
    """The conversation is over. `duration` is seconds."""

    reason: str
    usage: Usage
    duration: float = 0.0


EventSink = Callable[[ChatEvent], None]
