"""What a group chat is: who takes part, who may follow whom, how the next speaker is chosen. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from agent_client.agents.two_party import TwoParty
from agent_client.conversation import Transcript
from agent_client.messages import Message

Method = Literal["auto", "round_robin", "random", "manual"]
METHODS = ("auto", "round_robin", "random", "manual")
SELECT_MESSAGE = """You are in a role play game. The following roles are available:
{roles}.
Read the following conversation.
Then select the next role from {agentlist} to play. Only return the role."""
SELECT_PROMPT = (
    "Read the above conversation. Then select the next role from {agentlist} to play. Only return the role."
)


class GroupChat:
    """The group. Arguments as in AutoGen 0.2; `max_round` counts messages, the first one's included.

    `speaker_selection_method`: a name of `METHODS`, or a callable of the last speaker and this object that
    gives an agent, the name of a method, or None to end the chat.

    Raises:
        ValueError: an argument is wrong, or names an agent that is not in the group.
    """

    def __init__(
        self,
        agents: Sequence[TwoParty],
        messages: Sequence[Mapping[str, Any]] = (),
        max_round: int = 10,
        admin_name: str = "Admin",
        speaker_selection_method: Method | Callable[[Any, GroupChat], Any] = "auto",
        allow_repeat_speaker: bool | Sequence[TwoParty] | None = None,
        allowed_or_disallowed_speaker_transitions: Mapping[Any, Sequence[Any]] | None = None,
        speaker_transitions_type: Literal["allowed", "disallowed"] | None = None,
        send_introductions: bool = False,
        max_retries_for_selecting_speaker: int = 2,
        select_speaker_message_template: str = SELECT_MESSAGE,
        select_speaker_prompt_template: str | None = SELECT_PROMPT,
    ) -> None:
        self.agents = list(agents)
        names = [agent.name for agent in self.agents]
        if not names:
            raise ValueError("a group chat needs agents")
        if len(set(names)) < len(names):
            raise ValueError(f"the agents of a group need different names, not {names}")
        if not callable(speaker_selection_method) and speaker_selection_method not in METHODS:
            raise ValueError(f"speaker_selection_method is one of {METHODS} or a callable")
        if max_round < 1:
            raise ValueError("max_round is a number of messages above zero")
        if (allowed_or_disallowed_speaker_transitions is None) != (speaker_transitions_type is None):
            raise ValueError(
                "allowed_or_disallowed_speaker_transitions goes with speaker_transitions_type,"
                ' "allowed" or "disallowed"'
            )
        if speaker_transitions_type not in (None, "allowed", "disallowed"):
            raise ValueError('speaker_transitions_type is "allowed" or "disallowed"')
        if allow_repeat_speaker is not None and allowed_or_disallowed_speaker_transitions is not None:
            raise ValueError("give allow_repeat_speaker or transitions, not both")
        self.max_round = max_round
        self.admin_name = admin_name
        self.speaker_selection_method = speaker_selection_method
        self.send_introductions = send_introductions
        self.max_retries = max_retries_for_selecting_speaker
        self.message_template = select_speaker_message_template
        self.prompt_template = select_speaker_prompt_template
        self.transcript = Transcript([Message.of(message) for message in messages])
        self._successors = self._graph(
            allowed_or_disallowed_speaker_transitions, speaker_transitions_type, allow_repeat_speaker
        )

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What was said, as dicts with the speakers' names."""
        return [message.to_dict() for message in self.transcript.messages]

    @property
    def agent_names(self) -> list[str]:
        return [agent.name for agent in self.agents]

    def agent_by_name(self, name: str) -> TwoParty | None:
        """The agent of that name, if there is one."""
        return next((agent for agent in self.agents if agent.name == name), None)

    def next_agent(self, last: str | None, among: Sequence[TwoParty] | None = None) -> TwoParty:
        """The next in the list's order behind `last`, of those that are eligible."""
        names = self.agent_names
        at = names.index(last) + 1 if last in names else 0
        eligible = self.agents if among is None else among
        return next(agent for agent in self.agents[at:] + self.agents[:at] if agent in eligible)

    def eligible(self, last: str | None) -> list[TwoParty]:
        """Who may follow `last`; whoever is not in the group may be followed by all."""
        allowed = self._successors.get(last or "")
        return self.agents if allowed is None else [a for a in self.agents if a.name in allowed]

    def roles(self, agents: Sequence[TwoParty]) -> str:
        """A line for each agent, with its description."""
        return "\n".join(f"{a.name}: {getattr(a, 'description', '')}".strip() for a in agents)

    def _graph(
        self,
        transitions: Mapping[Any, Sequence[Any]] | None,
        kind: str | None,
        repeat: bool | Sequence[TwoParty] | None,
    ) -> dict[str, set[str]]:
        everyone = set(self.agent_names)
        if transitions is None:
            again = everyone if repeat in (None, True) else {_name(a) for a in repeat or ()}  # type: ignore[union-attr]
            return {name: everyone if name in again else everyone - {name} for name in everyone}
        named = {
            _name(source): {_name(target) for target in targets} for source, targets in transitions.items()
        }
        unknown = (set(named) | set().union(*named.values())) - everyone
        if unknown:
            raise ValueError(f"the transitions name {sorted(unknown)}, who are not in the group")
        if kind == "allowed":
            return {name: named.get(name, set()) for name in everyone}
        return {name: everyone - named.get(name, set()) for name in everyone}


def _name(agent: Any) -> str:
    return agent if isinstance(agent, str) else str(agent.name)
