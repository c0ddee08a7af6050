"""The agent client: what importing it costs, what its loop costs, a thousand conversations at once, and the
same replayed task beside autogen-agentchat: ``python -m benchmarks --agents``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent_client import (
    AssistantAgent,
    CodeExecutorAgent,
    LastWordTermination,
    RemoteCodeExecutor,
    ReplayChatCompletionClient,
    RoundRobinGroupChat,
    UsageLimits,
    UserProxyAgent,
)
from agent_client.executors.base import CodeResult
from benchmarks import peer_runs
from benchmarks.load import Times
from benchmarks.service import Service, started, tree
from benchmarks.table import Table
from benchmarks.targets import AGENTS

CODE = "```python\nprint({})\n```"
REPLIES = [CODE.format(1), CODE.format(2), "Done. TERMINATE"]
TURNS = 100
ROUNDS = 3
THREADS = 50
IMPORTS = {
    "import openai": "openai",
    "import agent_client": "agent_client",
    "from agent_client import AssistantAgent, UserProxyAgent": "agent_client.agents",
}


class FakeExecutor:
    """Says what code would have printed."""

    async def execute_code_blocks(self, *_: object) -> CodeResult:
        return CodeResult(exit_code=0, output="1\n")

    async def run_ended(self) -> None: ...

    async def close(self) -> None: ...


def measure(table: Table, *, quick: bool) -> None:
    """All of it."""
    count = 10 if quick else 30
    _imports(table, count)
    _many(table, 200 if quick else 1000)
    table.section("The loop, with replayed models")
    for turns in (10, 100, 1000):
        times = asyncio.run(_two_parties(turns, count))
        table.row(f"a turn of two parties, {turns} messages", times, f"target {AGENTS.turn:g} ms")
    _beside_agentchat(table, count)


def _beside_agentchat(table: Table, count: int) -> None:
    """In turn, so that a busy moment is everybody's."""
    table.section("Two agents, one writes code, beside autogen-agentchat")
    ours: dict[str, list[float]] = {"code": [], "cpu": [], "turn": []}
    theirs: dict[str, list[float]] = {"code": [], "cpu": [], "turn": []}
    task = {"conversations": count, "replies": REPLIES, "turns": TURNS}
    with started("--backend", "local", "--warm", "4") as service:
        for _ in range(ROUNDS):
            used = _cpu(service)
            ours["code"] += asyncio.run(_with_code(f"http://127.0.0.1:{service.port}", count))
            ours["cpu"].append((_cpu(service) - used) / count)
            ours["turn"] += asyncio.run(_team(count))
            for name, values in peer_runs.run("agentchat", task).items():
                theirs[name] += values
    rows = {
        "code": "a conversation with two runs of code",
        "cpu": "its processor time, all processes",
        "turn": f"a turn of a team, {TURNS} messages",
    }
    for key, title in rows.items():
        table.row(f"{title}: ours", Times(ours[key]))
        ratio = Times(theirs[key]).p50 / Times(ours[key]).p50
        table.row(f"{title}: agentchat", Times(theirs[key]), f"{ratio:.2f} x ours")


def _cpu(service: Service) -> float:
    """Milliseconds of this process and of the service's, with those that ended."""
    ticks = 0
    for pid in tree(service.pid):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            ticks += sum(map(int, stat[stat.rindex(")") + 2 :].split()[11:15]))
    return ticks * 1e3 / os.sysconf("SC_CLK_TCK") + time.process_time() * 1e3


def _imports(table: Table, count: int) -> None:
    table.section("Imports, in fresh processes")
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(count):  # in turn, so that a busy moment is everybody's
        for name, module in IMPORTS.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
            times[name].append((time.perf_counter() - begin) * 1e3)
    floor = statistics.median(times["import openai"])
    for name, values in times.items():
        against = f"{statistics.median(values) / floor:.2f} x import openai (target {AGENTS.import_ratio:g})"
        table.row(name, Times(values), "" if name == "import openai" else against)


def _replies(count: int) -> list[str]:
    return [f"point {number}" for number in range(count)]


async def _two_parties(turns: int, count: int) -> Times:
    times = []
    for _ in range(max(5, count // (turns // 10))):
        user = UserProxyAgent(
            "user",
            human_input_mode="NEVER",
            code_execution_config=False,
            model_client=ReplayChatCompletionClient(_replies(turns)),
            max_consecutive_auto_reply=turns,
        )
        bot = AssistantAgent(
            "bot", ReplayChatCompletionClient(_replies(turns)), max_consecutive_auto_reply=turns
        )
        begin = time.perf_counter()
        result = await user.a_initiate_chat(
            bot,
            message="Talk",
            max_turns=turns // 2,
            silent=True,
            usage_limits=UsageLimits(requests=None),
            stalled=False,
        )
        times.append((time.perf_counter() - begin) * 1e3 / turns)
        assert len(result.chat_history) == turns, result.stop_reason
    return Times(times)


async def _team(count: int) -> list[float]:
    times = []
    for _ in range(count):
        talkers = [AssistantAgent(name, ReplayChatCompletionClient(_replies(TURNS))) for name in ("a", "b")]
        begin = time.perf_counter()
        result = await RoundRobinGroupChat(talkers, max_turns=TURNS).run(task="Talk.")
        times.append((time.perf_counter() - begin) * 1e3 / TURNS)
        assert len(result.messages) == TURNS + 1
    return times


def _many(table: Table, at_once: int) -> None:
    table.section(f"{at_once} conversations at once, with a fake executor")

    def parties() -> tuple[UserProxyAgent, AssistantAgent]:
        config = {"executor": FakeExecutor()}
        user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=config)
        return user, AssistantAgent("bot", ReplayChatCompletionClient(REPLIES))

    async def one() -> None:
        user, bot = parties()
        result = await user.a_initiate_chat(bot, message="Compute.", silent=True)
        assert result.stop_reason == "termination message: from bot"

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(at_once)))

    def blocking(_: int) -> None:
        user, bot = parties()
        assert user.initiate_chat(bot, message="Compute.", silent=True).cost is not None

    held = []
    begin = time.perf_counter()
    asyncio.run(all_of_them())
    table.number("together", time.perf_counter() - begin, "s")
    begin = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(blocking, range(at_once // 5)))
    table.number(f"{at_once // 5} blocking ones from {THREADS} threads", time.perf_counter() - begin, "s")
    tracemalloc.start()
    for _ in range(3):
        asyncio.run(all_of_them())
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0] / 1e6)
    tracemalloc.stop()
    grown = f"{held[2] - held[1]:+.2f} MB from the second round to the third"
    table.number("held when a round has ended", held[2], "MB", grown)
    table.number("peak of the process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, "MB")


async def _with_code(url: str, count: int) -> list[float]:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        coder = AssistantAgent("coder", ReplayChatCompletionClient(REPLIES))
        runner = CodeExecutorAgent("runner", RemoteCodeExecutor(base_url=url))
        result = await RoundRobinGroupChat([coder, runner], LastWordTermination()).run(task="Compute.")
        times.append((time.perf_counter() - begin) * 1e3)
        assert len(result.messages) == 6, result
    return times
