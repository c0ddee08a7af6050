"""A function's parameters as a JSON schema, and JSON text as its arguments."""

from __future__ import annotations

import functools
import inspect
import re
import reprlib
import sys
import textwrap
from collections.abc import Callable, Mapping
from types import FrameType, SimpleNamespace
from typing import Annotated, Any, Optional, get_args, get_origin, get_type_hints

from agent_client.output_text import label
from agent_client.tools.base import BadArguments

MAX_ARGUMENTS = 1_000_000  # characters; each wrong one makes an error of its own
MAX_ERRORS = 10
_REST = re.compile(r"\n\s*\n|^(?:Args|Arguments|Returns|Raises):|^:\w", re.MULTILINE)
_ARGS = re.compile(r"^(?:Args|Arguments):[ \t]*\n((?:[ \t]+.*(?:\n|\Z)|[ \t]*\n)+)", re.MULTILINE)
_TEXT = r":[ \t]*(.*(?:\n[ \t]+.*)*)"
_GOOGLE = re.compile(rf"^(\w+)[ \t]*(?:\(.*?\))?{_TEXT}", re.MULTILINE)
_SPHINX = re.compile(rf"^:param (?:[^:\n]* )?(\w+){_TEXT}", re.MULTILINE)


class Arguments:
    """What `function` takes. `schema` is an object's JSON schema.

    Raises:
        ValueError: no JSON schema describes it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        from pydantic import ConfigDict, TypeAdapter

        signature = inspect.signature(function)

        def take(**given: Any) -> functools.partial[Any]:
            bound = inspect.BoundArguments(signature, given)
            return functools.partial(function, *bound.args, **bound.kwargs)

        try:
            typed = _typed(function, signature)
            typed_take: Any = take
            typed_take.__signature__ = inspect.Signature(typed)
            typed_take.__annotations__ = {p.name: p.annotation for p in typed}
            self._adapter: TypeAdapter[functools.partial[Any]]
            self._adapter = TypeAdapter(typed_take, config=ConfigDict(allow_inf_nan=False))
            self.schema = _schema(self._adapter)
        except Exception as error:
            why = str(error).split("\n", 1)[0]
            raise ValueError(f"{getattr(function, '__name__', function)} cannot be a tool: {why}") from error
        names = (p.name if p.default is p.empty else f"{p.name} (optional)" for p in typed)
        self._expected = ", ".join(names) or "nothing"

    def bind(self, text: str) -> functools.partial[Any]:
        """The function with the arguments of JSON text, ready to be called.

        Raises:
            BadArguments: the text is no JSON object, or does not fit.
        """
        from pydantic import ValidationError

        text = text.strip() or "{}"
        if len(text) > MAX_ARGUMENTS:
            raise BadArguments(f"the arguments are longer than {MAX_ARGUMENTS} characters")
        try:
            if text[0] == "{":  # pydantic would take an array for arguments by position
                return self._adapter.validate_json(text)
            wrong = f"no JSON object but {label(reprlib.repr(text))}"
        except ValidationError as error:
            wrong = "; ".join(map(_said, error.errors(include_url=False)[:MAX_ERRORS]))
        raise BadArguments(f"wrong arguments: {wrong}. Expected a JSON object of: {self._expected}.")


def summary(function: object) -> str:
    """The first paragraph of the docstring, on one line."""
    return " ".join(_REST.split(inspect.getdoc(function) or "", maxsplit=1)[0].split())


def _typed(function: Callable[..., Any], signature: inspect.Signature) -> list[inspect.Parameter]:
    """The parameters, by keyword, their annotations resolved and with a description where there is one."""
    from pydantic import Field

    plain = inspect.unwrap(getattr(function, "func", function))  # of a partial
    hints, described, typed = _hints(plain, signature), _described(inspect.getdoc(plain) or ""), []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"{parameter} has no place in a JSON schema, name every parameter")
        hint, metadata = hints.get(parameter.name, Any), []
        if get_origin(hint) is Annotated:
            hint, *metadata = get_args(hint)
        if parameter.default is None:
            hint = Optional[hint]  # noqa: UP045 - a hint need not be a type that has an operator
        text = next((m for m in metadata if isinstance(m, str)), described.get(parameter.name))
        hint = Annotated[(hint, Field(description=text), *metadata)]
        typed.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hint))
    return typed


def _hints(plain: Any, signature: inspect.Signature) -> dict[str, Any]:
    """The parameters' annotations. Those written as text (all are after `from __future__ import annotations`)
    may name types of the module, and of a function that is still running.
    """
    around = getattr(plain, "__globals__", None) or vars(sys.modules[plain.__module__])
    outer = getattr(plain, "__qualname__", "").rpartition(".<locals>.")[0]
    frame: FrameType | None = sys._getframe()
    while frame is not None and (frame.f_code.co_qualname != outer or frame.f_globals is not around):
        frame = frame.f_back
    local = inspect.getclosurevars(plain).nonlocals if inspect.isfunction(plain) else {}
    written = {p.name: p.annotation for p in signature.parameters.values() if p.annotation is not p.empty}
    names = {**local, **(frame.f_locals if frame is not None else {})}
    return get_type_hints(SimpleNamespace(__annotations__=written), around, names, include_extras=True)


def _schema(adapter: Any) -> Mapping[str, Any]:
    from pydantic.json_schema import GenerateJsonSchema

    class Untitled(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

        def get_title_from_name(self, name: str) -> str:
            return name

        def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
            return False

    return {"required": [], **adapter.json_schema(schema_generator=Untitled)}


def _described(doc: str) -> dict[str, str]:
    """What a docstring says of parameters, in Google's or Sphinx's style."""
    section = _ARGS.search(doc)
    found = _SPHINX.findall(doc) + (_GOOGLE.findall(textwrap.dedent(section[1])) if section else [])
    return {name: " ".join(text.split()) for name, text in found}


def _said(error: Mapping[str, Any]) -> str:
    """Which argument is wrong, and why."""
    where = label(".".join(map(str, error["loc"])))
    got = "" if "missing" in error["type"] else f" (got {label(reprlib.repr(error['input']), limit=60)})"
    return ": ".join(filter(None, [where, error["msg"] + got]))
