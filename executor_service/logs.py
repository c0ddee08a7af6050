"""Logs: one line each, to stderr, ids as fields: `time level logger message key=value ...`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

ACCESS = "executor_service.access"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class LineFormatter(logging.Formatter):
    """A record on one line; line breaks in messages and tracebacks are escaped."""

    def __init__(self, context: Mapping[str, Any] | None = None) -> None:
        """`context`: context variables whose values become fields, by field name."""
        super().__init__()
        self._context = dict(context or {})

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        instant = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        words = [f"{instant}.{int(record.msecs):03d}Z", record.levelname.lower(), record.name]
        words.append(_flat(record.getMessage()))
        fields = {name: variable.get() for name, variable in self._context.items()}
        fields |= {k: v for k, v in vars(record).items() if k not in _STANDARD}
        words += [f"{name}={_value(value)}" for name, value in fields.items() if value not in ("", None)]
        if record.exc_info:
            words.append(f"traceback={json.dumps(self.formatException(record.exc_info))}")
        return " ".join(words)


def configure(level: str, context: Mapping[str, Any] | None = None, *, access: bool = True) -> None:
    """Send the service's logs to stderr. Commands call this, never an import."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(context))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("asyncio", "uvicorn", "uvicorn.error", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger(ACCESS).setLevel(logging.INFO if access else logging.WARNING)


def _flat(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _value(value: object) -> str:
    text = str(value)
    plain = text and all(c.isprintable() and not c.isspace() and c not in '"=' for c in text)
    return text if plain else json.dumps(text)
