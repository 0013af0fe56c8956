"""The door to the keeper: starts its process, and hands out the channel to it.

Apart from `sim.process.keeper`, so that who starts one need not load all that a rank needs.
"""

from __future__ import annotations

import os
import subprocess
import sys

from sim.process.channel import Channel, pair

_BOOT = "import sys; sys.path[:] = sys.argv[4:]; from sim.process.keeper import main; main(*sys.argv[1:4])"


def start(scratch: str) -> tuple[subprocess.Popen[bytes], Channel]:
    """Start a keeper for this process.

    It gets this process's module path as it is, which saves it from searching for installed packages (``-S``).

    Args:
        scratch: A directory that the keeper removes in the end; empty for none.

    Returns:
        The keeper's process, and the channel to it, which does not block.

    Raises:
        OSError: The machine refuses a process or a descriptor.
    """
    lifeline = os.pidfd_open(os.getpid())
    channel, theirs = pair()
    try:
        arguments = [str(theirs), str(lifeline), scratch, *sys.path]
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", _BOOT, *arguments],
            pass_fds=[theirs, lifeline],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a rank that prints must not spoil what the supervisor prints
            start_new_session=True,
        )
    except BaseException:
        channel.close()
        raise
    finally:
        os.close(theirs)
        os.close(lifeline)
    return process, channel
