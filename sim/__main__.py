"""The entry of ``rdzv-sim``, also as ``python -m sim``. Needs nothing, so that it can say what is missing."""

from __future__ import annotations

import gc
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_EXTRA = ("click", "rich", "tomli")  # what the command imports beyond the standard library


def main() -> None:
    """Run the command; without the packages of the extra ``sim``, name it."""
    try:
        with _keeper_ahead():
            gc.disable()  # it would look for garbage in what stays
            from sim.cli import main as run

            gc.freeze()
            gc.enable()
            status = run()
    except KeyboardInterrupt:  # before the command could begin
        status = 130
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(f"rdzv-sim needs the package {error.name}: pip install 'rdzv[sim]'", file=sys.stderr)  # noqa: T201
        status = 2
    gc.freeze()  # or the collector would look through all that is loaded several times before the process ends
    sys.exit(status)


def _keeper_ahead() -> AbstractContextManager[None]:
    """Whoever starts ranks needs a keeper, which takes as long to start as the command itself: both start at once."""
    needed = sys.argv[1:2] == ["run"] and "--virtual" not in sys.argv and sys.platform == "linux"
    if not (needed and sys.stdin and sys.stdout and sys.stderr):  # none of their numbers must be taken by another file
        return nullcontext()
    from sim.process import door

    return door.ahead()


if __name__ == "__main__":
    main()
