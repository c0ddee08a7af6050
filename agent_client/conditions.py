"""When a run of many parties is over: conditions that combine with `|` and `&` and say why.

A condition is asked after each message and needs no reset: its answer follows from the `Progress`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from agent_client.blocking import call
from agent_client.code_blocks import extract_code_blocks
from agent_client.courtesy import is_courtesy
from agent_client.messages import Message
from agent_client.termination import last_word_is_terminate
from agent_client.usage import Usage

# Marks that may differ between two texts that say the same; not "-", "<" and the like.
_MARKS = re.compile(r"[\s.,!?;:\u2026'\"*_`~\u3002\uff0c\uff01\uff1f]+")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a condition may look at. `task` is what the run was given, `messages` what was said since (only
    added to), `usage` that of all agents in this run, `elapsed` in seconds; `run` is this run's token.
    """

    task: Sequence[Message]
    messages: Sequence[Message]
    usage: Usage = field(default_factory=Usage)
    elapsed: float = 0.0
    run: object = None


class Condition:
    """Base of the conditions: `a | b` holds when one does, `a & b` when both do. One that a single message
    decides says so in `_match`.
    """

    async def check(self, progress: Progress) -> str | None:
        """Why the run is over, beginning with a stable word (`"max_messages: ..."`); None if it goes on."""
        return next(filter(None, map(self._match, progress.messages)), None)

    def _match(self, message: Message) -> str | None:
        raise NotImplementedError

    def __or__(self, other: Condition) -> Condition:
        return _Combined("|", self, other)

    def __and__(self, other: Condition) -> Condition:
        return _Combined("&", self, other)

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({', '.join(shown)})"


class _Combined(Condition):
    def __init__(self, sign: str, left: Condition, right: Condition) -> None:
        for one in (left, right):
            if not isinstance(one, Condition):
                raise TypeError(f"a condition combines with a condition, not with {one!r}")
        self._sign, self._both = sign, (left, right)

    async def check(self, progress: Progress) -> str | None:
        # Both are always asked: an ExternalTermination must not keep its mark for the next run.
        reasons = [reason for one in self._both if (reason := await one.check(progress))]
        return "; ".join(reasons) if len(reasons) > (self._sign == "&") else None

    def __repr__(self) -> str:
        return f"({self._both[0]!r} {self._sign} {self._both[1]!r})"


class MaxMessageTermination(Condition):
    """After so many messages, the task's included; with `include_agent_event` also those that agents
    exchanged with their own tools.
    """

    def __init__(self, max_messages: int, include_agent_event: bool = False) -> None:
        self.max_messages = _count("max_messages", max_messages)
        self.include_agent_event = include_agent_event

    async def check(self, progress: Progress) -> str | None:
        count = len(progress.task) + len(progress.messages)
        if self.include_agent_event:
            count += sum(len(message.inner) for message in progress.messages)
        return f"max_messages: {count} messages" if count >= self.max_messages else None


class TextMentionTermination(Condition):
    """Once someone (one of `sources`, if given) has said `text`, in this very spelling."""

    def __init__(self, text: str, sources: Sequence[str] | None = None) -> None:
        self.text = _text("text", text)
        self.sources = None if sources is None else _names("sources", sources)

    def _match(self, message: Message) -> str | None:
        if self.text not in message.content or (self.sources and message.name not in self.sources):
            return None
        return f"text_mention: {self.text!r} was said by {message.name}"


class LastWordTermination(Condition):
    """Once someone's last word was TERMINATE."""

    def _match(self, message: Message) -> str | None:
        is_last = last_word_is_terminate({"content": message.content})
        return f"last_word: TERMINATE was the last word of {message.name}" if is_last else None


class StopMessageTermination(Condition):
    """Once a message of the kind "stop" was said."""

    def _match(self, message: Message) -> str | None:
        return f"stop_message: {message.name} stopped" if message.kind == "stop" else None


class TextMessageTermination(Condition):
    """Once someone (`source`, if given) has said something that is text and no tool's call or answer."""

    def __init__(self, source: str | None = None) -> None:
        self.source = None if source is None else _text("source", source)

    def _match(self, message: Message) -> str | None:
        is_text = message.kind in ("text", "human") and not message.tool_calls and not message.tool_responses
        if not is_text or self.source not in (None, message.name):
            return None
        return f"text_message: {message.name} said a text"


class SourceMatchTermination(Condition):
    """Once one of `sources` has spoken."""

    def __init__(self, sources: Sequence[str]) -> None:
        self.sources = _names("sources", sources)

    def _match(self, message: Message) -> str | None:
        return f"source_match: {message.name} spoke" if message.name in self.sources else None


class HandoffTermination(Condition):
    """Once someone has handed over to `target`, who need not be a participant (such as a human)."""

    def __init__(self, target: str) -> None:
        self.target = _text("target", target)

    def _match(self, message: Message) -> str | None:
        if message.kind != "handoff" or message.target != self.target:
            return None
        return f"handoff: {message.name} handed over to {self.target}"


class FunctionCallTermination(Condition):
    """Once a tool of this name has answered, in the open or inside an agent's turn."""

    def __init__(self, function_name: str) -> None:
        self.function_name = _text("function_name", function_name)

    def _match(self, message: Message) -> str | None:
        answers = (answer.name for m in (message, *message.inner) for answer in m.tool_responses)
        if self.function_name not in answers:
            return None
        return f"function_call: {message.name} called {self.function_name}"


class TokenUsageTermination(Condition):
    """Once all agents of the run together have used so many tokens."""

    def __init__(
        self,
        max_total_token: int | None = None,
        max_prompt_token: int | None = None,
        max_completion_token: int | None = None,
    ) -> None:
        given = {"total": max_total_token, "prompt": max_prompt_token, "completion": max_completion_token}
        self.bounds = {k: _count(f"max_{k}_token", n) for k, n in given.items() if n is not None}
        if not self.bounds:
            raise ValueError("give max_total_token, max_prompt_token or max_completion_token")

    async def check(self, progress: Progress) -> str | None:
        for what, bound in self.bounds.items():
            count: int = getattr(progress.usage, f"{what}_tokens")
            if count >= bound:
                return f"token_usage: {count} {what} tokens of {bound}"
        return None


class TimeoutTermination(Condition):
    """Once the run has taken so long; a turn that has begun is not cut short."""

    def __init__(self, timeout_seconds: float) -> None:
        given: object = timeout_seconds
        if not isinstance(given, int | float) or not given > 0:
            raise ValueError(f"timeout_seconds is a number of seconds above 0, not {timeout_seconds!r}")
        self.timeout_seconds = timeout_seconds

    async def check(self, progress: Progress) -> str | None:
        over = progress.elapsed >= self.timeout_seconds
        return f"timeout: {progress.elapsed:.1f} of {self.timeout_seconds:g} seconds" if over else None


class ExternalTermination(Condition):
    """Once `set` was called, from any thread: it ends the run that asks next. `terminated` says whether the
    run that asked last was ended.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._run: object = self  # no run's token
        self.terminated = False

    def set(self) -> None:
        """End the run after its present turn."""
        self._is_set = True

    async def check(self, progress: Progress) -> str | None:
        if self._is_set:
            self._is_set, self._run = False, progress.run
        self.terminated = self._run is progress.run
        return "external: the run was ended from outside" if self.terminated else None


class FunctionalTermination(Condition):
    """Once `func`, sync or async, says so of the messages since the task."""

    def __init__(self, func: Callable[[Sequence[Message]], Any]) -> None:
        if not callable(func):
            raise ValueError(f"func is a function from the messages to a bool, not {func!r}")  # noqa: TRY004
        self.func = func

    async def check(self, progress: Progress) -> str | None:
        name = getattr(self.func, "__name__", "the function")
        return f"functional: {name} said so" if await call(self.func, progress.messages) else None


class Stalled(Condition):
    """Once so many `turns` in a row moved nothing: empty, mere courtesy, or what the same speaker said
    before. A human's words, code, its output, files, images and tools always move something.
    """

    def __init__(self, turns: int = 2) -> None:
        self.turns = _count("turns", turns)

    async def check(self, progress: Progress) -> str | None:
        said, count = progress.messages, len(progress.messages)
        idle = count >= self.turns and all(_is_idle(said, count - 1 - back) for back in range(self.turns))
        return f"stalled: {self.turns} turns brought nothing new" if idle else None


def _is_idle(said: Sequence[Message], at: int) -> bool:
    message = said[at]
    if _moves(message):
        return False
    before = (m.content for m in said[:at] if m.name == message.name)
    return is_courtesy(message.content) or _gist(message.content) in map(_gist, before)


@lru_cache(maxsize=1024)
def _gist(text: str) -> int:
    return hash(_MARKS.sub(" ", text.casefold()).strip())


def _moves(message: Message) -> bool:
    made = message.tool_calls or message.tool_responses or message.inner or message.artifacts or message.parts
    acted = message.kind in ("human", "code", "handoff") or bool(made)
    return acted or bool(extract_code_blocks(message.content))


def _count(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is a whole number from 1, not {value!r}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is a text that is not empty, not {value!r}")
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not value or not all(isinstance(one, str) and one for one in value):
        raise ValueError(f'{name} is a list of names such as ["critic"], not {value!r}')
    return tuple(value)
