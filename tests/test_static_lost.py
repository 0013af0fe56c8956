"""The static rendezvous at a store that is not this run's, and goes."""

from __future__ import annotations

import socket
import threading

import pytest

import rdzv
from rdzv.static import create_rdzv_handler

GRACE_S = 30.0  # for what takes milliseconds, on a machine that is busy with other things


def test_a_rank_that_came_to_another_runs_store_says_so_even_if_that_is_lost_then():
    """Not only that it was lost: what is wrong is that two runs have one place."""
    identity = b"run 'other' of 2"
    reply = len(identity).to_bytes(8, "little") + identity
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            for replies in (2 * reply, b""):  # it is refused, comes again, and finds the store about to go
                with listener.accept()[0] as peer:
                    peer.sendall(peer.recv(10, socket.MSG_WAITALL)[-4:])
                    peer.recv(1 << 16)
                    peer.sendall(replies)

        thread = threading.Thread(target=serve)
        thread.start()
        options = {"rank": 1, "timeout": GRACE_S}
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        handler = create_rdzv_handler(rdzv.RendezvousParameters("static", endpoint, "job", 2, 2, **options))
        with pytest.raises(rdzv.RendezvousStateError, match=r"cannot join at .*the store there is that of run 'other'"):
            handler.next_rendezvous()
        thread.join(GRACE_S)
