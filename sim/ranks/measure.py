"""Coverage in the ranks: measured as in pytest's own process, into data files beside its own.

Knows coverage's public interface, and imports it only where it is running already.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONS = ("source", "branch", "omit", "include", "data_file", "context")


def settings() -> dict[str, Any]:
    """What this process measures, for `start`; empty if it measures nothing."""
    current = _current()
    if current is None:
        return {}
    options = {name: current.get_option(f"run:{name}") for name in _OPTIONS}
    return {**options, "config_file": current.config.config_file or False}


def stop() -> None:
    """Measure nothing more in this process, whatever started that."""
    if current := _current():
        current.stop()


def start(options: Mapping[str, Any]) -> Any:
    """Measure from now on.

    Returns:
        The measurement, to be given to `save`; ``None`` if there is nothing to measure.
    """
    if not options:
        return None
    from coverage import Coverage

    coverage = Coverage(data_suffix=True, messages=False, **options)
    coverage.set_option("run:disable_warnings", ["no-data-collected", "module-not-measured", "module-not-imported"])
    coverage.start()
    return coverage


def save(coverage: Any) -> None:
    """Stop a measurement, and write what it found."""
    if coverage:
        coverage.stop()
        coverage.save()


def _current() -> Any:
    module = sys.modules.get("coverage")
    return module.Coverage.current() if module else None
