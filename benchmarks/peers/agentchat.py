"""autogen-agentchat with its own local executor, not isolated: two agents, replayed, one writes code."""

from __future__ import annotations

import asyncio
import resource
import time
from tempfile import TemporaryDirectory

from autogen_agentchat.agents import AssistantAgent, CodeExecutorAgent
from autogen_agentchat.conditions import TextMentionTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import ModelFamily
from autogen_ext.code_executors.local import LocalCommandLineCodeExecutor
from autogen_ext.models.replay import ReplayChatCompletionClient
from stopwatch import Stopwatch, task

INFO = {
    "vision": False,
    "function_calling": False,
    "json_output": False,
    "family": ModelFamily.UNKNOWN,
    "structured_output": False,
}


def cpu() -> float:
    """Milliseconds of this process and of those that it ran code in."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) * 1e3


async def main() -> None:
    given, watch = task(), Stopwatch()
    begun = cpu()
    for _ in range(given["conversations"]):
        started = time.perf_counter()
        with TemporaryDirectory() as directory:
            async with LocalCommandLineCodeExecutor(work_dir=directory) as executor:
                coder = AssistantAgent("coder", ReplayChatCompletionClient(given["replies"], model_info=INFO))
                runner = CodeExecutorAgent("runner", executor)
                ends = TextMentionTermination("TERMINATE", ["coder"])
                team = RoundRobinGroupChat([coder, runner], termination_condition=ends)
                result = await team.run(task="Compute.")
        watch.times.setdefault("code", []).append((time.perf_counter() - started) * 1e3)
        assert len(result.messages) == len(given["replies"]) * 2, result
    watch.times["cpu"] = [(cpu() - begun) / given["conversations"]]
    for _ in range(given["conversations"]):
        started = time.perf_counter()
        replies = [f"point {number}" for number in range(given["turns"] // 2)]
        talkers = [
            AssistantAgent(name, ReplayChatCompletionClient(replies, model_info=INFO)) for name in ("a", "b")
        ]
        result = await RoundRobinGroupChat(talkers, max_turns=given["turns"]).run(task="Talk.")
        took = (time.perf_counter() - started) * 1e3
        watch.times.setdefault("turn", []).append(took / given["turns"])
        assert len(result.messages) == given["turns"] + 1, result
    watch.report()


asyncio.run(main())
