"""A team in which a model, or a function, chooses who speaks next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agent_client.blocking import call
from agent_client.conditions import Condition
from agent_client.conversation import Held, Party, Stop, Transcript, current_run
from agent_client.groupchat.selection import ask_for_name, filled
from agent_client.messages import Message
from agent_client.models.base import ModelClient
from agent_client.teams.base import Team

PROMPT = """You are in a role play game. The following roles are available:
{roles}.
Read the following conversation. Then select the next role from {participants} to play. Only return the role.

{history}

Read the above conversation. Then select the next role from {participants} to play. Only return the role."""


class SelectorGroupChat(Team):
    """`selector_func(messages)` may name the next speaker (None: the model is asked);
    `candidate_func(messages)` those to choose from. The prompt's `{roles}`, `{participants}` and `{history}`
    are filled in. A model that names nobody `max_selector_attempts` times leaves it to the order of the list.
    """

    def __init__(
        self,
        participants: Sequence[Party],
        model_client: ModelClient,
        termination_condition: Condition | None = None,
        max_turns: int | None = None,
        *,
        selector_prompt: str = PROMPT,
        allow_repeated_speaker: bool = False,
        max_selector_attempts: int = 3,
        selector_func: Callable[[Sequence[Message]], Any] | None = None,
        candidate_func: Callable[[Sequence[Message]], Any] | None = None,
        **bounds: Any,
    ) -> None:
        super().__init__(participants, termination_condition, max_turns, **bounds)
        self.model_client = model_client
        self._prompt = selector_prompt
        self._repeat = allow_repeated_speaker
        self._attempts = max_selector_attempts
        self._selector = selector_func
        self._candidates = candidate_func

    async def choose(self, transcript: Transcript) -> str | Stop:
        messages, last = tuple(transcript.messages), self.last_participant(transcript)
        if self._selector is not None:
            chosen = await call(self._selector, messages)
            if chosen is not None:
                self._known([chosen], "selector_func")
                return str(chosen)
        names = [
            name for name in self.participants if self._repeat or name != last or len(self.participants) == 1
        ]
        if self._candidates is not None:
            names = list(await call(self._candidates, messages))
            self._known(names, "candidate_func")
            if not names:
                return Stop(reason="no speaker: candidate_func chose none")
        if len(names) == 1:
            return names[0]
        roles = "\n".join(f"{name}: {getattr(self.participants[name], 'description', '')}" for name in names)
        history = "\n\n".join(f"{message.name or 'user'}: {message.content}" for message in messages)
        fields = {"roles": roles, "participants": str(names), "history": history}
        prompt = Message(content=filled(self._prompt, fields), role="user")
        found = await ask_for_name(self.model_client, [prompt], names, self._attempts, current_run())
        return found or names[0]

    def held(self) -> Sequence[Held]:
        return (self,)

    async def run_ended(self) -> None:
        """Let the selecting model close its connections."""
        if hasattr(self.model_client, "close"):
            await self.model_client.close()

    def _known(self, names: Sequence[Any], what: str) -> None:
        unknown = [name for name in names if name not in self.participants]
        if unknown:
            raise ValueError(f"{what} gave {unknown}, not among the participants {list(self.participants)}")
