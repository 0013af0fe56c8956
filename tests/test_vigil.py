"""Whether a lone client is awaited awake: as long as that is quicker on this machine, whatever the machine."""

from __future__ import annotations

from rdzv.store.vigil import _SPELL, _SPELLS_MAX, Vigil

CLIENT, ANOTHER = [(7, 1)], [(8, 1)]


class Machine:
    """Serves one client, in a time that depends on how it is awaited."""

    def __init__(self, awake_s: float, asleep_s: float) -> None:
        self.now, self.request_s = 0.0, {True: awake_s, False: asleep_s}
        self.vigil = Vigil(50e-6, clock=lambda: self.now)

    def serve(self, requests: int) -> float:
        """Some requests; for which part of them it was awake."""
        awake = 0
        for _ in range(requests):
            self.now += self.request_s[self.vigil.is_awake]
            awake += self.vigil.is_awake
            self.vigil.note(CLIENT)
        return awake / requests


def test_it_is_awake_where_that_is_quicker() -> None:
    """All but for the spells that show it, of which there is one in sixty-four."""
    machine = Machine(awake_s=17e-6, asleep_s=33e-6)
    machine.serve(3 * _SPELL)
    assert machine.serve(1000 * _SPELL) > 0.95


def test_it_sleeps_where_that_is_quicker() -> None:
    """As where both run on one processor, or waking the client is what takes long."""
    machine = Machine(awake_s=33e-6, asleep_s=17e-6)
    machine.serve(3 * _SPELL)
    assert machine.serve(1000 * _SPELL) < 0.05


def test_it_finds_out_when_the_machine_changes() -> None:
    """What was quicker a moment ago is tried again from time to time."""
    machine = Machine(awake_s=33e-6, asleep_s=17e-6)
    machine.serve(10 * _SPELL)
    machine.request_s = {True: 10e-6, False: 17e-6}
    machine.serve((_SPELLS_MAX + 2) * _SPELL)
    assert machine.vigil.is_awake


def test_it_sleeps_when_more_than_one_ask() -> None:
    """Then there is no lone client, and somebody else has a use for the processor."""
    machine = Machine(awake_s=17e-6, asleep_s=33e-6)
    machine.serve(10 * _SPELL)
    assert machine.vigil.is_awake
    machine.vigil.note([*CLIENT, *ANOTHER])
    assert not machine.vigil.is_awake
    for _ in range(10 * _SPELL):
        machine.vigil.note(CLIENT)
        machine.vigil.note(ANOTHER)
    assert not machine.vigil.is_awake


def test_it_sleeps_when_nothing_has_come_in_time() -> None:
    """A client that has other things to do is not awaited awake."""
    machine = Machine(awake_s=17e-6, asleep_s=33e-6)
    machine.serve(10 * _SPELL)
    machine.vigil.end()
    assert not machine.vigil.is_awake
    assert machine.serve(_SPELL) == 0
