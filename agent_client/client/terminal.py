"""A session's terminal over a WebSocket: bytes both ways, JSON for control.

Uses the package `websockets`, which only this needs; it is imported when a terminal is opened.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from agent_client.autostart import Address
from agent_client.client.transport import CONNECT_TIME, refusal
from agent_client.errors import MissingDependency, ServiceUnreachable, StreamBroken, UnexpectedAnswer


@dataclass(frozen=True, kw_only=True)
class TerminalExit:
    """How the shell ended."""

    exit_code: int | None = None
    signal: str | None = None


class AsyncTerminal:
    """An open terminal. What `read` gives is raw: escape sequences and all."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.exit: TerminalExit | None = None

    async def write(self, data: bytes | str) -> None:
        """Type `data`."""
        await self._send(data.encode() if isinstance(data, str) else data)

    async def resize(self, rows: int, cols: int) -> None:
        """Tell the shell the window's size."""
        await self._send(json.dumps({"type": "resize", "rows": rows, "cols": cols}))

    async def read(self) -> bytes:
        """What the shell printed next; b"" once it has ended (then `exit` is set).

        Raises:
            StreamBroken: the connection ended before the shell did.
        """
        from websockets.exceptions import ConnectionClosed

        while self.exit is None:
            try:
                frame = await self._socket.recv()
            except ConnectionClosed as error:
                raise StreamBroken(
                    f"The terminal's connection ended before its shell did ({error})."
                ) from error
            if isinstance(frame, bytes):
                return frame
            self._control(frame)
        return b""

    async def _send(self, frame: bytes | str) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            await self._socket.send(frame)
        except ConnectionClosed as error:
            raise StreamBroken(f"The terminal is closed ({error}).") from error

    def _control(self, frame: str) -> None:
        try:
            message = json.loads(frame)
        except ValueError:
            return
        if isinstance(message, dict) and message.get("type") == "exit":
            self.exit = TerminalExit(exit_code=message.get("exit_code"), signal=message.get("signal"))


@contextlib.asynccontextmanager
async def open_terminal(address: Address, path: str, *, rows: int, cols: int) -> AsyncIterator[AsyncTerminal]:
    """Connect; leaving hangs the shell up.

    Raises:
        MissingDependency: `websockets` is not installed.
        ApiError: the service refused.
        ServiceUnreachable: nothing answers, or no Codecell service.
    """
    try:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidStatus, WebSocketException
    except ImportError as error:
        raise MissingDependency("A terminal needs the package websockets: pip install websockets") from error
    url = "ws" + address.url.removeprefix("http") + f"{path}?rows={rows}&cols={cols}"
    headers = {"Authorization": f"Bearer {address.api_key}"} if address.api_key else {}
    try:
        socket = await connect(
            url, additional_headers=headers, open_timeout=CONNECT_TIME * 2, max_size=None, proxy=None
        )
    except InvalidStatus as error:
        raise _refused(error.response, address) from error
    except (OSError, TimeoutError, WebSocketException, ValueError) as error:
        raise ServiceUnreachable(f"No terminal at {address.url}: {error}") from error
    try:
        yield AsyncTerminal(socket)
    finally:
        await socket.close()


def _refused(response: Any, address: Address) -> Exception:
    status, raw, url = response.status_code, response.body or b"", address.url
    refused = refusal(status, raw, response.headers, url=url, key_sent=bool(address.api_key))
    return refused or UnexpectedAnswer(f"{url} refused the terminal with status {status}")
