"""The port that a node holds for a round: the place of the job's own processes, if the node becomes rank 0.

It is bound before the round begins and named in the node's record, so that rank 0's is known to all members as soon as
the round is sealed, is fresh in every round, and cannot be taken by anyone in between.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any

from rdzv import net
from rdzv.errors import RendezvousConnectionError
from rdzv.store.host import host_store
from rdzv.store.prefix import innermost

if TYPE_CHECKING:
    from rdzv.store.host import Hosting, Server

_PATIENCE_S = 10.0  # to look up a name, and to begin to serve


class Bootstrap:
    """A port of this machine, held until it is served or released.

    Attributes:
        addr: Where the other nodes reach it.
        port: The port, never 0.
    """

    def __init__(self, addr: str, bind: str = "") -> None:
        """Hold a port.

        Args:
            addr: Where the other nodes reach this one.
            bind: What to listen on, where that is not ``addr``.

        Raises:
            RendezvousConnectionError: The address is not of this machine.
        """
        try:
            self._sock, *others = net.bind(bind or addr, 0, time.monotonic() + _PATIENCE_S)
        except OSError as error:
            hint = "" if bind else "; behind NAT or a service address, give the option bind=ADDRESS"
            raise RendezvousConnectionError(
                f"this node cannot offer a port at its address {addr!r}: {error}{hint}", endpoint=addr
            ) from error
        for sock in others:
            sock.close()
        self.addr, self.port = addr, self._sock.getsockname()[1]
        self._server: Server | None = None

    def serve(self, hosting: Hosting) -> None:
        """Serve a fresh store on the port.

        Raises:
            RendezvousConnectionError: It cannot be served.
        """
        try:
            self._server = host_store(
                self.addr, self.port, listen_fd=self._sock.fileno(), hosting=hosting, timeout_s=_PATIENCE_S
            )
        except OSError as error:
            text = f"this node, rank 0, cannot serve its bootstrap store at {self.addr}:{self.port}: {error}"
            raise RendezvousConnectionError(text) from error
        self._sock.close()

    def release(self) -> None:
        """Let go of the port, and stop the server if there is one."""
        self._sock.close()
        if self._server:
            self._server.stop()


def local_address(store: Any) -> str:
    """The address of this machine from which the store's host is reached, so that the way to it is known to work.

    For a store that has no host, such as a file, the machine's name.
    """
    store = innermost(store)
    host, port = getattr(store, "host", None), getattr(store, "port", None)
    if host and port:
        with contextlib.suppress(OSError):
            for family, address in net.resolve(host, port, time.monotonic() + _PATIENCE_S):
                with socket.socket(family, socket.SOCK_DGRAM) as probe:  # nothing is sent: only a route is looked up
                    probe.connect(address)
                    return str(probe.getsockname()[0])
    return socket.gethostname()
