"""The manager of a group chat: takes its messages, and says whose turn it is."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agent_client.agents.conversable import ConversableAgent, InputFunc
from agent_client.agents.two_party import TwoParty
from agent_client.blocking import call
from agent_client.chat_events import SpeakerSelected
from agent_client.conversation import NextSpeaker, Party, Run, Setting, Stop, Transcript, current_run
from agent_client.groupchat.group_chat import METHODS, GroupChat
from agent_client.groupchat.selection import ask_for_name, filled
from agent_client.messages import Message
from agent_client.models.base import ModelClient
from agent_client.termination import IsTermination

INTRODUCTION = (
    "Hello everyone. We have assembled a great team today to answer questions and solve tasks. In attendance"
    " are:"
)


class GroupChatManager(ConversableAgent):
    """Whoever starts a chat with it starts the group's. Its model, if any, chooses speakers ("auto")."""

    setting: Setting = "group"

    def __init__(
        self,
        groupchat: GroupChat,
        name: str = "chat_manager",
        llm_config: Mapping[str, Any] | Literal[False] | None = None,
        is_termination_msg: IsTermination | None = None,
        system_message: str | None = "Group chat manager.",
        *,
        model_client: ModelClient | None = None,
        input_func: InputFunc | None = None,
    ) -> None:
        super().__init__(
            name,
            system_message,
            is_termination_msg,
            human_input_mode="NEVER",
            llm_config=llm_config,
            model_client=model_client,
            input_func=input_func,
        )
        self.groupchat = groupchat

    def plan(self, initiator: TwoParty, max_turns: int | None) -> tuple[Sequence[Party], NextSpeaker]:
        group = self.groupchat
        if group.speaker_selection_method == "auto" and self.model_client is None and len(group.agents) > 1:
            raise ValueError(
                'speaker_selection_method "auto" asks the manager\'s model: give GroupChatManager an'
                ' llm_config or a model_client, or choose another method, such as "round_robin"'
            )
        if max_turns is not None and max_turns < 1:
            raise ValueError("max_turns is a number of round trips above zero")
        names = {*group.agent_names, self.name}
        if initiator not in group.agents and initiator.name in names:
            raise ValueError(f"the group has another agent named {initiator.name!r}")
        limit = group.max_round  # all that they say is one round trip
        parties = dict.fromkeys([initiator, self, *group.agents])

        async def next_speaker(transcript: Transcript) -> Party | Stop:
            last = transcript.messages[-1]
            if transcript.since_task > 1 and await self._ends([last]):
                return Stop(reason=f"termination message: from {last.name}")
            if transcript.since_task >= limit:
                return Stop(reason=f"max_round: {limit} messages were said")
            run = current_run()
            chosen = await self._choose(transcript, last, run)
            if isinstance(chosen, TwoParty):
                run.emit(SpeakerSelected(agent=chosen.name))
            return chosen

        return tuple(parties), next_speaker

    def attach(self, initiator: TwoParty, transcript: Transcript) -> None:
        """The group's transcript is that of the chat with whoever started it, and of all its members."""
        group = self.groupchat
        if transcript is not group.transcript and not transcript.messages:
            if not self._chats:  # the messages that the group was made with come first
                transcript.messages += group.transcript.messages
            if group.send_introductions:
                transcript.messages.append(Message(content=self._introduction(), name=self.name))
            transcript.task_at = len(transcript.messages)
        group.transcript = transcript
        for member in {self: None, **dict.fromkeys(group.agents)}:
            if member is not initiator:
                member._chats[initiator if member is self else self] = transcript

    def _introduction(self) -> str:
        roles = self.groupchat.roles(self.groupchat.agents)
        return f"{INTRODUCTION}\n\n{roles}"

    async def _choose(self, transcript: Transcript, last: Message, run: Run) -> Party | Stop:
        group = self.groupchat
        if last.tool_calls:  # it goes to one who can run it, whoever's turn it would be
            names = {wanted.name for wanted in last.tool_calls}
            able = [a for a in group.agents if names <= set(getattr(a, "tools", {}))]
            if able:
                return group.next_agent(last.name, able)
        eligible = group.eligible(last.name)
        method: Any = group.speaker_selection_method
        if callable(method):
            method = await call(method, group.agent_by_name(last.name or ""), group)
            if method is None:
                return Stop(reason="no speaker: speaker_selection_method chose none")
            if isinstance(method, TwoParty):
                if method not in group.agents:
                    raise ValueError(
                        f"speaker_selection_method chose {method.name!r}, who is not in the group"
                    )
                return method
            if method not in METHODS:
                raise ValueError(
                    f"speaker_selection_method gave {method!r}: an agent, a method's name or None"
                )
        if not eligible:
            return Stop(reason=f"no speaker: nobody may follow {last.name}")
        if len(eligible) == 1:
            return eligible[0]
        if method == "random":
            return random.choice(eligible)  # noqa: S311 - whose turn it is is no secret
        if method == "manual":
            return await self._ask_which(eligible, group.next_agent(last.name, eligible), run)
        if method == "auto" and self.model_client is not None:
            chosen = await self._ask_for_name(eligible, transcript, run)
            if chosen is not None:
                return chosen
        return group.next_agent(last.name, eligible)

    async def _ask_for_name(
        self, eligible: Sequence[TwoParty], transcript: Transcript, run: Run
    ) -> TwoParty | None:
        """Have the model name one of the eligible; None when it does not, however often it is asked."""
        assert self.model_client is not None
        group = self.groupchat
        names = [agent.name for agent in eligible]
        fields = {"roles": group.roles(eligible), "agentlist": str(names)}
        asked = [Message(content=filled(group.message_template, fields), role="system")]
        asked += [Message(content=f"{m.name}: {m.content}") for m in transcript.messages]
        if group.prompt_template:
            asked.append(Message(content=filled(group.prompt_template, fields), role="system"))
        found = await ask_for_name(self.model_client, asked, names, group.max_retries + 1, run)
        return group.agent_by_name(found) if found else None

    async def _ask_which(self, eligible: Sequence[TwoParty], default: TwoParty, run: Run) -> Party | Stop:
        listed = "\n".join(f"{number}: {agent.name}" for number, agent in enumerate(eligible, 1))
        prompt = f"Who speaks next?\n{listed}\nA number or name; enter for {default.name}, 'exit' to stop: "
        for _ in range(3):
            answer = await self.ask(prompt, run)
            if answer == "exit":
                return Stop(reason="human: exit was typed")
            if not answer:
                return default
            for number, agent in enumerate(eligible, 1):
                if answer in (str(number), agent.name):
                    return agent
        return default
