"""A team whose participants speak in turn."""

from __future__ import annotations

from agent_client.conversation import Stop, Transcript
from agent_client.teams.base import Team


class RoundRobinGroupChat(Team):
    """Each in the order given, over and over."""

    async def choose(self, transcript: Transcript) -> str | Stop:
        names = list(self.participants)
        last = self.last_participant(transcript)
        return names[(names.index(last) + 1) % len(names)] if last is not None else names[0]
