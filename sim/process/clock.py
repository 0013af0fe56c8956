"""Another time for this process: its clocks are ahead of those of the others, or behind them.

Shifts what Python code asks the module ``time`` for. What is written in C, such as ``datetime.now``, shows the
machine's time as before, and waits are as long as ever.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

machine_monotonic = time.monotonic  # the run's own clock, whatever this process believes


def shift(by_s: float) -> None:
    """Let ``time.time``, ``time.monotonic`` and their likes in nanoseconds show so many seconds more, or less."""
    for name in ("time", "monotonic"):
        setattr(time, name, _shifted(getattr(time, name), by_s))
        setattr(time, f"{name}_ns", _shifted(getattr(time, f"{name}_ns"), round(by_s * 1e9)))


def _shifted(clock: Callable[[], float], by: float) -> Callable[[], float]:
    return lambda: clock() + by
