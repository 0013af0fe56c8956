"""What went wrong in a run, in words: who failed first and what it said, then where the others hung.

Knows the result. Must not know where the words go.
"""

from __future__ import annotations

from collections import defaultdict
from textwrap import indent
from typing import TYPE_CHECKING

from sim.check.invariants import named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sim.plan import RunResult

STACKS_MAX = 4  # different ones; ranks that hang mostly do so in one place


def failures(result: RunResult) -> Iterator[str]:
    """Paragraphs, the first of them a line; none if all ended as they were to."""
    if not result.failure:
        return
    yield result.failure
    first = result.first_failed
    if first and first.error.strip():
        yield f"rank {first.rank} said last:\n{indent(first.error.rstrip(), '  ')}"
    hung: defaultdict[str, list[int]] = defaultdict(list)
    for rank in result.ranks:
        if rank.stack:
            hung[f"{rank.waiting}:\n{indent(rank.stack, '  ')}"].append(rank.rank)
    for where, ranks in list(hung.items())[:STACKS_MAX]:
        yield f"{named('rank', ranks)} did not end{where}"
    if len(hung) > STACKS_MAX:
        yield f"ranks hung in {len(hung) - STACKS_MAX} more places"
