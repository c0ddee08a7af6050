"""A small scripted stand-in for the executor service that follows docs/api.md, on a real socket.

`script` decides what code does: it maps an operation's code to the events between `started` and
`completed`, ending with the fields of `completed`. Sessions and files are kept in memory.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

Script = Callable[[str], list[tuple[str, dict[str, Any]]]]
KEY = "test-key"
BREAK = "break"  # an event of this type cuts the connection
HANG = "hang"  # an event of this type waits until the client leaves
FILE = "write"  # an event of this type puts a file in the session's workspace


def echo(code: str) -> list[tuple[str, dict[str, Any]]]:
    """The default script: code prints itself."""
    return [("stdout", {"text": code}), ("completed", {"outcome": "ok", "exit_code": 0})]


@dataclass
class FakeService:
    """The fake's state, for tests to set and look at."""

    script: Script = echo
    refuse: list[tuple[int, dict[str, str], dict[str, Any]]] = field(default_factory=list)  # answered first
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    operations: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    inputs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # a client left a hanging operation
    too_large: set[str] = field(default_factory=set)  # files that are refused
    cut_follow: int = 0  # so many follows of a detached operation break after two events
    url: str = ""

    def bodies(self, path_end: str) -> list[Any]:
        """The bodies posted to paths that end so."""
        return [body for method, path, body in self.requests if method == "POST" and path.endswith(path_end)]


def dumped(data: Any) -> bytes:
    """JSON in UTF-8; half characters, which UTF-8 has not, as escapes."""
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "backslashreplace")


def problem(status: int, code: str, detail: str = "refused", **headers: str) -> Response:
    """A problem+json answer."""
    body = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code}
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


def app(fake: FakeService) -> Starlette:
    """The ASGI application over the state."""

    async def route(request: Request) -> Response:
        raw = await request.body()
        is_json = request.headers.get("content-type", "").startswith("application/json")
        body = json.loads(raw) if raw and is_json else raw
        path = request.scope["raw_path"].decode().split("?")[0]
        fake.requests.append((request.method, path, body))
        if path in ("/healthz", "/readyz"):
            return JSONResponse({"status": "ok"}, headers={"X-Request-Id": "r1"})
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return problem(401, "unauthorized", "Missing or unknown key")
        if fake.refuse:
            status, headers, answer = fake.refuse.pop(0)
            return JSONResponse(answer, status, headers=headers)
        parts = path.removeprefix("/v1/").split("/")
        if parts[0] == "runs":
            return operations(request, parts[1:], body, "run", None)
        if parts[0] == "sessions":
            return session(request, parts[1:], body)
        listed = {
            "languages": {
                "items": [{"name": "python", "aliases": ["py"], "version": "3.11", "stateful": True}]
            },
            "images": {"items": [{"name": "python", "default": True}]},
            "info": {"version": "1", "backend": "local", "isolation": {}, "limits": {}, "new": 1},
        }.get(parts[0])
        return JSONResponse(listed) if listed else problem(404, "not_found")

    def session(request: Request, parts: list[str], body: Any) -> Response:
        if not parts:
            if request.method == "POST":
                sid = f"s{len(fake.sessions) + 1}"
                made = {
                    "id": sid,
                    "state": "ready",
                    "language": "python",
                    "limits": {},
                    "network": False,
                    "x": 1,
                }
                fake.sessions[sid] = made | {"metadata": body.get("metadata", {})}
                fake.files[sid] = {}
                return JSONResponse(fake.sessions[sid], 201)
            return page(request)
        sid = parts[0]
        info = fake.sessions.get(sid)
        if request.method == "DELETE" and len(parts) == 1:
            if info:
                info["state"] = "closed"
            return Response(status_code=204)
        if info is None:
            return problem(404, "session_not_found")
        if info["state"] == "closed":
            return problem(410, "session_closed", "closed: it was deleted")
        if len(parts) == 1 or parts[1] in ("renew", "restart"):
            return JSONResponse(info)
        if parts[1] == "interrupt":
            return Response(status_code=204)
        if parts[1] in ("executions", "commands"):
            return operations(request, parts[2:], body, parts[1][:-1], sid)
        if parts[1] == "archive":
            return archive(request, sid, body)
        return files(request, sid, "/".join(parts[2:]).replace("%2F", "/"), body)

    def page(request: Request) -> Response:
        start = int(request.query_params.get("cursor", "0"))
        wanted = {k[9:]: v for k, v in request.query_params.items() if k.startswith("metadata.")}
        shown = [s for s in fake.sessions.values() if wanted.items() <= s["metadata"].items()]
        following = str(start + 2) if start + 2 < len(shown) else None
        return JSONResponse({"items": shown[start : start + 2], "next_cursor": following})

    def operations(request: Request, parts: list[str], body: Any, kind: str, sid: str | None) -> Response:
        if not parts and request.method == "GET":
            return JSONResponse({"items": [fold(oid) for oid in reversed(fake.operations)]})
        if not parts:
            text = body.get("code") or body.get("command") or " ".join(body.get("argv", []))
            if "sandbox boom" in text:
                return problem(502, "sandbox_failed")
            if body.get("language") == "cobol":
                return problem(404, "language_not_found", "no such language")
            oid = f"{kind}{len(fake.operations) + 1}"
            fake.operations[oid] = [("started", {"id": oid}), *fake.script(text)]
            if body.get("detach"):
                return JSONResponse({"id": oid, "state": "running"}, 202)
            return answer(request, oid, sid)
        oid = parts[0]
        if oid not in fake.operations:
            return problem(404, f"{kind}_not_found")
        if len(parts) > 1:
            fake.inputs.append((parts[1], body))
            return Response(status_code=204)
        if request.method == "DELETE":
            return Response(status_code=204)
        cut = 2 if fake.cut_follow > 0 else None
        fake.cut_follow -= 1 if cut and "event-stream" in request.headers.get("accept", "") else 0
        return answer(request, oid, sid, cut=cut)

    def answer(request: Request, oid: str, sid: str | None, cut: int | None = None) -> Response:
        if "text/event-stream" not in request.headers.get("accept", ""):
            return JSONResponse(fold(oid, sid))
        after = int(request.headers.get("last-event-id", "0"))
        return StreamingResponse(stream(oid, sid, after, cut), media_type="text/event-stream")

    async def stream(oid: str, sid: str | None, after: int, cut: int | None) -> AsyncIterator[bytes]:
        yield b": hello\n\n"
        sent = 0
        for number, (kind, data) in enumerate(fake.operations[oid], 1):
            if number <= after:
                continue
            if kind == BREAK or sent == cut:
                raise RuntimeError("the fake cuts the connection")
            if kind == HANG:
                try:
                    await asyncio.sleep(60)
                finally:
                    fake.left.set()
            if kind == FILE:
                write(sid, data)
                continue
            sent += 1
            yield f"event: {kind}\nid: {number}\ndata: ".encode() + dumped(data) + b"\n\n"

    def fold(oid: str, sid: str | None = None) -> dict[str, Any]:
        body: dict[str, Any] = {"id": oid, "stdout": "", "stderr": "", "displays": [], "result": None}
        for kind, data in fake.operations[oid]:
            if kind in ("stdout", "stderr"):
                body[kind] += data["text"]
            elif kind == "display":
                body["displays"].append(data)
            elif kind == "result":
                body["result"] = data["data"]
            elif kind == "error":
                body["error"] = data
            elif kind == FILE:
                write(sid, data)
            elif kind == "completed":
                body |= data
        return body

    def write(sid: str | None, data: dict[str, Any]) -> None:
        if sid is not None:
            fake.files[sid][data["path"]] = data["content"]

    def files(request: Request, sid: str, path: str, body: Any) -> Response:
        kept = fake.files[sid]
        if not path:
            entries = [
                {"path": p, "type": "file", "size": len(b), "modified_at": str(hash(b)), "mode": 420}
                for p, b in kept.items()
            ]
            return Response(dumped({"items": entries}), media_type="application/json")
        if request.method == "PUT" and path in fake.too_large:
            return problem(413, "payload_too_large", "too large")
        if request.method == "PUT":
            kept[path] = body if isinstance(body, bytes) else json.dumps(body).encode()
            return Response(status_code=201)
        if request.method == "POST":
            if body["op"] == "move":
                kept[body["to"]] = kept.pop(path)
            return Response(status_code=204)
        if path not in kept:
            return problem(404, "file_not_found", f"{path} is not there")
        if request.method == "DELETE":
            del kept[path]
            return Response(status_code=204)
        return Response(kept[path], media_type="application/octet-stream")

    def archive(request: Request, sid: str, body: Any) -> Response:
        if request.method == "PUT":
            with tarfile.open(fileobj=io.BytesIO(body)) as tar:
                for member in tar:
                    extracted = tar.extractfile(member)
                    if extracted is not None:
                        fake.files[sid][member.name] = extracted.read()
            return Response(status_code=204)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path, content in fake.files[sid].items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return Response(buffer.getvalue(), media_type="application/x-tar")

    async def terminal(socket: WebSocket) -> None:
        if socket.headers.get("authorization") != f"Bearer {KEY}":
            await socket.send_denial_response(problem(401, "unauthorized"))
            return
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if message.get("text"):
                    fake.inputs.append(("terminal", json.loads(message["text"])))
                elif message["bytes"] == b"exit\n":
                    await socket.send_text(json.dumps({"type": "exit", "exit_code": 3, "signal": None}))
                elif message["bytes"] == b"drop\n":
                    await socket.close()
                    return
                else:
                    await socket.send_bytes(b"$ " + message["bytes"])

    every = ["GET", "HEAD", "PUT", "POST", "DELETE"]
    return Starlette(
        routes=[
            WebSocketRoute("/v1/sessions/{sid}/terminal", terminal),
            Route("/{path:path}", route, methods=every),
        ]
    )


@contextlib.contextmanager
def serving(application: Any, port: int = 0) -> Iterator[str]:
    """The application on a port of the loopback (0: a free one), in a thread; its URL."""
    config = uvicorn.Config(
        application, host="127.0.0.1", port=port, log_level="critical", lifespan="off", ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def announced(*args: Any, **kwargs: Any) -> None:
        await startup(*args, **kwargs)
        started.set()

    server.startup = announced  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert started.wait(30)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)


@contextlib.contextmanager
def fake_service(script: Script = echo) -> Iterator[FakeService]:
    """A running fake."""
    fake = FakeService(script=script)
    with serving(app(fake)) as url:
        fake.url = url
        yield fake


def b64(data: bytes) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(data).decode()
