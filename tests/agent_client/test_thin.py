"""What the client costs: imports, the loop, a thousand conversations at once, and how much code it is."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent_client import ChatResult, Message, ReplayChatCompletionClient, RoundRobinGroupChat
from agent_client.conversation import Transcript
from tests.agent_client.model_endpoint import model_endpoint
from tests.agent_client.parties import CODE, bot, done, pair

ROOT = Path(__file__).parents[2]
MOST_LINES = 7700  # of code; 5,000 are wanted: lower this whenever some go
HEAVY = ("openai", "pydantic", "httpx2", "pygments", "uvicorn", "fastapi")


def loaded_by(statement: str) -> set[str]:
    """The modules that a statement loads in a fresh interpreter."""
    ask = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in found.stdout.split()}


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import agent_client", set()),
        ("from agent_client import AssistantAgent, UserProxyAgent, OpenAIChatCompletionClient", {"httpx2"}),
        ("from agent_client import ExecutorClient", {"httpx2"}),
    ],
)
def test_imports_load_nothing_heavy(statement: str, allowed: set[str]) -> None:
    """Importing costs less than importing `openai`: neither it nor pydantic is loaded before it is used."""
    loaded = loaded_by(statement)
    assert "agent_client" in loaded
    assert loaded.intersection(HEAVY) <= allowed


def test_it_stays_thin() -> None:
    """The package does not outgrow its bound, counted without blank lines, comments and docstrings."""
    count = [sys.executable, "-I", "scripts/count_lines.py", "agent_client"]
    counted = subprocess.run(count, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    print(counted)
    lines = int(counted.rstrip().rpartition("\n")[2].split()[0])
    assert 1000 < lines <= MOST_LINES


def test_a_view_copies_only_what_differs() -> None:
    """What a party sees as it was said is shared with the transcript: a long chat is not copied each turn."""
    said = [Message(content="Task", name="a"), Message(content="Well", name="b", role="assistant")]
    assert all(seen is kept for seen, kept in zip(Transcript(said).seen_by("b"), said, strict=True))
    assert [seen.role for seen in Transcript(said).seen_by("a")] == ["assistant", "user"]


async def chat_of(turns: int) -> ChatResult:
    """A chat of two replayed models."""
    words = [f"point {number}" for number in range(turns)]
    user, assistant, _ = pair(words, code_execution_config=False)
    user.model_client = ReplayChatCompletionClient(words)
    return await user.a_initiate_chat(
        assistant, message="Talk", max_turns=turns // 2, silent=True, stalled=False
    )


async def test_the_loop_costs_little() -> None:
    """A turn costs less than 2 ms of the processor, also deep in a conversation (here the best of three)."""
    costs = []
    for _ in range(3):
        begun = time.process_time()
        result = await chat_of(180)
        costs.append((time.process_time() - begun) / len(result.chat_history))
    assert len(result.chat_history) == 180
    assert min(costs) < 0.002


async def test_a_thousand_conversations_at_once() -> None:
    """A thousand at once in one process end as one does, and nothing of them stays."""

    async def conversation() -> None:
        user, assistant, executor = pair([CODE, "It is 1. TERMINATE"], [done()])
        result = await user.a_initiate_chat(assistant, message="Task", silent=True)
        assert result.stop_reason == "termination message: from bot"
        assert executor.runs_ended == 1
        team = RoundRobinGroupChat([bot("a", "a1"), bot("b", "b1")], max_turns=2)
        assert len((await team.run(task="Task")).messages) == 3

    async def a_thousand() -> int:
        await asyncio.gather(*(conversation() for _ in range(1000)))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    await conversation()
    tracemalloc.start()
    try:
        held = [await a_thousand() for _ in range(3)]
    finally:
        tracemalloc.stop()
    assert held[2] - held[1] < 1_000_000


def test_blocking_conversations_from_many_threads() -> None:
    """Two hundred from fifty threads go through one background loop and all end as one does."""

    def conversation(_: int) -> tuple[str, int]:
        user, assistant, executor = pair([CODE, "It is 1. TERMINATE"], [done()])
        result = user.initiate_chat(assistant, message="Task", silent=True)
        return result.stop_reason, executor.runs_ended

    with ThreadPoolExecutor(50) as threads:
        ended = set(threads.map(conversation, range(200)))
    assert ended == {("termination message: from bot", 1)}


async def test_conversations_share_one_model_client() -> None:
    """A hundred chats at once over one client's connections: one that ends does not cut off the others."""
    from agent_client import AssistantAgent, OpenAIChatCompletionClient, UserProxyAgent

    with model_endpoint() as endpoint:
        endpoint.script = lambda body: (
            f"{len(body['messages'])}" if len(body["messages"]) < 5 else "TERMINATE"
        )
        model = OpenAIChatCompletionClient("m", api_key="k", base_url=endpoint.url)

        async def conversation(number: int) -> str:
            await asyncio.sleep(number / 200)  # so that some end while others begin
            user = UserProxyAgent(
                "user",
                human_input_mode="NEVER",
                code_execution_config=False,
                default_auto_reply="Go on, please: what is next?",
            )
            result = await user.a_initiate_chat(
                AssistantAgent("bot", model), message="Count", silent=True, stalled=False
            )
            return result.stop_reason

        reasons = await asyncio.gather(*(conversation(number) for number in range(100)))
        await model.close()
    assert set(reasons) == {"termination message: from bot"}
