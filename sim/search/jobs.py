"""A search of whole jobs, for what no scenario can say: hints of ranks, Ctrl-C, closing and opening, strangers.

A job of launchers (`sim.virtual.job`) has a life full of accidents, all drawn from a seed, then peace; then it must be
whole, and in the order that the hints ask for. In the end somebody closes it, or all leave, and everybody must hear of
that.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rdzv.core import lead, lobby, tend
from rdzv.core.documents import Settings
from rdzv.errors import RendezvousClosedError, RendezvousGracefulExitError, RendezvousStateError
from sim.search.watched import WatchedJob
from sim.virtual.actor import IN_TURN
from sim.virtual.agent import Agent
from sim.virtual.streams import Streams
from sim.virtual.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sim.virtual.streams import Stream

TROUBLE_S = 60.0  # for so long things happen
WELL_S = 105.0  # so long after they are over, the job must be whole: several bounds, since deaths are found in turn
LATE_S_MAX = 1.3  # so long after the bound, all have heard of a death
OPERATIONS_PER_S_MAX = 30  # of one node: a leader asks for about 11 if it asks for two keys at a time, others for 6
TOLD_S = 20.0  # so long after a job was closed, everybody knows it, though who closed it has died
BEAT_HOPS = 10  # so many messages later than usual one has beaten last that asks for one thing at a time
HOPS_MAX = 20  # so many messages later, if not
SLOW_HOPS = 30  # so many messages are some polls, if each asks for one thing
HEARD = ("in lobby", "waiting", "waiting", "joined", "passed over", "end", "gone", "evicted")
"""What nodes report: just then, or a few messages later, accidents do what they do at hardly any other time."""

ACCIDENTS = (
    *("crash", "crash", "pause", "pause", "cut", "lose", "store", "leave", "reenter", "interrupt", "start"),
    "crowd",  # the last: several others come of it
)
BATCHES = (lobby.BATCH, lobby.BATCH, 2, 3)
"""How many keys nodes ask for at once: as usual, or so few that a small round takes what else only a large one does."""

_FOR_S = (0.5, 3.0, 8.0, 14.0, 16.0, 20.0)
_UNDO = {"pause": "resume", "cut": "heal"}


class Life:
    """One job, from its first node to its end."""

    def __init__(self, seed: int) -> None:
        streams = Streams(seed)
        self.chance: Stream = streams["job"]
        pick, below = self.chance.pick, self.chance.below
        least = pick((1, 1, 2, 3))
        most = least + pick((0, 1, 2, 4))
        self.settings = Settings(least, most, join_s=pick((30.0, 600.0)), last_call_s=pick((1.0, 5.0)))
        self.latency_s = pick((0.001, 0.2))
        self.world = World(seed, latency_s=(self.latency_s / 10, self.latency_s))
        self.job = WatchedJob(self.world, self.settings, reaction_s=pick((0.01, 0.5, 3.0)))
        first = pick((0, 0, 7))  # names of which one number is shorter than the other
        self.names = [f"node{first + number}" for number in range(least + below(most - least + 3))]
        self.hints = self._hints(streams["hints"])
        for name in self.names:
            node = self.world.node(
                name, offset_s=self.chance.between(-1e5, 1e5), rate=self.chance.between(0.999, 1.001)
            )
            node.asks_in_turn = streams["asking"].chance(IN_TURN)
            self.world.at(pick((0.0, self.chance.between(0.0, 20.0))), self._ensure, name)
        for _ in range(below(9)):
            self._plan(self.chance.pick(ACCIDENTS), self.chance.between(0.0, TROUBLE_S))
        # Others wait until something is heard, and that so many times.
        self.traps: list[tuple[str, int]] = [(pick(HEARD), 1 + below(12)) for _ in range(below(5))]
        self.heard: Counter[str] = Counter()
        self.job.on_report = self._spring

    def faults(self) -> Iterator[str]:
        """What is wrong, in order of time."""
        self.world.run(TROUBLE_S + max(_FOR_S) + self.settings.join_s * (self.settings.join_s < TROUBLE_S))
        for name in self.names[: self.settings.min_nodes]:
            self._ensure(name)
        self._run_on(WELL_S)
        yield from self.job.faults()
        yield from self.job.surprises
        for node in self.world.nodes.values():
            asked = node.cost.operations + node.beats.operations
            if asked > OPERATIONS_PER_S_MAX * self.world.now_s:
                yield f"{node.name} has asked the store {asked} times in {self.world.now_s:g} s"
        if self._is_closed() or len(self.job.agents) < self.settings.min_nodes:
            return
        yield from self._not_whole()
        yield from self._stranger()
        ends = (self._close, self._leave, self._lose, self._wait_in_vain, self._interrupt)
        yield from self.chance.pick(ends)()
        yield from self.job.surprises

    # What happens

    def _hints(self, chance: Stream) -> dict[str, dict[str, Any]]:
        """Some ask for ranks, each for another, and some say where they stand."""
        kind = chance.pick(("none", "none", "rank", "topology"))
        asked = [name for name in self.names if kind != "none" and chance.chance(0.6)]
        places = chance.shuffled(range(len(asked)))
        if kind == "rank":
            return {name: {"rank": place} for name, place in zip(asked, places, strict=True)}
        return {name: {"topology": f"rack{place + 8}"} for name, place in zip(asked, places, strict=True)}

    def _spring(self, who: str, kind: str) -> None:
        """Somebody has reported something: perhaps an accident has waited for that, for the same node or another."""
        self.heard[kind] += 1
        if (kind, self.heard[kind]) not in self.traps or self.world.now_s > TROUBLE_S:
            return
        # Who is on its way then is where most is at stake.
        joining = [agent.node.name for agent in self.job.agents.values() if agent.is_joining]
        name = self.chance.pick((who, self.chance.pick(self.names), self.chance.pick(joining or [who])))
        at_s = self.world.now_s + self.latency_s * self.chance.pick((0, 1, 3, 6)) * self.chance.fraction()
        self._plan(self.chance.pick(ACCIDENTS), min(at_s, TROUBLE_S), name)

    def _plan(self, kind: str, at_s: float, name: str = "") -> None:
        world, job, for_s = self.world, self.job, self.chance.pick(_FOR_S)
        name = name or self.chance.pick(self.names)
        if kind in _UNDO:
            world.at(at_s, job.hold, name, kind)
            world.at(at_s + for_s, job.free, name, _UNDO[kind])
        elif kind == "store":
            world.at(at_s, job.pause_store)
            world.at(at_s + min(for_s, 12.0), job.resume_store)
        elif kind == "start":
            world.at(at_s, self._ensure, name)
        elif kind == "crowd":  # all go to the next round at once, and accidents happen while it is made
            for each in self.names:
                world.at(at_s, job.reenter, each)
            for _ in range(self.chance.below(3)):
                accident = self.chance.pick(ACCIDENTS[:-1])
                self._plan(accident, at_s + self.chance.pick((0.02, 2.0)) * self.chance.fraction())
        else:
            world.at(at_s, getattr(job, kind), name)

    def _ensure(self, name: str) -> None:
        if name not in self.job.agents:
            self.job.start(name, **self.hints.get(name, {}))

    def _run_on(self, for_s: float) -> None:
        self.world.run(self.world.now_s + for_s)

    # What must come of it

    def _is_closed(self) -> bool:
        """All may have left."""
        return any(getattr(fact, "why", "") == "closed" for fact in self.job.history)

    def _members(self) -> list[Agent]:
        members = [agent for agent in self.job.agents.values() if agent.membership]
        return sorted(members, key=lambda agent: agent.rounds[-1].rank)

    def _not_whole(self) -> Iterator[str]:
        members, agents = self._members(), self.job.agents
        expected = min(len(agents), self.settings.max_nodes)
        places = [agent.rounds[-1] for agent in members]
        if len(members) != expected or {(place.round, place.size) for place in places} != {(places[0].round, expected)}:
            errors = [agent.error for agent in agents.values() if agent.error]
            yield f"of {len(agents)} nodes {[(place.round, place.size) for place in places]} are in rounds; {errors}"
            return
        if restless := [agent.node.name for agent in members if agent.num_nodes_waiting or agent.is_evicted]:
            yield f"the round of {', '.join(restless)} should end, in peace"
        placed = sorted((agent for agent in members if agent.node.name in self.hints), key=self._place)
        if members[: len(placed)] != placed:
            yield f"the ranks are {[(agent.node.name, self.hints.get(agent.node.name)) for agent in members]}"

    def _place(self, agent: Agent) -> int:
        (value,) = self.hints[agent.node.name].values()
        return value if isinstance(value, int) else int(value.removeprefix("rack"))

    def _stranger(self) -> Iterator[str]:
        """Whoever has other settings is refused; so is whoever asks for a rank that another has asked for."""
        settings = replace(self.settings, last_call_s=77.0)
        stranger = Agent(self.world.node("stranger"), settings)
        stranger.join()
        asked = [agent for agent in self._members() if agent.record.rank is not None]
        free = self.settings.max_nodes - len(self._members())
        self._run_on(TOLD_S)
        if not isinstance(stranger.error, RendezvousStateError):
            yield f"a stranger came to {stranger.error!r}"
        if asked and free and asked[0].rounds[-1].size == len(self._members()):
            yield from self._rival(asked[0])

    def _rival(self, asked: Agent) -> Iterator[str]:
        """Of two who ask for one rank the later is refused; as launchers that try again, each in its turn."""
        rival, refused, wrongly = self.job.start("rival", rank=asked.record.rank), [], []

        def look(agent: Agent) -> None:
            if isinstance(agent.error, RendezvousStateError):
                refused.append(agent)
                wrongly.extend([agent] * _came_first(agent, asked if agent is rival else rival))
            as_launcher(agent)

        as_launcher, asked.on_change, rival.on_change = asked.on_change, look, look
        self._run_on(2 * TOLD_S)
        if not refused:
            yield f"neither {asked.node.name} nor its rival was refused"
        if wrongly:
            yield f"{wrongly[0].node.name} was refused, and had come first"
        self.job.crash("rival", loses=False)
        self._run_on(WELL_S)
        yield from self._not_whole()

    def _close(self) -> Iterator[str]:
        """Somebody closes the job, and all are told at once; or soon, if who closed it dies over it."""
        members, outside = self._members(), [agent for agent in self.job.agents.values() if not agent.membership]
        closer, other = self.chance.pick(members), self.chance.pick(members)
        tasks = [closer.close("enough")]
        if self.chance.chance(0.5):
            self._run_on(self.latency_s * self.chance.pick((2, 4)) * self.chance.fraction())
            self.job.crash(closer.node.name)
            members.remove(closer)
            self._run_on(self.settings.bound_s)
            if not self._newcomer("witness"):
                return
        elif other is not closer:
            tasks.append(other.close("likewise"))
        self._run_on(HOPS_MAX * self.latency_s)
        if len(told := {task.result and task.result.by for task in tasks}) > 1:
            yield f"each of {told} is told that it has closed the job"
        for agent in members:
            is_told = agent.membership and agent.membership.end and agent.membership.end.kind == "closed"
            if not (is_told or isinstance(agent.error, RendezvousClosedError)):
                yield f"{agent.node.name} does not know that {closer.node.name} has closed the job"
        self._run_on(2 * self.settings.poll_s + HOPS_MAX * self.latency_s)  # a lobby's leader waits for newcomers
        for agent in outside:
            if not isinstance(agent.error, RendezvousGracefulExitError):
                yield f"{agent.node.name}, a spare, came to {agent.error!r} as the job was closed"
        last = closer.rounds[-1].round
        yield from self._closed_to_newcomers()
        yield from self._opened_again(members, last)

    def _leave(self) -> Iterator[str]:
        """All leave, one after the other or all at once, and the last one closes the job."""
        self.job.is_restless = False
        for agent in list(self.job.agents.values()):
            if not agent.membership:
                self.job.crash(agent.node.name, loses=False)
        self._run_on(WELL_S)
        names = [agent.node.name for agent in self._members()]
        gap_s = self.chance.pick((0.0, 3.0, 5.0))
        for name in names:
            others = {agent.node.name: agent.num_nodes_waiting for agent in self._members()}
            if gap_s and name != names[0] and not all(others.values()):
                yield f"somebody has left, and {others} are counted"
            self.job.leave(name)
            self._run_on(gap_s)
        self._run_on(3.0)
        yield from self._closed_to_newcomers()

    def _lose(self) -> Iterator[str]:
        """One dies, and all others are told: not before the bound, and soon after it."""
        self.job.is_restless = False
        members = self._members()
        dead = self.chance.pick(members)
        waits_s = self.settings.bound_s - self.settings.poll_s - 0.2 - BEAT_HOPS * self.latency_s
        self.job.crash(dead.node.name)
        self._run_on(waits_s)
        if told := [agent.node.name for agent in self._members() if agent.num_nodes_waiting]:
            yield f"{', '.join(told)} took {dead.node.name} for dead after {waits_s:g} s"
        self._run_on(LATE_S_MAX + SLOW_HOPS * self.latency_s + self.settings.bound_s - waits_s)
        for agent in members:
            if agent is dead:
                continue
            end = agent.membership and agent.membership.end
            if not (end and (end.kind, end.node, end.rank) == ("lost", dead.node.name, dead.rounds[-1].rank)):
                yield f"{agent.node.name} has not heard that {dead.node.name} is dead, but {end}"
            elif not agent.num_nodes_waiting:
                yield f"{agent.node.name} counts nobody for {dead.node.name}, which is dead"

    def _wait_in_vain(self) -> Iterator[str]:
        """All but one die: it waits for others, for as long as it was told and no longer."""
        name, *others = [agent.node.name for agent in self._members()]
        if self.settings.min_nodes == 1 or self.settings.join_s > TROUBLE_S:
            return
        for other in [*others, *(agent.node.name for agent in self.job.agents.values() if not agent.membership)]:
            self.job.crash(other)
        self.job.gave_up.clear()
        self._run_on(3 * self.settings.bound_s + self.settings.join_s)
        if name not in self.job.gave_up:
            yield f"{name} waits alone, and for more than {self.settings.join_s:g} s"

    def _interrupt(self) -> Iterator[str]:
        """All go to the next round, and one who waits is ended by Ctrl-C: the others go on at once without it."""
        members = self._members()
        if len(members) <= self.settings.min_nodes:
            return
        for agent in members:
            self.job.reenter(agent.node.name)
        self._run_on(self.latency_s * self.chance.pick((2, 4, 8)) * self.chance.fraction())
        # Without the leader, the others would have to find out that it is gone; so they would if the record is late.
        tickets = {agent: agent.standing.ticket for agent in self.job.agents.values() if agent.standing}
        self._run_on(self.latency_s)
        waiting = [agent for agent in members if agent.is_joining and tickets[agent] > 1]
        if not (waiting and 1 in tickets.values()):
            return
        self.job.interrupt(self.chance.pick(waiting).node.name)
        self._run_on(3 * self.settings.poll_s + self.job.reaction_s + SLOW_HOPS * self.latency_s)
        yield from self._not_whole()

    def _closed_to_newcomers(self) -> Iterator[str]:
        if not self._newcomer("late"):
            yield f"whoever came after the job was closed was let in, or came to {self.newcomer.error!r}"

    def _newcomer(self, name: str) -> bool:
        """Whether a newcomer is told that the job is closed; if not, it dies at once."""
        agent = self.newcomer = Agent(self.world.node(name), self.settings)
        agent.join()
        self._run_on(TOLD_S)
        agent.node.crash()
        return isinstance(agent.error, RendezvousClosedError)

    def _opened_again(self, members: list[Agent], last: int) -> Iterator[str]:
        """Whoever may opens it again; the new round waits until the old one's members have gone."""
        self.job.is_restless = False
        again = [Agent(self.world.node(f"again{number}"), self.settings) for number in range(self.settings.min_nodes)]
        for agent in again:
            agent.reopen = True
            agent.join()
        self._run_on(2 * self.settings.last_call_s + TOLD_S)
        if any(agent.rounds for agent in again) and any(member.membership for member in members):
            yield "a round was made beside the living members of the one that was closed"
        for member in members:
            if member.membership:
                self.job.leave(member.node.name)
        self._run_on(2 * self.settings.last_call_s + 2 * TOLD_S)
        is_patient = self.settings.join_s > TROUBLE_S
        if is_patient and not all(agent.rounds and agent.rounds[-1].round > last for agent in again):
            yield f"the job was opened again, and {[agent.rounds or agent.error for agent in again]} came of it"


def _came_first(agent: Agent, other: Agent) -> bool:
    """Whether both stand in one lobby, and the first of the two has drawn its ticket before."""
    mine, theirs = agent.standing, other.standing
    if not (mine and theirs and other.is_joining and mine.ticket and theirs.ticket):
        return False
    return mine.keys == theirs.keys and mine.ticket < theirs.ticket


def check_job(seed: int) -> str:
    """What is wrong with a job, as one seed shows it; empty if nothing is."""
    with _batches_of(Streams(seed)["batches"].pick(BATCHES)):
        return next(Life(seed).faults(), "")


@contextmanager
def _batches_of(size: int) -> Iterator[None]:
    """Let nodes ask for so many keys at once."""
    usual = lobby.BATCH
    try:
        for module in (lobby, lead, tend):
            vars(module).update(BATCH=size)
        yield
    finally:
        for module in (lobby, lead, tend):
            vars(module).update(BATCH=usual)
