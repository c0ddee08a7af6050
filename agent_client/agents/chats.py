"""Several chats: in sequence with the summaries carried over, as a graph, or inside an agent's turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agent_client.agents.two_party import TwoParty
from agent_client.blocking import call, run_sync
from agent_client.conversation import ChatResult

Json = Any
ChatPlan = Mapping[str, Json]
_NOT_PASSED_ON = frozenset(
    {"sender", "recipient", "chat_id", "prerequisites", "finished_chat_indexes_to_exclude_from_carryover"}
)


async def in_sequence(chats: Sequence[ChatPlan]) -> list[ChatResult]:
    """One chat after the other; each is given the summaries of those before it as carryover."""
    _check(chats)
    finished: list[ChatResult] = []
    for chat in chats:
        without = set(chat.get("finished_chat_indexes_to_exclude_from_carryover") or ())
        summaries = [done.summary for index, done in enumerate(finished) if index not in without]
        finished.append(await _one(chat, summaries))
    return finished


def initiate_chats(chat_queue: Sequence[ChatPlan]) -> list[ChatResult]:
    """Chats one after the other, each a dict of `sender`, `recipient`, `message` and further arguments of
    `initiate_chat`; the summaries of earlier ones are carried over into the later ones' messages.

    Raises:
        ValueError: a chat lacks a sender or recipient; none was begun.
        CodecellError: the service or a model failed.
    """
    return run_sync(lambda: in_sequence(chat_queue))


async def a_initiate_chats(chat_queue: Sequence[ChatPlan]) -> dict[int, ChatResult]:
    """Chats as a graph, by `chat_id` (else their place in the list): one begins when its `prerequisites`
    (ids) have ended, with their summaries carried over; those that wait for nothing run at the same time.
    Without any prerequisites they run one after the other.

    Raises:
        ValueError: a chat lacks a party, or the prerequisites have a cycle or an unknown id; none was begun.
        CodecellError: the service or a model failed; the other chats are cancelled.
    """
    if not any(chat.get("prerequisites") for chat in chat_queue):
        done = await in_sequence(chat_queue)
        return {chat.get("chat_id", at): done[at] for at, chat in enumerate(chat_queue)}
    _check(chat_queue)
    chats = {chat.get("chat_id", at): chat for at, chat in enumerate(chat_queue)}
    waits_for = {key: list(chat.get("prerequisites") or ()) for key, chat in chats.items()}
    _check_order(waits_for, len(chat_queue))
    tasks: dict[Any, asyncio.Task[ChatResult]] = {}

    async def work(key: Any) -> ChatResult:
        before = [await tasks[other] for other in waits_for[key]]
        return await _one(chats[key], [result.summary for result in before])

    try:
        async with asyncio.TaskGroup() as group:
            for key in chats:
                tasks[key] = group.create_task(work(key))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None  # the first failure cancelled the rest
    return {key: task.result() for key, task in tasks.items()}


def nested_reply(chat_queue: Sequence[ChatPlan]) -> Callable[..., Awaitable[tuple[bool, str | None]]]:
    """A reply function that holds chats and replies with the last one's summary. The first one's message is
    the one received unless it has its own.
    """

    async def reply(
        recipient: Any, messages: list[dict[str, Any]], sender: Any, config: Any
    ) -> tuple[bool, str | None]:
        to_run: list[ChatPlan] = []
        for index, chat in enumerate(chat_queue):
            message = chat.get("message")
            if callable(message):
                message = await call(message, recipient, messages, sender, config)
            elif message is None and index == 0:
                message = messages[-1]["content"] if messages else None
            if message:
                to_run.append({"sender": recipient, **chat, "message": message})
        if not to_run:
            return True, None
        return True, (await in_sequence(to_run))[-1].summary

    return reply


async def _one(chat: ChatPlan, summaries: Sequence[str]) -> ChatResult:
    given = chat.get("carryover") or []
    carryover = [*([given] if isinstance(given, str) else given), *summaries]
    arguments = {key: value for key, value in chat.items() if key not in _NOT_PASSED_ON}
    return await chat["sender"].a_initiate_chat(chat["recipient"], **{**arguments, "carryover": carryover})  # type: ignore[no-any-return]


def _check(chats: Sequence[ChatPlan]) -> None:
    for at, chat in enumerate(chats):
        for key in ("sender", "recipient"):
            if not isinstance(chat.get(key), TwoParty):
                raise ValueError(f"chat {at} of the queue has no agent as its {key}")  # noqa: TRY004 - one kind for both


def _check_order(waits_for: Mapping[Any, Sequence[Any]], count: int) -> None:
    if len(waits_for) != count:
        raise ValueError("two chats have the same chat_id")
    done: set[Any] = set()
    while len(done) < count:
        ready = {key for key, needs in waits_for.items() if key not in done and done.issuperset(needs)}
        if not ready:
            left = sorted(str(key) for key in waits_for if key not in done)
            raise ValueError(f"the prerequisites of chats {', '.join(left)} have a cycle or an unknown id")
        done |= ready
