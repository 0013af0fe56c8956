"""What a keeper does once before it forks many ranks of the built-in job: it takes part in that job itself.

Code that has run for a while has adapted to what it is used for, and caches are filled. In a rank that happens on
memory that it shares with the keeper, and has to copy first; what has happened in the keeper need not happen again. Of
the pages that a rank has to copy that saves a fifth.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack, suppress
from functools import cache
from typing import TYPE_CHECKING

from rdzv.errors import DistError, RendezvousError
from rdzv.events import VARIABLE
from sim.process import descendants
from sim.process.channel import Channel
from sim.process.messages import StartJob

if TYPE_CHECKING:
    from collections.abc import Callable

WORTH_IT_FROM = 96  # ranks; of fewer, what it takes is not made up for
_MEETINGS = 10  # the interpreter adapts a function's code from the eighth time on that it runs
_TIMEOUT_S = 2.0
_DELAY_S = 1e-6  # none at all would not be waited for


@cache
def rehearse(play: Callable[..., int]) -> None:
    """Meet a fork of this process a few times. What goes wrong with that does not matter.

    Args:
        play: Is a rank, given its order, its channel and maybe a listening socket, and returns its exit status.
    """
    if VARIABLE in os.environ:  # nobody must hear of these meetings
        return
    with ExitStack() as stack:
        stack.enter_context(suppress(OSError, DistError, RendezvousError))
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(_MEETINGS)]
        keeper_pid, pid = os.getpid(), os.fork()
        if pid == 0:
            try:
                descendants.die_with_parent(keeper_pid)
                _meet(play, 0, listeners)
            finally:
                os._exit(0)
        stack.callback(os.waitpid, pid, 0)
        stack.callback(os.kill, pid, signal.SIGKILL)
        _meet(play, 1, listeners)


def _meet(play: Callable[..., int], rank: int, listeners: list[socket.socket]) -> None:
    """Meet the other rank of a world of two, once on each of these sockets."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        channel = Channel.of(theirs.detach())
        for listener in listeners:
            host, port = listener.getsockname()
            job = StartJob(rank, 2, 1, f"{host}:{port}", "rehearsal", time.monotonic() + _TIMEOUT_S, _DELAY_S)
            if play(job, channel, *([] if rank else [listener.fileno()])) != 0:
                break
        channel.close()
