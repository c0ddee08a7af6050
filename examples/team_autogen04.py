"""A team as for AutoGen 0.4; only where it imports from is another. Needs OPENAI_API_KEY."""

from __future__ import annotations

import asyncio

from agent_client import (
    AssistantAgent,
    CodeExecutorAgent,
    Console,
    MaxMessageTermination,
    OpenAIChatCompletionClient,
    RemoteCodeExecutor,
    RoundRobinGroupChat,
    TextMentionTermination,
)


async def main() -> None:
    model_client = OpenAIChatCompletionClient(model="gpt-4.1-mini")
    planner = AssistantAgent("planner", model_client=model_client, system_message="Say the next step.")
    coder = AssistantAgent("coder", model_client=model_client, system_message="Write the step's Python.")
    runner = CodeExecutorAgent("runner", code_executor=RemoteCodeExecutor())
    reviewer = AssistantAgent(
        "reviewer", model_client=model_client, system_message="Check the output. APPROVE when all is done."
    )
    team = RoundRobinGroupChat(
        [planner, coder, runner, reviewer],
        termination_condition=TextMentionTermination("APPROVE") | MaxMessageTermination(20),
    )
    result = await Console(team.run_stream(task="Find the primes below 30 and add them up."))
    print("Messages:", [message.source for message in result.messages])
    print("Ended:", result.stop_reason)
    await model_client.close()


asyncio.run(main())
