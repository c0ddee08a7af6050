"""What agents must stand from models, services, files and people that are hostile or merely careless.

Where each case that is not here is tested:

| case | tests |
|---|---|
| an endpoint's time-outs, 429, 500, HTML, empty choices, half streams, enormous replies | test_model_faults |
| fail-over along a list of models | test_models |
| malformed arguments, unknown tools, tools that raise or never return | test_tools, test_agent_tools |
| a model that never says TERMINATE, thanks without end, restarts, expiry, 10 MB, planted files | contract |
| Ctrl-C of the command line, by phase | test_cli_chat |
| unknown languages, names that leave the workspace, a service that breaks off | test_executor |
| terminal, notebook and HTML | test_console, test_texts, test_transcript_browser, test_transcript_file |
| what a sandbox plants among the files | test_mirror |
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

import agent_client
from agent_client import (
    AssistantAgent,
    CancellationToken,
    CodeBlock,
    ConversableAgent,
    Message,
    ModelResponse,
    OpenAIChatCompletionClient,
    RemoteCodeExecutor,
    ReplayChatCompletionClient,
    RoundRobinGroupChat,
    ToolCall,
    UserProxyAgent,
)
from agent_client.cli import main
from agent_client.code_blocks import extract_code_blocks
from agent_client.errors import CodecellError, ModelError, StreamBroken
from agent_client.messages import Artifact
from agent_client.team_file import ModelSpec, WrongTeamFile, _model, parse_team, read_team_file
from agent_client.tools import base as tools_base
from agent_client.wire import events as wire_events
from tests.agent_client.fake_service import serving
from tests.agent_client.model_endpoint import CUTS, HANGS, STALLS, Body, ModelEndpoint, Says, Status
from tests.agent_client.model_endpoint import model_endpoint as running_endpoint
from tests.agent_client.parties import ScriptedExecutor, bot, calls, done, pair

ROOT = Path(agent_client.__file__).parents[1]
CODE = "```python\nprint(1)\n```"


@pytest.fixture
def endpoint() -> Iterator[ModelEndpoint]:
    """A scripted model endpoint."""
    with running_endpoint() as running:
        yield running


# Models and their endpoints


@pytest.mark.parametrize(
    "fault",
    [
        HANGS,
        STALLS,
        CUTS,
        Status(status=429, headers={"Retry-After": "3600"}),
        Status(status=500),
        Body(body="<html><body>Bad gateway</body></html>", status=502, content_type="text/html"),
        Body(body="<html>Log in</html>", content_type="text/html"),
        Body(body='{"choices": []}'),
    ],
    ids=["hangs", "stalls", "cuts", "429", "500", "html 502", "html 200", "no choice"],
)
def test_an_endpoint_that_fails_ends_a_chat_in_order(fault: Any, endpoint: ModelEndpoint) -> None:
    """After code has run: one typed error of one line, and the session is let go of."""
    endpoint.replies = [CODE, fault, fault, fault]
    model = OpenAIChatCompletionClient("m", base_url=endpoint.url, api_key="k", timeout=1, max_retries=0)
    user, _, executor = pair([], [done()])
    with pytest.raises(ModelError) as raised:
        user.initiate_chat(AssistantAgent("b", model), message="q", silent=True)
    assert "\n" not in str(raised.value)
    assert executor.runs_ended == 1
    assert len(user.chat_messages.popitem()[1]) == 3


def test_names_that_models_make_up_are_sent_back_in_a_form_that_endpoints_accept(
    endpoint: ModelEndpoint,
) -> None:
    """A call of "functions.search" or of a name with a newline is answered, not the end of the chat."""
    wanted = [("functions.search", "{}"), ("a\n\x1b[2Jb", "{}"), ("", "{}")]
    endpoint.replies = [Says(calls=wanted), "Sorry. TERMINATE"]
    model = OpenAIChatCompletionClient("m", base_url=endpoint.url, api_key="k")
    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=False)
    agent = AssistantAgent("b", model, tools=[lambda_tool])
    assert user.initiate_chat(agent, message="q", silent=True).stop_reason.startswith("termination")
    sent = endpoint.asked[1]["messages"]
    assert [c["function"]["name"] for c in sent[-4]["tool_calls"]] == ["functions_search", "a___2Jb", "_"]
    assert all("\x1b" not in m["content"] and "no tool" in m["content"] for m in sent[-3:])


def lambda_tool() -> str:
    """Nothing."""
    return ""


async def test_thousands_of_calls_in_one_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are all answered, a bounded number at a time."""
    monkeypatch.setattr(tools_base, "MAX_AT_ONCE", 7)
    now, most = 0, 0

    async def count(x: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return x

    agent = AssistantAgent(
        "b",
        ReplayChatCompletionClient([calls(*[("count", {"x": n}) for n in range(2000)]), "done"]),
        tools=[count],
    )
    result = await agent.run(task="t")
    answers = result.messages[-1].inner[1].tool_responses
    assert [a.content for a in answers] == [str(n) for n in range(2000)]
    assert most == 7


async def test_a_reply_with_text_calls_and_handoffs() -> None:
    """The tools are run, the first handoff counts, and nothing is asked again."""
    wanted = [
        ToolCall(id="1", name="lambda_tool"),
        ToolCall(id="2", name="transfer_to_b"),
        ToolCall(id="3", name="transfer_to_c"),
    ]
    model = ReplayChatCompletionClient([ModelResponse(content="Let me see", tool_calls=wanted)])
    agent = AssistantAgent("a", model, tools=[lambda_tool], handoffs=["b", "c"])
    said = (await agent.run(task="t")).messages[-1]
    assert (said.kind, said.target) == ("handoff", "b")
    assert len(said.inner[1].tool_responses) == 3


@pytest.mark.parametrize(
    "text",
    [
        "```\n" + "[" * 1_000_000 + "\n```",
        "`" * 1_000_000,
        "~~~\n" * 250_000,
        "```\n" + "'" * 999_999 + "\n```",
        " " * 1_000_000,
    ],
    ids=["brackets", "backticks", "tildes", "quotes", "spaces"],
)
def test_a_megabyte_of_anything_holds_nobody_up(text: str) -> None:
    """Looking for code takes time in proportion to the text."""
    begun = time.process_time()
    extract_code_blocks(text)
    assert time.process_time() - begun < 8


async def test_names_in_a_prompt_for_the_next_speaker() -> None:
    """What an agent says is text in the selector's prompt: it fills in no field."""
    from agent_client import SelectorGroupChat

    model = ReplayChatCompletionClient(["a", "b"])
    agents = [bot("a", "{participants} {roles}"), bot("b", "x"), bot("c")]
    await SelectorGroupChat(agents, model, max_turns=2).run(task="{history}")
    assert "user: {history}" in model.calls[0][0].content
    assert "a: {participants} {roles}" in model.calls[1][0].content


# Nesting, concurrency, cancellation


async def test_chats_that_call_each_other_without_end() -> None:
    """Nested chats have a depth, after which they are a typed error, not a RecursionError."""
    a, b, user = (ConversableAgent(name, human_input_mode="NEVER") for name in ("a", "b", "user"))
    for agent, other in ((a, b), (b, a)):
        plan = [{"recipient": other, "max_turns": 1, "silent": True}]
        agent.register_nested_chats(plan, trigger=lambda _: True)
    with pytest.raises(CodecellError, match="nested more than 10 deep"):
        await user.a_initiate_chat(a, message="hi", silent=True)


async def test_a_team_is_in_one_run_at_a_time() -> None:
    """A second run at the same time is refused in words; the first is undisturbed, and a later one works."""
    team = RoundRobinGroupChat([bot("a", "one", "two", "three")], max_turns=1)
    first, second = await asyncio.gather(team.run(task="x"), team.run(task="y"), return_exceptions=True)
    assert isinstance(second, ValueError)
    assert "in a run already" in str(second)
    assert not isinstance(first, BaseException)
    assert [m.content for m in first.messages] == ["x", "one"]
    assert (await team.run(task="z")).messages[-1].content == "two"


def test_one_pair_of_agents_in_many_threads() -> None:
    """Chats of the same two agents from several threads at once all end, each with its own transcript."""
    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=False)
    agent = bot("b", *["Yes. TERMINATE"] * 8)
    results: list[Any] = []

    def work() -> None:
        results.append(user.initiate_chat(agent, message="q", silent=True))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(r.chat_history) for r in results] == [2] * 8


async def test_a_chat_from_a_tool_and_from_a_reply_function() -> None:
    """Blocking chats inside a sync tool or reply function work, and count against the outer run's limits."""
    helper = ConversableAgent("helper", human_input_mode="NEVER")

    def ask_other(question: str) -> str:
        other = bot("other", "42 TERMINATE")
        return str(helper.initiate_chat(other, message=question, silent=True).summary)

    model = ReplayChatCompletionClient([calls(("ask_other", {"question": "?"})), "It is 42. TERMINATE"])
    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=False)
    result = await user.a_initiate_chat(
        AssistantAgent("b", model, tools=[ask_other]), message="q", silent=True
    )
    assert result.chat_history[-1]["content"] == "It is 42. TERMINATE"
    assert result.usage.requests == 3


@pytest.mark.parametrize("where", ["reply", "ends", "listener", "input"])
async def test_functions_of_the_users_that_raise(where: str) -> None:
    """The error comes out as it is, and the session is let go of."""

    def fails(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("mine")

    user, agent, executor = pair([CODE, "x"], [done()], human_input_mode="NEVER")
    options: dict[str, Any] = {}
    if where == "reply":
        agent.register_reply(lambda _: True, fails)
    elif where == "ends":
        user._is_termination = fails
    elif where == "listener":
        options["on_event"] = fails
    else:
        user.human_input_mode, user._input = "ALWAYS", fails
    with pytest.raises(ZeroDivisionError, match="mine"):
        await user.a_initiate_chat(agent, message="q", silent=True, **options)
    assert executor.runs_ended == 1


async def test_a_reply_without_text_is_an_empty_text_to_who_decides_on_the_end() -> None:
    """`is_termination_msg` may take the content for a str, though a model gave None."""
    seen: list[Any] = []
    user = UserProxyAgent(
        "user",
        human_input_mode="NEVER",
        code_execution_config=False,
        is_termination_msg=lambda m: seen.append(m["content"]) or not m["content"].strip(),  # type: ignore[func-returns-value]
    )
    agent = AssistantAgent("b", ReplayChatCompletionClient([ModelResponse(content="")]))
    await user.a_initiate_chat(agent, message="q", silent=True)
    assert seen == [""]


async def test_a_token_cancels_a_run_and_nothing_after_it() -> None:
    """Cancelling a token whose run is over leaves the caller alone."""
    token = CancellationToken()
    await RoundRobinGroupChat([bot("a", "x")], max_turns=1).run(task="t", cancellation_token=token)
    token.cancel()
    await asyncio.sleep(0)
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


class _Closing(ScriptedExecutor):
    def __init__(self) -> None:
        super().__init__([])
        self.begun, self.may_end, self.closed = asyncio.Event(), asyncio.Event(), False

    async def run_ended(self) -> None:
        self.begun.set()
        await self.may_end.wait()
        self.closed = True


async def test_cancelled_in_the_middle_of_closing() -> None:
    """What was begun is closed all the same before the cancellation goes on."""
    executor = _Closing()
    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config={"executor": executor})
    chat = asyncio.create_task(user.a_initiate_chat(bot("b", "x TERMINATE"), message="q", silent=True))
    await executor.begun.wait()
    chat.cancel()
    await asyncio.sleep(0)
    executor.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await chat
    assert executor.closed


async def test_an_executor_that_fails_to_close_does_not_take_the_result(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The result is there, and the failure is logged."""

    class Broken(ScriptedExecutor):
        async def run_ended(self) -> None:
            raise RuntimeError("boom")

    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config={"executor": Broken([])})
    result = await user.a_initiate_chat(bot("b", "x TERMINATE"), message="q", silent=True)
    assert result.stop_reason.startswith("termination")
    assert "boom" in caplog.text


@pytest.mark.parametrize("fails", [True, False])
def test_a_stream_that_nobody_reads_to_its_end(fails: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever leaves a stream ends its run, and asyncio has nothing to complain of."""
    ended = threading.Event()

    class Model:
        async def create(self, *_: Any, **__: Any) -> Any:
            try:
                if fails:
                    raise ModelError("no")
                await asyncio.sleep(300)
            finally:
                ended.set()

    async def leave() -> None:
        stream = RoundRobinGroupChat([AssistantAgent("a", Model())]).run_stream(task="t")
        async for _ in stream:
            await asyncio.sleep(0.01)
            break
        if fails:
            await stream.aclose()

    asyncio.run(leave(), debug=True)
    gc.collect()
    assert ended.wait(10)
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == []


# People


CLOSING = """
import asyncio, sys, time
from agent_client import *
class Slow:
    async def execute_code_blocks(self, blocks, on_progress=None):
        print("ready", flush=True); await asyncio.sleep(600)
    async def run_ended(self):
        await asyncio.sleep(0.5); print("closed", flush=True)
    async def close(self): ...
class Model:
    async def create(self, messages, **options):
        if WHERE == "code": return ModelResponse(content="```python\\nx\\n```")
        if WHERE == "summary" and messages[-1].role != "system": return ModelResponse(content="TERMINATE")
        print("ready", flush=True); await asyncio.sleep(600)
def asks(prompt):
    print("ready", flush=True); time.sleep(600)
def never(*args, **more):
    print("ready", flush=True); time.sleep(600)
WHERE = sys.argv[1]
human = "ALWAYS" if WHERE == "input" else "NEVER"
u = UserProxyAgent("u", human_input_mode=human, input_func=asks, code_execution_config={"executor": Slow()})
b = AssistantAgent("b", model_client=ReplayChatCompletionClient(["hi"]) if WHERE == "input" else Model())
if WHERE == "reply": b.register_reply(u, never)
how = "reflection_with_llm" if WHERE == "summary" else "last_msg"
try: u.initiate_chat(b, message="q", silent=True, summary_method=how)
except KeyboardInterrupt: print("interrupted", len(u.chat_messages[b]))
"""


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("where", "kept"), [("model", 1), ("code", 2), ("input", 2), ("summary", 2), ("reply", 1)]
)
def test_ctrl_c_in_a_program(where: str, kept: int, times: int) -> None:
    """Pressed once, or twice as `uv run` passes it on: the session is closed, nothing is lost."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSING, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)  # the second comes while it closes
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (f"closed\ninterrupted {kept}\n", 0)


ASKING = """
import asyncio
from agent_client import *
u = UserProxyAgent("u", code_execution_config=False)
b = AssistantAgent("b", ReplayChatCompletionClient(["hello"]))
try: print(asyncio.run(u.a_initiate_chat(b, message="q", silent=True)).stop_reason)
except KeyboardInterrupt: print("interrupted")
"""


@pytest.mark.parametrize(("typed", "said"), [(b"\x03", b"interrupted"), (b"exit\n", b"human: exit")])
def test_the_async_form_at_a_terminal(typed: bytes, said: bytes) -> None:
    """Ctrl-C while a question waits ends an async program at once, without another key; answers arrive."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    code = f"import os, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{ASKING}"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    seen = b""
    while b"conversation: " not in seen:
        seen += os.read(ours, 4096)
    os.write(ours, typed)
    assert process.wait(60) == 0
    while said not in seen:
        seen += os.read(ours, 4096)
    os.close(ours)
    assert b"Traceback" not in seen


# Files


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "nul", "gone"])
def test_an_artifact_that_is_no_file(kind: str, tmp_path: Path) -> None:
    """A path that became a pipe or a device, or that a state made up, gives no bytes and holds nobody up."""
    os.mkfifo(tmp_path / "pipe")
    paths = {"device": Path("/dev/zero"), "directory": tmp_path, "nul": Path("a\0b")}
    assert Artifact(name="x", path=paths.get(kind, tmp_path / kind)).read() is None


async def _asked(model: Any, message: Message) -> None:
    try:
        await model.create([message])
    finally:
        await model.close()


def test_a_state_does_not_send_other_files_to_the_model(endpoint: ModelEndpoint, tmp_path: Path) -> None:
    """What a crafted state calls an image is sent only if its bytes are one."""
    (tmp_path / "secret").write_text("the secret")
    artifact = {"name": "x", "mime": "image/png", "path": str(tmp_path / "secret")}
    saved = {"content": "see", "artifacts": [artifact]}
    model = OpenAIChatCompletionClient("m", base_url=endpoint.url, api_key="k", vision=True)
    asyncio.run(_asked(model, Message.load(saved)))
    assert endpoint.asked[0]["messages"][0]["content"] == "see"


def _state(**changes: Any) -> dict[str, Any]:
    said = [{"content": "Do", "name": "user_proxy"}, {"content": "Shall I?", "name": "assistant"}]
    transcript = {"messages": said, "task_at": 0, "task_count": 1, "goes_on": False}
    return {"version": 1, "team": "team", "transcript": transcript | changes, "parties": {}}


CRAFTED: dict[str, Callable[[dict[str, Any]], None]] = {
    "a place before the start": lambda s: s.update(state=_state(task_at=-5)),
    "a place beyond the end": lambda s: s.update(state=_state(task_at=10**9)),
    "an infinite place": lambda s: s.update(state=_state(task_at=float("inf"))),
    "no messages": lambda s: s.update(state=_state(messages=[])),
    "messages of another type": lambda s: s.update(state=_state(messages=[5])),
    "content of another type": lambda s: s.update(state=_state(messages=[{"content": 5}])),
    "parties of another type": lambda s: s["state"].update(parties={"assistant": 5}),
    "other parties": lambda s: s["state"].update(parties={"x": {}}),
    "infinite images": lambda s: s["executor"].update(images=float("inf")),
    "a directory of another type": lambda s: s.update(work_dir=5),
    "a model of another type": lambda s: s.update(model=5),
    "no agents": lambda s: s["spec"].update(agents=[]),
}


@pytest.mark.parametrize("crafted", CRAFTED)
def test_a_crafted_file_is_not_resumed(
    crafted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused in words before anything runs."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    spec = {"agents": [{"name": "assistant"}, {"name": "user_proxy", "kind": "user"}]}
    saved = {"version": 1, "spec": spec, "work_dir": None, "human": False, "state": _state(), "executor": {}}
    CRAFTED[crafted](saved)
    (tmp_path / "kept.json").write_text(json.dumps(saved))
    assert main(["chat", "--resume", str(tmp_path / "kept.json")]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["kept.json", "team.toml"])
def test_files_that_nest_without_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused like any other that cannot be read."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    (tmp_path / name).write_text("x = " * name.endswith("toml") + "[" * 100_000)
    option = ["x", "--agents"] if name.endswith("toml") else ["--resume"]
    assert main(["chat", *option, str(tmp_path / name)]) == 2
    assert "recursion" in capsys.readouterr().err


def test_what_is_saved_goes_through_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: ModelEndpoint
) -> None:
    """Links that somebody placed where a conversation is saved are replaced or left alone, not followed."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    (tmp_path / "victim").write_text("victim")
    for name in ("kept.json", "kept.json.part", ".kept.json"):
        (tmp_path / name).symlink_to("victim")
    endpoint.replies = ["Done. TERMINATE"]
    assert main(["chat", "x", "--save", str(tmp_path / "kept.json")]) == 0
    assert (tmp_path / "victim").read_text() == "victim"
    assert not (tmp_path / "kept.json").is_symlink()
    assert (tmp_path / "kept.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("where", ["none/kept.json", "."])
def test_a_place_where_nothing_can_be_saved_is_told_first(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: ModelEndpoint
) -> None:
    """Not when the conversation is over and paid for."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    assert main(["chat", "x", "--save", str(tmp_path / where)]) == 2
    assert endpoint.asked == []


def test_a_team_file_is_not_given_keys_unasked(
    endpoint: ModelEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To an address of the file's own goes only a key that it names: never `OPENAI_API_KEY` by itself."""
    monkeypatch.setenv("OPENAI_API_KEY", "the-users-key")
    monkeypatch.setenv("OTHER_KEY", "named")
    for named in (None, "OTHER_KEY"):
        model = _model(ModelSpec(model="m", base_url=endpoint.url, api_key_env=named))
        asyncio.run(_asked(model, Message(content="hi")))
    assert [h["authorization"] for h in endpoint.headers] == ["Bearer none", "Bearer named"]


@pytest.mark.parametrize(
    "options",
    [{"api_key": "x"}, {"model": "x"}, {"model_info": 5}],
)
def test_options_of_a_team_file_that_cannot_be(options: dict[str, Any]) -> None:
    """They are refused in words."""
    with pytest.raises(WrongTeamFile, match="cannot be made"):
        _model(ModelSpec(model="m", options=options))


@pytest.mark.parametrize("price", ["[nan, nan]", "[-1, 0]", "[inf, 0]"])
def test_prices_that_would_undo_a_budget(price: str, tmp_path: Path) -> None:
    """No number, or one below zero, is no price."""
    path = tmp_path / "team.toml"
    path.write_text(f"[models.default]\nmodel = 'm'\nprice = {price}\n[[agents]]\nname = 'a'\n")
    with pytest.raises(WrongTeamFile, match=r"models\.default\.price"):
        read_team_file(path)


def test_what_the_command_line_quotes_drives_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors that quote a file or a service are without control sequences."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    (tmp_path / "t.toml").write_text('[[agents]]\nname = "a"\n"\\u001b]0;owned\\u0007\\u001b[2J" = 1\n')
    assert main(["chat", "x", "--agents", str(tmp_path / "t.toml")]) == 2
    assert "\x1b" not in capsys.readouterr().err
    with pytest.raises(WrongTeamFile):
        parse_team({"agents": [{"name": ""}]}, "here")


# Services


SESSION = {"id": "s1", "state": "idle", "language": "python"}


def _stream(*chunks: bytes) -> Callable[[], Response]:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return lambda: StreamingResponse(body(), media_type="text/event-stream")


def _session(value: Any = SESSION) -> Callable[[], Response]:
    return lambda: JSONResponse(value, 201)


def _html(status: int = 200) -> Callable[[], Response]:
    return lambda: HTMLResponse("<h1>hello</h1>", status)


Answer = Callable[[], Response]
NONSENSE: dict[str, tuple[Answer, Answer]] = {
    "a page": (_html(), _html()),
    "a page of an error": (_html(500), _html()),
    "a list": (_session([1]), _html()),
    "null": (_session(None), _html()),
    "an id that is a number": (_session({**SESSION, "id": 5}), _html()),
    "an id that is a path": (_session({**SESSION, "id": "../../x\n\x1b[2J"}), _html(404)),
    "an id of 100 kB": (_session({**SESSION, "id": "x" * 100_000}), _html()),
    "a redirection": (lambda: RedirectResponse("http://127.0.0.1:9/"), _html()),
    "nothing": (lambda: Response(status_code=204), _html()),
    "an error of odd types": (lambda: JSONResponse({"code": 5, "detail": [1], "errors": 5}, 400), _html()),
    "events of odd types": (
        _session(),
        _stream(
            b'event: stdout\ndata: {"text": 5}\n\n',
            b"event: stdout\ndata: [1]\n\n",
            b"event: \xff\ndata: {\n\n",
            b'event: error\ndata: {"name": 5, "traceback": {}}\n\n',
            b'event: completed\ndata: {"outcome": 7}\n\n',
        ),
    ),
    "no events": (_session(), _stream()),
    "a page instead of events": (_session(), _html()),
    "a session that is always gone": (
        _session(),
        lambda: JSONResponse({"code": "session_not_found", "detail": "gone"}, 404),
    ),
}


@pytest.mark.parametrize("kind", NONSENSE)
async def test_a_service_that_answers_nonsense(kind: str) -> None:
    """It gives a typed error or an ordinary failing reply."""
    make, execute = NONSENSE[kind]

    async def answer(request: Request) -> Response:
        if request.method == "DELETE":
            return Response(status_code=204)
        return make() if request.url.path.endswith("/sessions") else execute()

    routes = [Route("/{path:path}", answer, methods=["GET", "POST", "PUT", "DELETE"])]
    with serving(Starlette(routes=routes)) as url:
        async with RemoteCodeExecutor(base_url=url, api_key="k") as executor:
            failed = False
            async with asyncio.timeout(30):
                try:
                    result = await executor.execute_code_blocks([CodeBlock(code="1", language="python")])
                    failed = result.exit_code != 0
                except CodecellError:
                    failed = True
            assert failed


def test_an_event_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: a stream that never ends its first event is broken."""
    monkeypatch.setattr(wire_events, "MAX_EVENT", 1000)
    decoder = wire_events.SseDecoder()
    for _ in range(10):
        decoder.feed(b"x" * 100)
    with pytest.raises(StreamBroken, match="more than 1000 bytes"):
        decoder.feed(b"x")


async def test_a_long_chat_keeps_nothing_behind() -> None:
    """When chats are over, memory is as it was: objects do not pile up from chat to chat."""

    async def chat() -> None:
        words = [f"Point {n} is {n * 7}." for n in range(60)]
        user, agent, _ = pair([*words, "TERMINATE"], [])
        await user.a_initiate_chat(agent, message="q", silent=True)

    await chat()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(20):
        await chat()
    gc.collect()
    assert len(gc.get_objects()) - before < 2000
