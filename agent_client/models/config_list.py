"""AutoGen's lists of models: read from an environment variable or a file, and filtered."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

Json = Any
Accepted = Mapping[str, Collection[Json]]


def config_list_from_json(
    env_or_file: str, file_location: str | None = "", filter_dict: Accepted | None = None
) -> list[dict[str, Json]]:
    """The entries for `llm_config`: from the environment variable of that name, which holds JSON or the path
    of a file of it; without such a variable from the file of that name in `file_location`.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: what was found is not a list of JSON objects; the message says where, never what.
    """
    value = os.environ.get(env_or_file)
    path = Path(value or os.path.join(file_location or "", env_or_file))
    if value and not os.path.exists(path):
        where, text = f"the environment variable {env_or_file} (which names no file)", value
    elif path.exists():
        where, text = f"the file {path}", path.read_text(encoding="utf-8-sig")
    else:
        raise FileNotFoundError(
            f"no models: neither an environment variable {env_or_file} nor a file {path.absolute()}"
        )
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:  # which holds the whole text, keys and all
        at = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{where} is not JSON: {error.msg} at {at}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f'{where} is not a list of objects: [{{"model": ..., "api_key": ...}}]')
    return filter_config(entries, filter_dict)


def filter_config(
    config_list: Sequence[Mapping[str, Json]], filter_dict: Accepted | None, exclude: bool = False
) -> list[dict[str, Json]]:
    """The entries whose value is accepted for every key of `filter_dict` ({key: accepted values}). A list,
    such as `tags`, passes if one of it is accepted; a missing key only if None is. With `exclude`, those
    instead of which no key's value is accepted.
    """
    return [
        dict(entry)
        for entry in config_list
        if all(_accepts(values, entry.get(key)) != exclude for key, values in (filter_dict or {}).items())
    ]


def _accepts(values: Collection[Json], value: Json) -> bool:
    values = [values] if isinstance(values, str) else values  # else a part of the name would do
    return any(one in values for one in value) if isinstance(value, list) else value in values
