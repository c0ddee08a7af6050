"""A team in which the one who speaks says who is next, by a handoff."""

from __future__ import annotations

from agent_client.conversation import Stop, Transcript
from agent_client.teams.base import Team


class Swarm(Team):
    """The first participant begins; whoever speaks goes on until it hands over (`AssistantAgent(handoffs=)`).
    A handoff to somebody outside the team, such as a user, ends the run unless a condition did before; the
    next run's task goes to who handed over, unless it is a handoff itself.
    """

    async def choose(self, transcript: Transcript) -> str | Stop:
        last = transcript.messages[-1]
        if last.kind == "handoff" and last.target is not None:
            if last.target in self.participants:
                return last.target
            return Stop(reason=f"handoff: {last.name} handed over to {last.target}, who is not in the team")
        return self.last_participant(transcript) or next(iter(self.participants))
