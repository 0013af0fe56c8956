"""TCPStore's replies of all sizes, and in any pieces, however they fit what a conversation reads at once."""

from __future__ import annotations

import os
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from rdzv.core import wire
from rdzv.core.effects import Effect
from rdzv.core.wire import Limits
from rdzv.errors import DistNetworkError
from rdzv.store import StoreServer, TCPStore
from rdzv.store.connection import ANSWER_S

GRACE_S = 30.0  # for what takes milliseconds, on a machine that is busy with other things


def test_values_of_all_sizes_come_whole_in_any_order():
    """Also when one does not fit what is read at once, or does to the byte."""
    sizes = [1, 439, 440, 441, 447, 448, 449, 1, 4096, 70_000, 3, 65_528, 65_529, 1 << 20, 2]
    with closing(TCPStore("127.0.0.1", 0, is_master=True, timeout=GRACE_S)) as store:
        for size in [*sizes, *reversed(sizes)]:
            value = os.urandom(size // 2).hex() + "x" * (size % 2)
            store.set("k", value)
            assert store.get("k") == value.encode()
            assert store.compare_set("k", value, value) == value.encode()
            assert store.add("n", 1) > 0
            assert store.multi_get(["k", "k"]) == [value.encode(), value.encode()]


def test_a_reply_that_comes_byte_by_byte_is_awaited():
    """Even if the system's patience for one read ends in between."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        made = pool.submit(TCPStore, "127.0.0.1", listener.getsockname()[1], timeout=GRACE_S)
        peer, _ = listener.accept()
        stack.enter_context(peer)
        greeting = peer.recv(10, socket.MSG_WAITALL)
        peer.sendall(greeting[-4:])
        store = stack.enter_context(closing(made.result(GRACE_S)))
        value = (1).to_bytes(8, "little") + b"v"
        for call, reply, result in [
            (lambda: store.add("n", 1), (1 << 40).to_bytes(8, "little"), 1 << 40),
            (lambda: store.compare_set("k", "", "v"), value, b"v"),
            (lambda: store.multi_get(["k", "l"]), value + value, [b"v", b"v"]),
            (lambda: store.add("n", 1), bytes(8), 0),
        ]:
            answer = pool.submit(call)
            assert select.select([peer], [], [], GRACE_S)[0]
            peer.recv(1 << 16)
            for byte in reply:
                assert not select.select([peer], [], [], 0.011)[0]
                peer.sendall(bytes([byte]))
            assert answer.result(GRACE_S) == result


def test_what_a_flow_asks_is_awaited_no_longer_than_its_deadline(monkeypatch):
    """Even if that is nearer than the time that a store's own call has at least."""
    asked = []
    deadline_at = time.monotonic() + ANSWER_S / 2

    def flow():
        return (yield Effect([(wire.ADD, b"/n", 1)], deadline_at))

    def ask(*told):
        asked.append(told)
        return [[1]]

    with closing(TCPStore("127.0.0.1", 0, is_master=True, timeout=GRACE_S)) as store:
        monkeypatch.setattr(store.client, "ask", ask)
        replies, _ = store.client.run(flow())
    assert replies == [[1]]
    assert asked == [([(wire.ADD, b"/n", 1)], deadline_at)]


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.set("k", "v", sync=True),
        lambda store: store.compare_set("k", "", "v"),
        lambda store: store.add("k", 1),
        lambda store: store.barrier("k", 1),
    ],
)
def test_a_write_for_which_the_store_has_no_room_does_not_only_blame_the_host(write):
    """The server can but hang up; who looks for a dead host then looks in vain."""
    with StoreServer(limits=Limits(stored_bytes_max=1)) as server:
        with (
            closing(TCPStore("127.0.0.1", server.port, timeout=GRACE_S)) as store,
            pytest.raises(DistNetworkError, match=r"stopped or died.*, or it had no room"),
        ):
            write(store)
        with closing(TCPStore("127.0.0.1", server.port, timeout=GRACE_S)) as store:
            assert store.num_keys() == 0
