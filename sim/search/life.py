"""A job's life, up to the peace before its end: launchers full of accidents, drawn from a seed, and then whole again.

What comes of peace, and how a job ends, is for `jobs`; what launchers are told meanwhile, for `watched`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rdzv.core.documents import Settings
from sim.check.prompt import leftovers
from sim.search.watched import WatchedJob
from sim.virtual.actor import IN_TURN
from sim.virtual.job import HOLDS
from sim.virtual.streams import Streams
from sim.virtual.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sim.virtual.agent import Agent
    from sim.virtual.streams import Stream

TROUBLE_S = 60.0  # for so long things happen
WELL_S = 105.0  # so long after they are over, the job must be whole: several bounds, since deaths are found in turn
OPERATIONS_PER_S_MAX = 30  # of one node: a leader asks for about 11 if it asks for two keys at a time, others for 6
SLOW_HOPS = 30  # so many messages are some polls, if each asks for one thing
HEARD = ("in lobby", "waiting", "waiting", "joined", "passed over", "end", "gone", "evicted")
"""What nodes report: just then, or a few messages later, accidents do what they do at hardly any other time."""

ACCIDENTS = (
    *("crash", "crash", "pause", "pause", "cut", "lose", "store", "leave", "reenter", "interrupt", "start"),
    "sleep",
    "crowd",  # the last: several others come of it
)
_FOR_S = (0.5, 3.0, 6.5, 8.0, 14.0, 16.0, 20.0)


class Life:
    """One job, from its first node on."""

    def __init__(self, seed: int) -> None:
        streams = Streams(seed)
        self.chance: Stream = streams["job"]
        pick, below = self.chance.pick, self.chance.below
        least = pick((1, 1, 2, 3))
        most = least + pick((0, 1, 2, 4))
        self.settings = Settings(least, most, join_s=pick((30.0, 600.0)), last_call_s=pick((1.0, 5.0)))
        self.latency_s = pick((0.001, 0.2))
        self.world = World(seed, latency_s=(self.latency_s / 10, self.latency_s))
        slack_s = SLOW_HOPS * self.latency_s
        self.job = WatchedJob(self.world, self.settings, reaction_s=pick((0.01, 0.5, 3.0)), slack_s=slack_s)
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
        """What is wrong until peace has come, in order of time."""
        self.world.run(TROUBLE_S + max(_FOR_S) + self.settings.join_s * (self.settings.join_s < TROUBLE_S))
        for name in self.names[: self.settings.min_nodes]:
            self._ensure(name)
        self._run_on(WELL_S)
        yield from self.job.faults()
        yield from self.job.surprises
        yield from self.job.left_out()
        keys, settings = self.world.store.keys(), self.settings
        yield from leftovers(keys, self.job.history, self.world.now_s, settings.bound_s, is_plain=self.job.is_plain)
        for node in self.world.nodes.values():
            asked = node.cost.operations + node.beats.operations
            if asked > OPERATIONS_PER_S_MAX * self.world.now_s:
                yield f"{node.name} has asked the store {asked} times in {self.world.now_s:g} s"
        if self.is_going_on():
            yield from self._not_whole()

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
        if kind in HOLDS:
            world.at(at_s, job.hold, name, kind)
            world.at(at_s + for_s, job.free, name, kind)
        elif kind == "store":
            world.at(at_s, job.pause_store)
            world.at(at_s + min(for_s, 12.0), job.resume_store)
        elif kind == "start":
            world.at(at_s, self._ensure, name)
        elif kind == "sleep":  # the machine: all stand still, and go on at the same time
            for each in self.names:
                world.at(at_s, job.hold, each, "pause")
                world.at(at_s + for_s, job.free, each, "pause")
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

    def is_going_on(self) -> bool:
        """Whether there is a job in the end: all may have left."""
        is_closed = any(getattr(fact, "why", "") == "closed" for fact in self.job.history)
        return not is_closed and len(self.job.agents) >= self.settings.min_nodes

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
