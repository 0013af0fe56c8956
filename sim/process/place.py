"""Where the ranks of a scenario meet: the store's place, and each rank's way to it.

In a static world rank 0 hosts the store, on a socket that is bound here, once, and held. For the other backends the
simulator hosts it, in a process of its own, since it must not stop when a rank does. Where a fault is about the way,
each rank that does not host goes by a relay. Must not know the steps, nor when what goes wrong.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from rdzv.store import StoreServer
from rdzv.store.host import StoreProcess
from sim.process.relay import Relay
from sim.process.resolver import NAME
from sim.process.work import HOST

if TYPE_CHECKING:
    from contextlib import ExitStack

    from rdzv.store.host import Server
    from sim.check.history import Meeting
    from sim.process.messages import Resolver
    from sim.process.relay import Loop
    from sim.scenario import Scenario


class Place:
    """A store's place.

    Attributes:
        port: Where the store is.
        relays: By rank; none where nothing goes wrong on the way.
        resolvers: By rank, of those for whom the store's host has a name.
        is_stolen: Whether the port is kept from its host.
    """

    def __init__(self, scenario: Scenario, seed: int, stack: ExitStack, kind: type[Server] = StoreProcess) -> None:
        """Bind, and serve where no rank does.

        Args:
            scenario: Who meets.
            seed: Draws what is random on the way.
            stack: Closes what is opened here.
            kind: Where the store is served if no rank hosts it.
        """
        self._kind = kind
        self._scenario, self._seed = scenario, seed
        self.relays: dict[int, Relay] = {}
        self.resolvers: dict[int, Resolver] = {}
        self.is_stolen, self.port = False, 0
        self._listener: socket.socket | None = None
        self._server: Server | None = None
        if scenario.backend == "static":
            # It listens from the start, so that no rank finds the door closed because rank 0 comes late.
            backlog = scenario.nodes.started
            self._listener = stack.enter_context(socket.create_server((HOST, 0), backlog=backlog))
            self.port = self._listener.getsockname()[1]
        else:
            self.serve()
            stack.callback(self.kill_store)

    def open(self, loop: Loop) -> None:
        """Open the relays, if there will be need of them."""
        if any(planned.fault.is_of_links for planned in self._scenario.faults):
            for rank in range(self._scenario.nodes.started):
                if not self._is_host(rank):
                    self.relays[rank] = Relay(loop, self.port, f"{self._seed} link {rank}")

    def close(self) -> None:
        """Close the relays."""
        for relay in self.relays.values():
            relay.close()

    def endpoint_of(self, rank: int) -> str:
        """Where a rank finds the store."""
        return f"{NAME if rank in self.resolvers else HOST}:{self.port_of(rank)}"

    def port_of(self, rank: int) -> int:
        """The port of that."""
        return self.relays[rank].port if rank in self.relays else self.port

    def listener_of(self, rank: int) -> socket.socket | None:
        """The socket that a rank is to serve the store on, if it is the host; none if it must bind one itself."""
        return self._listener if self._is_host(rank) and not self.is_stolen else None

    def free_port(self) -> None:
        """Let anybody have the port."""
        assert self._listener
        self._listener.close()

    def serve(self) -> None:
        """Serve an empty store; at the same port as ever, if there was one."""
        self._server = self._kind(HOST, self.port)
        self.port = self._server.port

    def kill_store(self) -> None:
        """End the store's host in the hardest way, if it has not been: its number may be another process's by then."""
        server, self._server = self._server, None
        if isinstance(server, StoreProcess):
            with suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGKILL)
        if server:
            server.stop()

    def lacking(self) -> dict[str, list[str]]:
        """As `StoreServer.lacking`, if it is one."""
        return self._server.lacking() if isinstance(self._server, StoreServer) else {}

    def ranks_by_client(self) -> dict[str, int]:
        """Whose relay each client of the store is, by the client's ``host:port``."""
        return {client: rank for rank, relay in self.relays.items() for client in relay.clients()}

    def _is_host(self, rank: int) -> bool:
        return self._listener is not None and rank == 0

    def as_hosted(self, rank: int, meeting: Meeting) -> Meeting:
        """The meeting with the store's own address and port, where a rank knows another way to it."""
        is_relayed = rank in self.relays and meeting.master_port == self.relays[rank].port
        addr = HOST if meeting.master_addr == NAME else meeting.master_addr
        return meeting._replace(master_addr=addr, master_port=self.port if is_relayed else meeting.master_port)
