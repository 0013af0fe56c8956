"""The helper whose threads are nodes of an elastic job, ours or torch's: each has a handler and a client of its own.

Knows how a handler is made, and when its node was in. Must not know what is measured: that is `sim.bench.join`.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rdzv.c10d import C10dRendezvousBackend
from rdzv.elastic import DynamicRendezvousHandler, RendezvousTimeout
from rdzv.store import TCPStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

HOST = "127.0.0.1"
JOIN_S = 45.0  # less than a helper may be silent for


class Crew:
    """Nodes that meet once."""

    def __init__(self) -> None:
        self._nodes: list[tuple[Any, Any]] = []  # a store and a handler for each
        self._threads: ThreadPoolExecutor | None = None
        self._meetings: list[Future[list[float]]] = []
        self._start = threading.Event()
        self._start_at = 0.0
        self._is_over = False
        self._joined = _Joined()

    def gather(self, who: str, run_id: str, size: int, ports: Sequence[int], is_watched: bool) -> None:
        """Connect nodes and make their handlers; each has a thread then that waits for the start.

        Args:
            who: Whose handlers: ``rdzv`` or ``torch``.
            run_id: The job's name, new on its server.
            size: How many nodes the job has, those of other crews included.
            ports: Where each node of this crew finds the store.
            is_watched: Whether to note when a node is in, which is a little before its handler returns.
        """
        make = _node
        if who == "torch":
            from sim.bench import torch_join

            make = torch_join.node
        logger = logging.getLogger("rdzv.elastic")
        logger.propagate = False  # that nodes leave in the end is no news
        logger.addHandler(self._joined)
        if is_watched:
            logger.setLevel(logging.INFO)
        self._nodes = [make(run_id, port, size) for port in ports]
        self._threads = ThreadPoolExecutor(len(ports))
        self._meetings = [self._threads.submit(self._meet, handler) for _, handler in self._nodes]

    def meet(self, start_at: float) -> list[list[float]]:
        """Let all nodes of the crew join at a time of `time.monotonic`.

        Returns:
            For each its rank, the size of its world, and when it began, was in, and had its handler's answer.
        """
        self._start_at = start_at
        self._start.set()
        return [meeting.result() for meeting in self._meetings]

    def part(self) -> None:
        """Let all nodes leave."""
        assert self._threads
        list(self._threads.map(lambda node: node[1].shutdown(), self._nodes))
        self._threads.shutdown()

    def close(self) -> None:
        """Let nobody wait any more; close what can be closed: torch's clients close when they are collected."""
        self._is_over = True
        self._start.set()
        for store, _ in self._nodes:
            if isinstance(store, TCPStore):
                store.close()

    def _meet(self, handler: Any) -> list[float]:
        self._start.wait()
        if self._is_over:
            raise RuntimeError("the bench is over, and has never told this node to start")
        time.sleep(max(0.0, self._start_at - time.monotonic()))
        began_at = time.monotonic()
        info = handler.next_rendezvous()
        back_at = time.monotonic()
        return [info.rank, info.world_size, began_at, self._joined.at.get(threading.get_ident(), back_at), back_at]


class _Joined(logging.Handler):
    """Notes when a handler of ours reports that its node has joined; it does so in the thread of its caller."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[int, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take one event."""
        if isinstance(record.args, tuple) and "joined" in record.args:
            self.at[threading.get_ident()] = time.monotonic()


def _node(run_id: str, port: int, size: int) -> tuple[Any, Any]:
    """A store and a handler, with the defaults but for the join time-out."""
    store = TCPStore(HOST, port)
    backend = C10dRendezvousBackend(store, run_id)
    timeout = RendezvousTimeout(join=timedelta(seconds=JOIN_S))
    return store, DynamicRendezvousHandler.from_backend(run_id, store, backend, size, size, HOST, timeout)
