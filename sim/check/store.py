"""What a store owes its users, as checks that any store can be put through: ours, torch's, or one of your own.

`check_store` runs them all. Each is a function that is given a fresh store and raises AssertionError; they use nothing
but the public interface, so they hold for every store alike, and what only one kind promises is not here.

::

    store_values   what operations do and answer, one at a time
    store_waits    who waits, for how long, and who is woken
    trial          what the checks are made of
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta

from sim.check import store_values, store_waits
from sim.check.trial import PATIENCE_S, Check, Store, run_all

Maker = Callable[[], AbstractContextManager[Store]]

CHECKS: tuple[Check, ...] = (*store_values.CHECKS, *store_waits.CHECKS)


def run_check(check: Check, make: Maker) -> None:
    """Put a fresh store through one check.

    Raises:
        AssertionError: It did not pass.
    """
    with make() as store:
        _run(check, store)


def check_store(make: Maker) -> None:
    """Put a store through all checks.

    Args:
        make: Gives a context manager whose value is a store without keys; it is called once for each check.

    Raises:
        AssertionError: Some checks failed; the text names them, each with its own error.
        TypeError: There is no context manager.
    """
    run_all(CHECKS, make, _run)


def _run(check: Check, store: Store) -> None:
    store.set_timeout(timedelta(seconds=PATIENCE_S))
    check(store)
