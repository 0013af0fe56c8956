"""An elastic job in virtual time: nodes that do what a launcher does, and a history of what they were given.

A launcher goes into the next round when the present one should end, or when it is told that it was evicted; it tries
again when a join has failed, unless the job is closed. Faults go through the job, so that the history has them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rdzv.errors import RendezvousClosedError, RendezvousGracefulExitError
from sim.check.rounds import Bounds, Given, Held, Out, judge
from sim.virtual.agent import Agent
from sim.virtual.kernel import SECOND

if TYPE_CHECKING:
    from rdzv.core.documents import Settings
    from sim.check.rounds import Fact
    from sim.virtual.node import Node
    from sim.virtual.world import World

HOLDS = {"pause": "resume", "cut": "heal"}  # what holds a node up, and what undoes that


class Job:
    """The nodes of one job.

    Attributes:
        world: Where they are.
        settings: What all of them are given.
        agents: By name of their node, those that live.
        history: What has happened to them.
        reaction_s: How long a launcher needs to react.
        is_restless: Whether launchers react at all.
    """

    def __init__(self, world: World, settings: Settings, *, reaction_s: float = 0.1) -> None:
        self.world, self.settings, self.reaction_s = world, settings, reaction_s
        self.agents: dict[str, Agent] = {}
        self.history: list[Fact] = []
        self.is_restless = True
        self._holds: Counter[tuple[str, str]] = Counter()  # by name and kind
        self._given: dict[str, int] = {}

    def start(self, name: str, node: Node | None = None, **record: Any) -> Agent:
        """A launcher begins on a node, new or used before."""
        node = node or self.world.nodes.get(name) or self.world.node(name)
        agent = self.agents[name] = Agent(node, self.settings, **record)
        self._given[name] = 0
        agent.on_change = self._look
        agent.join()
        return agent

    def reenter(self, name: str) -> None:
        """A launcher goes into the next round, whatever the reason."""
        agent = self.agents.get(name)
        if agent and not agent.is_joining:
            self._out(name, "re-entered")
            agent.join()

    def leave(self, name: str) -> None:
        """A member leaves for good."""
        agent = self.agents.get(name)
        if agent and agent.membership:
            del self.agents[name]
            self._out(name, "left")
            agent.leave()

    def interrupt(self, name: str) -> None:
        """A launcher is ended by Ctrl-C while it joins."""
        agent = self.agents.get(name)
        if agent and agent.is_joining:
            del self.agents[name]
            self._out(name, "left")
            agent.interrupt()

    def crash(self, name: str, *, loses: bool | None = None) -> None:
        """A node dies."""
        if self.agents.pop(name, None):
            self._out(name, "died")
            self.world.nodes[name].crash(loses=loses)

    def hold(self, name: str, kind: str) -> None:
        """Hold a node up: ``kind`` is ``"pause"`` or ``"cut"``. It may be held up in both ways at a time, and twice."""
        if not self._is_held(name):
            self.history.append(Held(self.world.now_s, name, is_held=True))
        self._holds[name, kind] += 1
        getattr(self.world.nodes[name], kind)()

    def free(self, name: str, kind: str) -> None:
        """Undo a `hold` of that kind; a node that is held up twice is free when both are undone."""
        self._holds[name, kind] -= 1
        if not self._holds[name, kind]:
            getattr(self.world.nodes[name], HOLDS[kind])()
        if not self._is_held(name):
            self.history.append(Held(self.world.now_s, name, is_held=False))

    def _is_held(self, name: str) -> bool:
        return any(self._holds[name, kind] for kind in HOLDS)

    def faults(self) -> list[str]:
        """Which invariants do not hold, and how."""
        settings = self.settings
        bounds = Bounds(settings.min_nodes, settings.max_nodes, settings.bound_s)
        return [f"{check.name}: {check.detail}" for check in judge(self.history, bounds) if not check.passed]

    def _out(self, name: str, why: str) -> None:
        self.history.append(Out(self.world.now_s, name, why))

    def _look(self, agent: Agent) -> None:
        """Something has changed for a launcher."""
        name = agent.node.name
        if self.agents.get(name) is not agent:
            return
        if len(agent.rounds) > self._given[name]:
            self._given[name] = len(agent.rounds)
            place = agent.rounds[-1]
            bootstrap = f"{place.addr}:{place.port}"
            self.history.append(Given(self.world.now_s, name, place.round, place.rank, place.size, bootstrap))
        if agent.is_evicted:
            self._out(name, "evicted")
        if isinstance(agent.error, RendezvousClosedError | RendezvousGracefulExitError):
            self._out(name, "closed")
            del self.agents[name]
            return
        if self.is_restless:
            self.world.at(self.world.now_s + self.reaction_s, self._react, agent)

    def _react(self, agent: Agent) -> None:
        name = agent.node.name
        if self.agents.get(name) is not agent or agent.is_joining:
            return
        if agent.node.attention.is_shut:  # a launcher that is paused reacts when it runs again
            self.world.kernel.call_at(self.world.kernel.now + SECOND, self._react, (agent,))
            return
        if agent.error or agent.num_nodes_waiting:
            self.reenter(name)
