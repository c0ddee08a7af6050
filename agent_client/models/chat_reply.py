"""A reply put together from what an endpoint sends. Endpoints send what they like, so nothing is taken to be
there, or of its type.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_client.messages import ToolCall
from agent_client.models.base import ModelResponse
from agent_client.models.prices import price_of
from agent_client.usage import Usage

MAX_CHARACTERS = 4 << 20  # of text and arguments; a reply that is longer is cut off there
_CALL_COSTS = 256  # characters, beside its arguments


@dataclass
class _Call:
    index: int
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Reply:
    """Chunks of a stream, or one whole completion, taken in as they come."""

    def __init__(self) -> None:
        self.spoke = False
        self.finish = ""
        self.usage: Any = None
        self._model = ""
        self._text: list[str] = []
        self._calls: list[_Call] = []
        self._room = MAX_CHARACTERS

    @property
    def full(self) -> bool:
        return self._room <= 0

    @property
    def ended(self) -> bool:
        """Whether a stream came to its end: endpoints say why, or at least what it cost."""
        return bool(self.finish or self.usage) or self.full

    def add(self, answer: Any) -> str:
        """Take in a chunk or a completion; the text that it adds."""
        self._model = _text(getattr(answer, "model", None)) or self._model
        self.usage = getattr(answer, "usage", None) or self.usage
        added = ""
        for choice in (getattr(answer, "choices", None) or [])[:1]:
            self.finish = _text(getattr(choice, "finish_reason", None)) or self.finish
            said = getattr(choice, "delta", None) or getattr(choice, "message", None)
            self.spoke = self.spoke or said is not None
            added = self._kept(_text(getattr(said, "content", None)) or _text(getattr(said, "refusal", None)))
            for number, piece in enumerate(getattr(said, "tool_calls", None) or ()):
                self._add_call(number, piece)
        self._text.append(added)
        return added

    def response(self, model: str, price: Sequence[float] | None) -> ModelResponse:
        """The reply of `model`, which is named where the endpoint does not say which one answered."""
        known = price or price_of(model) or price_of(self._model)
        calls, ids = [], set[str]()
        for call in self._calls:
            known_id = call.id if call.id not in ids else ""
            call_id = known_id or f"call_{uuid.uuid4().hex[:24]}"
            ids.add(call_id)
            calls.append(ToolCall(id=call_id, name=call.name, arguments="".join(call.arguments) or "{}"))
        return ModelResponse(
            content="".join(self._text),
            usage=_usage(self.usage, known, told=price is None),
            model=self._model or model,
            finish_reason="length" if self.full else self.finish or "stop",
            tool_calls=tuple(calls),
        )

    def _kept(self, text: str) -> str:
        kept = text[: self._room]
        self._room -= len(kept)
        return kept

    def _add_call(self, number: int, piece: Any) -> None:
        """Put a piece of a call to its call. Some endpoints leave out indices, some give all the same."""
        index, given = getattr(piece, "index", None), _text(getattr(piece, "id", None))
        index = index if isinstance(index, int) else number
        call = next((known for known in reversed(self._calls) if known.index == index), None)
        if call is None or (given and call.id not in ("", given)):
            call = _Call(index)
            self._calls.append(call)
            self._room -= _CALL_COSTS
        function = getattr(piece, "function", None)
        call.id = given or call.id
        call.name += _text(getattr(function, "name", None))
        arguments = getattr(function, "arguments", None)
        text = json.dumps(arguments) if isinstance(arguments, Mapping) else _text(arguments)
        call.arguments.append(self._kept(text))


def _text(value: Any) -> str:
    """The text of a text, or of a list of content parts; half surrogate pairs could be sent nowhere."""
    if isinstance(value, list):
        value = "".join(_text(part.get("text")) for part in value if isinstance(part, Mapping))
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _usage(used: Any, price: Sequence[float] | None, *, told: bool) -> Usage:
    """What a call used; what the endpoint tells in no sensible form counts as 0. With `told`, a cost that it
    tells, as some routers do, goes before the price.
    """
    prompt, completion = (
        int(_amount(getattr(used, name, 0))) for name in ("prompt_tokens", "completion_tokens")
    )
    cost = _amount(getattr(used, "cost", 0)) if told else 0
    if price and not cost:
        cost = (prompt * price[0] + completion * price[1]) / 1000
    return Usage(requests=1, prompt_tokens=prompt, completion_tokens=completion, cost=cost)


def _amount(value: Any) -> float:
    return value if isinstance(value, int | float) and 0 < value < 1e12 else 0
