"""`codecell chat`: a task for an assistant or a declared team; saved, resumed, recorded."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent_client.agents.two_party import sink_of
from agent_client.blocking import run_sync, typed
from agent_client.cli_run import stdin_of
from agent_client.console import Console
from agent_client.conversation import InputPending, TaskResult
from agent_client.errors import CodecellError
from agent_client.executors import RemoteCodeExecutor
from agent_client.messages import Message
from agent_client.models.prices import price_of
from agent_client.output_text import label
from agent_client.team_file import DEFAULT, TeamFile, WrongTeamFile, build_team, parse_team, read_team_file
from agent_client.teams import Team
from agent_client.transcript_file import TranscriptWriter
from agent_client.usage import UsageLimits

DEFAULT_MODEL = "gpt-4.1-mini"
WAITS = 3  # the exit status of a run that waits for an answer
_SAVED = 1  # the version of a saved file


def run_chat(arguments: argparse.Namespace) -> int:
    """Run as the command line says; 0 when the task was ended by a participant, 1 when by a bound, 3 when it
    waits for an answer.

    Raises:
        WrongUse: the command line cannot be followed; nothing was done.
    """
    saved = _read_saved(arguments.resume) if arguments.resume else {}
    task = _task(arguments)
    spec, work_dir = _spec(arguments, saved), arguments.work_dir or saved.get("work_dir")
    human = arguments.human or bool(saved.get("human"))
    model = arguments.model or saved.get("model") or os.environ.get("OPENAI_MODEL") or DEFAULT_MODEL
    limits = _limits(arguments.budget, spec, model)
    try:
        executor = RemoteCodeExecutor(
            base_url=arguments.url,
            api_key=arguments.key,
            work_dir=work_dir,
            timeout=arguments.timeout,
            keep_session=arguments.save is not None,
        )
        team = build_team(
            spec,
            executor=executor,
            default_model=model,
            human=human,
            max_turns=arguments.max_turns,
            usage_limits=limits,
            input_func=_keyboard_or_later if arguments.save else None,
        )
        if saved:
            team.load_state(saved["state"])
            if task is None and not (team.transcript and team.transcript.messages):
                raise WrongUse(f"--resume {arguments.resume}: nothing was said yet, give a task")
        executor.load_state(saved.get("executor", {}))
        kept_at = arguments.save
        if kept_at is not None and (kept_at.is_dir() or not os.access(kept_at.absolute().parent, os.W_OK)):
            raise WrongUse(f"--save {kept_at}: no file can be written there")
        writer = TranscriptWriter(arguments.transcript) if arguments.transcript else contextlib.nullcontext()
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise WrongUse(str(error)) from error
    with contextlib.ExitStack() as stack:
        if arguments.save is not None:
            kept: dict[str, Any] = {
                "spec": spec.model_dump(mode="json", exclude_defaults=True),
                "work_dir": _text(work_dir),
            }
            kept |= {"human": human, "model": model}
            stack.callback(_save, arguments.save, team, executor, kept)
        record = stack.enter_context(writer)
        last = spec.agents[-1]
        asker = last.name if last.kind == "user" else None  # its turn is over then, and the first one's comes
        said = Message(content=task, name=asker) if task is not None else None
        result = _run(team, said, arguments.answer, record)
    if result.pending is not None:
        sys.stderr.write(
            f"codecell: {label(result.pending.agent)} asks: {label(result.pending.prompt, limit=2000)}\n"
            f"Answer with: codecell chat --resume {arguments.save} --save {arguments.save} --answer TEXT\n"
        )
        return WAITS
    ended = ("last_word", "text_mention", "termination message", "human", "handoff")
    return 0 if result.stop_reason.startswith(ended) else 1


class WrongUse(CodecellError):
    """The command line cannot be followed."""


def _run(team: Team, task: Message | None, answer: str | None, record: TranscriptWriter | None) -> TaskResult:
    on_event = sink_of(Console(), record)
    return run_sync(lambda: team.run(task=task, answer=answer, on_event=on_event))


def _task(arguments: argparse.Namespace) -> str | None:
    if arguments.answer is not None and not arguments.resume:
        raise WrongUse("--answer goes with --resume")
    if arguments.task is None and not arguments.resume:
        raise WrongUse("say what the task is, or resume one with --resume FILE")
    if arguments.task is not None and arguments.answer is not None:
        raise WrongUse("give a new task or --answer to the question that waits, not both")
    task = stdin_of(sys.stdin).decode("utf-8", "replace") if arguments.task == "-" else arguments.task
    if task is not None and not task.strip():
        raise WrongUse("the task is empty")
    return task


def _spec(arguments: argparse.Namespace, saved: Mapping[str, Any]) -> TeamFile:
    try:
        if arguments.agents is not None:
            return read_team_file(arguments.agents)
        return parse_team(saved["spec"], str(arguments.resume)) if saved else DEFAULT
    except WrongTeamFile as error:
        raise WrongUse(str(error)) from error


def _limits(budget: str | None, spec: TeamFile, default_model: str) -> UsageLimits:
    """`0.5` is money, `20000t` tokens, `50r` model calls."""
    if budget is None:
        return UsageLimits()
    number, unit = budget.strip().lstrip("$"), ""
    if number[-1:] in ("t", "r"):
        number, unit = number[:-1], number[-1]
    try:
        value = float(number) if not unit else int(number)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise WrongUse(f"--budget {budget!r} is neither money (0.5), tokens (20000t) nor model calls (50r)")
    if unit:
        return UsageLimits(tokens=int(value)) if unit == "t" else UsageLimits(requests=int(value))
    used = {agent.model or "" for agent in spec.agents if agent.kind == "assistant"} | {spec.team.model or ""}
    for name in used - ({""} if len(used) > 1 else set()):
        named = spec.models.get(name or "default")
        model = named.model if named else name or default_model
        if (named is None or named.price is None) and price_of(model) is None:
            raise WrongUse(
                f"no price is known for the model {model!r}: give --budget in tokens, such as 20000t"
            )
    return UsageLimits(cost=value)


def _keyboard_or_later(prompt: str) -> str:
    """An answer from the keyboard; where there is none the question is saved with the run."""
    try:
        return typed(prompt)
    except EOFError:
        raise InputPending(prompt) from None


def _read_saved(path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(saved, dict) and all(
            isinstance(saved.get(key), dict) for key in ("spec", "state", "executor")
        )
        if whole and saved.get("version") == _SAVED:
            return dict(saved)
    except (OSError, ValueError, RecursionError) as error:
        raise WrongUse(f"--resume {path}: {error}") from error
    raise WrongUse(f"--resume {path}: not a file that --save of this version wrote")


def _save(path: Path, team: Team, executor: RemoteCodeExecutor, kept: Mapping[str, Any]) -> None:
    """Write the run so that another process can go on; replaced whole, readable for its owner alone."""
    saved = {"version": _SAVED, **kept, "state": team.save_state(), "executor": executor.save_state()}
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(saved, file)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _text(path: Path | str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())
