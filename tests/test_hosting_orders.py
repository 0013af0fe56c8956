"""What a host is told: what its store may hold, what it holds at first, whether to spin; and that it has no streams."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rdzv.core.wire import Limits
from rdzv.errors import DistNetworkError
from rdzv.store import StoreServer, TCPStore
from rdzv.store.host import StoreProcess

GRACE_S = 30.0
ROOT = Path(__file__).parents[1]


@pytest.fixture(params=[StoreServer, StoreProcess], ids=["thread", "process"])
def kind(request):
    return request.param


def client(host, port):
    return closing(TCPStore(host, port, timeout=GRACE_S))


def test_what_a_store_may_hold_is_for_its_host_to_say(kind):
    with kind(limits=Limits(value_bytes_max=100)) as server, client("127.0.0.1", server.port) as store:
        store.set("k", "v" * 100, sync=True)
        with pytest.raises(DistNetworkError):
            store.set("k", "v" * 101, sync=True)


def test_what_a_store_holds_at_first_is_there_before_anybody_can_ask(kind):
    key, value = b"/k\xff", bytes(range(256))
    with kind(initial={key: value}) as server, client("127.0.0.1", server.port) as store:
        assert store.get(b"k\xff") == value
    hosting = "thread" if kind is StoreServer else "process"
    with closing(TCPStore("127.0.0.1", 0, is_master=True, hosting=hosting, initial={"k": "v"})) as store:
        assert store.get("k") == b"v"


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="what a process was told cannot be read here")
@pytest.mark.parametrize("spin", [True, False])
def test_a_store_that_is_not_to_spin_is_hosted_by_a_process_that_does_not(spin):
    """It is looked at what the process is told: how it sleeps depends on what else the machine does."""
    with closing(TCPStore("127.0.0.1", 0, is_master=True, hosting="process", spin=spin, timeout=GRACE_S)) as store:
        assert isinstance(store._server, StoreProcess)
        *_, orders, _ = Path(f"/proc/{store._server.pid}/cmdline").read_text().split("\0")
        assert json.loads(orders)[3] == spin


WITHOUT_STREAMS = """
import os, sys
os.closerange(0, 3)
from rdzv.store.host import StoreProcess
from rdzv import TCPStore
with StoreProcess(timeout_s=30) as server:
    store = TCPStore("127.0.0.1", server.port, timeout=30.0)
    store.set("k", "v", sync=True)
    os._exit(store.get("k") != b"v")
"""


def test_who_has_no_standard_streams_hosts_all_the_same():
    """Their numbers are those of sockets then, which must not be lost to the process's own streams."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_STREAMS], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0
