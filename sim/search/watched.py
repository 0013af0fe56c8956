"""A job whose launchers are watched: what they are told must be true, the same for all, and for a reason.

Beside the invariants of rounds, which `sim.virtual.job` judges: a round ends for one reason, which has really come to
pass; nobody is given up who was within reach, or passed over who stood ready; and a join fails for what its user can
understand.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from rdzv.core.documents import LEFT, LOST
from rdzv.errors import (
    DistError,
    RendezvousClosedError,
    RendezvousGracefulExitError,
    RendezvousStateError as StateError,
    RendezvousTimeoutError,
)
from sim.check.rounds import Given, Held, Out
from sim.virtual.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rdzv.core.documents import Assignment, Settings
    from rdzv.core.join import Standing
    from sim.check.rounds import Fact
    from sim.virtual.agent import Agent
    from sim.virtual.world import World

_USUAL = (RendezvousClosedError, RendezvousGracefulExitError, RendezvousTimeoutError)
# By kind of end: who asks for the next round and then gives that up, or is refused, has left; and who was ended on its
# way may not have been able to say so.
_SHOWN_BY = {"left": ("left", "re-entered"), "next": ("re-entered", "left", "died"), "lost": ("died", "left")}
_REFUSAL = re.compile(r"both (\S+) and (\S+) ask for rank \d+, and (\S+) was first")
_RANK = re.compile(r"^\S+ \(rank (\d+)\) ")
_OBSERVER = re.compile(r"(\S+) saw no sign of life")


class PassedOver(NamedTuple):
    """A node has heard that a round goes on without it."""

    name: str
    round: int
    since: float
    """When it stood ready in the lobby."""


class WatchedJob(Job):
    """A job that keeps in mind what no launcher should have been told.

    Attributes:
        surprises: What should not have been, a sentence for each.
        gave_up: Whose patience has ended.
        on_report: Is told of what nodes report: who, and which kind.
    """

    def __init__(self, world: World, settings: Settings, *, reaction_s: float, slack_s: float) -> None:
        """A job without nodes.

        Args:
            world: Where they are to be.
            settings: What all of them are given.
            reaction_s: How long a launcher needs to react.
            slack_s: How long the messages of two polls take.
        """
        super().__init__(world, settings, reaction_s=reaction_s)
        self.slack_s = 2 * settings.poll_s + slack_s
        self.surprises: list[str] = []
        self.gave_up: set[str] = set()
        self.on_report: Callable[[str, str], object] = lambda *_: None
        self._heard: dict[Agent, int] = {}  # how many reports of each
        self._ends: dict[int, tuple[object, object]] = {}  # by round: the first that was heard of
        self._store_away: list[list[float]] = []  # since when, until when
        self._lost_links: list[float] = []  # when connections were lost
        self._lined_up: dict[str, float] = {}  # since when each stands in a lobby, or has stood in its last one
        self._spares: dict[str, Standing | None] = {}  # on which way into a round each has heard that it is one
        self._passed_over: list[PassedOver] = []

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
        self._lost_links.append(self.world.now_s)
        self.world.nodes[name].link.lose()

    @property
    def is_plain(self) -> bool:
        """Whether nothing has happened but starts, departures and deaths."""
        return not any(self._troubles(0.0, float("inf")))

    def left_out(self) -> Iterator[str]:
        """Who stood ready when a round was made that had room for it, and was passed over."""
        slack_s, bound_s = self.slack_s, self.settings.bound_s
        outs = [fact for fact in self.history if isinstance(fact, Out) and fact.why != "re-entered"]
        for name, number, since in self._passed_over:
            given = [fact for fact in self.history if isinstance(fact, Given) and fact.round == number]
            if not given or given[0].at_s - since <= slack_s:
                continue
            at_s, until = given[0].at_s, given[-1].at_s + slack_s
            members = {fact.node for fact in given}
            members |= {out.node for out in outs if at_s - bound_s - slack_s <= out.at_s <= until}  # or might have been
            # Who has sealed it may have gone before others could do the rest, and this one have come just then.
            is_known = all(abs(out.at_s - since) > slack_s for out in outs)
            has_room = len(members) < self.settings.max_nodes
            if is_known and has_room and not any(self._troubles(since - bound_s - slack_s, until)):
                yield f"round {number} was given at {at_s:g} s without {name}, which was there at {since:g} s"

    def _troubles(self, since: float, until: float) -> Iterator[bool]:
        """Of all that has struck but departures and deaths, whether it was felt between two times."""
        spans = [*self._store_away, *((at, at) for at in self._lost_links)]
        for name in {fact.node for fact in self.history if isinstance(fact, Held)}:
            spans += self._held(name)
        for began_at, ended_at in spans:
            yield began_at <= until and since <= ended_at

    def _look(self, agent: Agent) -> None:
        name, error = agent.node.name, agent.error
        for _, kind, facts in agent.events[self._heard.get(agent, 0) :]:
            if kind == "end" and facts["kind"] != "closed":
                self._hear_end(name, facts)
            elif kind == "in lobby":
                self._lined_up[name] = self.world.now_s
            elif kind == "passed over":
                self._passed_over.append(PassedOver(name, int(str(facts["round"])), self._lined_up[name]))
            elif kind == "spare":
                self._hear_spare(name, agent.standing)
            self.on_report(name, kind)
        self._heard[agent] = len(agent.events)
        is_network = isinstance(error, DistError) and not isinstance(error, StateError)
        is_usual = isinstance(error, _USUAL) or self._is_refusal(name, error) or "KeyboardInterrupt" in str(error)
        if error and not is_usual and not (is_network and self._was_out_of_reach(name)):
            self.surprises.append(f"at {self.world.now_s:g} s {name} failed with {error!r}")
        if isinstance(error, RendezvousTimeoutError):
            self.gave_up.add(name)
        if self.agents.get(name) is agent and len(agent.rounds) > self._given[name]:
            self._hear_place(agent, agent.rounds[-1])
        super()._look(agent)

    def _hear_place(self, agent: Agent, place: Assignment) -> None:
        """A node has been given a place: it counts there, and where rank 0 is, all are to meet."""
        name, standing = agent.node.name, agent.standing
        assert standing
        beat = self.world.store.value(standing.keys.key("beat", standing.ticket))
        if beat.startswith((LEFT, LOST)):
            self.surprises.append(
                f"at {self.world.now_s:g} s {name} was given round {place.round}, and is {beat!r} there"
            )
        if place.rank == 0 and (place.addr, place.port) != (agent.record.addr, agent.record.port):
            self.surprises.append(f"{name} is rank 0 of round {place.round}, and all meet at {place.addr}:{place.port}")

    def _hear_spare(self, name: str, standing: Standing | None) -> None:
        """A node has heard that the round is full: then no member has gone from it to the next lobby."""
        if self._spares.get(name) is standing:
            return
        self._spares[name] = standing
        now, given = self.world.now_s, [fact for fact in self.history if isinstance(fact, Given)]
        if not given or any(self._troubles(now - self.settings.bound_s - self.slack_s, now)):
            return
        # Since the last round was made; a leader that has died since may have said so before.
        number = max(fact.round for fact in given)
        since = next(place for place, fact in enumerate(self.history) if getattr(fact, "round", -1) == number)
        outs = [fact for fact in self.history[since:] if isinstance(fact, Out)]
        if any(fact.why != "re-entered" for fact in outs):
            return
        members = {fact.node for fact in given if fact.round == number}
        asked = [out.node for out in outs]
        for back in outs:
            # Who was the first in the lobby leads it, and knows of itself at once.
            slack_s = 0.0 if back.node == name and standing and standing.ticket == 1 else self.slack_s
            if back.node in members and asked.count(back.node) == 1 and back.at_s < now - slack_s:
                self.surprises.append(f"at {now:g} s {name} has heard that it is a spare; {back.node} is back")

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
        if kind == "lost" and not any(isinstance(fact, Given) and fact.round == number for fact in self._of(about)):
            is_shown |= any(isinstance(fact, Out) for fact in self._of(about))  # its join has failed on the way there
        # A store that was away costs nobody its place, since those who watch it were held up as well.
        is_excused = kind == "lost" and self._was_out_of_reach(about) and any(self._lately(self._held(about)))
        if is_excused and (observer := _OBSERVER.search(str(facts["why"]))):
            is_excused = any(self._lately(self._unlike(about, observer[1])))
        if not is_shown and not is_excused:
            self.surprises.append(f"at {self.world.now_s:g} s {name} has heard that {about} is {kind}, which is not so")

    def _unlike(self, name: str, observer: str) -> Iterator[tuple[float, float]]:
        """When a node was held up, and one who watched it was not, or too shortly to begin anew."""
        spans = list(self._held(name))
        for began_at, ended_at in self._held(observer):
            if ended_at - began_at > self.settings.bound_s / 2:
                halves = [((since, min(until, began_at)), (max(since, ended_at), until)) for since, until in spans]
                spans = [(since, until) for pair in halves for since, until in pair if since < until]
        return iter(spans)

    def _since(self, about: str, facts: dict[str, object]) -> list[Fact]:
        """What has happened to a node since it was given a place, if it was it that had that one; else, at all."""
        known = self._of(about)
        rank = _RANK.match(str(facts["why"]))
        for place, fact in enumerate(known):
            if isinstance(fact, Given) and rank and (fact.round, fact.rank) == (facts["round"], int(rank[1])):
                return known[place:]
        return known

    def _of(self, name: str) -> list[Fact]:
        return [fact for fact in self.history if fact.node == name]

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
