"""The virtual world: flows of the core in it run as they would over a network, and its faults are what they say."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rdzv.core import wire
from rdzv.core.effects import Effect, ReadHead, Sleep, WriteHead
from rdzv.core.meeting import Meeting, meet
from rdzv.errors import DistNetworkError
from sim.virtual.kernel import Stalled
from sim.virtual.world import World

NEVER_S = float("inf")
FIXED = (0.001, 0.001)  # each message travels a millisecond


def ask(*requests):
    """A flow that asks, and returns the replies."""
    replies, _ = yield Effect(requests, NEVER_S)
    return replies


def wait(*keys, until=NEVER_S):
    """A flow that waits, and returns whether that was met, and its node's time then."""
    ((met,),), now = yield Effect([(wire.WAIT, list(keys))], NEVER_S, until)
    return met, now


def sleep(until):
    _, now = yield Sleep(until)
    return now


def in_turn(*effects):
    """A flow that returns what came of each effect."""
    results = []
    for effect in effects:
        result, _ = yield effect
        results.append(result)
    return results


def test_a_hundred_nodes_meet_whatever_their_clocks_show():
    """Clocks hours apart and of another rate change nothing; nobody's part grows with the world."""
    world = World(seed=1)
    nodes = [world.node(f"node{rank}", offset_s=3600.0 * rank, rate=1 + rank / 1000) for rank in range(100)]
    tasks = [
        node.spawn(meet(Meeting("job", rank, 100, node.name, node.now, node.now + 60), node.now))
        for rank, node in enumerate(nodes)
    ]
    world.run()
    assert all(task.result.met for task in tasks)
    assert max(node.cost.operations for node in nodes) <= 6
    assert world.now_s < 0.02


def test_replies_and_times_come_back_to_the_flow():
    """Requests of one effect are answered together; those that have no reply leave no gap."""
    world = World(latency_s=FIXED, is_traced=True)
    effect = Effect([(wire.SET, b"k", b"v"), (wire.GET, b"k"), (wire.ADD, b"n", 5), (wire.MULTI_GET, [b"k", b"x"])], 9)
    task = world.node("a").spawn(in_turn(Effect([], 9), Effect([(wire.SET, b"x", b"y")], 9), effect))
    world.run()
    assert task.result == [[], [], [[b"v"], [5], [b"v", b"y"]]]
    assert world.now_s == 0.003  # there, back, and the end of the connection there again
    assert [entry[3] for entry in world.trace if entry[2] == "serve"] == [19, 74, 0]  # to ask nothing sends nothing


def test_a_batch_with_large_replies_is_answered_whole():
    """The server lets a client read before it goes on; the client's driver does not notice."""
    world = World()
    value = bytes(1 << 20)
    task = world.node("a").spawn(ask((wire.SET, b"k", value), *[(wire.GET, b"k")] * 5))
    world.run()
    assert task.result == [[value]] * 5


def test_cost_is_what_crosses_the_wire_and_beats_are_apart():
    """A request counts as one operation, however many keys it has, and bytes count in both directions."""
    world = World()
    node = world.node("a")
    node.spawn(ask((wire.ADD, b"key", 1), (wire.MULTI_SET, [b"k1", b"v", b"k2", b"v"])))
    beat = Effect([(wire.ADD, b"beat", 1), (wire.GET, b"beat")], 9, beat=True)
    node.spawn(in_turn(beat, ReadHead(9, beat=True)))
    world.run()
    add_bytes, multi_set_bytes = 1 + 8 + 3 + 8, 1 + 8 + 2 * (8 + 2 + 8 + 1)
    assert (node.cost.operations, node.cost.bytes) == (2, add_bytes + 8 + multi_set_bytes)
    assert node.beats.operations == 3
    assert node.beats.bytes == (1 + 8 + 4 + 8) + 8 + (1 + 8 + 4) + (8 + 1) + (1 + 8 + len(b"/rdzv/head")) + 8


def test_the_backends_document_is_replaced_only_by_who_knows_it():
    """Of two that write with the same token, one does; the other sees what is there now."""
    world = World()
    first = world.node("a").spawn(in_turn(ReadHead(9), WriteHead(b"one", None, 9), WriteHead(b"two", b"one", 9)))
    world.run()
    late = world.node("b").spawn(in_turn(WriteHead(b"mine", b"one", 9), WriteHead(b"mine", None, 9), ReadHead(9)))
    world.run()
    assert first.result == [None, (b"one", b"one", True), (b"two", b"two", True)]
    assert late.result == [(b"two", b"two", False), (b"two", b"two", False), (b"two", b"two")]


def test_a_wait_ends_with_the_key_or_at_its_own_time():
    """All who wait are woken by one key; who waits for another is not, and ends when its own clock says so."""
    world = World(latency_s=FIXED)
    met = [world.node(f"n{number}").spawn(wait(b"k")) for number in range(3)]
    unmet = world.node("slow", offset_s=50, rate=0.5).spawn(wait(b"k", b"other", until=51))
    world.at(1.0, lambda: world.node("writer").spawn(ask((wire.SET, b"k", b"v"))))
    world.run()
    assert [task.result for task in met] == [(1, 1.002)] * 3
    assert unmet.result == (0, 51.001)  # a second of its own is two; to cancel takes a way there and back


def test_a_key_that_crosses_with_the_cancelling_is_met():
    """The store woke the wait before it saw that it was over; the flow goes on when that is cleared up."""
    world = World(latency_s=FIXED)
    task = world.node("a").spawn(wait(b"k", until=1.0))
    world.at(0.9995, lambda: world.node("b").spawn(ask((wire.SET, b"k", b"v"))))
    world.run()
    assert task.result == (1, 1.002)


@given(writes_at=st.floats(0.99, 1.01), seed=st.integers(0, 1000))
def test_a_wait_met_at_the_last_moment_counts_as_met(writes_at, seed):
    """However key and cancelling cross: the result is true, and nothing is left over for the next request."""
    world = World(seed, latency_s=(0, 0.01))
    waits = Effect([(wire.WAIT, [b"k"])], 9, 1.0)
    asks = Effect([(wire.CHECK, [b"k"]), (wire.ADD, b"n", 1)], 9)
    task = world.node("a").spawn(in_turn(waits, asks))
    world.at(writes_at, lambda: world.node("b").spawn(ask((wire.SET, b"k", b"v"))))
    world.run()
    ((met,),), ((not_ready,), (number,)) = task.result
    assert number == 1
    assert not (met and not_ready)
    if writes_at > 1.01:
        assert not met


@given(offset_s=st.floats(-1e6, 1e8), rate=st.floats(0.5, 2), naps=st.lists(st.floats(0, 1e4), max_size=5))
def test_a_sleep_ends_on_the_nodes_own_clock_and_never_early(offset_s, rate, naps):
    """A flow that sleeps until a time finds that it is that time, to within what a float can hold."""
    world = World()
    node = world.node("a", offset_s=offset_s, rate=rate)

    def flow(now):
        for nap in naps:
            until = now + nap
            _, now = yield Sleep(until)
            assert until <= now <= until + 1e-6

    task = node.spawn(flow(node.now))
    world.run()
    assert task.error is None
    assert world.now_s == pytest.approx(sum(naps) / rate, abs=1e-6)


def test_a_sleep_may_be_ended_early_and_nothing_else_may():
    """A wait goes on; a paused node notices when it runs on."""
    world = World(latency_s=FIXED)
    node = world.node("a", offset_s=100, rate=2)
    naps, waits = node.spawn(sleep(NEVER_S)), node.spawn(wait(b"k", until=120))
    paused = world.node("b").spawn(sleep(50))
    world.at(1.0, naps.wake)
    world.at(1.0, waits.wake)
    world.at(0.5, world.nodes["b"].pause)
    world.at(1.0, paused.wake)
    world.at(2.0, world.nodes["b"].resume)
    world.run()
    assert (naps.result, waits.result[0], paused.result) == (102.0, 0, 2.0)


def test_what_a_flow_raises_is_kept():
    """Neither the world nor another task is harmed by it; who asks for the result gets it."""
    world = World()
    ended = []

    def refused():
        yield Sleep(1)
        raise LookupError("it is not there")

    broken = world.node("a").spawn(refused(), ended.append)
    fine = world.node("b").spawn(sleep(2), ended.append)
    world.run()
    assert ended == [broken, fine]
    assert fine.result == 2
    assert (broken.ended, fine.ended) == ("raised", "returned")
    with pytest.raises(LookupError, match="it is not there"):
        broken.result  # noqa: B018


def test_a_value_that_is_no_number_ends_the_connection_and_the_flow_can_go_on():
    """As with the real server and client; what came before it in the batch is applied."""
    world = World()

    def flow():
        try:
            yield Effect([(wire.SET, b"n", b"many"), (wire.ADD, b"n", 1)], 9)
        except DistNetworkError as error:
            replies, _ = yield Effect([(wire.GET, b"n")], 9)
            return str(error), replies

    task = world.node("a").spawn(flow())
    world.run()
    assert task.result == ("the store closed the connection: b'many' does not begin with a number", [[b"many"]])


def test_a_deadlock_is_found_at_once_and_says_who_waits_for_what():
    """Two nodes wait for each other's key, and no clock will end it."""
    world = World(latency_s=FIXED)
    for own, other in ((b"ping", b"pong"), (b"pong", b"ping")):
        effects = [Effect([(wire.WAIT, [other])], NEVER_S, NEVER_S), Effect([(wire.SET, own, b"")], NEVER_S)]
        world.node(own.decode()).spawn(in_turn(*effects))
    world.nodes["pong"].pause()
    with pytest.raises(Stalled) as stall:
        world.run()
    assert stall.value.waiting == (
        "ping (in_turn) waits for WAIT [b'pong'] since 0 s",
        "pong (in_turn) waits to begin since 0 s (it is paused)",
    )


def test_a_bound_that_is_not_kept_names_who_is_late():
    """Others may go on for ever: only those asked for count, and with the last of them the run ends."""
    world = World()
    soon, late = world.node("a").spawn(sleep(1)), world.node("b").spawn(sleep(100))
    world.finish(soon, within_s=5)
    assert world.now_s == 1.0
    with pytest.raises(
        Stalled, match=r"^at 6 s not done within 5 s:\n  b \(sleep\) waits for Sleep\(until=100\) since 0 s$"
    ):
        world.finish(soon, late, within_s=5)
    later = world.node("c").spawn(sleep(200))
    world.run()  # what was asked for before does not end this
    assert (late.done, later.done) == (True, True)
    world.finish(late, within_s=0)


def test_names_are_unlike_and_clocks_run_forward():
    """What would make a trace or a sleep meaningless is refused."""
    world = World()
    world.node("a")
    with pytest.raises(ValueError, match="there is a node 'a' already"):
        world.node("a")
    with pytest.raises(ValueError, match="the clock of b must run forward"):
        world.node("b", rate=0.0)


def test_the_trace_tells_who_did_what_when():
    """Details are as the flow asked and got them; without a trace, nothing is kept."""
    world = World(latency_s=FIXED, is_traced=True)
    node = world.node("a")
    node.spawn(ask((wire.ADD, b"n", 1)))
    world.at(1.0, node.pause)
    world.run()
    assert world.trace == [
        (0, "a", "ask", "ask", ((wire.ADD, b"n", 1),)),
        (1_000_000, "a", "serve", 18),
        (2_000_000, "a", "get", "ask", [[1]]),
        (2_000_000, "a", "returned", "ask"),
        (3_000_000, "a", "serve", 0),
        (1_000_000_000, "a", "pause"),
    ]
    assert World().trace is None


def test_a_node_that_asks_in_turn_lets_others_come_between_two_requests_of_one_effect() -> None:
    """As with the stores for which each request is a round trip."""
    world = World(latency_s=FIXED)
    slow, quick = world.node("slow"), world.node("quick")
    slow.asks_in_turn = True
    tasks = [node.spawn(ask(*[(wire.ADD, b"/count", 1)] * 3)) for node in (slow, quick)]
    world.run()
    assert [[number for (number,) in task.result] for task in tasks] == [[1, 5, 6], [2, 3, 4]]
    assert slow.cost.operations == quick.cost.operations == 3


def test_each_request_that_is_asked_in_turn_may_take_as_long_as_all_might_together() -> None:
    """A store's timeout is for one call; so a driver that makes many has no deadline for all of them."""

    def asks():
        _, now = yield Effect([(wire.PING, 0)], 9.0)
        return (yield Effect([(wire.ADD, b"/count", 1)] * 3, now + 0.5))

    world = World(latency_s=(0.2, 0.2))
    node = world.node("node")
    node.asks_in_turn = True
    task = node.spawn(asks())
    world.run()
    assert task.result[0] == [[1], [2], [3]]


def test_a_flow_whose_requests_are_asked_in_turn_hears_of_a_failure_once_and_can_ask_again() -> None:
    """What was asked before the failure has been carried out."""

    def asks():
        requests = [(wire.ADD, b"/count", 1)] * 2
        with pytest.raises(DistNetworkError):
            yield Effect(requests, 1.0)
        return (yield from ask(*requests))

    world = World(latency_s=FIXED)
    node = world.node("node")
    node.asks_in_turn = True
    task = node.spawn(asks())
    world.at(0.0025, world.store.pause)
    world.at(5.0, world.store.resume)
    world.run()
    assert [number for (number,) in task.result] == [3, 4]
    assert task.name == "asks"
