"""Whatever the number of ranks and rounds, the order of arrival and the delays: the invariants hold."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from sim.plan import Plan
from sim.process.supervisor import run


@settings(max_examples=15)
@given(
    world_size=st.integers(1, 9),
    rounds=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    delay_s_max=st.sampled_from([0.0, 0.001, 0.02]),
)
def test_every_round_of_every_world_keeps_the_invariants(
    world_size: int, rounds: int, seed: int, delay_s_max: float
) -> None:
    """The seed draws the order in which ranks arrive in each round, and how long each of them dawdles."""
    plan = Plan(world_size=world_size, rounds=rounds, seed=seed, delay_s_max=delay_s_max, timeout_s=30)
    result = run(plan)
    assert result.ok, (result.failure, [check for check in result.checks if not check.passed])
    assert sum(len(rank.meetings) for rank in result.ranks) == world_size * rounds
