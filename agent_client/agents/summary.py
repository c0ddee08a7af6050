"""What a chat came to: its last message, a model's reflection on it, or what a function makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agent_client.blocking import call
from agent_client.conversation import Run, Transcript
from agent_client.messages import Message
from agent_client.termination import without_terminate

if TYPE_CHECKING:
    from agent_client.agents.two_party import TwoParty

SummaryMethod = str | Callable[..., Any]
PROMPT = (
    "Summarize the takeaway from the conversation. Do not add any introductory phrases. If the intended"
    " request is NOT properly addressed, please point it out."
)


def check_summary(method: SummaryMethod, sender: TwoParty, recipient: TwoParty) -> None:
    """Refuse a method that cannot work, before anything is said.

    Raises:
        ValueError: it is no known name, or wants a model that neither has.
    """
    if callable(method) or method == "last_msg":
        return
    if method != "reflection_with_llm":
        raise ValueError('summary_method is "last_msg", "reflection_with_llm" or a callable')
    if sender.model_client is None and recipient.model_client is None:
        raise ValueError('summary_method "reflection_with_llm" needs a model, and neither agent has one')


async def summarise(
    method: SummaryMethod,
    sender: TwoParty,
    recipient: TwoParty,
    arguments: Mapping[str, Any] | None,
    transcript: Transcript,
    run: Run,
) -> str:
    """The summary, by `method`. A reflection is a model call like any other: metered and bounded."""
    given = dict(arguments or {})
    if callable(method):
        return str(await call(method, sender, recipient, given))
    if method == "last_msg":
        return without_terminate(transcript.messages[-1].content) if transcript.messages else ""
    model = recipient.model_client or sender.model_client
    assert model is not None
    asked = Message(content=given.get("summary_prompt") or PROMPT, role=given.get("summary_role", "system"))
    said = "\n\n".join(f"{message.name}: {message.content}" for message in transcript.messages)
    response = await run.ask(model, [Message(content=said), asked])
    return without_terminate(response.content)
