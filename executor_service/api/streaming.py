"""Sending bytes from a sandbox as they come, never to be taken for a page of this service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from executor_service.api.connection import until_gone

HARMLESS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox",
    "Cache-Control": "no-store",
}


class ByteStream(Response):
    """Streams `chunks`; closes `opened` at the end, or when the caller hangs up.

    With `length` it sends exactly so many bytes: what is more is left out, what is missing breaks
    the connection.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        opened: AsyncExitStack,
        *,
        headers: Mapping[str, str],
        status: int = 200,
        length: int | None = None,
        media_type: str = "application/octet-stream",
    ) -> None:
        super().__init__(status_code=status, headers={**HARMLESS, **headers}, media_type=media_type)
        del self.headers["content-length"]
        if length is not None:
            self.headers["content-length"] = str(length)
        self._chunks, self._opened, self._left = chunks, opened, length

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with self._opened:
            await until_gone(self._stream(send), receive)

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks:
            part = chunk if self._left is None else chunk[: self._left]
            if self._left is not None:
                self._left -= len(part)
            if part:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            if self._left == 0:
                break
        if not self._left:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
