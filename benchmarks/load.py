"""A small HTTP client that costs little beside what it measures, and percentiles."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Times:
    """Durations in milliseconds."""

    values: Sequence[float]

    def at(self, share: float) -> float:
        """The percentile `share` (0 to 1)."""
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def p50(self) -> float:
        return self.at(0.5)

    def __str__(self) -> str:
        return f"{self.p50:8.2f} {self.at(0.95):8.2f} {self.at(0.99):8.2f}"


class Refused(RuntimeError):
    """The service answered with an error."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Connection:
    """One kept-alive connection to the service."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 24)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    def _send(self, method: str, path: str, body: Any, accept: str) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAccept: {accept}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self._writer.write(head.encode() + data)

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON answer; raises Refused with the problem on an error."""
        self._send(method, path, body, "application/json")
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split(" ", 2)[1])
        length = next(
            (int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length")), 0
        )
        data = await self._reader.readexactly(length)
        if status >= 400:
            raise Refused(f"{method} {path}: {status} {data.decode(errors='replace')[:300]}", status)
        return json.loads(data) if data else None

    async def events(self, path: str, body: Any) -> AsyncIterator[tuple[str, Any]]:
        """Server-sent events of a POST, as they come."""
        self._send("POST", path, body, "text/event-stream")
        await self._reader.readuntil(b"\r\n\r\n")
        kind = ""
        while True:
            line = (await self._reader.readline()).decode().rstrip("\r\n")
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                yield kind, json.loads(line[6:])
                if kind == "completed":
                    return


async def timed(awaitable: Any) -> tuple[float, Any]:
    """Milliseconds, and what it gave."""
    start = time.perf_counter()
    result = await awaitable
    return (time.perf_counter() - start) * 1e3, result
