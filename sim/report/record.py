"""A run as plain data, which is what ``--json`` prints.

Knows the result's values. The names here are an interface: whoever reads the JSON relies on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sim.plan import VirtualResult

if TYPE_CHECKING:
    from sim.plan import RunResult


def record(result: RunResult) -> dict[str, Any]:
    """The result as nested dicts and lists, ready for JSON.

    Of the run, ``rounds`` is how many were held; none of a program. Of a rank, it is how many it completed;
    ``join_s`` is the longest of its joins in seconds (null without one), and ``exit`` its exit status, negative for a
    signal (null if unknown). A run in virtual time has its ``digest`` besides, and ``virtual_s``: all its times are
    virtual, and so is ``duration_s``.
    """
    virtual = {"digest": result.digest, "virtual_s": result.virtual_s} if isinstance(result, VirtualResult) else {}
    return {
        "ok": result.ok,
        "world_size": result.plan.world_size,
        "rounds": result.rounds_held,
        "seed": result.plan.seed,
        "duration_s": result.duration_s,
        "ranks": [
            {
                "rank": rank.rank,
                "pid": rank.pid,
                "rounds": len(rank.meetings),
                "join_s": rank.join_s,
                "exit": rank.ending.exit,
            }
            for rank in result.ranks
        ],
        "checks": [{"name": check.name, "passed": check.passed, "detail": check.detail} for check in result.checks],
        **virtual,
    }
