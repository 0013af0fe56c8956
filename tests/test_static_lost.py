"""The static rendezvous at a store that is not this run's, and goes."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import rdzv
from rdzv.static import create_rdzv_handler

GRACE_S = 30.0  # for what takes milliseconds, on a machine that is busy with other things


def handler(port, rank, size, run_id="job", **options):
    config = {"rank": rank, "timeout": 5, **options}
    return create_rdzv_handler(rdzv.RendezvousParameters("static", f"127.0.0.1:{port}", run_id, size, size, **config))


@pytest.mark.parametrize("hosting", ["thread", "process"])
def test_who_errs_and_comes_before_the_host_does_not_take_its_store_from_it(hosting):
    """He learns what is wrong, by his deadline; the others meet as if he were not there."""
    with ThreadPoolExecutor() as threads:
        for _ in range(3):
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))
                port = sock.getsockname()[1]
                strangers = [handler(port, 1, 3, timeout=1), handler(port, 1, 2, "jop", timeout=1)]
                wrong = [threads.submit(stranger.next_rendezvous) for stranger in strangers]
                host = handler(port, 0, 2, hosting=hosting, listen_fd=sock.fileno(), linger_s=0)
                late = handler(port, 1, 2)
                met = [threads.submit(member.next_rendezvous) for member in (host, late)]
                assert [info.result(GRACE_S).rank for info in met] == [0, 1]
                for stranger in wrong:
                    with pytest.raises(rdzv.RendezvousStateError, match="the store there is that of run 'job' of 2"):
                        stranger.result(GRACE_S)
                late.shutdown()
                host.shutdown()


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
