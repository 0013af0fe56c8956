"""The entry of ``rdzv-sim``, also as ``python -m sim``. Needs nothing, so that it can say what is missing."""

from __future__ import annotations

import sys

_EXTRA = ("click", "rich", "tomli")  # what the command imports beyond the standard library


def main() -> None:
    """Run the command; without the packages of the extra ``sim``, name it."""
    try:
        from sim.cli import main as run

        status = run()
    except KeyboardInterrupt:  # before the command could begin
        status = 130
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(f"rdzv-sim needs the package {error.name}: pip install 'rdzv[sim]'", file=sys.stderr)  # noqa: T201
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()
