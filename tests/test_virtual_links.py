"""Faults of a node's link and of the store's host: what a task sees of each is what a real client would."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rdzv.core import wire
from rdzv.core.effects import Effect, Sleep, StoreGoneError
from rdzv.errors import ConnectTimeoutError, DistNetworkError
from sim.virtual.world import World

NEVER_S = float("inf")
FIXED = (0.001, 0.001)  # each message travels a millisecond


def asking(*requests, by=NEVER_S, times=1):
    """A flow that asks again and again; what came of it each time, a reply or an error, and when."""
    results = []
    for _ in range(times):
        try:
            result, now = yield Effect(requests, by)
        except DistNetworkError as error:
            result, now = error, (yield Sleep(0))[1]
        results.append((result, now))
    return results


def waiting(key, until=NEVER_S):
    """A flow that waits; whether that was met, and when."""
    ((met,),), now = yield Effect([(wire.WAIT, [key])], NEVER_S, until)
    return met, now


def add(by=1):
    return wire.ADD, b"n", by


def outcomes(results):
    """What came each time: the first reply's only field, or the error's class."""
    return [result[0][0] if isinstance(result, list) else type(result) for result, _ in results]


def value_of(world, key=b"n"):
    """What the store holds, asked over a node that no fault has touched."""
    task = world.node(f"reader {len(world.nodes)}").spawn(asking((wire.GET, key)))
    world.finish(task, within_s=10)
    return outcomes(task.result)[0]


# Conditions


def test_a_delay_lasts_as_long_as_it_says_each_way():
    """What set out before is not delayed, nor what sets out after it is over."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    node.link.delay_s = 0.5
    task = node.spawn(asking(add(), times=2))
    world.at(0.9, setattr, node.link, "delay_s", 0.0)
    world.run()
    assert task.result == [([[1]], 1.002), ([[2]], 1.004)]


@given(seed=st.integers(0, 1000), jitter_s=st.floats(0.001, 1))
def test_jitter_is_within_its_bound_and_nothing_overtakes(seed, jitter_s):
    """Writes of one task arrive in order, however late."""
    world = World(seed, latency_s=FIXED)
    node = world.node("a")
    node.link.jitter_s = jitter_s

    def write():
        for number in range(20):
            yield Effect([(wire.SET, b"n", b"%d" % number)], NEVER_S)
        yield Effect([(wire.PING, 1)], NEVER_S)

    world.finish(node.spawn(write()), within_s=2 * (jitter_s + 0.002))
    assert value_of(world) == b"19"


def test_a_narrow_link_passes_so_many_bytes_in_a_second_each_way():
    """What is sent later waits for what was sent before, on the same connection alone."""
    world = World(latency_s=FIXED)
    node, value = world.node("a"), bytes(1000)
    node.link.bytes_per_s = 1000.0
    sets = node.spawn(asking((wire.SET, b"k", value), (wire.GET, b"k")))
    beside = node.spawn(asking(add()))
    world.run()
    ((_, now),) = sets.result
    request_bytes, reply_bytes = (1 + 8 + 1 + 8 + 1000) + (1 + 8 + 1), 8 + 1000
    assert now == pytest.approx((request_bytes + reply_bytes) / 1000 + 0.002)
    assert beside.result[0][1] == pytest.approx((18 + 8) / 1000 + 0.002)


@pytest.mark.parametrize(("flow", "seen"), [("up", b""), ("down", b"1")])
def test_a_link_that_is_cut_one_way_holds_what_goes_that_way_alone(flow, seen):
    """Cut up, the store does not see the request; cut down, it has applied it, and the node does not know."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    node.link.cut |= {flow}
    node.link.change()
    task = node.spawn(asking(add()))
    world.run(until_s=5)
    assert (value_of(world), task.done) == (seen, False)
    assert "(it is cut off)" in repr(task)
    node.link.cut -= {flow}
    node.link.change()
    world.run()
    assert outcomes(task.result) == [1]


def test_a_mute_node_is_not_heard_and_hears_nothing():
    """What is lost stays lost when the link is well again; the connection can be used on."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    node.spawn(asking(add()))
    waits = node.spawn(waiting(b"k"))
    world.run(until_s=0.5)
    node.link.is_mute = True
    task = node.spawn(asking(add(), by=1))
    world.at(0.6, lambda: world.node("b").spawn(asking((wire.SET, b"k", b"v"))))
    world.run(until_s=2)
    assert outcomes(task.result) == [ConnectTimeoutError]
    assert (value_of(world), waits.done) == (b"1", False)
    assert "(it is not heard)" in repr(waits)
    node.link.is_mute = False
    again = node.spawn(asking(add()))
    world.run(until_s=4)
    assert (outcomes(again.result), waits.done) == ([2], False)


# The end of a connection


def test_a_lost_connection_ends_what_waits_on_it_and_the_next_request_opens_another():
    """The request was under way, so nobody knows whether it was applied; here it was not."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    task, waits = node.spawn(asking(add(), times=2)), node.spawn(waiting(b"k"))
    world.at(0.0005, node.link.lose)
    world.run()
    assert outcomes(task.result) == [DistNetworkError, 1]
    (error, at), _ = task.result
    assert (str(error), error.applied, at) == ("the store is gone: Connection reset by peer", "unknown", 0.0005)
    assert waits.ended == "raised"
    assert world.store.core.connections == {}


def test_the_oldest_connections_are_lost_first():
    """So many as it says."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    waits = [node.spawn(waiting(b"k")) for _ in range(4)]
    world.run(until_s=1)
    node.link.lose(1)
    world.run(until_s=2)
    assert [task.ended for task in waits] == ["raised", "", "", ""]
    node.link.lose(2)
    world.run(until_s=3)
    assert [task.ended for task in waits] == ["raised", "raised", "raised", ""]
    assert len(world.store.core.waiting()) == 1


def test_who_sleeps_learns_of_the_loss_when_it_asks_again():
    """As a client does that reads only what it awaits; a sleep ends when it would have."""
    world = World(latency_s=FIXED)
    node = world.node("a")

    def flow():
        yield Effect([add()], NEVER_S)
        yield Sleep(5)
        return (yield from asking((wire.SET, b"k", b"v"), times=2))

    task = node.spawn(flow())
    world.at(1.0, node.link.lose)
    world.run()
    (error, at), (result, _) = task.result
    assert (type(error), at, result) == (DistNetworkError, 5.0, [])


def test_a_paused_node_learns_of_the_loss_when_it_runs_on():
    """The store's end is gone at once."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    task = node.spawn(asking((wire.QUEUE_LEN, b"q"), add(), times=1))
    world.at(0.0015, node.pause)
    world.at(0.5, node.link.lose)
    world.run(until_s=1)
    assert (task.done, world.store.core.connections) == (False, {})
    node.resume()
    assert outcomes(task.result) == [0]  # it had come before


def test_refused_connections_are_tried_again_and_others_go_on():
    """Within the second that the driver gives it, nobody notices."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    waits = node.spawn(waiting(b"k"))
    world.run(until_s=1)
    node.link.refuse()
    task = node.spawn(asking(add()))
    world.at(1.5, node.link.admit)
    world.at(3.0, lambda: world.node("b").spawn(asking((wire.SET, b"k", b"v"))))
    world.run()
    assert outcomes(task.result) == [1]
    assert 1.5 < task.result[0][1] < 2.0
    assert waits.result[0] == 1


def test_where_nobody_listens_the_store_is_gone():
    """That is what the driver says after a second of trying, and each time that it is asked again."""
    world = World(latency_s=FIXED)
    world.store.kill()
    task = world.node("a", rate=0.5).spawn(asking(add(), times=2))
    world.run()
    assert outcomes(task.result) == [StoreGoneError] * 2
    assert [now for _, now in task.result] == [pytest.approx(1.0), pytest.approx(2.0)]
    assert task.error is None


def test_who_opens_a_store_tries_for_as_long_as_it_was_told():
    """Then it is a time-out, and certain that nothing was applied."""
    world = World(latency_s=FIXED)
    world.store.kill()
    node = world.node("a")
    late, soon = node.spawn(asking(add()), None, 7.0), node.spawn(asking(add()), None, 3.0)
    world.at(5.0, world.store.restart)
    world.run()
    ((error, at),) = soon.result
    assert (type(error), error.applied, at) == (ConnectTimeoutError, "no", 3.0)
    assert str(error) == ("the client socket has timed out after 3.0 s: no store answered: Connection refused")
    assert outcomes(late.result) == [1]
    assert 5.0 < late.result[0][1] < 6.1


# The store's host


def test_a_killed_store_loses_its_data_and_all_connections():
    """Who waits sees the end of the connection; what was under way is not applied to the store that comes after."""
    world = World(latency_s=FIXED)
    nodes = [world.node(name) for name in "abc"]
    waits, adds = nodes[0].spawn(waiting(b"k")), nodes[1].spawn(asking(add(10)))
    world.run(until_s=1)
    late = nodes[2].spawn(asking(add(5), times=2))
    world.at(1.0005, world.store.kill)
    world.at(1.0006, world.store.restart)
    world.run()
    assert outcomes(adds.result) == [10]
    assert isinstance(waits.error, DistNetworkError)
    assert str(waits.error) == "the store closed the connection: its host has stopped or died"
    assert outcomes(late.result) == [DistNetworkError, 5]
    assert value_of(world) == b"5"


def test_a_store_that_is_killed_while_it_is_away_applies_nothing_of_what_was_held():
    """Its clients see the end of their connections, and reach the one that comes after."""
    world = World(latency_s=FIXED)
    world.store.pause()
    task = world.node("a").spawn(asking(add(), times=2))
    world.at(0.5, world.store.kill)
    world.at(0.7, world.store.restart)
    world.run()
    assert outcomes(task.result) == [DistNetworkError, 1]
    assert value_of(world) == b"1"


def test_who_is_cut_off_learns_of_the_stores_death_when_it_is_healed():
    """Until then it waits."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    task = node.spawn(waiting(b"k"))
    world.run(until_s=1)
    node.cut()
    world.store.kill()
    world.run(until_s=9)
    assert not task.done
    assert "(it is cut off, the store is dead)" in repr(task)
    node.heal()
    assert isinstance(task.error, DistNetworkError)


# Bytes that are not what was sent


def test_of_a_truncated_request_nothing_is_applied():
    """Half of it arrives, then the connection ends; the next one is whole."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    node.link.spoil["up"] = "truncate"
    task = node.spawn(asking(add(), times=2))
    world.run()
    assert outcomes(task.result) == [DistNetworkError, 1]
    assert world.store.core.connections == {}


def test_of_a_truncated_reply_the_request_is_applied():
    """The node sees half of it and then the end, and does not know."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    node.link.spoil["down"] = "truncate"
    task = node.spawn(asking(add(), times=2))
    world.run()
    assert outcomes(task.result) == [DistNetworkError, 2]
    assert len(world.store.core.connections) == 0


def test_a_reply_of_one_byte_is_whole_before_the_connection_ends():
    """A wait is met; it is the next request that fails."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    node.link.spoil["down"] = "truncate"

    def flow():
        met, _ = yield from waiting(b"k")
        return met, (yield from asking(add(), times=2))

    task = node.spawn(flow())
    world.at(1.0, lambda: world.node("b").spawn(asking((wire.SET, b"k", b"v"))))
    world.run()
    met, results = task.result
    assert (met, outcomes(results)) == (1, [DistNetworkError, 1])


@given(seed=st.integers(0, 1 << 32), flow=st.sampled_from(["up", "down"]))
def test_garbage_harms_nobody_but_who_sent_or_got_it(seed, flow):
    """The flow sees an error, unless the garbage was a command; the store serves all others, and the flow again."""
    world = World(seed, latency_s=FIXED)
    node = world.node("a")
    node.link.spoil[flow] = "garble"
    task = node.spawn(asking((wire.GET, b"k"), by=5))
    beside = world.node("b").spawn(asking(add(), times=3))
    world.run()
    assert outcomes(beside.result) == [1, 2, 3]
    ((result, _),) = task.result
    assert flow == "up" or isinstance(result, DistNetworkError)
    again = node.spawn(asking(add()))
    world.finish(again, within_s=1)
    assert outcomes(again.result) == [4]


def test_garbage_in_place_of_a_waits_end_is_the_end_or_an_error():
    """One byte of 256 is the right one."""
    ended = set()
    for seed in range(30):
        world = World(seed, latency_s=FIXED)
        node = world.node("a")
        node.link.spoil["down"] = "garble"
        task = node.spawn(waiting(b"k"))
        world.at(1.0, lambda world=world: world.node("b").spawn(asking((wire.SET, b"k", b"v"))))
        world.run()
        ended.add(task.ended)
        assert task.error is None or "to a wait" in str(task.error)
    assert "raised" in ended


def test_what_speaks_another_protocol_is_called_that():
    """A value of a length that no store sends."""
    world = World(1, latency_s=FIXED)
    node = world.node("a")
    node.link.spoil["down"] = "garble"
    task = node.spawn(asking((wire.GET, b"k")))
    world.run()
    ((error, _),) = task.result
    assert str(error).startswith("what listens there is no store: a value of ")


# Slow nodes


def test_a_slow_node_does_everything_so_much_later():
    """It sees a reply, and that a sleep or a wait is over, later than others; what it sends travels as ever."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    node.slow(0.25)

    def flow():
        _, replied = yield Effect([add()], NEVER_S)
        _, slept = yield Sleep(1)
        _, cancelled = yield from waiting(b"k", until=2)
        return replied, slept, cancelled

    task = node.spawn(flow())
    world.run()
    assert task.result == (0.252, 1.25, 2.502)
