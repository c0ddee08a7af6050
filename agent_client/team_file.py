"""Teams declared in a TOML file, for `codecell chat --agents`: checked whole before anything runs."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agent_client.agents import AssistantAgent, CodeExecutorAgent, UserProxyAgent
from agent_client.agents.conversable import InputFunc
from agent_client.conditions import Condition, LastWordTermination, TextMentionTermination
from agent_client.conversation import Party
from agent_client.executors import CodeExecutor
from agent_client.models import ModelClient, OpenAIChatCompletionClient
from agent_client.teams import RoundRobinGroupChat, SelectorGroupChat, Swarm, Team
from agent_client.tools import CodeExecutionTool
from agent_client.usage import UsageLimits


class WrongTeamFile(ValueError):
    """A team file says something that cannot be; the message says where and what is right."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


_Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ModelSpec(_Spec):
    """A model by name: its endpoint, the environment variable with its key, options for each request. To a
    `base_url` no other key is sent: whoever wrote the file is not given `OPENAI_API_KEY` unasked.
    """

    model: str
    base_url: str | None = None
    api_key_env: str | None = None
    price: tuple[_Price, _Price] | None = None
    vision: bool | None = None
    timeout: float = Field(default=120.0, gt=0)
    options: dict[str, Any] = {}


class AgentSpec(_Spec):
    """An agent. `user` runs code and, with `human`, asks at the keyboard; `executor` only runs code; `tools`
    of an assistant may hold "execute_code".
    """

    name: str = Field(min_length=1)
    kind: Literal["assistant", "user", "executor"] = "assistant"
    model: str | None = None
    system_message: str | None = None
    description: str | None = None
    handoffs: list[str] = []
    tools: list[Literal["execute_code"]] = []
    human: bool = False


class TeamSpec(_Spec):
    """How the agents take turns, and what ends the run beside a last word TERMINATE."""

    kind: Literal["round_robin", "selector", "swarm"] = "round_robin"
    model: str | None = None
    max_turns: int | None = Field(default=None, ge=1)
    stop_words: list[str] = []


class TeamFile(_Spec):
    """The whole file: `[models.NAME]`, `[[agents]]`, `[team]`."""

    models: dict[str, ModelSpec] = {}
    agents: list[AgentSpec] = Field(min_length=1)
    team: TeamSpec = TeamSpec()

    @model_validator(mode="after")
    def _names(self) -> TeamFile:
        names = [agent.name for agent in self.agents]
        for agent in self.agents:
            unknown = set(agent.handoffs) - set(names)
            if names.count(agent.name) > 1 or unknown:
                what = f"hands over to {sorted(unknown)}, who are not declared"
                raise ValueError(f"agent {agent.name!r} {what if unknown else 'is declared twice'}")
        return self


DEFAULT = TeamFile(agents=[AgentSpec(name="assistant"), AgentSpec(name="user_proxy", kind="user")])


def read_team_file(path: Path) -> TeamFile:
    """The declaration in a file.

    Raises:
        WrongTeamFile: it cannot be read, is no TOML, or declares what cannot be.
    """
    try:
        return parse_team(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise WrongTeamFile(f"{path}: {error}") from error


def parse_team(data: Mapping[str, Any], where: str) -> TeamFile:
    """The declaration in a mapping.

    Raises:
        WrongTeamFile: it declares what cannot be.
    """
    try:
        return TeamFile.model_validate(data)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()]
        raise WrongTeamFile(f"{where}: {'; '.join(wrong)}") from error


def build_team(
    spec: TeamFile,
    *,
    executor: CodeExecutor,
    default_model: str,
    human: bool,
    max_turns: int | None,
    usage_limits: UsageLimits,
    input_func: InputFunc | None = None,
) -> Team:
    """The team that a file declares. `human` has every user agent ask at the keyboard.

    Raises:
        WrongTeamFile: a key's environment variable is not set, or a model's options cannot be.
    """
    models: dict[str, ModelClient] = {}

    def model(name: str | None) -> ModelClient:
        name = name or ("default" if "default" in spec.models else default_model)
        if name not in models:
            models[name] = _model(spec.models.get(name) or ModelSpec(model=name))
        return models[name]

    def agent(declared: AgentSpec) -> Party:
        if declared.kind == "executor":
            return CodeExecutorAgent(declared.name, executor)
        if declared.kind == "user":
            return UserProxyAgent(
                declared.name,
                human_input_mode="ALWAYS" if human or declared.human else "NEVER",
                code_execution_config={"executor": executor},
                description=declared.description,
                input_func=input_func,
            )
        return AssistantAgent(
            declared.name,
            declared.system_message or AssistantAgent.DEFAULT_SYSTEM_MESSAGE,
            model_client=model(declared.model),
            description=declared.description,
            handoffs=declared.handoffs,
            tools=[CodeExecutionTool(executor)] if declared.tools else [],
        )

    agents = [agent(declared) for declared in spec.agents]
    asks = human or any(declared.human for declared in spec.agents)
    ends: list[Condition] = [] if asks else [LastWordTermination()]
    ends += map(TextMentionTermination, spec.team.stop_words)
    condition = reduce(or_, ends) if ends else None
    turns = max_turns or spec.team.max_turns
    bounds: dict[str, Any] = {
        "termination_condition": condition,
        "max_turns": turns,
        "usage_limits": usage_limits,
    }
    if spec.team.kind == "selector":
        return SelectorGroupChat(agents, model(spec.team.model), **bounds)
    return (Swarm if spec.team.kind == "swarm" else RoundRobinGroupChat)(agents, **bounds)


def _model(spec: ModelSpec) -> ModelClient:
    key = "none" if spec.base_url else None
    if spec.api_key_env is not None:
        key = os.environ.get(spec.api_key_env)
    if spec.api_key_env is not None and not key:
        raise WrongTeamFile(
            f"the key of model {spec.model!r} is wanted in {spec.api_key_env}, which is not set"
        )
    named = spec.model_dump(exclude={"api_key_env", "options"})
    try:
        return OpenAIChatCompletionClient(api_key=key, **named, **spec.options)
    except (TypeError, ValueError, AttributeError) as error:
        raise WrongTeamFile(f"the model {spec.model!r} cannot be made with its options: {error}") from error
