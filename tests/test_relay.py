"""The relay between a rank and its store: every condition does to the bytes what it says, and no more."""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from sim.process.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 20.0


class Scene:
    """A relay in a loop of its own, a client, and the store's end of what the client sends."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self._timers, self._ordinals = stack, [], itertools.count()  # type: ignore[var-annotated]
        self.selector = stack.enter_context(selectors.DefaultSelector())
        self._store = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.relay = Relay(self, self._store.getsockname()[1], "seed")
        stack.callback(self.relay.close)

    def call_in(self, seconds: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._ordinals), action))

    def turn(self) -> None:
        """Let happen what can happen now."""
        for key, events in self.selector.select(0.001):
            key.data(events)
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def until(self, is_so: Callable[[], object]) -> None:
        deadline_at = time.monotonic() + DEADLINE_S
        while not is_so():
            assert time.monotonic() < deadline_at
            self.turn()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a connection through the relay."""
        near = self._stack.enter_context(socket.create_connection(("127.0.0.1", self.relay.port), DEADLINE_S))
        count = len(self.relay.connections) + 1
        self.until(lambda: len(self.relay.connections) == count)
        far, _ = self._store.accept()
        self._stack.enter_context(far)
        near.setblocking(False)
        far.setblocking(False)
        return near, far

    def received(self, sock: socket.socket, count: int) -> bytes:
        """So many bytes, or fewer if the connection ends before."""
        data = b""

        def has_all() -> bool:
            nonlocal data
            with suppress(BlockingIOError):
                try:
                    piece = sock.recv(count - len(data))
                except ConnectionResetError:
                    return True
                data += piece
                return not piece or len(data) == count
            return False

        self.until(has_all)
        return data


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack)


def test_bytes_and_ends_pass_both_ways(scene: Scene) -> None:
    """Without trouble it is as if it were not there, and nothing stays open."""
    near, far = scene.connect()
    payload = bytes(range(256)) * 2000
    near.sendall(b"question")
    assert scene.received(far, 8) == b"question"
    sent = far.send(payload)
    assert scene.received(near, sent) == payload[:sent]
    near.shutdown(socket.SHUT_WR)
    assert scene.received(far, 1) == b""
    far.close()
    assert scene.received(near, 1) == b""
    scene.until(lambda: not scene.relay.connections)


@pytest.mark.parametrize(
    ("conditions", "least_s"),
    [({"delay_s": 0.05}, 0.05), ({"bytes_per_s": 10_000.0}, 0.1), ({"delay_s": 0.05, "bytes_per_s": 10_000.0}, 0.1)],
)
def test_bytes_come_no_sooner_than_they_may(scene: Scene, conditions: dict[str, float], least_s: float) -> None:
    """A thousand bytes at ten thousand a second take a tenth of one."""
    for name, value in conditions.items():
        setattr(scene.relay, name, value)
    near, far = scene.connect()
    began_at = time.monotonic()
    near.sendall(b"x" * 1000)
    assert len(scene.received(far, 1000)) == 1000
    assert time.monotonic() - began_at >= least_s


def test_jitter_lets_nothing_overtake(scene: Scene) -> None:
    """A connection is a stream, however its pieces are held up."""
    scene.relay.jitter_s = 0.01
    near, far = scene.connect()
    for number in range(50):
        near.sendall(bytes([number]))
        scene.turn()
    assert scene.received(far, 50) == bytes(range(50))


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_cut_holds_one_way_up_and_loses_nothing(scene: Scene, way: str) -> None:
    """The other way stays open; with the end of the cut what has waited comes."""
    near, far = scene.connect()
    sender, receiver = (near, far) if way == "up" else (far, near)
    scene.relay.cut.add(way)
    scene.relay.change()
    sender.sendall(b"waits")
    receiver.sendall(b"passes")
    assert scene.received(sender, 6) == b"passes"
    with pytest.raises(BlockingIOError):
        receiver.recv(1)
    scene.relay.cut.discard(way)
    scene.relay.change()
    assert scene.received(receiver, 5) == b"waits"


def test_a_mute_relay_loses_what_is_sent(scene: Scene) -> None:
    """What comes afterwards comes, and what came meanwhile never does."""
    near, far = scene.connect()
    scene.relay.is_mute = True
    near.sendall(b"lost")
    scene.until(lambda: not _pending(scene, near))
    scene.relay.is_mute = False
    near.sendall(b"found")
    assert scene.received(far, 5) == b"found"


def _pending(scene: Scene, near: socket.socket) -> bool:
    """Whether the relay has yet to read something: it has when a turn of its loop has nothing to do."""
    del near
    ready = scene.selector.select(0.05)
    for key, events in ready:
        key.data(events)
    return bool(ready)


def test_what_is_lost_is_reset_and_the_oldest_first(scene: Scene) -> None:
    """Both ends learn of it; the next connection is another one."""
    first, second = scene.connect(), scene.connect()
    scene.relay.lose(1)
    for end in first:
        with pytest.raises(ConnectionResetError):
            scene.until(lambda end=end: not _still_open(end))  # type: ignore[misc]
    second[0].sendall(b"on")
    assert scene.received(second[1], 2) == b"on"


def _still_open(end: socket.socket) -> bool:
    with suppress(BlockingIOError):
        assert end.recv(1), "an end, not a reset"
    return True


def test_a_closed_door_refuses_and_opens_again_at_the_same_port(scene: Scene) -> None:
    """Those who are inside stay."""
    near, far = scene.connect()
    port = scene.relay.port
    scene.relay.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), DEADLINE_S)
    near.sendall(b"on")
    assert scene.received(far, 2) == b"on"
    scene.relay.admit()
    assert scene.relay.port == port
    scene.connect()


def test_what_is_truncated_ends_half_way(scene: Scene) -> None:
    """The first half comes, and then the end."""
    near, far = scene.connect()
    scene.relay.spoil["up"] = "truncate"
    near.sendall(b"0123456789")
    assert scene.received(far, 10) in (b"01234", b"")  # a reset may overtake what has not been read
    scene.until(lambda: not scene.relay.connections)


def test_what_is_garbled_is_as_long_and_only_once(scene: Scene) -> None:
    """The next bytes pass as they are, on the same connection."""
    near, far = scene.connect()
    scene.relay.spoil["down"] = "garble"
    far.sendall(b"0" * 64)
    garbage = scene.received(near, 64)
    assert len(garbage) == 64
    assert garbage != b"0" * 64
    far.sendall(b"clear")
    assert scene.received(near, 5) == b"clear"


def test_what_was_sent_before_is_taken_in_and_no_later_trouble_strikes_it(scene: Scene) -> None:
    """It waits at the relay, unseen by the loop; so a fault at a rank's step is about what comes after that step."""
    near, far = scene.connect()
    near.sendall(b"before")
    scene.relay.take_in()
    scene.relay.spoil["up"] = "garble"
    near.sendall(b"behind")
    assert scene.received(far, 6) == b"before"
    assert scene.received(far, 6) not in (b"behind", b"")
