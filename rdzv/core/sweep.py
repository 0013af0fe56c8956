"""How what is left of old rounds is cleared away: a job needs the memory of two rounds, however many there were.

Rank 0 of a round clears away all that there may be of those before it: nobody needs it any more, since their members
are in this round, have left, or are dead. A round's counter of tickets goes last, so whatever a rank 0 that died over
this has left is found by the next.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.documents import TICKETS_MAX, Keys
from rdzv.core.effects import Effect
from rdzv.core.join import found, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rdzv.core.effects import Flow
    from rdzv.core.tend import Membership

_DELETES_AT_ONCE = 4  # a driver may need a round trip for each
_DELETES_MAX = 200  # between two beats, if there is the time


def find_rubbish(membership: Membership, now: float) -> Flow[tuple[Iterator[bytes], float]]:
    """All keys that there may be of rounds before this one, the oldest round first."""
    rounds: list[tuple[Keys, int]] = []
    for number in range(membership.keys.round - 1, -1, -1):
        keys = Keys(membership.keys.run_id, number)
        ((count,),), now = yield Effect([read(keys.key("ticket"))], membership.deadline(now))
        tickets = min(int(count), TICKETS_MAX) if found(count).isdigit() else 0  # nobody came, and it was closed
        rounds.insert(0, (keys, tickets))
        if not found(count) and len(rounds) > 1:
            break  # it was cleared away, but for what a late farewell has left there; and what came before it
    return (key for keys, tickets in rounds for key in _all_keys(keys, tickets)), now


def _all_keys(keys: Keys, tickets: int) -> Iterator[bytes]:
    for ticket in range(1, tickets + 1):
        yield from keys.of_node(ticket)
    yield from keys.common()


def clear(rubbish: Iterator[bytes], membership: Membership, until: float, now: float) -> Flow[float]:
    """Delete some of it, for about so long; nothing happens if there is none."""
    left = islice(rubbish, _DELETES_MAX)
    while batch := [(wire.DELETE_KEY, key) for key in islice(left, _DELETES_AT_ONCE)]:
        _, now = yield Effect(batch, membership.deadline(now))
        if now >= until:
            break
    return now
