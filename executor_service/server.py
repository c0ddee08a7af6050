"""The running process: one uvicorn server with a clean start, a clean stop and bounded headers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address

import uvicorn
import uvloop
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEADER_BYTES = 64 * 1024
FORCED_EXIT_AFTER = 5.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)

Drain = Callable[[float], Awaitable[None]]


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 whose head may have about 64 KiB; a longer one ends the connection."""

    _head_bytes = 0
    _in_head = True
    _began_anew = False

    def data_received(self, data: bytes) -> None:
        if self._head_bytes > MOST_HEADER_BYTES:
            self.send_400_response("The request's headers are too long.")
            return
        self._began_anew = False
        super().data_received(data)
        same_head = self._in_head and not self._began_anew
        self._head_bytes = self._head_bytes + len(data) if same_head else 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = self._began_anew = True
        super().on_message_complete()


class Server(uvicorn.Server):
    """Says when it listens; the first signal drains, a second one forces."""

    def __init__(self, config: uvicorn.Config, *, drain: Drain, grace: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._grace = grace
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """`serve` has set the handlers, before the start."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or []:
            print(f"Listening on {url_of(each)}", flush=True)  # noqa: T201  # what scripts wait for
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more; what runs has the grace to finish, then it is interrupted and answered."""
        draining = asyncio.ensure_future(self._drain(self._grace))
        try:
            await super().shutdown(sockets)
            if not self.force_exit:
                await draining
        finally:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)

    def stop(self) -> None:
        """A signal came."""
        if self.should_exit:
            self.force_exit = True
            asyncio.get_running_loop().call_later(FORCED_EXIT_AFTER, os._exit, 1)
        self.should_exit = True


def serve(
    make_app: Callable[[], FastAPI],
    listening: socket.socket,
    *,
    grace: float,
    until_stdin_closes: bool = False,
) -> int:
    """Serve until a signal, or standard input's end; the exit status. What goes wrong at start is raised."""
    raise_open_files()
    # libuv aborts the process where epoll refuses a watch, and an ordinary user shares the number of its
    # watches with its sandboxes: there the loop is the one that gets an error instead.
    loop_factory = uvloop.new_event_loop if os.geteuid() == 0 else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_serve(make_app(), listening, grace=grace, until_stdin_closes=until_stdin_closes))


async def _serve(app: FastAPI, listening: socket.socket, *, grace: float, until_stdin_closes: bool) -> int:
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    assert starting is not None
    for each in SIGNALS:
        loop.add_signal_handler(each, starting.cancel)
    try:
        async with app.router.lifespan_context(app):
            server = Server(config(app, grace), drain=app.state.service.drain, grace=grace)
            for each in SIGNALS:
                loop.add_signal_handler(each, server.stop)
            if until_stdin_closes:
                _watch_stdin(loop, server.stop)
            await server.serve(sockets=[listening])
    except asyncio.CancelledError:
        return 0  # stopped before it had started
    return 1 if server.force_exit else 0


def raise_open_files() -> None:
    """Use all the descriptors that we may have; the soft limit is often 1024.

    It is also what Linux holds against the descriptors that a user has in flight between processes. As an
    ordinary user we share that account with the sandboxes, whose own limit must stay below ours: else code
    that stuffs its sockets with descriptors would keep us from making sandboxes.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Whoever started this process holds the other end of a pipe: when they end, however, so do we."""

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stop()

    loop.add_reader(0, read)


def config(app: FastAPI, grace: float) -> uvicorn.Config:
    """How uvicorn is set up; the lifespan is entered around it, so that its errors can be told."""
    return uvicorn.Config(
        app,
        http=BoundedHttp,
        ws="websockets-sansio",
        ws_max_size=1024 * 1024,
        ws_ping_timeout=None,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(grace) + 10,
    )


def bind(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError: the address cannot be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except BaseException:
        found.close()
        raise
    return found


def url_of(listening: socket.socket) -> str:
    """Where a bound socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ip_address(host).version == 6 else f"http://{host}:{port}"
