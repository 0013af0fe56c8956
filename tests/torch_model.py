"""A model of torch's dynamic rendezvous in virtual time, in which its defects are switches. No test by itself.

Written from the facts in the open about that protocol, not from its code. All is decided in one document, replaced by
compare-and-set: who takes part, who waits, whether the round is complete. A round turns over once its last member has
gone. `TorchNode` has the interface of `sim.virtual.agent.Agent`, so it can take a node's part in any scenario.

With all switches off the model is what torch's protocol would be if it were mended: the members of a round are frozen
as it completes, death is judged by one's own clock, and each round's bootstrap address is its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.decide import Pulse, natural
from rdzv.core.documents import Assignment
from rdzv.core.effects import Effect, ReadHead, Sleep, WriteHead
from rdzv.core.join import found, read
from rdzv.core.persist import persist
from rdzv.errors import RendezvousError, RendezvousStateError, RendezvousTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdzv.core.documents import Settings
    from rdzv.core.effects import Flow
    from sim.virtual.node import Node
    from sim.virtual.task import Task

    Change = Callable[["State", float], None]


@dataclass(frozen=True, slots=True)
class Defects:
    """What torch gets wrong.

    Attributes:
        tears: A member's world is as large as the list of members is when it looks, up to a poll after completion.
        keeps_own: Rank 0, once it has published its bootstrap address, publishes it for no later round; those who know
            it need no more, but a newcomer waits.
        keeps_others: Who was given a bootstrap address keeps it when another becomes rank 0.
    """

    tears: bool = False
    keeps_own: bool = False
    keeps_others: bool = False


@dataclass(slots=True)
class State:
    """The document.

    Attributes:
        round: The round that gathers or is complete.
        complete: Which of the two.
        members: Who was in it when it was completed, in the order of ranks.
        present: Who is in it, and has not left or died since.
        waiting: Who waits for the next.
        beats: How often each has shown that it lives.
    """

    round: int = 0
    complete: bool = False
    members: list[str] = None  # type: ignore[assignment]
    present: list[str] = None  # type: ignore[assignment]
    waiting: list[str] = None  # type: ignore[assignment]
    beats: dict[str, int] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name, empty in (("members", []), ("present", []), ("waiting", []), ("beats", {})):
            if getattr(self, name) is None:
                setattr(self, name, empty)

    def dump(self) -> bytes:
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode()

    def drop(self, who: str, max_nodes: int) -> None:
        """Whoever has left or died. After the last of a complete round the next one gathers, from who waits."""
        for names in (self.present, self.waiting):
            if who in names:
                names.remove(who)
        self.beats.pop(who, None)
        if self.complete and not self.present:
            self.complete, self.round = False, self.round + 1
        self.take_in(max_nodes)

    def take_in(self, max_nodes: int) -> None:
        """Whoever waits, in order of coming, while a round gathers and has room."""
        while self.waiting and not self.complete and len(self.present) < max_nodes:
            self.present.append(self.waiting.pop(0))


class TorchNode:
    """One handler of the model, with the interface of `Agent`.

    Attributes:
        node, settings, membership, rounds, events, error, on_change: As with `Agent`.
        me: Its name in the document: unlike that of any other handler, of the same node too.
        defects: What it gets wrong.
    """

    def __init__(
        self, node: Node, settings: Settings, run_id: str = "run", *, defects: Defects | None = None, **record: object
    ) -> None:
        self.node, self.settings, self.defects = node, settings, defects or Defects()
        self.me = f"{node.name}#{node.now:.9f}"
        self.membership: Assignment | None = None
        self.rounds: list[Assignment] = []
        self.events: list[tuple[float, str, dict[str, object]]] = []
        self.error: Exception | None = None
        self.on_change: Callable[[TorchNode], object] = lambda _: None
        self.is_evicted, self.num_nodes_waiting = False, 0
        self._pulses: dict[str, Pulse] = {}
        self._beat = 0
        self._beat_at, self._enough_since = float("-inf"), float("inf")
        self._bootstrap: tuple[str, str, int] | None = None  # whose it is, address, port: torch's cache
        self._seen = False  # whether there was a document
        self._joining: Task | None = None
        self._tending: Task | None = None

    # As `Agent` has it

    @property
    def is_joining(self) -> bool:
        return self._joining is not None and not self._joining.done

    def join(self) -> Task:
        self._stop()
        self.error, self._seen = None, False
        self._joining = self._spawn(self._join(self.node.now), self._joined)
        return self._joining

    def interrupt(self) -> None:
        assert self._joining
        self._joining.interrupt(RendezvousError("it was ended by a KeyboardInterrupt"))

    def leave(self, reason: str = "done") -> Task:
        self._stop()
        return self._spawn(self._update(self._go, self.node.now), lambda _: self.on_change(self))

    def report(self, event: str, /, **facts: object) -> None:
        self.events.append((self.node.now, event, facts))
        self.on_change(self)

    def _spawn(self, flow: Flow, on_done: Callable[[Task], object] | None = None) -> Task:
        return self.node.spawn(persist(flow, self.settings, self.node.now), on_done)

    def _stop(self) -> None:
        if self._tending:
            self._tending.cancel()
        self.membership = self._tending = None
        self.is_evicted, self.num_nodes_waiting = False, 0

    def _joined(self, task: Task) -> None:
        self.error = task.error
        if not task.error:
            self.membership = task.result
            self.rounds.append(task.result)
            self._tending = self._spawn(self._tend(self.membership, self.node.now), self._tended)
        self.on_change(self)

    def _tended(self, task: Task) -> None:
        self.error = task.error
        self.on_change(self)

    # Flows

    def _join(self, now: float) -> Flow[Assignment]:
        give_up_at, self._enough_since = now + self.settings.join_s, float("inf")
        try:
            _, now = yield from self._update(self._go, now)
            while True:
                asked_at = now
                state, now = yield from self._update(self._advance, now)
                if state.complete and self.me in state.present and now - asked_at < self.settings.poll_s:
                    bootstrap, now = yield from self._find_bootstrap(state, now)
                    if bootstrap and now - asked_at < self.settings.bound_s / 2:  # else it may have been given up
                        return self._place(state, bootstrap)
                if now >= give_up_at:
                    raise RendezvousTimeoutError(f"round {state.round}: no place and no bootstrap in time")
                _, now = yield Sleep(now + self.settings.poll_s)
        except RendezvousError:
            _, now = yield Sleep(now)
            yield from self._update(self._go, now)
            raise

    def _place(self, state: State, bootstrap: tuple[str, str, int]) -> Assignment:
        size = len(state.present if self.defects.tears else state.members)
        _, addr, port = bootstrap
        return Assignment(state.round, state.members.index(self.me), size, addr, port, ())

    def _find_bootstrap(self, state: State, now: float) -> Flow[tuple[tuple[str, str, int] | None, float]]:
        """The round's bootstrap address; nothing if it is not published yet."""
        first, known, defects = state.members[0], self._bootstrap, self.defects
        is_mine = first == self.me
        if known and ((defects.keeps_own and known[0] == first) or (defects.keeps_others and not is_mine)):
            return known, now
        key = f"/torch/{state.round}/bootstrap".encode()
        mine = json.dumps([self.me, f"addr-of-{self.me}", 1]).encode()
        request = (wire.COMPARE_SET, key, b"", mine) if is_mine else read(key)
        ((text,),), now = yield Effect([request], now + self.settings.heartbeat_s)
        if found(text):
            self._bootstrap = tuple(json.loads(text))
        elif first not in state.present:  # it died before it could publish it
            _, now = yield from self._update(self._go, now)
        return (self._bootstrap if found(text) else None), now

    def _tend(self, place: Assignment, now: float) -> Flow[None]:
        while True:
            state, now = yield from self._update(self._look, now)
            if state.round != place.round or self.me not in state.present:
                self.is_evicted, self.num_nodes_waiting = True, 1
                self.report("evicted", round=place.round)
                return
            room = self.settings.max_nodes - len(state.present)
            waiting = min(len(state.waiting), room) + len(state.members) - len(state.present)
            if waiting != self.num_nodes_waiting:
                self.num_nodes_waiting = waiting
                self.report("waiting nodes", round=place.round, count=waiting)
            _, now = yield Sleep(now + self.settings.poll_s)

    def _update(self, change: Change, now: float) -> Flow[tuple[State, float]]:
        """Change the document, however often another is quicker; what it is then."""
        result, now = yield ReadHead(now + self.settings.heartbeat_s)
        while True:
            if result is None and self._seen:
                raise RendezvousStateError("the document is gone: the store was lost or emptied")
            self._seen = True
            text, token = result[:2] if result else (b"{}", None)
            state = State(**json.loads(text))
            change(state, now)
            if state.dump() == text:
                return state, now
            result, now = yield WriteHead(state.dump(), token, now + self.settings.heartbeat_s)
            if result and result[2]:
                if now >= self._beat_at:
                    self._beat_at = now + self.settings.keep_alive_interval_s
                return state, now

    # Changes

    def _go(self, state: State, now: float) -> None:
        state.drop(self.me, self.settings.max_nodes)

    def _look(self, state: State, now: float) -> None:
        """Show life, and drop who has shown none for the bound."""
        if self.me in state.beats and now >= self._beat_at:
            state.beats[self.me] = self._next_beat()
        self._pulses = {who: self._pulses.get(who, Pulse()) for who in state.beats if who != self.me}
        for who, pulse in self._pulses.items():
            pulse.observe(b"%d" % state.beats[who], now, self.settings)
            if pulse.is_silent(self.settings):
                state.drop(who, self.settings.max_nodes)

    def _next_beat(self) -> int:
        """One that it has not shown before: who comes again with the same would still look dead."""
        self._beat += 1
        return self._beat

    def _advance(self, state: State, now: float) -> None:
        """One step of who wants to be in a round."""
        self._look(state, now)
        if self.me not in state.beats:
            state.beats[self.me] = self._next_beat()
        if self.me not in (*state.present, *state.waiting):
            state.waiting.append(self.me)
            state.take_in(self.settings.max_nodes)
        here = len(state.present)
        if state.complete or here < self.settings.min_nodes:
            self._enough_since = float("inf")
            return
        self._enough_since = min(self._enough_since, now)
        if here == self.settings.max_nodes or now - self._enough_since >= self.settings.last_call_s:
            state.complete, state.members = True, sorted(state.present, key=natural)
