"""What is known of well-known models, as of 2025: their list prices, and whether they see images."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

# Name, then US dollars per million prompt and completion tokens. A snapshot costs what its model costs
# unless it stands here itself. Left out: discounts (cached prompts, batches), surcharges (long prompts).
_PRICES = Path(__file__).parent.with_name("data") / "prices.txt"
_SNAPSHOT = re.compile(r"(-\d{4}-\d\d-\d\d|-\d{3,8})?(-preview|-latest)?")
_SEES = re.compile(
    r"(?!o1-(mini|preview)|o3-mini|gpt-4-turbo-preview|claude-3-5-haiku)"
    r"(gpt-(4o|4\.1|4\.5|4-turbo|4-vision|[5-9])|chatgpt-4o|o1|o3|o4|claude-(3|opus|sonnet|haiku)|gemini-)"
)


@cache
def _prices() -> list[list[str]]:
    return [row.split() for row in _PRICES.read_text("utf-8").splitlines()]


def price_of(model: str) -> tuple[float, float] | None:
    """Dollars per 1,000 prompt and completion tokens, or None for a model that is not known."""
    model, found = model.removeprefix("openai/"), ("", 0.0, 0.0)
    for name, prompt, completion in _prices():
        rest = model[len(name) :]
        if len(name) > len(found[0]) and model.startswith(name) and _SNAPSHOT.fullmatch(rest):
            found = (name, float(prompt), float(completion))
    return (found[1] / 1000, found[2] / 1000) if found[0] else None


def sees_images(model: str) -> bool:
    """Whether a model is known to take images."""
    return bool(_SEES.match(model.rpartition("/")[2]))
