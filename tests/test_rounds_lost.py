"""A member that dies, is paused or is cut off: found in time by all others, whatever it was doing, and no harm done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rdzv.core import wire
from rdzv.core.documents import Settings
from rdzv.core.effects import Effect, Sleep, StoreGoneError
from rdzv.core.persist import persist
from rdzv.core.tend import Membership, tend
from rdzv.errors import DistNetworkError, RendezvousStateError
from sim.virtual.job import Job
from sim.virtual.world import World

if TYPE_CHECKING:
    from rdzv.core.effects import Flow
    from sim.virtual.agent import Agent

BOUND_S = 15.0
FIXED = (0.0005, 0.0005)  # what is sent over two connections arrives in the order of sending
ANNOUNCED_S = BOUND_S + 2
WHOLE_S = 3 * BOUND_S + 5  # the leader of a lobby may be found dead, and then others who died with it


def job_of(count: int, settings: Settings | None = None, seed: int = 0, *, skewed: bool = False) -> Job:
    """A round of so many nodes, complete; nobody reacts to anything."""
    world = World(seed)
    job = Job(world, settings or Settings(1, count, last_call_s=1.0))
    job.is_restless = False
    for number in range(count):
        skew = {"offset_s": 3600.0 * number, "rate": 1 + 0.0005 * number} if skewed else {}
        job.start(f"node{number}", world.node(f"node{number}", **skew))
    world.run(10.0)
    assert all(agent.membership for agent in job.agents.values())
    return job


def name_of(job: Job, rank: int) -> str:
    return next(name for name, agent in job.agents.items() if agent.rounds[-1].rank == rank)


def assert_whole(job: Job, count: int) -> None:
    """So many nodes are in one round, and at peace."""
    members = [agent for agent in job.agents.values() if agent.membership]
    assert len(members) == count, [(agent.node.name, agent.error, agent.standing) for agent in job.agents.values()]
    assert {(agent.rounds[-1].round, agent.rounds[-1].size) for agent in members} == {
        (members[0].rounds[-1].round, count)
    }
    assert not any(agent.num_nodes_waiting or agent.is_evicted for agent in members)
    assert not job.faults()


@pytest.mark.parametrize("came_s", [1.0, 8.5, 13.0])
def test_a_newcomer_after_a_death_does_not_put_off_that_it_is_found(came_s: float) -> None:
    """The members go to the lobby for the newcomer, watch no more, and the leader goes on where they have stopped."""
    job = job_of(3, Settings(1, 4, last_call_s=1.0))
    job.is_restless = True
    died_at = 12.3
    job.world.at(died_at, job.crash, name_of(job, 1))
    job.world.at(died_at + came_s, lambda: job.start("newcomer", job.world.node("newcomer")))
    job.world.run(died_at + ANNOUNCED_S + 1)
    assert_whole(job, 3)


@pytest.mark.parametrize("ranks", [(1, 2), (1, 2, 3), (6, 7, 0, 1, 2)], ids=str)
@pytest.mark.parametrize("phase_s", [0.0, 0.5])
def test_neighbours_that_die_at_once_are_found_at_once(ranks: tuple[int, ...], phase_s: float) -> None:
    """Each has but two who watch it, which may be dead themselves; whoever is left looks beyond them."""
    job = job_of(8, Settings(1, 8, last_call_s=1.0))
    job.is_restless = True
    died_at = 12.0 + phase_s
    for name in [name_of(job, rank) for rank in ranks]:
        job.world.at(died_at, job.crash, name)
    job.world.run(died_at + ANNOUNCED_S + 1)
    assert_whole(job, 8 - len(ranks))


@pytest.mark.parametrize("ranks", [(0,), (1,), (3,), (0, 1), (2, 3), (3, 0), (1, 3)], ids=str)
@pytest.mark.parametrize("phase_s", [0.0, 0.25, 0.5, 0.999])
def test_a_death_is_announced_to_all_others_within_the_bound_and_two_seconds(
    ranks: tuple[int, ...], phase_s: float
) -> None:
    """By the number of waiting nodes, by the round's end and as an event; rank 0 and two neighbours at once too."""
    job = job_of(4, skewed=True)
    dead = [name_of(job, rank) for rank in ranks]
    died_at = 12.0 + phase_s
    for name in dead:
        job.world.at(died_at, job.crash, name)
    job.world.run(died_at + BOUND_S - 1.1)
    assert not any(agent.num_nodes_waiting for agent in job.agents.values()), "before the bound nobody is dead"
    job.world.run(died_at + ANNOUNCED_S)
    for agent in job.agents.values():
        assert agent.num_nodes_waiting == 1
        assert agent.membership.end.kind == "lost"
        assert agent.membership.end.node in dead
        assert "saw no sign of life for 15 s" in str(agent.membership.end)
        assert len(agent.times("end")) == 1


def test_the_sealer_that_dies_as_soon_as_the_round_is_complete_is_announced_too() -> None:
    """The bound counts from the round's completion, which is another leader's work then."""
    job = Job(World(), Settings(3, 3))
    job.is_restless = False
    for number in range(3):
        job.start(f"node{number}")
    sealer = None
    while sealer is None:
        job.world.run(job.world.now_s + 0.0001)
        knows = [name for name, agent in job.agents.items() if _has_sealed(agent)]
        sealer = knows[0] if knows else None
    job.crash(sealer, loses=True)
    job.world.run(3 * BOUND_S + 5)
    assert len(job.agents) == 2
    for agent in job.agents.values():
        assert agent.num_nodes_waiting == 1
        assert agent.membership.end.node == sealer
        assert agent.times("joined")[0] <= ANNOUNCED_S
        assert agent.times("end")[0] <= agent.times("joined")[0] + ANNOUNCED_S


def _has_sealed(agent: Agent) -> bool:
    return agent.standing is not None and agent.standing.ticket > 0 and agent.standing.head.sealed_round == 0


@pytest.mark.parametrize("ranks", [(1,), (0,), (1, 2)], ids=str)
def test_the_next_round_is_complete_as_soon_as_every_living_member_is_back(ranks: tuple[int, ...]) -> None:
    """The last call is for strangers: who was in the round before is here, or known to be gone."""
    job = job_of(4, Settings(2, 8, last_call_s=2.0))
    dead = [name_of(job, rank) for rank in ranks]
    for name in dead:
        job.crash(name)
    job.world.run(job.world.now_s + ANNOUNCED_S + 1)
    survivors = list(job.agents)
    for name in survivors[:-1]:
        job.reenter(name)
    job.world.run(job.world.now_s + 5)
    assert not any(job.agents[name].membership for name in survivors[:-1]), "one is still in the round before"
    job.reenter(survivors[-1])
    job.world.run(job.world.now_s + 0.1)
    assert_whole(job, len(survivors))


@pytest.mark.parametrize("kind", ["pause", "cut"])
def test_one_that_was_away_for_longer_than_the_bound_harms_nobody_is_told_and_can_come_again(kind: str) -> None:
    """The others go on without it meanwhile."""
    job = job_of(3)
    job.is_restless = True
    job.hold("node1", kind)
    job.world.run(job.world.now_s + 40)
    others = [job.agents[name] for name in ("node0", "node2")]
    assert {agent.rounds[-1].size for agent in others} == {2}
    rounds_before = [len(agent.rounds) for agent in others]
    job.is_restless = False
    job.free("node1", kind)
    job.world.run(job.world.now_s + 2)
    away = job.agents["node1"]
    assert away.is_evicted or away.is_joining, "it was told, by the round or by the silence of the store"
    assert not away.membership or away.membership.end is None or away.membership.end.node == "node1"
    assert [len(agent.rounds) for agent in others] == rounds_before
    assert not any(agent.is_evicted for agent in others)
    for name in job.agents:
        job.reenter(name)
    job.world.run(job.world.now_s + 5)
    assert_whole(job, 3)


@pytest.mark.parametrize("away_s", [BOUND_S + 1, 40.0], ids=["not yet swept", "swept"])
def test_one_that_hears_of_its_own_loss_knows_in_that_instant_that_it_is_out(away_s: float) -> None:
    """Whoever asks it why the round should end gets no answer that the next moment contradicts."""
    job = job_of(3)
    job.is_restless = away_s > BOUND_S + 1
    job.hold("node1", "pause")
    job.world.run(job.world.now_s + away_s)
    away = job.agents["node1"]
    job.is_restless = False
    job.free("node1", "pause")
    while not away.num_nodes_waiting:
        job.world.run(job.world.now_s + 0.0001)
    assert away.is_evicted
    assert away.membership.end is None or away.membership.end.node == "node1"


@pytest.mark.parametrize("kind", ["pause", "cut"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_one_that_was_away_for_less_than_the_bound_is_not_missed(kind: str, rank: int) -> None:
    """Nor does it take others for dead when it is back: it has seen nothing of them meanwhile."""
    job = job_of(3)
    name = name_of(job, rank)
    job.hold(name, kind)
    job.world.run(job.world.now_s + BOUND_S - 2)
    job.free(name, kind)
    job.world.run(job.world.now_s + 2 * BOUND_S)
    assert_whole(job, 3)


@pytest.mark.parametrize("away_s", [1.0, 7.0, 14.0])
def test_a_store_that_was_away_for_less_than_the_bound_costs_nothing(away_s: float) -> None:
    """The round goes on, and nobody is evicted."""
    job = job_of(4)
    job.world.store.pause()
    job.world.run(job.world.now_s + away_s)
    job.world.store.resume()
    job.world.run(job.world.now_s + 2 * BOUND_S)
    assert_whole(job, 4)


def test_a_store_that_stays_away_is_an_error_within_the_bound_and_one_request() -> None:
    """Not a silence without end."""
    job = job_of(2)
    job.world.store.pause()
    job.world.run(job.world.now_s + BOUND_S + 2 * job.settings.heartbeat_s)
    assert all("the store did not answer" in str(agent.error) for agent in job.agents.values())


def _steps(who: str, latency_s: tuple[float, float] | None = None, but_for: tuple[str, ...] = ()) -> list[int]:
    """When a node asks anything of the store, in a life of two rounds, in nanoseconds; but for these texts."""
    world = World(3, is_traced=True, **({"latency_s": latency_s} if latency_s else {}))
    _two_rounds(world)
    world.run(4.0)
    assert world.trace
    asked = [entry for entry in world.trace if entry[1:3] == (who, "ask")]
    return [entry[0] for entry in asked if not any(text in str(entry[4]) for text in but_for)]


def _two_rounds(world: World, settings: Settings | None = None) -> Job:
    job = Job(world, settings or Settings(2, 3, last_call_s=1.0))
    for number in range(3):
        job.start(f"node{number}")
    world.at(2.5, job.reenter, "node1")
    return job


@pytest.mark.parametrize("who", ["node0", "node1", "node2"])
@pytest.mark.parametrize("loses", [False, True], ids=["after", "before"])
def test_a_crash_at_any_step_leaves_the_others_in_one_round(who: str, loses: bool) -> None:
    """Before and after every single thing that a node asks: its leadership, its seal, its assignments, its leave."""
    for step in _steps(who):
        world = World(3)
        job = _two_rounds(world)
        world.kernel.call_at(step + 1, lambda job=job: job.crash(who, loses=loses))
        world.run(step / 1e9 + WHOLE_S)
        assert_whole(job, 2)


@pytest.mark.parametrize("who", ["node0", "node1", "node2"])
def test_a_join_that_is_interrupted_at_any_step_leaves_no_ghost(who: str) -> None:
    """Ctrl-C, perhaps while a beat, a record or a seal is on its way: nobody waits until the node is taken for dead.

    But for a ticket that is being drawn, or the word that it moves on: then it is as if it had died.
    """
    settings = Settings(2, 3, last_call_s=1.0, keep_alive_max_attempt=600)
    for step in _steps(who, FIXED, but_for=("/ticket', 1", "b'next'")):
        world = World(3, latency_s=FIXED)
        job = _two_rounds(world, settings)
        world.kernel.call_at(step + 1, job.interrupt, (who,))
        world.run(step / 1e9 + 10)
        assert_whole(job, len(job.agents))


@pytest.mark.parametrize("phase_s", [step / 4000 for step in range(12)])
def test_a_join_that_is_interrupted_while_its_beat_is_on_its_way_leaves_the_lobby(phase_s: float) -> None:
    """It finds a beat of its own that it does not know of yet, and takes nobody's word for its death."""
    world = World(latency_s=FIXED)
    job = Job(world, Settings(2, 3, last_call_s=3.0, keep_alive_max_attempt=600))
    for name in ("node0", "node1"):
        job.start(name)
    world.at(1.001 + phase_s, job.interrupt, "node1")
    world.at(2.5, job.start, "node2")
    world.run(20)
    assert_whole(job, 2)


def test_a_beat_that_was_taken_before_a_pause_says_nothing_of_the_time_after_it() -> None:
    """Its answer lies there when the node wakes: the node may have been given up since."""
    job = job_of(3)
    agent = job.agents[name_of(job, 1)]
    assert agent.membership
    membership = Membership(agent.membership.member, agent.settings, "job")
    flow = tend(membership, 100.0)
    effect = next(flow)
    assert isinstance(effect, Effect)
    beaten = b"%d" % (membership.beat + 1)
    flow.send(([[beaten], *[[b"1"]] * (len(effect.requests) - 1)], 140.0))
    assert (membership.beat, membership.seen_at) == (int(beaten), 100.0)


def test_one_that_was_paused_in_a_lobby_for_longer_than_the_bound_does_not_blame_the_store() -> None:
    """Its request is long overdue when it wakes, by its own fault: it asks once more, and is told how things stand."""
    job = Job(World(), Settings(3, 3))
    for name in ("node0", "node1"):
        job.start(name)
    for phase_s in (0.0, 0.3, 0.6, 0.9):
        job.world.run(job.world.now_s + 5 + phase_s)
        job.hold("node1", "pause")
        job.world.run(job.world.now_s + 40)
        job.free("node1", "pause")
        job.world.run(job.world.now_s + 5)
        agent = job.agents["node1"]
        assert agent.is_joining
        assert len(agent.times("in lobby")) == len(agent.times("passed over")) + 1, "one join, of several lobbies"


class Fickle:
    """A driver that hangs up again and again, for a while."""

    def __init__(self, until: float, error: Exception) -> None:
        self.until, self.error, self.now, self.asked = until, error, 0.0, 0

    def run(self, flow: Flow[object]) -> object:
        effect = next(flow)
        try:
            while True:
                if isinstance(effect, Sleep):
                    self.now = max(self.now, effect.until)
                    effect = flow.send((None, self.now))
                elif self.now < self.until:
                    self.asked += 1
                    effect = flow.throw(self.error)
                else:
                    effect = flow.send(([[b"5"]], self.now))
        except StopIteration as stop:
            return stop.value


def _ask_once() -> Flow[object]:
    replies, _ = yield Effect([(wire.GET, b"k")], 5.0)
    return replies


def test_a_store_that_hangs_up_more_than_once_is_asked_again_within_the_bound_and_without_haste() -> None:
    """A switch that restarts may cut a connection that was opened a moment ago."""
    driver = Fickle(BOUND_S - 2, DistNetworkError("it hung up"))
    assert driver.run(persist(_ask_once(), Settings(1, 1), 0.0)) == [[b"5"]]
    assert driver.asked <= BOUND_S
    with pytest.raises(DistNetworkError):
        Fickle(BOUND_S + 2, driver.error).run(persist(_ask_once(), Settings(1, 1), 0.0))


def test_a_store_that_nobody_serves_any_more_is_not_asked_again() -> None:
    """The caller learns it at once."""
    driver = Fickle(1.0, StoreGoneError("nobody listens"))
    with pytest.raises(StoreGoneError):
        driver.run(persist(_ask_once(), Settings(1, 1), 0.0))
    assert (driver.asked, driver.now) == (1, 0.0)


def test_members_of_a_store_that_was_emptied_are_told_so() -> None:
    """Their beats are gone; but nobody took them for dead, and no round went on without them."""
    job = job_of(3)
    job.world.store.kill()
    job.world.store.restart()
    job.world.run(job.world.now_s + 2)
    for agent in job.agents.values():
        assert isinstance(agent.error, RendezvousStateError)
        assert "lost" in str(agent.error)


@pytest.mark.parametrize("who", ["node0", "node1", "node2"])
@pytest.mark.parametrize("kind", ["pause", "cut"])
def test_a_long_pause_at_any_step_harms_nobody(who: str, kind: str) -> None:
    """A leader, a sealer or a watcher that goes on where it stopped, long after the others went on without it."""
    for step in _steps(who)[::2]:
        world = World(3)
        job = _two_rounds(world)
        world.kernel.call_at(step + 1, job.hold, (who, kind))
        world.at(step / 1e9 + 50, job.free, who, kind)
        world.run(step / 1e9 + 50 + WHOLE_S)
        assert_whole(job, 3)


def test_the_records_of_the_dead_make_nobody_a_member() -> None:
    """The leader of a lobby and one more die there; who leads after them finds their records, and no sign of life."""
    job = Job(World(), Settings(3, 3))
    for name, at_s in (("node0", 0.0), ("node3", 0.5), ("node1", 3.0), ("node2", 4.0), ("node4", 36.0)):
        job.world.at(at_s, job.start, name)
    for name in ("node0", "node3"):
        job.world.at(2.0, job.crash, name)
    job.world.run(36.0)
    assert not any(agent.rounds for agent in job.agents.values())
    assert "2 of at least 3 nodes are here (node" in job.agents["node1"].standing.why
    job.world.run(36.1)
    assert_whole(job, 3)
