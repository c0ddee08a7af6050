"""Messages as chat completions know them: which keys are sent, tools' answers, and images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from agent_client.messages import Message, data_url
from agent_client.wire.notebook import image_mime

Json = Any
MAX_IMAGES = 8  # the newest: each is paid for again at every call
MAX_IMAGE_BYTES = 4 << 20
_IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def chat_messages(messages: Sequence[Message], *, vision: bool) -> list[dict[str, Json]]:
    """The messages as they are sent. A message of tools' answers becomes one for each answer, and their
    images a user's message after them; without `vision` no image that code made is sent.
    """
    images: dict[int, list[Mapping[str, Json]]] = {}
    for index, image in islice(_images_newest_first(messages), MAX_IMAGES if vision else 0):
        images.setdefault(index, []).insert(0, image)
    sent: list[dict[str, Json]] = []
    held: list[Mapping[str, Json]] = []  # nothing may stand between the answers to one message's calls
    for index, message in enumerate(messages):
        if held and message.role != "tool":
            sent.append(_of_tools(held))
            held = []
        if message.tool_responses:
            sent += [
                {"role": "tool", "tool_call_id": r.call_id, "content": r.content}
                for r in message.tool_responses
            ]
            held += images.get(index, [])
        else:
            sent.append(_one(message, images.get(index, [])))
    return [*sent, _of_tools(held)] if held else sent


def _one(message: Message, images: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    shown = message.role == "user"  # what a user put in is sent, whatever is known of the model
    parts = [*(p for p in message.parts if shown or p.get("type") != "image_url"), *images]
    text = [{"type": "text", "text": message.content}] if message.content else []
    content = [*text, *parts] if parts else message.content
    made: dict[str, Json] = {"role": message.role, "content": content}
    if message.name:
        made["name"] = _accepted(message.name)
    if message.role == "tool":  # of a dict that AutoGen's users wrote themselves
        made["tool_call_id"] = message.extra.get("tool_call_id", "")
    if message.tool_calls:
        made |= {"content": made["content"] or None, "tool_calls": message.to_dict()["tool_calls"]}
        for call in made["tool_calls"]:  # models make up names such as "functions.search"
            call["function"]["name"] = _accepted(call["function"]["name"])
    return made


def _accepted(name: str) -> str:
    """A name as endpoints accept it; with any other they refuse the whole request."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "_"


def _images_newest_first(messages: Sequence[Message]) -> Iterator[tuple[int, Mapping[str, Json]]]:
    """Each image that may be sent, with the index of its message."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        made = message.artifacts or [a for r in message.tool_responses for a in r.artifacts]
        for artifact in reversed(made if message.role in ("user", "tool") else ()):
            data = artifact.read(MAX_IMAGE_BYTES) if artifact.mime in _IMAGE_TYPES else None
            if data and image_mime(data) == artifact.mime:  # else an endpoint refuses the whole request
                yield index, {"type": "image_url", "image_url": {"url": data_url(artifact.mime, data)}}


def _of_tools(images: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    return {"role": "user", "content": [{"type": "text", "text": "Images that the tools made:"}, *images]}
