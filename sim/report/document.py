"""A timeline as plain data: ``report.json``, and what the page shows.

Knows the values of a timeline. The names here are an interface, as those of `sim.report.record` are.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import rdzv
from sim.report.record import record

if TYPE_CHECKING:
    from sim.report.timeline import Timeline


def document(timeline: Timeline) -> dict[str, Any]:
    """The run as nested dicts and lists, ready for JSON: all that ``--json`` prints, and what happened when.

    Times are in seconds since the run began, to the microsecond. ``spans``, ``marks``, ``lines`` and ``passages`` are
    what `sim.report.timeline` calls so. Each of the ``ranks`` also has its ``error``, where it hung (``stack``) and for
    which ``keys``, and ``cut_bytes``.
    """
    result = timeline.result
    data = record(result)
    for entry, rank in zip(data["ranks"], result.ranks, strict=True):
        entry |= {"error": rank.error, "stack": rank.stack, "keys": list(rank.keys)}
        entry |= {"cut_bytes": timeline.cut_bytes.get(rank.rank, 0)}
    return {
        "made_by": f"rdzv {rdzv.__version__}",
        "began": timeline.began,
        "command": timeline.command,
        "directory": timeline.directory,
        "failure": result.failure,
        **data,
        "spans": [_rounded(span) for span in timeline.spans],
        "marks": [_rounded(mark) for mark in timeline.marks],
        "lines": [_rounded(line) for line in timeline.lines],
        "passages": [_rounded(passage) for passage in timeline.passages],
    }


def _rounded(value: Any) -> dict[str, Any]:
    # Not `asdict`: that copies what is in a value as well, which here is text and numbers, of lines by the 100,000.
    parts = ((field.name, getattr(value, field.name)) for field in fields(value))
    return {name: round(part, 6) if isinstance(part, float) else part for name, part in parts}
