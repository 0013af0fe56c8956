"""The helper that hosts a server, as a rank would: it waits, or computes, or makes many short calls beside it.

Knows each kind of server: ours in a thread or in a process of its own, torch's, and an echo, which is no store at all
but shows what the kernel and Python's sockets take by themselves.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdzv.store.host import StoreProcess
from rdzv.store.server import StoreServer

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
_READ_BYTES = 1 << 16


class Host:
    """One server, in a process that can be kept busy."""

    def __init__(self) -> None:
        self._server: Any = None

    def serve(self, kind: str) -> dict[str, int]:
        """Start the server: ``process``, ``thread``, ``torch`` or ``echo``; its port, and the process that it is in."""
        if kind == "torch":
            from sim.bench import torch_store

            self._server = torch_store.serve()
        elif kind == "echo":
            self._server = Echo()
        else:
            self._server = StoreServer(HOST) if kind == "thread" else StoreProcess(HOST)
        return {"port": self._server.port, "pid": getattr(self._server, "pid", os.getpid())}

    def load(self, kind: str, seconds: float) -> None:
        """Keep this process's main thread busy, in one of the ways of `LOADS`."""
        LOADS[kind](seconds)

    def close(self) -> None:
        """Stop the server, if it is one that can be."""
        if hasattr(self._server, "stop"):
            self._server.stop()


def _compute(seconds: float) -> None:
    until = time.monotonic() + seconds
    total = 0
    while time.monotonic() < until:
        for number in range(1000):
            total += number * number


def _call(seconds: float) -> None:
    """Each call gives the interpreter lock away and has it back at once: whoever waits for it wakes up too late."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        Path("/").stat()
        sum(range(10_000))


LOADS: dict[str, Callable[[float], None]] = {"idle": time.sleep, "compute": _compute, "calls": _call}
"""What a rank may do while it hosts: wait, compute in pure Python, or make short calls that release the lock."""


class Echo:
    """Sends back what it gets, in a thread, on epoll; the least that any server in Python must do."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        poller = select.epoll()
        poller.register(self._listener, select.EPOLLIN)
        clients: dict[int, socket.socket] = {}
        while True:
            for fd, _ in poller.poll():
                if fd == self._listener.fileno():
                    client, _ = self._listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    clients[client.fileno()] = client
                    poller.register(client, select.EPOLLIN)
                    continue
                data = b""
                with contextlib.suppress(ConnectionError):
                    data = clients[fd].recv(_READ_BYTES)
                    clients[fd].sendall(data)
                if not data:
                    clients.pop(fd).close()
