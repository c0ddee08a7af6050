"""Teams: several agents that work on a task until a condition ends the run."""

from agent_client.teams.base import Team
from agent_client.teams.round_robin import RoundRobinGroupChat
from agent_client.teams.selector import SelectorGroupChat
from agent_client.teams.swarm import Swarm

__all__ = ["RoundRobinGroupChat", "SelectorGroupChat", "Swarm", "Team"]
