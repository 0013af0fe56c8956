"""A search of whole jobs, for what no scenario can say: hints of ranks, Ctrl-C, closing and opening, strangers.

A job of launchers has its `life`, and is whole and as the hints ask. Then it is put to one more test:
strangers come, somebody closes it, or all leave, and everybody must hear of that.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rdzv.core import lead, lobby, tend
from rdzv.errors import RendezvousClosedError, RendezvousGracefulExitError, RendezvousStateError
from sim.search.life import SLOW_HOPS, TROUBLE_S, WELL_S, Life
from sim.virtual.agent import Agent
from sim.virtual.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Iterator

LATE_S_MAX = 1.3  # so long after the bound, all have heard of a death
TOLD_S = 20.0  # so long after a job was closed, everybody knows it, though who closed it has died
BEAT_HOPS = 10  # so many messages later than usual one has beaten last that asks for one thing at a time
HOPS_MAX = 20  # so many messages later, if not
BATCHES = (lobby.BATCH, lobby.BATCH, 2, 3)
"""How many keys nodes ask for at once: as usual, or so few that a small round takes what else only a large one does."""


class WholeLife(Life):
    """One job, from its first node to its end."""

    def faults(self) -> Iterator[str]:
        """What is wrong, in order of time."""
        yield from super().faults()
        if not self.is_going_on():
            return
        yield from self._stranger()
        ends = (self._close, self._leave, self._lose, self._wait_in_vain, self._interrupt, self._visit)
        yield from self.chance.pick(ends)()
        yield from self.job.surprises

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
        self._lose_one_on_its_way()
        names = [agent.node.name for agent in self._members()]
        gap_s = self.chance.pick((0.0, 3.0, 5.0))
        for name in names:
            others = {agent.node.name: agent.num_nodes_waiting for agent in self._members()}
            if gap_s and name != names[0] and not all(others.values()):
                yield f"somebody has left, and {others} are counted"
            if name != names[-1] and self.chance.chance(0.3):  # by Ctrl-C, as it waits for the next round
                self.job.reenter(name)
                self._run_on(self.latency_s * (SLOW_HOPS + self.chance.below(SLOW_HOPS)))
                self.job.interrupt(name)  # which closes no job, so that it must not be the last one
                self._run_on(self.latency_s * SLOW_HOPS)
            else:
                self.job.leave(name)
            self._run_on(gap_s)
        self._run_on(3.0)
        yield from self._closed_to_newcomers()

    def _lose_one_on_its_way(self) -> None:
        """All go to the next round, and one is ended by Ctrl-C, perhaps as it is made a member there."""
        members = self._members()
        if len(members) > self.settings.min_nodes and self.chance.chance(0.5):
            for agent in members:
                self.job.reenter(agent.node.name)
            self._run_on(self.latency_s * self.chance.pick((4, 8, 16)) * self.chance.fraction())
            self.job.interrupt(self.chance.pick(members).node.name)
            self._run_on(WELL_S)

    def _visit(self) -> Iterator[str]:
        """One comes, waits, and leaves or dies: members count it as long as it waits, if there is room; no longer."""
        self.job.is_restless = False
        has_room = len(self.job.agents) < self.settings.max_nodes
        self.job.start("visitor")
        self._run_on(TOLD_S)
        counted = {agent.node.name: agent.num_nodes_waiting for agent in self._members()}
        if set(counted.values()) != {int(has_room)}:
            yield f"a visitor waits, and is counted by {counted}"
        told_s = 3 * self.settings.poll_s + SLOW_HOPS * self.latency_s
        if self.chance.chance(0.5):
            self.job.interrupt("visitor")
        else:
            self.job.crash("visitor")
            told_s += self.settings.bound_s
        self._run_on(told_s)
        if late := [agent.node.name for agent in self._members() if agent.num_nodes_waiting]:
            yield f"the visitor is gone, and is still counted by {', '.join(late)}"

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
            yield from self._lose()
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
            yield from self._lose()
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
        self._run_on(3 * self.settings.poll_s + self.job.reaction_s + 1.5 * SLOW_HOPS * self.latency_s)
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
        return next(WholeLife(seed).faults(), "")


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
