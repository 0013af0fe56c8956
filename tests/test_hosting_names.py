"""A store hosted under a name that the resolver does not know, or not yet."""

from __future__ import annotations

import socket
import time
from contextlib import closing

import pytest

from rdzv.errors import ConnectTimeoutError
from rdzv.store import TCPStore

GRACE_S = 30.0  # for what takes milliseconds, on a machine that is busy with other things


@pytest.mark.parametrize("hosting", ["thread", "process"])
def test_a_master_waits_for_a_name_that_is_known_late(hosting, monkeypatch, caplog):
    """As its clients do: the name services of clusters know a machine's name only some time after it has started."""
    late = iter([True, True])

    def look_up(name, port, *_, **__):
        if next(late, False):
            raise socket.gaierror(socket.EAI_AGAIN, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.3", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with closing(TCPStore("late.invalid", 0, is_master=True, timeout=GRACE_S, hosting=hosting)) as store:
        assert store.hosts
        store.set("k", "v")
        assert store.get("k") == b"v"
    assert caplog.text.count("'late.invalid' is not known: unknown: asking again for") == 1


@pytest.mark.parametrize("gives_up", [False, True])
def test_a_master_whose_name_nobody_knows_says_so_when_its_time_is_over(gives_up, monkeypatch):
    """In upstream's words, whose master listens everywhere, so that it is its client that asks for the name."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(socket.gaierror(-2, "unknown")))
    began_at, timeout_s = time.monotonic(), 2 * GRACE_S if gives_up else 0.5
    with pytest.raises(ConnectTimeoutError, match=r"client socket has timed out after.*nowhere\.invalid:1234.*unknown"):
        TCPStore("nowhere.invalid", 1234, is_master=True, timeout=timeout_s, give_up=lambda: gives_up)
    assert gives_up or time.monotonic() - began_at >= timeout_s
    assert time.monotonic() - began_at < GRACE_S
