"""The faults there are, by name: `FAULTS`. What a fault is, is in `sim.faults.fault`; when it strikes, in `triggers`.

A new one is one class in `sim.faults.processes`, `sim.faults.links` or `sim.faults.places`, with an example and a line
of help, and its place in the table here; `sim.search.troubles` says how it is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.faults import links, places, processes
from sim.scenario_text import unknown

if TYPE_CHECKING:
    from sim.faults.fault import Fault

_OF_PROCESSES = (processes.Kill, processes.Stop, processes.Late, processes.Slow, processes.Crash, processes.Clock)
_OF_LINKS = (links.Delay, links.Bandwidth, links.Partition, links.HalfOpen, links.Lose, links.Refuse)
_OF_BYTES = (links.Truncate, links.Garbage)
_OF_PLACES = (places.Steal, places.NameLate, places.NameWrong, places.KillStore)
FAULTS: dict[str, type[Fault]] = {kind.name: kind for kind in (*_OF_PROCESSES, *_OF_LINKS, *_OF_BYTES, *_OF_PLACES)}


def fault_named(name: str) -> type[Fault]:
    """The fault of that name.

    Raises:
        ScenarioError: There is none; the nearest is named.
    """
    if name not in FAULTS:
        raise unknown("fault", name, FAULTS)
    return FAULTS[name]
