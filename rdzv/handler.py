"""What a rendezvous is to its user: the handler's interface, and the values that come out of a meeting.

Knows no backend: `rdzv.static` is one, and others may live in other distributions (`rdzv.registry` finds them).
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rdzv.endpoint import PORT_MAX

if TYPE_CHECKING:
    from rdzv.store import Store

__all__ = ["RendezvousHandler", "RendezvousInfo", "RendezvousStoreInfo"]


@dataclass(frozen=True)
class RendezvousStoreInfo:
    """Where the job's own processes find each other: what they get as ``MASTER_ADDR`` and ``MASTER_PORT``.

    Attributes:
        master_addr: A host name or address of the node of rank 0.
        master_port: A port on that node.
    """

    MASTER_ADDR_KEY: ClassVar[str] = "MASTER_ADDR"
    MASTER_PORT_KEY: ClassVar[str] = "MASTER_PORT"

    master_addr: str
    master_port: int

    @classmethod
    def build(
        cls, rank: int, store: Store, local_addr: str | None, server_port: int | None = None
    ) -> RendezvousStoreInfo:
        """Agree on an address and a port through the store: rank 0 writes them, and every rank reads them.

        They travel as UTF-8 text under `MASTER_ADDR_KEY` and `MASTER_PORT_KEY`, the address first. A second build by
        rank 0 overwrites them.

        Give both on rank 0 if you can. A port that was found free is not held: another process may take it before
        its user listens on it, and that is how most rendezvous fail. Pass the port of a socket that you already
        hold. And the machine's own name is what its resolver calls it, which may mean nothing to the other nodes.

        Args:
            rank: This node's rank; 0 writes.
            store: What the ranks share.
            local_addr: Rank 0's address. If it is empty, the machine's fully qualified name; its plain host name where
                the resolver does not give one in time.
            server_port: Rank 0's port, 1 to 65535. If it is 0 or ``None``, a port that was free a moment ago.

        Returns:
            The same on every rank.

        Raises:
            TypeError: The rank is not an integer; a text would silently never be rank 0.
            ValueError: The port, given or read, is no port.
            DistStoreError: Rank 0 wrote nothing within the store's timeout.
        """
        if operator.index(rank) == 0:
            from rdzv.net import get_free_port
            from rdzv.utils import machine_name

            addr = local_addr or machine_name()
            port = _checked_port(server_port or get_free_port())
            store.set(cls.MASTER_ADDR_KEY, addr.encode())
            store.set(cls.MASTER_PORT_KEY, str(port).encode())
        return cls(store.get(cls.MASTER_ADDR_KEY).decode(), _checked_port(store.get(cls.MASTER_PORT_KEY)))


def _checked_port(value: int | bytes) -> int:
    try:
        port = int(value)
    except ValueError:
        port = 0
    if not 1 <= port <= PORT_MAX:
        raise ValueError(f"{RendezvousStoreInfo.MASTER_PORT_KEY} must be a port from 1 to {PORT_MAX}, not {value!r}")
    return port


@dataclass(frozen=True)
class RendezvousInfo:
    """What a node takes home from a rendezvous. Read-only, and not a tuple.

    Attributes:
        store: What the nodes of the rendezvous share.
        rank: This node's rank, 0 to ``world_size - 1``.
        world_size: How many nodes met; 1 or more.
        bootstrap_store_info: Where the job's own processes find each other.
    """

    store: Store
    rank: int
    world_size: int
    bootstrap_store_info: RendezvousStoreInfo


class RendezvousHandler(ABC):
    """One node's side of a rendezvous, in whatever way its backend brings the nodes together."""

    @abstractmethod
    def get_backend(self) -> str:
        """The backend's name, as parameters give it."""

    @property
    def use_agent_store(self) -> bool:
        """Whether the job's own processes may use the rendezvous' store, at the address of `bootstrap_store_info`."""
        return False

    @abstractmethod
    def next_rendezvous(self) -> RendezvousInfo:
        """Meet the other nodes: wait until the rendezvous is complete, with this node in it.

        Returns:
            This node's rank, the world's size and what the nodes share.

        Raises:
            RendezvousClosedError: The rendezvous is closed.
            RendezvousTimeoutError: The nodes did not all come in time.
            RendezvousConnectionError: The store cannot be hosted, cannot be reached, or was lost.
            RendezvousStateError: The shared state cannot be read, or contradicts itself.
            RendezvousGracefulExitError: The rendezvous went on without this node, which is not needed.
        """

    @abstractmethod
    def is_closed(self) -> bool:
        """Whether the rendezvous is known to be closed, so that nobody can join it any more.

        News of a close takes time to spread: do not synchronise by it.
        """

    @abstractmethod
    def set_closed(self) -> None:
        """Close the rendezvous for all nodes, because the job has ended."""

    @abstractmethod
    def num_nodes_waiting(self) -> int:
        """How many nodes came too late for the present round and wait for the next one.

        Ask from time to time, and call `next_rendezvous` to let them in.
        """

    @abstractmethod
    def get_run_id(self) -> str:
        """The id of the job."""

    @abstractmethod
    def shutdown(self) -> bool:
        """Let go of everything that this node holds for the rendezvous.

        Returns:
            Whether all went well; errors of the rendezvous itself are told by ``False`` rather than raised.
        """
