"""A job whose launchers are watched: what they are told must be true, the same for all, and for a reason.

Beside the invariants of rounds, which `sim.virtual.job` judges: a round ends for one reason, which has really come to
pass; nobody is given up who was within reach; and a join fails for what its user can understand.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rdzv.errors import DistError, RendezvousClosedError, RendezvousGracefulExitError, RendezvousTimeoutError
from rdzv.errors import RendezvousStateError as StateError
from sim.check.rounds import Given, Held, Out
from sim.virtual.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rdzv.core.documents import Settings
    from sim.check.rounds import Fact
    from sim.virtual.agent import Agent
    from sim.virtual.world import World

_USUAL = (RendezvousClosedError, RendezvousGracefulExitError, RendezvousTimeoutError)
# By kind of end: who asks for the next round and then gives that up, or is refused, has left; and who was ended on its
# way may not have been able to say so.
_SHOWN_BY = {"left": ("left", "re-entered"), "next": ("re-entered", "left", "died"), "lost": ("died", "left")}
_REFUSAL = re.compile(r"both (\S+) and (\S+) ask for rank \d+, and (\S+) was first")
_RANK = re.compile(r"^\S+ \(rank (\d+)\) ")


class WatchedJob(Job):
    """A job that keeps in mind what no launcher should have been told.

    Attributes:
        surprises: What should not have been, a sentence for each.
        gave_up: Whose patience has ended.
        on_report: Is told of what nodes report: who, and which kind.
    """

    def __init__(self, world: World, settings: Settings, *, reaction_s: float) -> None:
        super().__init__(world, settings, reaction_s=reaction_s)
        self.surprises: list[str] = []
        self.gave_up: set[str] = set()
        self.on_report: Callable[[str, str], object] = lambda *_: None
        self._heard: dict[Agent, int] = {}  # how many reports of each
        self._ends: dict[int, tuple[object, object]] = {}  # by round: the first that was heard of
        self._store_away: list[list[float]] = []  # since when, until when

    def pause_store(self) -> None:
        """The store is away."""
        self._store_away.append([self.world.now_s, float("inf")])
        self.world.store.pause()

    def resume_store(self) -> None:
        """It is back, however often it was paused."""
        for span in self._store_away:
            span[1] = min(span[1], self.world.now_s)
        self.world.store.resume()

    def lose(self, name: str) -> None:
        """A node loses its connections, and can make others."""
        self.world.nodes[name].link.lose()

    def _look(self, agent: Agent) -> None:
        name, error = agent.node.name, agent.error
        for _, kind, facts in agent.events[self._heard.get(agent, 0) :]:
            if kind == "end" and facts["kind"] != "closed":
                self._hear_end(name, facts)
            self.on_report(name, kind)
        self._heard[agent] = len(agent.events)
        is_network = isinstance(error, DistError) and not isinstance(error, StateError)
        is_usual = isinstance(error, _USUAL) or self._is_refusal(name, error) or "KeyboardInterrupt" in str(error)
        if error and not is_usual and not (is_network and self._was_out_of_reach(name)):
            self.surprises.append(f"at {self.world.now_s:g} s {name} failed with {error!r}")
        if isinstance(error, RendezvousTimeoutError):
            self.gave_up.add(name)
        super()._look(agent)

    def _hear_end(self, name: str, facts: dict[str, object]) -> None:
        """A node has heard why its round should end."""
        number, end = facts["round"], (facts["kind"], facts["node"])
        assert isinstance(number, int)
        if (first := self._ends.setdefault(number, end)) != end:
            self.surprises.append(f"{name} has heard that round {number} ends because of {end}, and others of {first}")
        kind, about = map(str, end)
        is_shown = any(isinstance(fact, Out) and fact.why in _SHOWN_BY[kind] for fact in self._since(about, facts))
        if kind == "left" and (agent := self.agents.get(about)):
            # Its join has failed, and it has yet to ask again; or it gave up as it was given its place, and stayed.
            is_shown |= agent.error is not None or "it gave up" in str(facts["why"])
        # A store that was away costs nobody its place, since those who watch it were held up as well.
        is_excused = kind == "lost" and self._was_out_of_reach(about) and any(self._lately(self._held(about)))
        if not is_shown and not is_excused:
            self.surprises.append(f"at {self.world.now_s:g} s {name} has heard that {about} is {kind}, which is not so")

    def _since(self, about: str, facts: dict[str, object]) -> list[Fact]:
        """What has happened to a node since it was given a place, if it was it that had that one; else, at all."""
        known = [fact for fact in self.history if fact.node == about]
        rank = _RANK.match(str(facts["why"]))
        for place, fact in enumerate(known):
            if isinstance(fact, Given) and rank and (fact.round, fact.rank) == (facts["round"], int(rank[1])):
                return known[place:]
        return known

    def _is_refusal(self, name: str, error: Exception | None) -> bool:
        """Whether a node was refused the rank that it asks for, for the sake of another."""
        told = _REFUSAL.search(str(error))
        return told is not None and told[1] == told[3] != told[2] == name

    def _was_out_of_reach(self, name: str) -> bool:
        """Whether a node or the store was away of late for about as long as makes a node a dead one."""
        settings = self.settings
        away_s = sum(self._lately([*self._held(name), *self._store_away]))
        return away_s >= settings.bound_s - settings.heartbeat_s - 2 * settings.poll_s

    def _lately(self, spans: Iterable[Sequence[float]]) -> Iterator[float]:
        """How long each span lasted, as far as that is not long ago, in seconds."""
        now = self.world.now_s
        for since, until in spans:
            yield max(0.0, min(until, now) - max(since, now - 2 * self.settings.bound_s))

    def _held(self, name: str) -> Iterator[tuple[float, float]]:
        since = None
        for fact in self.history:
            if isinstance(fact, Held) and fact.node == name:
                if not fact.is_held and since is not None:
                    yield since, fact.at_s
                since = fact.at_s if fact.is_held else None
        if since is not None:
            yield since, float("inf")
