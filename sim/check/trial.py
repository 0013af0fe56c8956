"""What the checks of stores and backends are made of: attempts that must fail, in time, and threads that must end."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

Store = Any  # whatever has the methods of `rdzv.Store`; torch's own stores have no base in common with it
Check = Callable[[Store], None]
Result = TypeVar("Result")

PATIENCE_S = 10.0  # what a healthy store does at once, it does in this time on a machine under load
CHECK_S = 3 * PATIENCE_S  # and a whole check in this
SHORT = timedelta(milliseconds=50)


class Checks(list[Check]):
    """Checks, each entered by a decorator."""

    def add(self, check: Check) -> Check:
        """Enter it at the end."""
        self.append(check)
        return check


def run_all(
    checks: Sequence[Check], make: Callable[[], AbstractContextManager[Any]], run: Callable[[Check, Any], None]
) -> None:
    """Run every check, though some fail, each in a thread and with what a context manager of its own gives.

    Raises:
        AssertionError: Some failed; the text names them, each with its own error.
        TypeError: There is no context manager.
    """
    failures: list[str] = []
    for check in checks:
        context = make()
        if not isinstance(context, AbstractContextManager):
            problem = (
                f"{type(context).__name__} is no context manager, and whoever makes what is to be checked gives one"
            )
            raise TypeError(f"{problem}: contextlib.contextmanager makes one of a generator")
        try:
            with context as made:
                together(partial(run, check, made), within_s=CHECK_S)  # what waits for ever has failed, too
        except Exception as error:  # noqa: BLE001 -- who fails one check may well fail another, and differently
            failures.append(f"{check.__name__}: {type(error).__name__}: {_told(error)}")
    assert not failures, "\n".join([f"{len(failures)} of {len(checks)} checks failed:", *failures])


def _told(error: Exception) -> str:
    """What an error says; that of an assertion says little, and its line in the check what was expected."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    line = (frame.line or "").strip()
    is_bare = isinstance(error, AssertionError) and line.startswith("assert ")
    return f"{error} ({line})".lstrip() if is_bare else str(error)


def together(*works: Callable[[], Result], within_s: float = 1.5 * PATIENCE_S) -> list[Result]:
    """What the functions return, each run in a thread of its own, all at the same time.

    Raises:
        AssertionError: Some have not ended in this time.
        Exception: The first of theirs.
    """
    ended: SimpleQueue[tuple[int, Result | None, BaseException | None]] = SimpleQueue()

    def run(index: int, work: Callable[[], Result]) -> None:
        try:
            ended.put((index, work(), None))
        except BaseException as error:  # noqa: BLE001 -- it is raised below
            ended.put((index, None, error))

    for item in enumerate(works):
        threading.Thread(target=run, args=item, daemon=True).start()
    deadline_at = time.monotonic() + within_s
    results: dict[int, Any] = {}
    while len(results) < len(works):
        try:
            index, results[index], error = ended.get(timeout=max(0.0, deadline_at - time.monotonic()))
        except Empty:
            stuck = f"{len(works) - len(results)} of {len(works)} threads are stuck after {within_s:g} s"
            raise AssertionError(stuck) from None
        if error is not None:
            raise error
    return [results[index] for index in range(len(works))]


def fails(attempt: Callable[[], object], *kinds: type[BaseException]) -> BaseException:
    """The error of an attempt that must fail with one of these kinds.

    Raises:
        AssertionError: It did not fail.
    """
    try:
        outcome = attempt()
    except kinds as error:
        return error.with_traceback(None)  # whose frames would hold on to the store
    raise AssertionError(f"it returned {outcome!r}, and should have failed")


def fails_in_time(attempt: Callable[[], object], *keys: str, after_s: float = SHORT.total_seconds()) -> None:
    """An attempt that must time out, not early nor late, and name these keys and not that of the name ``present``.

    Raises:
        AssertionError: It did not.
    """
    started_at = time.monotonic()
    error = fails(attempt, TimeoutError)
    took_s = time.monotonic() - started_at
    assert after_s <= took_s < after_s + 1.0, took_s
    assert isinstance(error, RuntimeError)
    for key in keys:
        assert key in str(error), error
    assert "present" not in str(error), error
