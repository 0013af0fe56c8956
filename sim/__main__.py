"""The entry of ``rdzv-sim``, also as ``python -m sim``. Needs nothing, so that it can say what is missing."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_status: list[int] = []  # of the command, when it has ended
_EXTRA = ("click", "rich", "tomli")  # what the command imports beyond the standard library


def main() -> None:
    """Run the command, and end the process; without the packages of the extra ``sim``, name it."""
    if not getattr(atexit, "_ncallbacks", lambda: 1)():  # nobody has anything left to do after what is registered first
        atexit.register(_end_at_once)
    try:
        gc.disable()  # it would look for garbage in what stays
        from sim.process import boot

        boot.spare()
        with _keeper_ahead():
            from sim.cli import main as run

            gc.freeze()
            gc.enable()
            status = run()
    except KeyboardInterrupt:  # before the command could begin
        status = 130
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(f"rdzv-sim needs the package {error.name}, which the extra 'sim' of rdzv brings", file=sys.stderr)  # noqa: T201
        status = 2
    gc.freeze()  # or the collector would look through all that is loaded several times before the process ends
    _status.append(status)
    sys.exit(status)


def _end_at_once() -> None:
    """Do not take apart all that is loaded, which would take a twentieth of the time of a short run."""
    if _status:
        for stream in (sys.stdout, sys.stderr):
            if stream:
                stream.flush()
        os._exit(_status[0])


def _keeper_ahead() -> AbstractContextManager[None]:
    """Whoever starts ranks needs a keeper, which has as much to load as the command itself: both load at once."""
    needed = sys.argv[1:2] == ["run"] and "--virtual" not in sys.argv and sys.platform == "linux"
    if not (needed and sys.stdin and sys.stdout and sys.stderr):  # none of their numbers must be taken by another file
        return nullcontext()
    from sim.process import door

    return door.ahead()


if __name__ == "__main__":
    main()
