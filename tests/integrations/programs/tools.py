"""LangChain, the OpenAI Agents SDK and Pydantic AI: running code as a tool, with scripted models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import harness
from agents import Agent as OpenAIAgent
from agents import Model, ModelResponse, RunConfig, Runner, Usage
from agents.items import ToolCallOutputItem
from langchain_core.messages import AIMessage, ToolMessage
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import messages as pydantic_messages
from pydantic_ai.models.function import AgentInfo, FunctionModel

from agent_client.integrations import langchain, openai_agents, pydantic_ai

FIRST = {"code": "x = 41\nopen('out.txt', 'w').write('made')\nprint(x + 1)"}
NAME = openai_agents.CodecellTool().name
SECOND = {"code": "print(x + 2)"}


def asked(tool: langchain.CodecellTool, arguments: dict[str, str]) -> dict[str, Any]:
    """A tool call as a LangChain model makes it."""
    calls = [{"name": tool.name, "args": arguments, "id": "1"}]
    return dict(AIMessage(content="", tool_calls=calls).tool_calls[0])


def case_langchain_from_blocking_code(here: Path) -> None:
    """Text for the model, artifacts beside it, state from call to call, failures as text."""
    with langchain.CodecellTool(work_dir=here / "work") as tool:
        message = tool.invoke(asked(tool, FIRST))
        assert isinstance(message, ToolMessage)
        assert "42" in message.content
        assert [a.name for a in message.artifact] == ["out.txt"]
        assert "43" in tool.invoke(SECOND)
        assert "ZeroDivisionError" in tool.invoke({"code": "1/0"})
        assert "klingon" in tool.invoke({"code": "x", "language": "klingon"})
        assert "code" in tool.invoke(asked(tool, {"wrong": "argument"})).content
        assert "hello" in tool.invoke({"code": "echo hello", "language": "bash"})
        assert len(tool.invoke({"code": harness.NOISE})) < 25_000
        assert "code" in tool.tool_call_schema["properties"]
    assert (here / "work" / "out.txt").read_text() == "made"


def case_langchain_from_async_code(here: Path) -> None:
    """The same by `ainvoke`, several at once; blocking calls share the session."""

    async def go() -> None:
        async with langchain.CodecellTool() as tool:
            message = await tool.ainvoke(asked(tool, FIRST))
            assert "42" in message.content
            assert "43" in await asyncio.to_thread(tool.invoke, SECOND)
            many = await asyncio.gather(*(tool.ainvoke({"code": f"print(x * {i})"}) for i in range(3)))
            assert [str(41 * i) in text for i, text in enumerate(many)] == [True] * 3
            assert len(await asyncio.to_thread(harness.sessions)) == 1

    asyncio.run(go())


def case_langchain_ctrl_c_and_a_timeout(here: Path) -> None:
    """Ctrl-C kills the code at once, a timeout is a reply, and the session works on."""
    with langchain.CodecellTool(timeout=300) as tool, harness.at_once():
        with harness.when_begun(harness.press_ctrl_c):
            harness.error_of(KeyboardInterrupt, lambda: tool.invoke({"code": harness.FOREVER}))
        assert "42" in tool.invoke({"code": "print(x + 1)"})
    with langchain.CodecellTool(timeout=1) as tool:
        assert "imeout" in tool.invoke({"code": "while True: pass"})


class Scripted(Model):
    """Each item is what the model does next: arguments to call the tool with, or a text to end on."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)

    async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
        items = self.items.pop(0)
        output = [self.of(item, number) for number, item in enumerate(items)]
        return ModelResponse(output=output, usage=Usage(), response_id=None)

    def of(self, item: Any, number: int) -> Any:
        if isinstance(item, str):
            text = ResponseOutputText(text=item, type="output_text", annotations=[])
            return ResponseOutputMessage(
                id="m", content=[text], role="assistant", status="completed", type="message"
            )
        name, arguments = item
        call_id = f"{len(self.items)}-{number}"
        return ResponseFunctionToolCall(call_id=call_id, name=name, arguments=arguments, type="function_call")

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


def case_openai_agents(here: Path) -> None:
    """A run with several calls, two of them at once and one malformed; everything comes back as text."""

    async def go() -> None:
        async with openai_agents.CodecellTool(work_dir=here / "work") as tool:
            call = tool.name
            model = Scripted(
                [(call, json.dumps(FIRST))],
                [(call, json.dumps(SECOND)), (call, json.dumps({"code": "print(x + 3)"}))],
                [(call, '{"code": '), (call, json.dumps({"code": "1/0"}))],
                ["It is 42."],
            )
            agent = OpenAIAgent(name="agent", model=model, tools=[tool])
            result = await Runner.run(agent, "Task", run_config=RunConfig(tracing_disabled=True))
            assert result.final_output == "It is 42."
            said = [str(i.output) for i in result.new_items if isinstance(i, ToolCallOutputItem)]
            assert len(said) == 5, said
            for text, expected in zip(said, ("42", "43", "44", "rror", "ZeroDivisionError"), strict=True):
                assert expected in text, said
            assert [a.name for a in tool.artifacts] == ["out.txt"]

    asyncio.run(go())
    assert (here / "work" / "out.txt").read_text() == "made"


def case_openai_agents_from_blocking_code(here: Path) -> None:
    """`Runner.run_sync`, with a `with` that is blocking too."""
    with openai_agents.CodecellTool() as tool:
        model = Scripted([(tool.name, json.dumps(FIRST))], ["done"])
        agent = OpenAIAgent(name="agent", model=model, tools=[tool])
        result = Runner.run_sync(agent, "Task", run_config=RunConfig(tracing_disabled=True))
        assert result.final_output == "done"


def cancelled_at_once(run: Callable[[], Awaitable[object]], after: Callable[[], Awaitable[str]]) -> None:
    """Cancel a run whose code never ends; what `after` prints shows that the session works on."""

    async def go() -> None:
        task = asyncio.ensure_future(run())
        await asyncio.to_thread(harness.wait_until_begun)
        task.cancel()
        try:
            await task
            raise AssertionError("the run ended by itself")
        except asyncio.CancelledError:
            pass
        assert "42" in await after()

    with harness.at_once():
        asyncio.run(go())


def case_openai_agents_cancelled(here: Path) -> None:
    """Cancelling the run kills the code at once."""
    with openai_agents.CodecellTool(timeout=300) as tool:
        forever = json.dumps({"code": harness.FOREVER})
        model = Scripted([(tool.name, forever)], ["never"])
        agent = OpenAIAgent(name="agent", model=model, tools=[tool])

        async def run() -> object:
            return await Runner.run(agent, "Task", run_config=RunConfig(tracing_disabled=True))

        async def after() -> str:
            return str(await tool.on_invoke_tool(None, json.dumps({"code": "print(x + 1)"})))

        cancelled_at_once(run, after)


def pydantic_model(*items: Any) -> FunctionModel:
    """A model that does these things in turn: arguments of calls, or a text to end on."""
    left = list(items)

    def model(_: list[pydantic_messages.ModelMessage], info: AgentInfo) -> pydantic_messages.ModelResponse:
        item = left.pop(0)
        if isinstance(item, str):
            return pydantic_messages.ModelResponse(parts=[pydantic_messages.TextPart(item)])
        name = info.function_tools[0].name
        return pydantic_messages.ModelResponse(
            parts=[pydantic_messages.ToolCallPart(name, arguments) for arguments in item]
        )

    return FunctionModel(model)


def case_pydantic_ai(here: Path) -> None:
    """Text for the model, artifacts as metadata, calls at the same time, failures as text."""
    with pydantic_ai.CodecellTool(work_dir=here / "work") as tool:
        model = pydantic_model([FIRST], [SECOND, {"code": "1/0"}], [{"wrong": "argument"}], "It is 42.")
        agent = PydanticAgent(model, tools=[tool])
        result = agent.run_sync("Task")
        assert result.output == "It is 42."
        parts = [part for message in result.all_messages() for part in message.parts]
        returns = [part for part in parts if isinstance(part, pydantic_messages.ToolReturnPart)]
        assert len(returns) == 4, returns
        for part, expected in zip(returns, ("42", "43", "ZeroDivisionError", "code"), strict=True):
            assert expected in str(part.content), returns
        assert [a.name for a in returns[0].metadata] == ["out.txt"]
        assert [a.name for a in tool.artifacts] == ["out.txt"]
    assert (here / "work" / "out.txt").read_text() == "made"


def case_pydantic_ai_cancelled(here: Path) -> None:
    """Cancelling the run kills the code at once."""
    with pydantic_ai.CodecellTool(timeout=300) as tool:
        model = pydantic_model([{"code": harness.FOREVER}], [{"code": "print(x + 1)"}], "42")
        agent = PydanticAgent(model, tools=[tool])

        async def run() -> object:
            return await agent.run("Task")

        async def after() -> str:
            return str((await agent.run("Task")).all_messages()[-2])

        cancelled_at_once(run, after)


def case_the_guide(here: Path) -> None:
    """What the page shows works as it is written."""
    assert "42" in harness.guide("LangChain")
    arguments = {"code": harness.MADE}
    model = Scripted([(NAME, json.dumps(arguments))], ["It is 42."])
    assert "It is 42. [Artifact(name='out.txt'" in harness.guide("OpenAI Agents SDK", model=model)
    assert "It is 42. [Artifact(name='out.txt'" in harness.guide(
        "Pydantic AI", model=pydantic_model([arguments], "It is 42.")
    )
    assert (here / "coding" / "out.txt").read_text() == "made"


if __name__ == "__main__":
    harness.main(dict(globals()))
