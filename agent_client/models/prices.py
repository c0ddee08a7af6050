"""What is known of well-known models, as of 2025: their list prices, and whether they see images."""

from __future__ import annotations

import re

# Name, then US dollars per million prompt and completion tokens. A snapshot costs what its model costs
# unless it stands here itself. Left out: discounts (cached prompts, batches), surcharges (long prompts).
_PRICES = """
gpt-5 1.25 10; gpt-5-codex 1.25 10; gpt-5-chat 1.25 10; gpt-5-mini 0.25 2; gpt-5-nano 0.05 0.4
gpt-5-pro 15 120; gpt-4.1 2 8; gpt-4.1-mini 0.4 1.6; gpt-4.1-nano 0.1 0.4; gpt-4o 2.5 10
gpt-4o-2024-05-13 5 15; gpt-4o-mini 0.15 0.6; o1 15 60; o1-mini 1.1 4.4; o1-pro 150 600; o3 2 8
o3-mini 1.1 4.4; o3-pro 20 80; o4-mini 1.1 4.4; gpt-4-turbo 10 30; gpt-4-1106 10 30; gpt-4-0125 10 30
gpt-4 30 60; gpt-4-32k 60 120; gpt-3.5-turbo 0.5 1.5; gpt-3.5-turbo-1106 1 2; gpt-3.5-turbo-0613 1.5 2
gpt-3.5-turbo-0301 1.5 2; gpt-3.5-turbo-16k 3 4; claude-opus-4 15 75; claude-opus-4-1 15 75
claude-sonnet-4 3 15; claude-sonnet-4-5 3 15; claude-haiku-4-5 1 5; claude-3-7-sonnet 3 15
claude-3-5-sonnet 3 15; claude-3-5-haiku 0.8 4; claude-3-opus 15 75; claude-3-haiku 0.25 1.25
gemini-2.5-pro 1.25 10; gemini-2.5-flash 0.3 2.5; gemini-2.5-flash-lite 0.1 0.4; gemini-2.0-flash 0.1 0.4
"""
_SNAPSHOT = re.compile(r"(-\d{4}-\d\d-\d\d|-\d{3,8})?(-preview|-latest)?")
_SEES = re.compile(
    r"(?!o1-(mini|preview)|o3-mini|gpt-4-turbo-preview|claude-3-5-haiku)"
    r"(gpt-(4o|4\.1|4\.5|4-turbo|4-vision|[5-9])|chatgpt-4o|o1|o3|o4|claude-(3|opus|sonnet|haiku)|gemini-)"
)


def price_of(model: str) -> tuple[float, float] | None:
    """Dollars per 1,000 prompt and completion tokens, or None for a model that is not known."""
    model, found = model.removeprefix("openai/"), ("", 0.0, 0.0)
    for row in re.split(r"[;\n]", _PRICES.strip()):
        name, prompt, completion = row.split()
        rest = model[len(name) :]
        if len(name) > len(found[0]) and model.startswith(name) and _SNAPSHOT.fullmatch(rest):
            found = (name, float(prompt), float(completion))
    return (found[1] / 1000, found[2] / 1000) if found[0] else None


def sees_images(model: str) -> bool:
    """Whether a model is known to take images."""
    return bool(_SEES.match(model.rpartition("/")[2]))
