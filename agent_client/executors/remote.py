"""The executor that runs blocks in a session of the service: state kept across blocks and turns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent_client.client.async_client import AsyncExecutorClient
from agent_client.client.bodies import Network
from agent_client.client.operation import EventStream
from agent_client.client.session import AsyncSession
from agent_client.code_blocks import CodeBlock
from agent_client.errors import (
    ApiError,
    BackendUnavailable,
    CodecellError,
    InvalidPath,
    InvalidRequest,
    LanguageNotFound,
    NotFound,
    SessionClosed,
    SessionNotFound,
)
from agent_client.executors.base import BlockStarted, CodeResult, Note, ProgressSink
from agent_client.executors.output_log import OutputLog, network_hint
from agent_client.executors.workspace import Workspace
from agent_client.messages import Artifact
from agent_client.wire.results import CommandResult, ExecutionResult, RunResult

DEFAULT_TIMEOUT = 60.0
_OPERATION = ("wall_time", "cpu_time", "output_bytes", "open_files")
_RUN_ONLY = ("compile_time",)
_GONE = (SessionClosed, SessionNotFound)


class RemoteCodeExecutor:
    """Runs python blocks in a kernel, shell blocks beside it, other languages as programs.

    The session is opened at the first block. `timeout` is seconds for each block. The files of
    `work_dir` are uploaded before the first block, and files that code makes are saved there.
    `keep_session` keeps the session when a conversation ends, until `close`. `backend` names the only
    backend that will do. Address and key as for `ExecutorClient`.
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
        self._client = client or AsyncExecutorClient(base_url, api_key)
        self._image = image
        self._limits = dict(limits or {})
        self._network = network
        self._timeout = timeout
        self._keep_session = keep_session
        self._backend = backend
        self._session: AsyncSession | None = None
        self._workspace = Workspace(Path(work_dir) if work_dir is not None else None)

    @property
    def session_id(self) -> str | None:
        """The open session's id."""
        return self._session.id if self._session else None

    async def execute_code_blocks(
        self, blocks: Sequence[CodeBlock], on_progress: ProgressSink | None = None
    ) -> CodeResult:
        """Run the blocks in order, stopping at the first that fails. Cancelling stops the code.

        Raises:
            CodecellError: the service cannot be reached, broke off, or refused.
        """
        log = OutputLog(on_progress)
        artifacts: list[Artifact] = []
        status = 0
        for index, block in enumerate(blocks):
            log.report(BlockStarted(block=block, index=index))
            status = await self._run_block(block, log)
            log.end_block()
            artifacts += await self._gather(log)
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
        """Close the session and the connections."""
        await self._close_session()
        await self._client.close()

    async def _run_block(self, block: CodeBlock, log: OutputLog) -> int:
        if block.filename is not None:
            try:
                await (await self._open(log)).files.write(_workspace_path(block.filename), block.code)
            except _GONE as gone:
                self._forget(log, gone)
                return await self._run_block(block, log)
            except (InvalidPath, NotFound, InvalidRequest) as error:
                log.line(f"{block.filename} was not saved and not run: {error.detail}", "stderr")
                return 1
        if block.language not in ("python", "sh"):
            return await self._run_program(block, log)
        try:
            return await self._run_in_session(block, log)
        except _GONE as gone:
            self._forget(log, gone)
            return await self._run_in_session(block, log)

    async def _run_in_session(self, block: CodeBlock, log: OutputLog) -> int:
        session = await self._open(log)
        limits = {"wall_time": self._timeout} | {k: v for k, v in self._limits.items() if k in _OPERATION}
        if block.language == "sh":
            return self._ended(await _follow(session.stream_command(block.code, limits=limits), log), log)
        return self._ended(await _follow(session.stream(block.code, limits=limits), log), log)

    async def _run_program(self, block: CodeBlock, log: OutputLog) -> int:
        """A program in a sandbox of its own, with the workspace's small files passed in and out."""
        files = await self._workspace.contents(self._session) if self._session else {}
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
        except LanguageNotFound:
            log.line(f"The language {block.language} cannot be run here.", "stderr")
            return 1
        changed = {f.path: f.content for f in result.files if files.get(f.path) != f.content}
        made = {path: content for path, content in changed.items() if content != block.code.encode()}
        if made:
            session = await self._open(log)
            for path, content in made.items():
                await session.files.write(path, content)
        return self._ended(result, log)

    def _ended(self, result: ExecutionResult | CommandResult | RunResult, log: OutputLog) -> int:
        """Say how it ended where that is not plain from the output; the exit status."""
        log.end_block()
        for text in _endings(result, self._timeout):
            log.line(text, "stderr")
        if result.outcome == "sandbox_died":
            self._session = None
            self._workspace.reset()
        return result.exit_status

    async def _open(self, log: OutputLog) -> AsyncSession:
        if self._session is not None:
            return self._session
        if self._backend is not None:
            await self._demand_backend(self._backend)
        limits = {k: v for k, v in self._limits.items() if k not in (*_OPERATION, *_RUN_ONLY)}
        session = await self._client.create_session(
            image=self._image,
            limits=limits,
            network=self._network,
            metadata={"made_by": "RemoteCodeExecutor"},
        )
        self._session = session
        for note in await self._workspace.upload(session):
            log.report(Note(text=note))
        return session

    async def _demand_backend(self, backend: str) -> None:
        has = (await self._client.info()).backend
        if has != backend:
            raise BackendUnavailable(
                f"the backend {backend!r} was demanded (use_docker=True?), this service runs {has!r}",
                status=503,
                code="backend_unavailable",
            )

    def _forget(self, log: OutputLog, why: ApiError) -> None:
        self._session = None
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
        session, self._session = self._session, None
        self._workspace.reset()
        if session is not None:
            try:
                await session.close()
            except CodecellError:
                return  # it is gone, or expires on its own; how the conversation ended matters more


async def _follow(stream: EventStream[Any], log: OutputLog) -> Any:
    async with stream as events:
        async for event in events:
            log.event(event)
    return stream.result


def _endings(result: ExecutionResult | CommandResult | RunResult, timeout: float) -> list[str]:
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
        raise InvalidPath("the name leaves the workspace", status=422, code="invalid_path")
    return path
