"""The helper that is very many clients at once, in one process, on bare sockets.

Knows the protocol's bytes through `rdzv.core.wire`, and no kind of server. What is measured here is the server's part:
the client's is the same for all.
"""

from __future__ import annotations

import select
import socket
import struct
import time

from rdzv.core import wire
from sim.bench.stats import percentile

HOST = "127.0.0.1"
BATCH = 64  # clients that connect before the first of them is heard: fewer than any backlog holds
VALUE = bytes(1000)
PACE_S = 0.001
_ANSWER_S = 30.0
_NONCE = 7
_PING = wire.encode(wire.PING, _NONCE)
_PONG = wire.U32.pack(_NONCE)
_GREETING = wire.encode(wire.VALIDATE, wire.MAGIC) + _PING
_RESET = struct.pack("ii", 1, 0)  # close at once, so that thousands of ports do not linger


class Crowd:
    """Clients of some servers, and one more for what is to happen to them."""

    def __init__(self) -> None:
        self._clients: dict[int, list[socket.socket]] = {}  # by the server's port
        self._keys = 0

    def gather(self, port: int, clients: int) -> float:
        """Connect so many clients to a server, and keep them; the time until all had shaken hands, in seconds."""
        started_at = time.perf_counter()
        gathered = self._clients[port] = []
        while len(gathered) < clients:
            batch = [_connect(port) for _ in range(min(BATCH, clients - len(gathered)))]
            for client in batch:
                _expect(client, _PONG)
            gathered += batch
        return time.perf_counter() - started_at

    def dismiss(self, port: int) -> None:
        """Close the clients of a server."""
        for client in self._clients.pop(port):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()

    def wake(self, port: int) -> float:
        """Let all gathered clients wait for one key, set it, and return the time until all have heard, in seconds."""
        self._keys += 1
        key = f"/wake{self._keys}".encode()
        waiters = self._clients[port]
        poller = select.epoll()
        for waiter in waiters:
            waiter.sendall(_PING + wire.encode(wire.WAIT, [key]))  # in one piece: who answers the one has the other
            poller.register(waiter, select.EPOLLIN)
        for waiter in waiters:
            _expect(waiter, _PONG)
        by_fd = {waiter.fileno(): waiter for waiter in waiters}
        with _connect(port) as setter, poller:
            _expect(setter, _PONG)
            setter.sendall(_PING)
            _expect(setter, _PONG)  # whatever was still to be done is done
            started_at = time.perf_counter()
            setter.sendall(wire.encode(wire.SET, key, b"1"))
            waiting = len(waiters)
            while waiting:
                ready = poller.poll(_ANSWER_S)
                if not ready:
                    raise TimeoutError(f"{waiting} of {len(waiters)} waiters were not woken")
                for fd, _ in ready:
                    _expect(by_fd[fd], wire.STOP_WAITING)
                waiting -= len(ready)
            return time.perf_counter() - started_at

    def fill(self, port: int, megabytes: int) -> None:
        """Store so many megabytes (of a million bytes), in values of a thousand bytes."""
        with _connect(port) as client:
            _expect(client, _PONG)
            for start in range(0, megabytes * 1000, BATCH):
                keys = range(start, min(start + BATCH, megabytes * 1000))
                client.sendall(b"".join(wire.encode(wire.SET, f"/fill{key}".encode(), VALUE) for key in keys) + _PING)
                _expect(client, _PONG)

    def latencies(self, port: int, seconds: float) -> dict[str, float]:
        """Ask for something every millisecond, for a while; what the answers took, in microseconds.

        A question that is late, because the answer before it was, counts from when it was due: else a server that is
        silent for a second would have one slow answer to its name, and not a thousand.
        """
        request = wire.encode(wire.ADD, b"/latency", 1)
        took_us: list[float] = []
        with _connect(port) as client:
            _expect(client, _PONG)
            client.settimeout(None)  # with one, Python asks the kernel twice
            due_at = time.perf_counter()
            until = due_at + seconds
            while due_at < until:
                due_at += PACE_S
                early_s = due_at - time.perf_counter()
                if early_s > 0:
                    time.sleep(early_s)
                    due_at = time.perf_counter()
                client.sendall(request)
                client.recv(8)
                took_us.append((time.perf_counter() - due_at) * 1e6)
        took_us.sort()
        return {
            "count": len(took_us),
            "p50_us": percentile(took_us, 0.5),
            "p99_us": percentile(took_us, 0.99),
            "worst_us": took_us[-1],
        }

    def close(self) -> None:
        """Close all clients."""
        for port in list(self._clients):
            self.dismiss(port)


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection((HOST, port), timeout=_ANSWER_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(_GREETING)
    return sock


def _expect(client: socket.socket, reply: bytes) -> None:
    received = client.recv(len(reply))
    if received != reply:
        raise ConnectionError(f"the server answered {received!r}, not {reply!r}")
