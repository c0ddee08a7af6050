"""What all teams share: participants, bounds, state. A kind of team adds who speaks next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_client.agents.task import Runnable
from agent_client.agents.two_party import STATE_VERSION, checked_state
from agent_client.chat_events import SpeakerSelected
from agent_client.conditions import Condition
from agent_client.conversation import MAX_TIME, NextSpeaker, Party, Stop, Transcript, current_run
from agent_client.usage import UsageLimits

MAX_TURNS = 200


class Team(Runnable):
    """`participants` take turns until `termination_condition` or a bound ends the run: `max_turns` messages
    of theirs, `usage_limits`, `max_time` seconds, or a politeness loop (`stalled`). The transcript stays for
    the next run, until `reset`.

    Raises:
        ValueError: there are no participants, two have one name, or a bound is no number above zero.
    """

    def __init__(
        self,
        participants: Sequence[Party],
        termination_condition: Condition | None = None,
        max_turns: int | None = None,
        *,
        name: str = "team",
        description: str = "A team of agents.",
        usage_limits: UsageLimits | None = None,
        max_time: float | None = MAX_TIME,
        stalled: bool | Condition = True,
    ) -> None:
        names = [party.name for party in participants]
        if not names:
            raise ValueError("a team needs participants")
        if len(set(names)) < len(names):
            raise ValueError(f"the participants of a team need different names, not {names}")
        if max_turns is not None and max_turns < 1:
            raise ValueError("max_turns is a number of messages above zero")
        if not hasattr(termination_condition or Condition, "check"):
            what = f"a condition such as TextMentionTermination, not {termination_condition!r}"
            raise ValueError(f"termination_condition is {what}")
        self.participants = {party.name: party for party in participants}
        self.termination_condition = termination_condition
        self.max_turns = MAX_TURNS if max_turns is None else max_turns
        self.name = name
        self.description = description
        self.usage_limits = usage_limits
        self.max_time = max_time
        self.stalled = stalled
        self.transcript = Transcript()

    def parties(self) -> tuple[Sequence[Party], NextSpeaker]:
        async def next_speaker(transcript: Transcript) -> Party | Stop:
            if transcript.since_task - transcript.task_count >= self.max_turns:
                return Stop(reason=f"max_turns: {self.max_turns} messages were said")
            chosen = await self.choose(transcript)
            if isinstance(chosen, Stop):
                return chosen
            if len(self.participants) > 2:  # of two it is plain
                current_run().emit(SpeakerSelected(agent=chosen))
            return self.participants[chosen]

        return tuple(self.participants.values()), next_speaker

    async def choose(self, transcript: Transcript) -> str | Stop:
        """The name of who speaks next."""
        raise NotImplementedError

    async def reset(self) -> None:
        """Forget what was said."""
        self.transcript = Transcript()

    def save_state(self) -> dict[str, Any]:
        """The transcript, the participants' counters and their open sessions, as JSON."""
        assert self.transcript is not None
        parties = {
            name: party.save_counters()
            for name, party in self.participants.items()
            if hasattr(party, "save_counters")
        }
        saved = self.transcript.save()
        return {"version": STATE_VERSION, "team": self.name, "transcript": saved, "parties": parties}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `save_state` gave, perhaps in another process. Load only states of your own: they name
        files and sessions.

        Raises:
            ValueError: it is no such state, or of a team with other participants.
        """
        with checked_state(state, "team", self.name):
            unknown = set(state["parties"]) - set(self.participants)
            if unknown:
                raise ValueError(f"the state is of a team with {sorted(unknown)}, who are not in this one")
            self.transcript = Transcript.load(state["transcript"])
            for name, saved in state["parties"].items():
                party: Any = self.participants[name]
                party.load_counters(saved)

    def last_participant(self, transcript: Transcript) -> str | None:
        """Who of the team spoke last, in this run or an earlier one."""
        spoken = (m.name for m in reversed(transcript.messages) if m.name in self.participants)
        return next(spoken, None)
