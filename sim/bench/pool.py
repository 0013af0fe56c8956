"""The helper whose forks are clients, one process for each, as the ranks of a job are.

So no client waits for another's interpreter lock. Whatever the client's kind, it runs the same loop around one call of
the store's API. Connections are made, and keys are set, before the clock starts.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import sys
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from rdzv.core import wire
from rdzv.store import TCPStore
from sim.process import descendants

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
VALUE = "v" * 32
BURST = 100  # writes without a reply before one command with a reply makes them certain
START_DELAY_S = 0.02  # from the order to start to the start, so that all clients have heard it
# A lone client and its server are put on one processor at first, and on two once both have been seen to be busy. What
# counts is what lasts. More clients have all processors from the start.
WARM_UP_S_MAX = 0.2
WARM_UP_SLICES = 2  # in a bench that measures next to nothing, so as to see only that it works
ANSWER_S = 50.0
_PACKET_BYTES = 1 << 12


class Pool:
    """Clients that do one operation over and over, for a while, as many of them as asked for."""

    def __init__(self) -> None:
        self._channels: list[socket.socket] = []
        self._pids: list[int] = []

    def start(self, clients: int, torch: bool) -> None:
        """Fork the clients; all that they need is loaded before, once."""
        if torch:
            from sim.bench import torch_store  # noqa: F401
        gc.freeze()
        for number in range(clients):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            parent_pid = os.getpid()
            if not (pid := os.fork()):
                for channel in (*self._channels, ours):
                    channel.close()
                _be_client(number, theirs, parent_pid)
            theirs.close()
            self._pids.append(pid)
            self._channels.append(ours)

    def run(self, operation: str, via: str, port: int, clients: int, seconds: float) -> dict[str, float]:
        """Let the first of the clients repeat an operation on the server at a port.

        Args:
            operation: One of `prepare`.
            via: Which client: ``torch``, ``rdzv``, or a `RawClient`, as ``raw`` for a store or ``echo`` for an echo.
            port: The server's.
            clients: How many of them.
            seconds: For how long.

        Returns:
            ``operations`` of all clients, ``elapsed_s`` until the last of them was done, and ``uncounted`` ones before.
        """
        busy = self._channels[:clients]
        for channel in busy:
            channel.send(json.dumps([operation, via, port]).encode())
        self._gather(busy)
        begin_at = time.monotonic() + START_DELAY_S
        start_at = begin_at + min(WARM_UP_S_MAX, WARM_UP_SLICES * seconds) * (clients == 1)
        for channel in busy:
            channel.send(json.dumps([begin_at, start_at, start_at + seconds]).encode())
        results = self._gather(busy)
        return {
            "operations": sum(count for count, _, _ in results),
            "elapsed_s": max(finished_at for _, _, finished_at in results) - start_at,
            "uncounted": sum(uncounted for _, uncounted, _ in results),
        }

    def close(self) -> None:
        """End the clients."""
        for channel in self._channels:
            channel.close()
        for pid in self._pids:
            os.waitpid(pid, 0)

    def _gather(self, channels: list[socket.socket]) -> list[Any]:
        """One answer of each."""
        poller = select.poll()
        waiting = {channel.fileno(): channel for channel in channels}
        for channel in channels:
            poller.register(channel, select.POLLIN)
        answers: list[Any] = []
        deadline_at = time.monotonic() + ANSWER_S
        while waiting:
            ready = poller.poll(max(0.0, deadline_at - time.monotonic()) * 1000)
            if not ready:
                raise TimeoutError(f"{len(waiting)} of {len(channels)} clients did not answer within {ANSWER_S:g} s")
            for fd, _ in ready:
                packet = waiting.pop(fd).recv(_PACKET_BYTES)
                poller.unregister(fd)
                if not packet:
                    raise ConnectionError("a client has ended; what it said is on standard error")
                answers.append(json.loads(packet))
        return answers


def _be_client(number: int, channel: socket.socket, parent_pid: int) -> NoReturn:
    """The program of a forked client: be told, get ready, wait for the start, repeat, report."""
    status = 1
    try:
        descendants.die_with_parent(parent_pid)
        stores: dict[tuple[str, int], Any] = {}
        while packet := channel.recv(_PACKET_BYTES):
            operation, via, port = json.loads(packet)
            if (via, port) not in stores:
                stores[via, port] = _connect(via, port)
            weight, call = prepare(operation, stores[via, port], f"{operation}{number}")
            channel.send(b"null")
            begin_at, start_at, until_at = json.loads(channel.recv(_PACKET_BYTES))
            time.sleep(max(0.0, begin_at - time.monotonic()))
            uncounted = _repeat(call, start_at) if start_at > begin_at else 0
            count = _repeat(call, until_at)
            channel.send(json.dumps([count * weight, uncounted * weight, time.monotonic()]).encode())
        status = 0
    except BaseException:  # noqa: BLE001 -- a fork must not go on as its parent
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(status)


def _repeat(call: Callable[[], object], until_at: float) -> int:
    """Call until the time has come, and once at least: on a busy machine it may have come before the first."""
    count, now = 0, time.monotonic
    while True:
        call()
        count += 1
        if now() >= until_at:
            return count


def prepare(operation: str, store: Any, key: str) -> tuple[int, Callable[[], object]]:
    """What to call to do an operation, and how many of it one call does.

    Args:
        operation: ``add``, ``get``, ``compare_set``; ``set``, `BURST` of them and then a command with a reply, which
            makes them certain; ``set_sync``, each made certain by itself. A `RawClient` does ``add`` alone.
        store: A client.
        key: A key that only this client uses.
    """
    if operation == "add":
        return 1, partial(store.add, key, 1)
    if operation == "set_sync" and isinstance(store, TCPStore):
        return 1, partial(store.set, key, VALUE, sync=True)
    burst = BURST if operation == "set" else 1

    def set_and_check() -> None:
        for _ in range(burst):
            store.set(key, VALUE)
        store.check([key])

    set_and_check()
    if operation == "get":
        return 1, partial(store.get, key)
    if operation == "compare_set":
        return 1, partial(store.compare_set, key, VALUE, VALUE)
    return burst, set_and_check


def _connect(via: str, port: int) -> Any:
    if via == "torch":
        from sim.bench import torch_store

        return torch_store.connect(port)
    return TCPStore(HOST, port) if via == "rdzv" else RawClient(port, echoed=via == "echo")


class RawClient:
    """The least that a client in Python must do: one send and one receive, of bytes made beforehand."""

    def __init__(self, port: int, *, echoed: bool) -> None:
        """Connect.

        Args:
            port: The server's.
            echoed: Whether it sends back what it gets; else it is a store, which is greeted, and asked for an ADD.
        """
        sock = socket.create_connection((HOST, port), timeout=ANSWER_S)
        sock.settimeout(None)  # with one, Python asks the kernel twice
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = wire.encode(wire.ADD, b"/bare", 1)
        self._reply_bytes = len(self._request) if echoed else 8
        self._send, self._receive = sock.sendall, sock.recv
        if not echoed:
            sock.sendall(wire.encode(wire.VALIDATE, wire.MAGIC))

    def add(self, _key: str, _amount: int) -> None:
        """Send the request and receive its reply."""
        self._send(self._request)
        if len(self._receive(self._reply_bytes)) != self._reply_bytes:
            raise ConnectionError("the server closed the connection, or tore a reply of a few bytes in two")
