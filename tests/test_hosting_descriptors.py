"""A store that is hosted on a socket which its caller has bound: whose that is afterwards."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from rdzv import net
from rdzv.store import StoreServer, TCPStore

GRACE_S = 30.0  # for what takes milliseconds, on a machine that is busy with other things


@pytest.mark.parametrize("hosting", ["thread", "process"])
def test_a_descriptor_is_taken_over_as_upstreams_master_does(hosting):
    """Nobody listens on the port when the store is closed, and the next master can have it."""
    (bound,) = net.bind("127.0.0.1", 0, 0.0)
    port, fd = bound.getsockname()[1], bound.detach()
    with closing(TCPStore("127.0.0.1", port, is_master=True, master_listen_fd=fd, hosting=hosting, timeout=GRACE_S)):
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with closing(TCPStore("127.0.0.1", port, is_master=True, hosting=hosting, timeout=GRACE_S)) as store:
        assert store.num_keys() == 0


def test_a_descriptor_that_is_lent_stays_the_callers():
    with net.bind("127.0.0.1", 0, 0.0)[0] as sock:
        port = sock.getsockname()[1]
        for _ in range(2):
            with closing(
                TCPStore("127.0.0.1", port, is_master=True, listen_fd=sock.fileno(), timeout=GRACE_S)
            ) as store:
                assert store.num_keys() == 0


def test_a_client_does_not_look_at_the_descriptor():
    with StoreServer() as server:
        TCPStore("127.0.0.1", server.port, master_listen_fd=9999, timeout=GRACE_S).close()
