"""Runs the programs of this directory under one framework and prints what came of each, as one JSON object.

    PYTHON tests/parity/world.py autogen|agent_client FILE [NAME ...]

The same text runs under both: `autogen` in its import lines is replaced by the framework's name. The models
are a scripted endpoint on loopback, the human is a list of lines, and code runs in a scripted executor. Only
the standard library and the framework are needed.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import inspect
import io
import json
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MAX_CALLS = 60  # of models, in one program: it would go on without end

Json = Any
Reply = str | list[tuple[str, str]]


class World:
    """What a program may use: models, a human, an executor; and what it noted."""

    def __init__(self, url: str, models: dict[str, list[Reply]], framework: str) -> None:
        self._url, self._models, self._framework = url, models, framework
        self._lines: list[str] = []
        self.prompts: list[str] = []
        self.asked: list[dict[str, Json]] = []
        self.notes_models = True  # whether what they were told is compared too
        self.ran: list[list[list[str]]] = []

    def llm(self, *replies: Reply) -> dict[str, Json]:
        """An `llm_config` of a model that says these; a list is a reply that calls tools, by name and
        arguments as JSON text. When they are used up it says "(n)", with a new n each time.
        """
        name = f"model-{len(self._models) + 1}"
        self._models[name] = list(replies)
        entry = {"model": name, "base_url": self._url, "api_key": "none", "price": [0, 0]}
        return {"config_list": [entry], "cache_seed": None}

    def types(self, *lines: str) -> None:
        """What the human types, in order; the keyboard is gone after that."""
        self._lines += lines

    def input(self, prompt: object = "") -> str:
        """Stands for the built-in."""
        self.prompts.append(str(prompt))
        if not self._lines:
            raise AssertionError("the human was asked once more than the program expects")
        return self._lines.pop(0)

    def executor(self) -> Any:
        """A code executor: "fail" in a block makes it fail, else it says what it was given."""
        return _autogen_executor(self) if self._framework == "autogen" else _our_executor(self)

    def execute(self, blocks: Sequence[tuple[str, str]]) -> tuple[int, str]:
        """Exit code and output of the blocks, which end with the first that fails."""
        self.ran.append([[language.lower(), code.strip()] for language, code in blocks])
        output = ""
        for _, code in blocks:
            output += f"<{code.strip()}>\n"
            if "fail" in code:
                return 1, output
        return 0, output

    def chat(self, result: Any) -> dict[str, Json]:
        """A `ChatResult` as JSON; a history with what both frameworks have in it."""
        return {
            "history": self.plain(result.chat_history),
            "summary": result.summary.strip(),
            "human_input": list(result.human_input),
        }

    def plain(self, messages: Sequence[Mapping[str, Json]]) -> list[dict[str, Json]]:
        """Messages as dicts of speaker, role, content, tool calls and their answers."""
        return [_plain(message) for message in messages]

    def said(self, messages: Sequence[Mapping[str, Json]]) -> list[str]:
        """Who said what, a line for each."""
        return [f"{message.get('name')}: {message.get('content')}" for message in messages]


def _plain(message: Mapping[str, Json]) -> dict[str, Json]:
    made = {key: message.get(key) for key in ("name", "role")} | {"content": message.get("content") or ""}
    if message.get("tool_calls"):
        made["calls"] = [[c["function"]["name"], c["function"]["arguments"]] for c in message["tool_calls"]]
        made.pop("name")  # which AutoGen leaves out of these
    if message.get("tool_responses"):
        made["answers"] = [[r["tool_call_id"], r["content"]] for r in message["tool_responses"]]
    return made


def _autogen_executor(world: World) -> Any:
    from autogen.coding import CodeResult, MarkdownCodeExtractor

    class Executor:
        code_extractor = MarkdownCodeExtractor()

        def execute_code_blocks(self, code_blocks: Sequence[Any]) -> Any:
            code, output = world.execute([(block.language, block.code) for block in code_blocks])
            return CodeResult(exit_code=code, output=output)

        def restart(self) -> None: ...

    return Executor()


def _our_executor(world: World) -> Any:
    from agent_client import CodeResult

    class Executor:
        async def execute_code_blocks(self, blocks: Sequence[Any], on_progress: Any = None) -> Any:
            code, output = world.execute([(block.language, block.code) for block in blocks])
            return CodeResult(exit_code=code, output=output)

        async def run_ended(self) -> None: ...

        async def close(self) -> None: ...

    return Executor()


@contextlib.contextmanager
def endpoint(models: dict[str, list[Reply]], asked: list[dict[str, Json]]) -> Iterator[str]:
    """A chat-completions endpoint with these models; what it was asked is noted."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            if len(asked) > MAX_CALLS:
                self.send_error(400, "asked too often")
                return
            left = models[body["model"]]
            reply: Reply = left.pop(0) if left else f"({len(asked)})"
            message: dict[str, Json] = {"role": "assistant", "content": reply}
            if not isinstance(reply, str):
                called = [
                    {"id": f"call_{len(asked)}_{at}", "type": "function", "function": _named(*wanted)}
                    for at, wanted in enumerate(reply)
                ]
                message = {"role": "assistant", "content": None, "tool_calls": called}
            self._answer(message, body)

        def _answer(self, message: dict[str, Json], body: Mapping[str, Json]) -> None:
            made = {"id": "1", "created": 1, "model": body["model"]}
            usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
            if body.get("stream"):
                calls = [{"index": at, **wanted} for at, wanted in enumerate(message.get("tool_calls", []))]
                delta = message | ({"tool_calls": calls} if calls else {})
                choice = {"index": 0, "delta": delta, "finish_reason": "stop"}
                made |= {"object": "chat.completion.chunk", "choices": [choice], "usage": usage}
                text, kind = f"data: {json.dumps(made)}\n\ndata: [DONE]\n\n", "text/event-stream"
            else:
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                made |= {"object": "chat.completion", "choices": [choice], "usage": usage}
                text, kind = json.dumps(made), "application/json"
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _named(name: str, arguments: str) -> dict[str, str]:
    return {"name": name, "arguments": arguments}


def programs(path: Path, framework: str) -> dict[str, Callable[[World], Any]]:
    """The programs of a file (its functions that have no underscore), with this framework's import lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    moved = [
        line.replace("autogen", framework) if line.startswith("from autogen") else line for line in lines
    ]
    names: dict[str, Any] = {"__name__": path.stem}
    exec(compile("\n".join(moved), str(path), "exec"), names)
    functions = {name: value for name, value in names.items() if inspect.isfunction(value)}
    return {
        name: value
        for name, value in functions.items()
        if value.__module__ == path.stem and not name.startswith("_")
    }


def run(program: Callable[[World], Any], framework: str) -> dict[str, Json]:
    """What came of one program."""
    models: dict[str, list[Reply]] = {}
    asked: list[dict[str, Json]] = []
    printed = io.StringIO()
    with endpoint(models, asked) as url, contextlib.redirect_stdout(printed):
        world = World(url, models, framework)
        world.asked = asked
        kept, builtins.input = builtins.input, world.input
        try:
            made = program(world)
            found = {"result": asyncio.run(made) if inspect.iscoroutine(made) else made}
        except Exception as error:
            found = {"error": type(error).__name__}
            if os.environ.get("PARITY_DEBUG"):
                raise
        finally:
            builtins.input = kept
    return {
        **found,
        "prompts": world.prompts,
        "models": [f"{body['model']}: {_last(body)}" for body in asked] if world.notes_models else len(asked),
        "ran": world.ran,
    }


def _last(body: Mapping[str, Json]) -> str:
    """The last thing that a model was told, as it was told it."""
    last = body["messages"][-1]
    content = last.get("content") or ""
    if isinstance(content, list):
        content = " ".join(part.get("text", part["type"]) for part in content)
    return f"{last['role']}: {content}"


def main() -> None:
    """See the module."""
    framework, path, only = sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3:]
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    found = programs(path, framework)
    results = {}
    for name in only or found:
        with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
            results[name] = run(found[name], framework)
    print(json.dumps(results, indent=1, ensure_ascii=False, sort_keys=True))


if __name__ == "__main__":
    main()
