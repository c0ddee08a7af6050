"""Having a model name who speaks next."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from agent_client.conversation import Run
from agent_client.messages import Message
from agent_client.models.base import ModelClient


async def ask_for_name(
    model: ModelClient, asked: Sequence[Message], names: Sequence[str], attempts: int, run: Run
) -> str | None:
    """Have the model name one of `names`; None when it does not in `attempts` tries. Each is metered."""
    said = list(asked)
    for _ in range(attempts):
        response = await run.ask(model, said)
        found = mentioned(response.content, names)
        if len(found) == 1:
            return found[0]
        wrong = "more than one name" if found else "no name of the list"
        again = f"You gave {wrong}. Answer with exactly one of these and nothing else: {list(names)}."
        said += [Message(content=response.content, role="assistant"), Message(content=again)]
    return None


def mentioned(text: str, names: Sequence[str]) -> list[str]:
    """Which of the names the text mentions; a name alone, whatever stands around it, is that one."""
    alone = text.strip().strip("\"'`*.: ")
    if alone in names:
        return [alone]

    def found(name: str) -> bool:
        spelled = (re.escape(name), re.escape(name.replace("_", " ")), re.escape(name.replace("_", r"\_")))
        return re.search(rf"(?<![\w-])(?:{'|'.join(spelled)})(?![\w-])", text) is not None

    return [name for name in names if found(name)]


def filled(template: str, fields: Mapping[str, str]) -> str:
    """The template with `{key}` of each field replaced; other braces stay, those in values too."""
    pattern = "|".join(re.escape(f"{{{key}}}") for key in fields)
    return re.sub(pattern, lambda match: fields[match[0][1:-1]], template)
