"""What the service leaves with a guest, to find it again after a restart: memory of the sandbox, on no disk.

Also which operations the guest keeps. What comes back comes from behind the wall: whoever reads it
checks it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from executor_service.errors import SandboxFailed
from executor_service.guest.protocol import CHUNK, VERSION, Kind, ProtocolError, pack, pack_json
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.connection import read_frame, read_json
from executor_service.sandboxes.guest import NotKept, ask, refuse

MAX_ITEM = 16 * 1024 * 1024  # bytes; the guest takes no more
STASH_TIME = 30.0  # seconds that the guest has to take or to give an item
KEPT = 256  # names that are heard


async def store(sandbox: Sandbox, name: str, data: bytes, *, seconds: float | None = None) -> None:
    """Leave `data` with the guest as `name`, for `seconds` or for the sandbox's life.

    Raises:
        SandboxFailed: the guest is gone, does not answer in time, or it is too much.
    """
    await _exchange(sandbox, {"op": "store", "name": name, "seconds": seconds}, data)


async def fetch(sandbox: Sandbox, name: str) -> bytes | None:
    """What was left as `name`; None if it is not there any more.

    Raises:
        SandboxFailed: the guest is gone or does not answer in time.
    """
    try:
        return await _exchange(sandbox, {"op": "fetch", "name": name}, None)
    except NotKept:
        return None


async def kept(sandbox: Sandbox) -> list[str]:
    """The names of the operations that outlive their connections. Raises SandboxFailed."""
    names = (await ask(sandbox, {"op": "kept"})).get("ids")
    return [each for each in names[:KEPT] if isinstance(each, str)] if isinstance(names, list) else []


async def drop(sandbox: Sandbox, name: str) -> None:
    """End a kept operation, if there is one. Raises SandboxFailed."""
    await ask(sandbox, {"op": "drop", "id": name})


async def _exchange(sandbox: Sandbox, request: Mapping[str, Any], data: bytes | None) -> bytes:
    """Send a request, and `data` after it or read what comes."""
    reader, writer = await sandbox.connect()
    try:
        async with asyncio.timeout(STASH_TIME):
            writer.write(pack_json({"v": VERSION, **request}))
            for start in range(0, len(data or b""), CHUNK):
                writer.write(pack(Kind.DATA, (data or b"")[start : start + CHUNK]))
                await writer.drain()
            if data is not None:
                writer.write(pack(Kind.DATA, b""))
            refuse(await read_json(reader, CHUNK))
            return b"" if data is not None else await _read_all(reader)
    except (TimeoutError, EOFError, OSError, ProtocolError, RuntimeError) as error:
        raise SandboxFailed(f"the guest did not answer: {error!r}") from error
    finally:
        writer.close()


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while True:
        kind, chunk = await read_frame(reader, CHUNK)
        if kind is not Kind.DATA:
            raise ProtocolError("expected data")
        if not chunk:
            return bytes(found)
        found += chunk
        if len(found) > MAX_ITEM:
            raise ProtocolError("an item is too large")
