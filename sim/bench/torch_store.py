"""Torch's store, server and client, as the benches use them."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

from torch.distributed import TCPStore

HOST = "127.0.0.1"
_TIMEOUT = timedelta(seconds=60)


def serve() -> Any:
    """A store whose server, the one on libuv, runs in a thread of this process; its ``port`` tells where.

    It gets a listening socket for IPv4. By itself it listens on both families, sees its clients at ``::ffff:127.0.0.1``
    and looks the name of each up, in its only thread. The hosts file does not know that address, so a resolver is
    asked, which may take a tenth of a second for every client. ``127.0.0.1`` is in the hosts file.
    """
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        return TCPStore(
            HOST, port, is_master=True, wait_for_workers=False, timeout=_TIMEOUT, master_listen_fd=listener.detach()
        )


def connect(port: int) -> Any:
    """A client of the store at this port."""
    return TCPStore(HOST, port, is_master=False, wait_for_workers=False, timeout=_TIMEOUT)
