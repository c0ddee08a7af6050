"""What can be given a task: run it, block on it, or watch its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from agent_client.blocking import blocking_form
from agent_client.chat_events import ChatEvent, EventSink
from agent_client.conditions import Condition
from agent_client.conversation import (
    MAX_TIME,
    CancellationToken,
    Held,
    NextSpeaker,
    Party,
    Run,
    Stop,
    TaskResult,
    Transcript,
    bounded,
    converse,
    say,
    stop_when,
)
from agent_client.messages import Message
from agent_client.usage import UsageLimits

Task = str | Mapping[str, Any] | Message | Sequence[str | Mapping[str, Any] | Message]


class Runnable:
    """What is given a task: here one agent, which answers once. Teams fill in who else takes part."""

    name: str
    usage_limits: UsageLimits | None = None
    max_time: float | None = MAX_TIME
    termination_condition: Condition | None = None
    stalled: bool | Condition = True
    transcript: Transcript | None = None
    _is_running = False

    async def run(
        self,
        *,
        task: Task | None = None,
        answer: str | None = None,
        cancellation_token: CancellationToken | None = None,
        on_event: EventSink | None = None,
    ) -> TaskResult:
        """Work on `task`, or go on without one where the last run stopped; `answer` is what a human says to
        the question that it waits for.

        Raises:
            ValueError: there is neither a task nor anything to go on with, or it is in another run.
            CodecellError: the service or a model failed.
        """
        if cancellation_token is not None:  # in a task of its own: what the caller does next is not cancelled
            own = asyncio.ensure_future(self.run(task=task, answer=answer, on_event=on_event))
            return await cancellation_token.link_future(own)  # type: ignore[no-any-return]
        if self._is_running:
            raise ValueError(f"{self.name} is in a run already, whose transcript this one would garble")
        self._is_running = True
        try:
            return await self._run(task, answer, on_event)
        finally:
            self._is_running = False

    async def _run(self, task: Task | None, answer: str | None, on_event: EventSink | None) -> TaskResult:
        if self.transcript is None:
            self.transcript = Transcript()
        transcript, opening = self.transcript, _task(task)
        if not opening and not transcript.messages:
            raise ValueError("a first run needs a task")
        run = Run(sink=on_event, limits=self.usage_limits, answer=answer)
        parties, next_speaker = self.parties()
        if opening or answer is None:
            transcript.task_at, transcript.task_count = len(transcript.messages), len(opening)
        for message in opening:
            say(transcript, run, message.name or "user", message, to=self.name)

        async def work() -> str:
            return await converse(
                transcript,
                run=run,
                parties=parties,
                next_speaker=next_speaker,
                stop_when=stop_when(self.termination_condition, self.stalled),
                setting="team",
            )

        reason = await bounded(work, run=run, held=(*parties, *self.held()), max_time=self.max_time)
        return TaskResult(
            messages=tuple(transcript.messages[transcript.task_at :]),
            stop_reason=reason,
            usage=run.meter.total,
            artifacts=tuple(run.artifacts),
            pending=run.pending,
        )

    run_sync = blocking_form(run)

    async def run_stream(
        self,
        *,
        task: Task | None = None,
        answer: str | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> AsyncGenerator[ChatEvent | TaskResult]:
        """As `run`, event by event; the last item is the result. Closing it early cancels the run."""
        events: asyncio.Queue[ChatEvent | None] = asyncio.Queue()
        running = asyncio.ensure_future(
            self.run(
                task=task, answer=answer, cancellation_token=cancellation_token, on_event=events.put_nowait
            )
        )
        running.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)  # nobody is left to be told of an error

    def parties(self) -> tuple[Sequence[Party], NextSpeaker]:
        """Who takes part, and who speaks next."""
        me: Any = self

        async def once(transcript: Transcript) -> Party | Stop:
            done = transcript.last_speaker == self.name and transcript.since_task > transcript.task_count
            return Stop(reason=f"done: {self.name} has answered") if done else me

        return (me,), once

    def held(self) -> Sequence[Held]:
        """What is let go of when a run ends, beside the parties."""
        return ()


def _task(task: Task | None) -> list[Message]:
    if task is None:
        return []
    given = [task] if isinstance(task, str | Mapping | Message) else list(task)
    if not given or task == "":
        raise ValueError("the task is empty")
    return [Message.of(one) for one in given]
