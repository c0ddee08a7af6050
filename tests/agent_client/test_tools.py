"""Tools from functions: their schemas, what a model gets back, and models and functions that misbehave."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime as dt
import enum
import functools
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any, Literal, Optional

import pydantic
import pytest

from agent_client.blocking import run_sync
from agent_client.messages import Artifact, ToolCall, ToolResponse
from agent_client.output_text import MAX_FOR_MODEL
from agent_client.tools import FunctionTool, Tool, ToolResult, base, run_calls, schema_of, tool
from agent_client.tools.arguments import MAX_ARGUMENTS

DEADLINE = 20.0  # seconds


class Colour(enum.Enum):
    """An enum."""

    RED = "red"
    BLUE = "blue"


class Point(pydantic.BaseModel):
    """A pydantic model, with a field of an awkward name."""

    x: int
    title: str = "origin"


class Tree(pydantic.BaseModel):
    """A model that holds itself."""

    kids: list[Tree] = []


@dataclasses.dataclass
class Size:
    """A dataclass."""

    width: int
    unit: str = "cm"


def taking(hint: Any, *default: Any) -> Callable[..., Any]:
    """A function with one parameter of that annotation; it gives its argument back."""

    def function(value: Any = ...) -> Any:
        return value

    function.__annotations__ = {} if hint is None else {"value": hint}
    function.__defaults__ = default or None
    return function


async def result(made: Tool, arguments: str = "{}", **named: Any) -> ToolResult:
    """What a tool gives for JSON text, or for named arguments."""
    return await asyncio.wait_for(made.run(json.dumps(named) if named else arguments), DEADLINE)


async def returned(value: Any) -> ToolResult:
    """What a tool gives whose function returns `value`."""
    return await result(FunctionTool(lambda: value, name="gives"))


def call(name: str, arguments: str = "{}", number: str = "1") -> ToolCall:
    """A model's call."""
    return ToolCall(id=number, name=name, arguments=arguments)


async def answers(
    *functions: Callable[..., Any], calls: list[ToolCall], **options: Any
) -> list[ToolResponse]:
    """The answers to the calls of tools made of the functions."""
    tools = {made.name: made for made in map(FunctionTool, functions)}
    return await asyncio.wait_for(run_calls(calls, tools, **options), DEADLINE)


@pytest.mark.parametrize(
    ("hint", "schema", "given", "value"),
    [
        (int, {"type": "integer"}, 3, 3),
        (float, {"type": "number"}, 3, 3.0),
        (str, {"type": "string"}, "ü", "ü"),
        (bool, {"type": "boolean"}, True, True),
        (None, {}, {"any": ["thing"]}, {"any": ["thing"]}),
        (Any, {}, None, None),
        (list[int], {"type": "array", "items": {"type": "integer"}}, [1, 2], [1, 2]),
        (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}, ["a"], {"a"}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}, {"a": 1}, {"a": 1}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}, "b", "b"),
        (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None, None),  # noqa: UP045
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "x", "x"),
        (dt.date, {"type": "string", "format": "date"}, "2024-02-29", dt.date(2024, 2, 29)),
        (Colour, {"$ref": "#/$defs/Colour"}, "red", Colour.RED),
        (Point, {"$ref": "#/$defs/Point"}, {"x": 1}, Point(x=1)),
        (Tree, {"$ref": "#/$defs/Tree"}, {"kids": [{}]}, Tree(kids=[Tree()])),
        (Size, {"$ref": "#/$defs/Size"}, {"width": 2}, Size(2)),
        (list[Point], {"type": "array", "items": {"$ref": "#/$defs/Point"}}, [{"x": 1}], [Point(x=1)]),
        ("Point", {"$ref": "#/$defs/Point"}, {"x": 1}, Point(x=1)),
        (Annotated[int, "How many."], {"type": "integer", "description": "How many."}, 1, 1),
        (
            Annotated[int, pydantic.Field(ge=1, description="One or more.")],
            {"type": "integer", "minimum": 1, "description": "One or more."},
            1,
            1,
        ),
    ],
)
async def test_annotations(hint: Any, schema: dict[str, Any], given: Any, value: Any) -> None:
    """Each kind of annotation has its JSON schema, and JSON of that kind arrives as what was annotated."""
    got: list[Any] = []
    function = taking(hint)
    made = FunctionTool(functools.wraps(function)(lambda value: got.append(function(value))))
    assert made.parameters["properties"] == {"value": schema}
    assert {k: made.parameters[k] for k in ("type", "required", "additionalProperties")} == {
        "type": "object",
        "required": ["value"],
        "additionalProperties": False,
    }
    assert not (await result(made, value=given)).is_error
    assert got == [value]
    assert type(got[0]) is type(value)


@pytest.mark.parametrize(
    ("hint", "default", "schema"),
    [
        (int, 3, {"type": "integer", "default": 3}),
        (int, None, {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}),
        (Colour, Colour.BLUE, {"$ref": "#/$defs/Colour", "default": "blue"}),
        (None, threading.Lock(), {}),
        (
            int,
            pydantic.Field(3, description="Few."),
            {"type": "integer", "default": 3, "description": "Few."},
        ),
    ],
)
async def test_defaults(hint: Any, default: Any, schema: dict[str, Any]) -> None:
    """A parameter with a default is optional, and its default is told where JSON can say it."""
    got: list[Any] = []
    function = taking(hint, default)
    made = FunctionTool(functools.wraps(function)(lambda value: got.append(value)))  # noqa: PLW0108 - wraps() needs a function
    assert made.parameters["properties"] == {"value": schema}
    assert made.parameters["required"] == []
    assert not (await result(made, "")).is_error
    assert got == [3 if isinstance(default, pydantic.fields.FieldInfo) else default]


async def test_a_default_is_the_very_object() -> None:
    """A sentinel stays itself, as in Python."""
    missing = object()

    def function(value: Any = missing) -> bool:
        return value is missing

    assert (await result(FunctionTool(function))).content == "True"


async def test_parameters_may_have_any_name_and_kind() -> None:
    """Names that a model class has for itself, underscores, positional-only and keyword-only ones."""

    def function(_x: int, schema: int, self: int, /, model_config: int, *, title: int, copy: int = 6) -> str:
        return f"{_x}{schema}{self}{model_config}{title}{copy}"

    made = FunctionTool(function)
    assert list(made.parameters["properties"]) == ["_x", "schema", "self", "model_config", "title", "copy"]
    given = {"title": 5, "_x": 1, "schema": 2, "self": 3, "model_config": 4}
    assert (await result(made, json.dumps(given))).content == "123456"


async def test_types_of_a_function_that_is_running() -> None:
    """Annotations are text in this file; types defined beside the function are found, also used inside it."""

    class Local(pydantic.BaseModel):
        n: int

    def function(a: Local, b: list[Local]) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        return a.n + b[0].n

    assert (await result(FunctionTool(function), a={"n": 1}, b=[{"n": 2}])).content == "3"


def test_functions_that_cannot_be_tools() -> None:
    """What has no schema is refused where the tool is made, by name and with the reason."""

    def stars(*args: int) -> None: ...
    def named(**options: int) -> None: ...
    def unknown(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def opaque(x: threading.Thread) -> None: ...
    def function(x: Callable[[], None]) -> None: ...

    for refused, why in [
        (stars, r"stars cannot be a tool: \*args.* has no place"),
        (named, r"named cannot be a tool: \*\*options.* has no place"),
        (unknown, "unknown cannot be a tool: name 'Nowhere' is not defined"),
        (opaque, "opaque cannot be a tool: .*Thread"),
        (function, "function cannot be a tool: .*JsonSchema"),
    ]:
        with pytest.raises(ValueError, match=why):
            FunctionTool(refused)


@pytest.mark.parametrize(
    "doc",
    [
        """Adds two numbers,
        and well.

        More about it.

        Args:
            x (int, optional): The first
                number.
            y: The second: it
                is added.

        Returns:
            z: The sum.
        """,
        """Adds two numbers, and well.
        :param int x: The first number.
        :param y: The second:
            it is added.
        :return: The sum.
        """,
    ],
)
def test_docstrings(doc: str) -> None:
    """The first paragraph describes the tool, and what is said of parameters describes these."""

    def function(x: int, y: int, z: int) -> None: ...

    function.__doc__ = doc
    made = FunctionTool(function)
    assert made.description == "Adds two numbers, and well."
    assert [p.get("description") for p in made.parameters["properties"].values()] == [
        "The first number.",
        "The second: it is added.",
        None,
    ]


def test_names_and_descriptions() -> None:
    """They come from the function unless given; a given name that endpoints refuse is refused here."""

    def größe() -> None:  # noqa: PLC2401 - a name that endpoints refuse
        """Measure."""

    assert (FunctionTool(größe).name, FunctionTool(größe).description) == ("gr__e", "Measure.")
    assert FunctionTool(lambda: 1).name == "_lambda_"
    assert FunctionTool(functools.partial(größe)).description == "Measure."
    given = FunctionTool(größe, "Weigh.", "weigh-it")
    assert (given.name, given.description) == ("weigh-it", "Weigh.")
    for bad in ("two words", "x" * 65, "größe", "a\n"):
        with pytest.raises(ValueError, match="1 to 64"):
            FunctionTool(größe, name=bad)


def test_the_decorator_leaves_a_function() -> None:
    """`@tool` and `@tool(...)` make tools that are still called, and documented, as the function."""

    @tool
    def add(x: int, y: int = 2) -> int:
        """Add."""
        return x + y

    @tool(name="plus", description="Add them.")
    def other(x: int) -> int:
        return x

    assert (add(1), add(1, y=1), other(5)) == (3, 2, 5)
    assert (add.__doc__, add.name, other.name, other.description) == ("Add.", "add", "plus", "Add them.")
    assert schema_of(other) == {
        "type": "function",
        "function": {"name": "plus", "description": "Add them.", "parameters": other.parameters},
    }


async def test_methods_partials_and_callable_objects() -> None:
    """Whatever Python can call and describe is a tool."""

    class Shop:
        def price(self, n: int) -> int:
            return 3 * n

        async def __call__(self, n: int) -> int:
            return 4 * n

    assert (await result(FunctionTool(Shop().price), n=2)).content == "6"
    assert (await result(FunctionTool(Shop(), name="shop"), n=2)).content == "8"
    assert (await result(FunctionTool(functools.partial(Shop().price, 5)))).content == "15"
    assert (await result(FunctionTool(tool(Shop().price), name="again"), n=1)).content == "3"


def add(x: int, y: float = 1.0) -> float:
    """Add two numbers."""
    return x + y


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"x": 1', "Invalid JSON: EOF while parsing an object at line 1 column 7"),
        ('{"x": 1} and more', "trailing characters at line 1"),
        ("{'x': 1}", "Invalid JSON: key must be a string at line 1 column 2"),
        ("x=1", "no JSON object but 'x=1'"),
        ("[1, 2]", "no JSON object"),
        ("null", "no JSON object"),
        ("NaN", "no JSON object"),
        ('{"x": 1, "y": NaN}', "y: Input should be a finite number"),
        ('{"x": 1, "y": 1e999}', "y: Input should be a finite number"),
        ('{"x": 1.5}', "x: Input should be a valid integer"),
        ('{"x": "one"}', "(got 'one')"),
        ('{"x": null}', "x: Input should be a valid integer"),
        ('{"y": 1}', "x: Missing required"),
        ("", "x: Missing required"),
        ('{"x": 1, "z": 2}', "z: Unexpected keyword argument"),
        ('{"x": 1, "\\u001b[2J": 2}', ": Unexpected keyword argument"),
        ('{"x": ' + "[" * 100_000, "recursion limit"),
        ('{"x": ' + '{"x": ' * 100_000 + "1" + "}" * 100_001, "recursion limit"),
        ('{"x": ' + "9" * 5000 + "}", "number out of range"),
        ('{"x": "' + "a" * 900_000 + '"}', "x: Input should be a valid integer"),
        ('{"x": "' + "a" * MAX_ARGUMENTS + '"}', f"longer than {MAX_ARGUMENTS}"),
        ('{"x": "\ud800"}', "unicode"),
        ('{"x": "\\ud800"}', "Invalid JSON"),
        ("\x00", "no JSON object"),
    ],
)
async def test_arguments_that_are_wrong(arguments: str, says: str) -> None:
    """The model is told what is wrong, where, and what was expected, in few characters."""
    got = await result(FunctionTool(add), arguments)
    assert got.is_error
    assert says in got.content
    assert len(got.content) < 500
    assert "\x1b" not in got.content
    assert "longer" in says or "Expected a JSON object of: x, y (optional)." in got.content


async def test_every_wrong_argument_is_named() -> None:
    """All errors are told at once, inside nested values by their place; of very many only the first."""

    def draw(points: list[Point], colour: Colour) -> None: ...

    got = await result(FunctionTool(draw), points=[{"x": 1}, {"x": "?"}], colour="green")
    assert "points.1.x: Input should be a valid integer" in got.content
    assert "colour: Input should be 'red' or 'blue' (got 'green')" in got.content
    many = await result(FunctionTool(draw), points=[{}] * 1000, colour="red")
    assert len(many.content) < 1000


async def test_a_validator_of_the_programs_own_that_fails() -> None:
    """An error of another kind than pydantic expects is told too."""

    def divide(n: Annotated[int, pydantic.AfterValidator(lambda n: 1 // n)]) -> int:
        return n

    assert (await result(FunctionTool(divide), n=0)).content.startswith("Error: ZeroDivisionError")


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", "text"),
        ("", ""),
        (None, "None"),
        (1.5, "1.5"),
        (True, "True"),
        ({"a": [1, None, "ü"]}, '{"a":[1,null,"ü"]}'),
        ([1, "a"], '[1,"a"]'),
        ((), "[]"),
        ({1: Colour.RED}, '{"1":"red"}'),
        (Point(x=1), '{"x":1,"title":"origin"}'),
        ([Size(1)], '[{"width":1,"unit":"cm"}]'),
        (Size(1), '{"width":1,"unit":"cm"}'),
        ([dt.date(2024, 2, 29), 1j], '["2024-02-29","1j"]'),
        ([float("nan")], "[NaN]"),
        (b"\xff\x00", "(2 bytes of binary data)"),
        (Size, str(Size)),
        ("\x1b]0;title\x07\x1b[2Jred\x1b[31m", "red\x1b[31m"),
        ({"a": "\x1b[2J\x9b2J"}, '{"a":"\\u001b[2J"}'),
        ("name-\udcff", "name-?"),
        (["\udcff"], "['\\udcff']"),
    ],
)
async def test_results_as_text(value: Any, content: str) -> None:
    """Values become text for the model: JSON where they have parts, without control sequences."""
    assert await returned(value) == ToolResult(content=content)


async def test_results_that_are_more_than_text() -> None:
    """Images and files go along, named in the text; a ready result is left as it is."""
    one, two = Artifact(name="a.png", mime="image/png", data=b"1"), Artifact(name="b.csv")
    assert await returned(one) == ToolResult(content="a.png", artifacts=(one,))
    assert await returned([one, "and", two]) == ToolResult(content="a.png\nand\nb.csv", artifacts=(one, two))
    made = ToolResult(content="x", is_error=True, artifacts=[one])
    assert await returned(made) is made


async def test_results_that_are_hard_to_write() -> None:
    """What contains itself, nests without end or cannot be printed is an answer all the same."""
    circle: list[Any] = []
    circle.append(circle)
    assert (await returned(circle)).content == "[[...]]"
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert len((await returned(deep)).content) <= MAX_FOR_MODEL + 100

    class Silent:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert await returned(Silent()) == ToolResult(content="Error: RuntimeError: no", is_error=True)
    assert "generator" in (await returned(iter_forever())).content


def iter_forever() -> Iterator[int]:
    """Never ends."""
    while True:
        yield 1


async def test_fifty_megabytes() -> None:
    """A huge result is cut to what a model can read, says how much is missing, and holds nobody up."""
    begun = time.monotonic()
    got = await returned("begin " + "x\x1b[2J" * 10_000_000 + " end")
    assert time.monotonic() - begun < 5
    assert got.content.startswith("begin")
    assert got.content.endswith("end")
    assert "characters left out" in got.content
    assert len(got.content) < MAX_FOR_MODEL + 200
    error = await result(FunctionTool(raising(ValueError("x" * 50_000_000))))
    assert error.is_error
    assert len(error.content) < MAX_FOR_MODEL + 200


def raising(error: BaseException) -> Callable[[], None]:
    """A function that raises."""

    def function() -> None:
        raise error

    return function


def raising_async(error: BaseException) -> Callable[[], Awaitable[None]]:
    """An async function that raises."""

    async def function() -> None:
        raise error

    return function


class Mute(Exception):
    """An error that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Odd(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize("make", [raising, raising_async])
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("no luck"), "Error: ValueError: no luck"),
        (KeyError("x"), "Error: KeyError: 'x'"),
        (RuntimeError(), "Error: RuntimeError"),
        (ValueError("\x1b[2Jgone"), "Error: ValueError: gone"),
        (ExceptionGroup("several", [ValueError("one")]), "Error: ValueError: one"),
        (SystemExit(2), "Error: SystemExit: 2"),
        (asyncio.CancelledError(), "Error: CancelledError"),
        (StopIteration(), "Error: RuntimeError: coroutine raised StopIteration"),
        (Mute(), "Error: Mute"),
        (Odd("x"), "Error: Odd: x"),
    ],
)
async def test_functions_that_raise(make: Callable[..., Any], error: BaseException, says: str) -> None:
    """Whatever a function raises is told without a traceback; SystemExit ends nothing."""
    assert await result(FunctionTool(make(error))) == ToolResult(content=says, is_error=True)


def test_ctrl_c_passes() -> None:
    """In the main thread KeyboardInterrupt is the human's; in Codecell's own loop it can be nobody's."""
    interrupted = FunctionTool(raising_async(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(interrupted.run(""))
    for make in (raising, raising_async):
        made = FunctionTool(make(KeyboardInterrupt()))
        assert run_sync(lambda made=made: made.run("")).content == "Error: KeyboardInterrupt"  # type: ignore[misc]


async def test_where_functions_run() -> None:
    """Async ones on the loop, sync ones on a daemon thread each, which has the caller's context variables."""
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")

    async def on_loop() -> bool:
        return threading.current_thread() is here

    def on_thread() -> tuple[str, bool, bool]:
        current = threading.current_thread()
        return variable.get(), current.daemon, current is here

    here = threading.current_thread()
    assert (await result(FunctionTool(on_loop))).content == "True"
    assert (await result(FunctionTool(on_thread))).content == '["set",true,false]'


async def test_a_sync_tool_may_make_blocking_calls() -> None:
    """Codecell's blocking forms work inside a sync tool, though the tool itself runs under one."""

    def blocking() -> str:
        return run_sync(lambda: asyncio.sleep(0, "slept"))

    made = FunctionTool(blocking)
    assert (await result(made)).content == "slept"
    assert (await asyncio.to_thread(run_sync, lambda: made.run(""))).content == "slept"


async def test_calls_run_at_the_same_time_and_answers_keep_the_order() -> None:
    """Each waits for the other, so neither order in time would do; ids may be the same."""
    met, returned_names = threading.Barrier(2, timeout=DEADLINE), []

    def first() -> str:
        met.wait()
        return "1"

    async def second() -> str:
        await asyncio.to_thread(met.wait)
        return "2"

    got = await answers(
        first,
        second,
        calls=[call("first"), call("second")],
        on_return=lambda response: returned_names.append(response.name),
    )
    assert [(r.call_id, r.name, r.content) for r in got] == [("1", "first", "1"), ("1", "second", "2")]
    assert sorted(returned_names) == ["first", "second"]


class Broken:
    """A tool that does not keep the protocol."""

    name, description, parameters = "broken", "", {"type": "object"}

    def __init__(self, how: str) -> None:
        self.how = how

    def run(self, arguments: str, on_progress: Any = None) -> Any:
        """Raise at once, later, or give back something else."""
        if self.how == "at once":
            raise RuntimeError(self.how)
        return self.later()

    async def later(self) -> Any:
        if self.how == "later":
            raise SystemExit(self.how)
        return {"a": 1}


async def test_one_failure_leaves_the_others() -> None:
    """Unknown tools, wrong arguments, errors of every kind and broken tools are answers beside good ones."""
    tools: dict[str, Any] = {how: Broken(how) for how in ("at once", "later", "else")}
    tools |= {"add": FunctionTool(add), "exits": FunctionTool(raising(SystemExit(1)))}
    calls = [
        call("add", '{"x": 1}'),
        call("at once"),
        call("later"),
        call("else"),
        call("exits"),
        call("\x1b[2Jnone"),
        call("add", "{"),
        call("add", '{"x": 2}'),
    ]
    got = await asyncio.wait_for(run_calls(calls, tools), DEADLINE)
    assert [r.content for r in got[:6]] == [
        "2.0",
        "Error: RuntimeError: at once",
        "Error: SystemExit: later",
        '{"a":1}',
        "Error: SystemExit: 1",
        "Error: no tool 'none'. Known tools: add, at once, else, exits, later.",
    ]
    assert got[7].content == "3.0"
    assert [r.is_error for r in got] == [False, True, True, False, True, True, True, False]
    assert (await run_calls([call("x")], {}))[0].content == "Error: no tool 'x'. Known tools: none."
    assert await run_calls([], {}) == []


async def test_tools_that_never_return() -> None:
    """Sync or async, they are answered when the time is over; the others' answers are not lost."""
    free, cancelled = threading.Event(), asyncio.Event()

    def stuck() -> None:
        free.wait()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    calls = [call("stuck"), call("waits"), call("add", '{"x": 1}')]
    got = await answers(stuck, waits, add, calls=calls, max_time=1)
    free.set()
    assert [r.content for r in got] == [
        "Error: stuck did not return within 1 s and was abandoned.",
        "Error: waits did not return within 1 s and was abandoned.",
        "2.0",
    ]
    assert cancelled.is_set()


async def test_an_async_tool_that_does_not_heed_its_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left alone after a while for cleaning up."""
    monkeypatch.setattr(base, "CLEANUP_TIME", 0.05)
    release, ended = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                pass
        ended.set()

    (got,) = await answers(stubborn, calls=[call("stubborn")], max_time=0.05)
    assert "abandoned" in got.content
    assert not ended.is_set()
    release.set()
    await asyncio.wait_for(ended.wait(), DEADLINE)


async def test_threads_that_hang_take_nothing_from_others() -> None:
    """A hundred tools that hang leave the default executor, and further tools, as they were."""
    free, hanging = threading.Event(), threading.Semaphore(0)

    def stuck() -> None:
        hanging.release()
        free.wait()

    task = asyncio.create_task(answers(stuck, calls=[call("stuck")] * 100))
    for _ in range(100):
        assert await asyncio.to_thread(hanging.acquire, timeout=DEADLINE)
    assert (await result(FunctionTool(add), x=1)).content == "2.0"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    free.set()


async def test_cancelling_cancels_all() -> None:
    """A run that is cancelled stops its async tools, cleanup included, and waits for no thread."""
    free, both, cleaned = threading.Event(), asyncio.Barrier(3), list[int]()

    def stuck() -> None:
        free.wait()

    async def waits(n: int) -> None:
        try:
            await both.wait()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(n)

    calls = [call("stuck"), call("waits", '{"n": 1}'), call("waits", '{"n": 2}')]
    task = asyncio.create_task(answers(stuck, waits, calls=calls))
    await asyncio.wait_for(both.wait(), DEADLINE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, DEADLINE)
    assert sorted(cleaned) == [1, 2]
    free.set()


async def test_a_tool_by_itself_can_be_cancelled() -> None:
    """A cancellation from outside is not taken for the function's own failure."""
    started = asyncio.Event()

    async def waits() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(FunctionTool(waits).run(""))
    await asyncio.wait_for(started.wait(), DEADLINE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, DEADLINE)


def test_a_hanging_tool_does_not_keep_the_program() -> None:
    """The interpreter ends though a tool's thread never does."""
    program = (
        "import asyncio, threading\n"
        "from agent_client.tools import FunctionTool, run_calls\n"
        "from agent_client.messages import ToolCall\n"
        "def stuck():\n    threading.Event().wait()\n"
        "calls = [ToolCall(id='1', name='stuck')]\n"
        "print(asyncio.run(run_calls(calls, {'stuck': FunctionTool(stuck)}, max_time=0.1))[0].content)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "abandoned" in done.stdout


def test_importing_tools_is_cheap() -> None:
    """Neither pydantic nor openai is loaded before a tool is made."""
    program = "import sys, agent_client.tools; print({'pydantic', 'openai'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


async def test_a_generator_is_not_run() -> None:
    """Neither kind of generator is gone through: it might never end."""

    async def numbers() -> AsyncIterator[int]:
        yield 1

    assert "async_generator" in (await result(FunctionTool(numbers))).content
