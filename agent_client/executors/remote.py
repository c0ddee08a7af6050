"""The executor that runs blocks in a session of the service: state kept across blocks and turns."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from agent_client import errors
from agent_client.blocking import PerLoop
from agent_client.client.async_client import AsyncExecutorClient
from agent_client.client.bodies import Network
from agent_client.client.operation import EventStream
from agent_client.client.session import AsyncSession
from agent_client.code_blocks import CodeBlock
from agent_client.executors.base import BlockStarted, CodeResult, Note, ProgressSink
from agent_client.executors.output_log import OutputLog, network_hint
from agent_client.executors.workspace import Workspace
from agent_client.messages import Artifact
from agent_client.wire.results import CommandResult, ExecutionResult, RunResult

DEFAULT_TIMEOUT = 60.0
CLOSE_TIME = 5.0
RETRIES = 5  # with the pauses between them, connections are tried for 12 s: while a service restarts
_OPERATION = ("wall_time", "cpu_time", "output_bytes", "open_files")
_RUN_ONLY = ("compile_time",)
_GONE = (errors.SessionClosed, errors.SessionNotFound)
_BUSY_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)  # seconds
BROKEN = (
    "The connection to the service broke. What ran may or may not have finished, and its output may lack the"
    " end."
)
T = TypeVar("T")
_Ended = ExecutionResult | CommandResult | RunResult


class RemoteCodeExecutor:
    """Runs python blocks in a kernel, shell blocks beside it, other languages as programs.

    The session is opened at the first block. `timeout` is seconds for each block. The files of
    `work_dir` are uploaded before the first block, and files that code makes are saved there.
    `keep_session` keeps the session when a conversation ends; `close` closes it always. `backend` names
    the only backend that will do. Address and key as for `ExecutorClient`. Calls that come while another
    one runs wait for it: they share a kernel.
    """

    def __init__(
        self,
        *,
        image: str | None = None,
        limits: Mapping[str, float | None] | None = None,
        network: Network = False,
        timeout: float = DEFAULT_TIMEOUT,
        work_dir: str | os.PathLike[str] | None = None,
        keep_session: bool = False,
        backend: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        client: AsyncExecutorClient | None = None,
    ) -> None:
        self._client = client or AsyncExecutorClient(base_url, api_key, retries=RETRIES)
        self._image = image
        self._limits = dict(limits or {})
        self._network = network
        self._timeout = timeout
        self._keep_session = keep_session
        self._backend = backend
        self._session: AsyncSession | None = None
        self._known_id: str | None = None  # of a session that `load_state` named and no block has used yet
        self._workspace = Workspace(Path(work_dir) if work_dir is not None else None)
        self._turn = PerLoop(asyncio.Lock)

    @property
    def session_id(self) -> str | None:
        """The session's id, if there is one."""
        return self._session.id if self._session else self._known_id

    def save_state(self) -> dict[str, Any]:
        """What another process needs to go on in the same session, as JSON; see `keep_session`."""
        return {"session_id": self.session_id, "images": self._workspace.images}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on in the session that `save_state` told of; if it has ended, the next block's reply says so."""
        self._session, self._known_id = None, state.get("session_id")
        self._workspace.reset(fresh=self._known_id is None)
        self._workspace.images = int(state.get("images") or 0)

    async def execute_code_blocks(
        self, blocks: Sequence[CodeBlock], on_progress: ProgressSink | None = None
    ) -> CodeResult:
        """Run the blocks in order, stopping at the first that fails. Cancelling stops the code.

        A service that breaks off while code runs is a failing reply, not an error.

        Raises:
            CodecellError: the service cannot be reached, or refused.
        """
        log = OutputLog(on_progress)
        artifacts: list[Artifact] = []
        status = 0
        async with self._turn.get():
            for index, block in enumerate(blocks):
                log.report(BlockStarted(block=block, index=index))
                try:
                    status = await self._run_block(block, log)
                    log.end_block()
                    artifacts += await self._gather(log)
                except errors.StreamBroken:
                    status = 1
                    log.line(BROKEN, "stderr")
                    log.end_block()
                if status != 0:
                    break
        output = log.text()
        hint = None if self._network else network_hint("\n".join(b.code for b in blocks), output)
        return CodeResult(
            exit_code=status, output=f"{output}{hint}\n" if hint else output, artifacts=artifacts
        )

    async def run_ended(self) -> None:
        """Close the session, unless it is to be kept, and the connections."""
        if not self._keep_session:
            await self._close_session()
        await self._client.close()

    async def close(self) -> None:
        """Close the session, also one that is kept when conversations end, and the connections."""
        await self._close_session()
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run_block(self, block: CodeBlock, log: OutputLog) -> int:
        if block.filename is not None:
            try:
                path = _workspace_path(block.filename)
                await self._in_session(log, lambda session: session.files.write(path, block.code))
            except (errors.InvalidRequest, errors.NotFound) as error:
                log.line(f"{block.filename} was not saved and not run: {error.detail}", "stderr")
                return 1
        if block.language not in ("python", "sh"):
            return await self._run_program(block, log)
        limits = {"wall_time": self._timeout} | {k: v for k, v in self._limits.items() if k in _OPERATION}

        async def run(session: AsyncSession) -> _Ended:
            start = session.stream_command if block.language == "sh" else session.stream
            ended: _Ended = await _follow(start(block.code, limits=limits), log)
            return ended

        return self._ended(await self._in_session(log, run), log)

    async def _run_program(self, block: CodeBlock, log: OutputLog) -> int:
        """A program in a sandbox of its own, with the workspace's small files passed in and out."""
        files = await self._in_session(log, self._workspace.contents) if self.session_id else {}
        events = self._client.stream_run(
            block.code,
            language=block.language,
            image=self._image,
            limits={"wall_time": self._timeout, **self._limits},
            network=self._network,
            files=files,
            collect=["**"],
        )
        try:
            result = await _follow(events, log)
        except errors.LanguageNotFound:
            log.line(f"The language {block.language} cannot be run here.", "stderr")
            return 1
        for made in result.files:
            if made.content not in (files.get(made.path), block.code.encode()):
                await self._put_back(made.path, made.content, log)
        return self._ended(result, log)

    async def _put_back(self, path: str, content: bytes, log: OutputLog) -> None:
        try:
            await self._in_session(log, lambda session: session.files.write(path, content))
        except errors.InvalidRequest as error:
            log.report(Note(text=f"{path!r} was not put in the workspace: {error.detail}"))

    async def _in_session(self, log: OutputLog, use: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """What `use` gives; where the session has ended it is asked again, with a new one."""
        try:
            return await _when_free(use, await self._open(log))
        except _GONE as gone:
            self._forget(log, gone)
            return await _when_free(use, await self._open(log))

    def _ended(self, result: _Ended, log: OutputLog) -> int:
        """Say how it ended where that is not plain from the output; the exit status."""
        log.end_block()
        for text in _endings(result, self._timeout):
            log.line(text, "stderr")
        if result.outcome == "sandbox_died":
            self._session = None
            self._workspace.reset()
        return result.exit_status

    async def _open(self, log: OutputLog) -> AsyncSession:
        if self._session is None and self._known_id is not None:
            self._session = await self._client.get_session(self._known_id)
            self._known_id = None
        elif self._session is None:
            self._session = await self._new_session()
        for note in await self._workspace.begin(self._session):
            log.report(Note(text=note))
        return self._session

    async def _new_session(self) -> AsyncSession:
        has = (await self._client.info()).backend if self._backend is not None else None
        if has != self._backend:
            raise errors.BackendUnavailable(
                f"the backend {self._backend!r} was demanded (use_docker=True?), this service runs {has!r}",
                status=503,
                code="backend_unavailable",
            )
        return await self._client.create_session(
            image=self._image,
            limits={k: v for k, v in self._limits.items() if k not in (*_OPERATION, *_RUN_ONLY)},
            network=self._network,
            metadata={"made_by": "RemoteCodeExecutor"},
        )

    def _forget(self, log: OutputLog, why: errors.ApiError) -> None:
        self._session = self._known_id = None
        self._workspace.reset()
        log.line(
            f"The session had ended ({why.detail}); a new one starts without its variables and files.",
            "stderr",
        )

    async def _gather(self, log: OutputLog) -> list[Artifact]:
        """What the block made, saved where that is wanted."""
        images, log.images = log.images, []
        try:
            found, notes = await self._workspace.gather(self._session, images)
        except _GONE:
            return []
        for note in notes:
            log.report(Note(text=note))
        for artifact in found:
            log.artifact(artifact)
        return found

    async def _close_session(self) -> None:
        """Close it. One that is gone, or that a dead service keeps, expires on its own: how the conversation
        ended matters more.
        """
        closing = self.session_id
        self._session = self._known_id = None
        self._workspace.reset()
        if closing is not None:
            with contextlib.suppress(errors.CodecellError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIME):
                    await self._client.close_session(closing)


async def _when_free(use: Callable[[AsyncSession], Awaitable[T]], session: AsyncSession) -> T:
    """Asked again while the session is busy, as it is while code that was cancelled is being killed."""
    for pause in _BUSY_PAUSES:
        try:
            return await use(session)
        except errors.SessionBusy:
            await asyncio.sleep(pause)
    return await use(session)


async def _follow(stream: EventStream[Any], log: OutputLog) -> Any:
    async with stream as events:
        async for event in events:
            log.event(event)
    return stream.result


def _endings(result: _Ended, timeout: float) -> list[str]:
    """Lines for the model on how the code ended, where an exit status does not say it all."""
    said: list[str] = []
    detail = f": {result.detail}" if result.detail else ""
    if result.outcome == "timeout":
        said.append(f"Timeout{detail or f': stopped after {timeout:g} s'}")
    elif result.outcome == "compile_error" and isinstance(result, RunResult) and result.compile:
        said.append("It did not compile.")
    elif result.outcome in ("out_of_memory", "output_limit", "interrupted", "sandbox_died"):
        said.append(f"{result.outcome.replace('_', ' ').capitalize()}{detail}")
    elif result.outcome == "error" and result.detail:
        said.append(str(result.detail))
    if isinstance(result, ExecutionResult) and result.state_lost:
        said.append("The kernel was restarted: variables and imports are lost, files are kept.")
    return said


def _workspace_path(path: str) -> str:
    """A file name of a code block, which must stay in the workspace.

    Raises:
        InvalidPath: it does not.
    """
    if path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise errors.InvalidPath("the name leaves the workspace", status=422, code="invalid_path")
    return path
