"""The least that ranks can be, for the bench of the process arm: forks of one interpreter that meet, and go.

By bare sockets, as small as it can be written, which is what a run of ours is held against; or by the library's static
handler, as the ranks of a run do, which says how much of what they take is the simulator's. No keeper, no deadline, no
log, no check. Imports nothing that the forks would have to carry without need.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
_TIMEOUT_S = 120


def main(how: str, size: str, *memory: str) -> None:
    """Bring up so many ranks, and wait for all to be gone.

    Args:
        how: ``bare`` or ``library``.
        size: How many.
        memory: With anything, each rank prints what memory is its alone, in millions of bytes, when it has met.

    Raises:
        RuntimeError: A rank failed.
    """
    n = int(size)
    if memory:
        import sim.bench.machine  # noqa: F401 -- or each rank would, and have that to itself
    with socket.create_server((HOST, 0), backlog=n) as listener:
        rank_of = {"bare": _bare, "library": _by_library}[how](n, listener)
        gc.freeze()
        pids = [_fork(partial(rank_of, rank, bool(memory))) for rank in range(n)]
    failed = sum(bool(os.waitpid(pid, 0)[1]) for pid in pids)
    if failed:
        raise RuntimeError(f"{failed} of {n} ranks failed")


def _fork(does: Callable[[], object]) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        does()
        status = 0
    except BaseException:  # noqa: BLE001 -- a fork must not go on as its parent
        import traceback

        os.write(sys.stderr.fileno(), traceback.format_exc().encode())  # whole, whatever others write meanwhile
    finally:
        os._exit(status)


def _bare(n: int, listener: socket.socket) -> Callable[[int, bool], None]:
    """What a rank does: greet the store, count itself in, wait for the last to come."""
    import struct

    address = listener.getsockname()
    parent_pid = os.getpid()
    _fork(lambda: _serve(listener, parent_pid))
    head, number = struct.Struct("<BQ").pack, struct.Struct("<q")
    greeting = struct.pack("<BI", 0, 0x3C85F7CE)
    count_in = head(4, 6) + b"/count" + number.pack(1)
    all_here = head(1, 4) + b"/all" + struct.pack("<Q", 0)
    wait = head(6, 1) + struct.pack("<Q", 4) + b"/all"
    with socket.create_connection(address, _TIMEOUT_S) as sock:  # no rank comes before the store is there
        sock.sendall(greeting + struct.pack("<BI", 13, 0))  # a PING
        sock.recv(4)

    def rank(_: int, tells: bool) -> None:
        with socket.create_connection(address, _TIMEOUT_S) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(greeting + count_in)
            if number.unpack(sock.recv(8))[0] == n:
                sock.sendall(all_here)
            sock.sendall(wait)
            if sock.recv(1) != b"\0":
                raise ConnectionError("the store has gone")
            if tells:
                _tell_memory()

    return rank


def _serve(listener: socket.socket, parent_pid: int) -> None:
    """Be the store of the bare ranks, until their parent ends."""
    from rdzv.store.server import SPIN_S, Listener
    from sim.bench.machine import allow_all_descriptors
    from sim.process.descendants import die_with_parent

    die_with_parent(parent_pid)
    allow_all_descriptors()
    Listener("the bench", [listener], spin_s=SPIN_S).serve()


def _by_library(n: int, listener: socket.socket) -> Callable[[int, bool], None]:
    """What a rank does: meet by the static handler. Rank 0 hosts the store, in a thread, as that of a run."""
    import rdzv.static
    import rdzv.store.host  # noqa: F401 -- rank 0 needs it; loaded here, it is not loaded while the others wait
    from rdzv import RendezvousParameters, get_rendezvous_handler
    from sim.process.descendants import die_with_parent
    from sim.process.machine import allow_descriptors

    parent_pid = os.getpid()
    endpoint = f"{HOST}:{listener.getsockname()[1]}"
    fd = listener.fileno()

    def rank(number: int, tells: bool) -> None:
        die_with_parent(parent_pid)  # bare ranks end with their store, which does this
        config: dict[str, Any] = {"rank": number, "timeout": _TIMEOUT_S}
        if number == 0:
            allow_descriptors(n)
            config |= {"listen_fd": fd, "hosting": "thread"}
        handler = get_rendezvous_handler(RendezvousParameters("static", endpoint, "forks", n, n, **config))
        handler.next_rendezvous()
        if tells:
            _tell_memory()
        handler.shutdown()

    return rank


def _tell_memory() -> None:
    from sim.bench.machine import private_mb

    os.write(sys.stdout.fileno(), f"{private_mb(os.getpid())}\n".encode())
