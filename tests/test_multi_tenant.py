"""Masters of one process that share a server, as ``multi_tenant`` says."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

import rdzv
from rdzv import net
from rdzv.errors import DistNetworkError
from rdzv.store import TCPStore

GRACE_S = 30.0  # for what takes milliseconds, on a machine that is busy with other things


def test_masters_of_one_process_share_a_server_if_both_say_so():
    """It ends with the last of them, in whatever order they go; then the port may be served again."""
    first = TCPStore("127.0.0.1", 0, is_master=True, multi_tenant=True, timeout=GRACE_S)
    port = first.port
    with pytest.raises(DistNetworkError):
        TCPStore("127.0.0.1", port, is_master=True, timeout=GRACE_S)
    second = TCPStore("127.0.0.1", port, is_master=True, multi_tenant=True, timeout=GRACE_S)
    first.set("k", "v", sync=True)
    first.close()
    assert second.get("k") == b"v"
    second.close()
    net.bind("127.0.0.1", port, 0.0)[0].close()  # nobody listens there
    with closing(TCPStore("127.0.0.1", port, is_master=True, multi_tenant=True, timeout=GRACE_S)) as third:
        assert third.num_keys() == 0


def test_masters_without_a_common_port_do_not_share():
    with ExitStack() as stack:
        stores = [
            stack.enter_context(closing(TCPStore("127.0.0.1", 0, is_master=True, multi_tenant=True, timeout=GRACE_S)))
            for _ in range(2)
        ]
        assert stores[0].port != stores[1].port


def test_of_tenants_that_come_at_the_same_time_one_hosts_and_the_others_share():
    port, together = rdzv.get_free_port(), threading.Barrier(8)

    def come(_):
        together.wait(GRACE_S)
        return TCPStore("127.0.0.1", port, is_master=True, multi_tenant=True, timeout=GRACE_S)

    with ThreadPoolExecutor(8) as pool, ExitStack() as stack:
        stores = [stack.enter_context(closing(store)) for store in pool.map(come, range(8))]
        assert [store.add("tenants", 1) for store in stores] == list(range(1, 9))


def test_a_forked_child_does_not_share_its_parents_server_as_its_own():
    """It would hold it for its own, also when the parent has long stopped it; so it is told that the port is taken."""
    with closing(TCPStore("127.0.0.1", 0, is_master=True, multi_tenant=True, timeout=GRACE_S)) as store:
        child = os.fork()
        if not child:
            status = 1
            try:
                TCPStore("127.0.0.1", store.port, is_master=True, multi_tenant=True, timeout=GRACE_S)
            except DistNetworkError as error:
                status = 0 if "failed to listen" in str(error) else 2
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
