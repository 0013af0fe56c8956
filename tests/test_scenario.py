"""Scenarios: read, refused with the file, the key and what was meant, and written so that they read the same again."""

from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from sim.faults import FAULTS
from sim.faults.triggers import PHASES, STEPS, AtRound, AtStep, AtTime, parse_trigger
from sim.scenario import Expectation, Nodes, Planned, Scenario, Script, Step
from sim.scenario_file import dumps, find, loads, names
from sim.scenario_text import Ranks, ScenarioError, seconds, seconds_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

STARTED = 5
SPANS = st.floats(0, 1e6, allow_subnormal=False) | st.integers(0, 5000).map(lambda number: number / 1000)
RANKS = st.just(Ranks()) | st.sets(st.integers(0, STARTED - 1), min_size=1).map(lambda numbers: Ranks.of(*numbers))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
OPTIONS = st.fixed_dictionaries(  # of both backends
    {}, optional={"timeout": st.integers(1, 9), "rank": st.integers(0, 4).map(str)}
)
TRIGGERS = st.one_of(
    st.builds(AtTime, SPANS),
    st.builds(AtRound, st.integers(1, 9), st.sampled_from(PHASES), SPANS),
    st.builds(AtStep, st.sampled_from(STEPS), st.none() | st.integers(0, 99), st.integers(1, 9), SPANS),
)
STEP_VALUES = st.one_of(
    st.sampled_from([step for step in STEPS if step not in ("run", "compute")]).map(Step),
    st.builds(Step, st.just("compute"), SPANS),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1).map(
        lambda argv: Step("run", argv=tuple(argv))
    ),
)
OUTCOMES = st.sampled_from(["ok", "ended", "any", "SIGKILL", "exit 3", "RendezvousTimeoutError"])
ALL_STEPS = tuple(Step("run", argv=("true",)) if name == "run" else Step(name) for name in STEPS)


def can_be_told_apart(named: Iterable[Ranks]) -> bool:
    """Whether no rank is named twice with as many others."""
    counts = Counter((ranks.count, rank) for ranks in named for rank in ranks.numbers or (None,))
    return set(counts.values()) <= {1}


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Scenarios in which a fault may strike at any rank's first step of any name."""
    backend = draw(st.sampled_from(("static", "c10d")))
    nodes = Nodes(STARTED, STARTED) if backend == "static" else Nodes(draw(st.integers(1, 3)), STARTED)
    steps = st.lists(STEP_VALUES).map(lambda steps: (*ALL_STEPS, *steps))
    scripts = [Script(Ranks(), draw(steps))]
    if draw(st.booleans()):
        scripts.append(Script(Ranks.of(*draw(st.sets(st.integers(0, 4), min_size=1))), draw(steps)))
    plans: list[Planned] = []
    for kind in draw(st.lists(st.sampled_from(list(FAULTS.values())))):
        if usable(*plans, plan := draw(planned(kind.example)), backend=backend):
            plans.append(plan)
    return Scenario(
        nodes=nodes,
        name=draw(TEXTS),
        about=draw(TEXTS),
        backend=backend,
        options=tuple(draw(OPTIONS).items()),
        scripts=tuple(scripts),
        faults=tuple(plans),
        expect=draw(
            st.builds(
                Expectation,
                outcomes=st.dictionaries(RANKS, OUTCOMES)
                .filter(can_be_told_apart)
                .map(lambda outcomes: tuple(outcomes.items())),
                rounds=st.none() | st.lists(st.integers(1, 9)).map(tuple),
                missing=st.none() | RANKS,
                within_s=st.none() | SPANS,
            )
        ),
        timeout_s=draw(st.floats(0.001, 1e6)),
    )


@st.composite
def planned(draw: st.DrawFn, example: str) -> Planned:
    """A fault's own example, sometimes at another time."""
    plan = Planned.parse(example)
    at = draw(st.just(plan.at) | st.builds(AtTime, SPANS) | st.builds(AtRound, st.integers(1, 9), after_s=SPANS))
    return Planned(plan.fault, at, draw(st.none() | SPANS) if plan.fault.heals() else None)


def usable(*plans: Planned, backend: str) -> bool:
    """Whether faults can strike then, in a world of that backend."""
    nodes = Nodes(STARTED, STARTED)
    try:
        Scenario(nodes=nodes, backend=backend, scripts=(Script(Ranks(), ALL_STEPS),), faults=plans)
    except ScenarioError:
        return False
    return True


@given(scenarios())
def test_what_is_written_reads_as_the_same_scenario(scenario: Scenario) -> None:
    """A scenario that a search has found is a file from then on, and loses nothing by it."""
    assert loads(dumps(scenario)) == scenario


@given(SPANS)
def test_a_span_of_time_is_written_to_the_last_bit(value: float) -> None:
    """Times decide what happens first, so not even a rounding may come in between."""
    assert seconds(seconds_text(value)) == value


@given(TRIGGERS)
def test_a_trigger_is_what_its_text_says(trigger: AtStep | AtRound | AtTime) -> None:
    """The short form has no second reading."""
    assert parse_trigger(str(trigger)) == trigger


@given(RANKS)
def test_ranks_are_what_their_text_says(ranks: Ranks) -> None:
    """Runs of numbers are folded, and unfold to the same."""
    assert Ranks.parse(str(ranks)) == ranks


@given(STEP_VALUES)
def test_a_step_is_what_its_text_says(step: Step) -> None:
    """A program's arguments may hold blanks and quotes."""
    assert Step.parse(str(step)) == step


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_an_example_that_works_and_a_line_of_help(name: str) -> None:
    """The help shows both, so both must be true."""
    kind = FAULTS[name]
    plan = Planned.parse(kind.example)
    assert type(plan.fault) is kind
    assert str(plan) == kind.example
    assert usable(plan, backend="static") or usable(plan, backend="c10d")
    assert (kind.__doc__ or "").partition("\n")[0].endswith(".")


@pytest.mark.parametrize("name", names())
def test_every_shipped_scenario_reads_and_says_what_it_shows(name: str) -> None:
    """They are found by their names."""
    scenario = find(name)
    assert scenario.name == name
    assert scenario.about


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes = ", "x.toml: no TOML: "),
        ("nodes = " + "{a=" * 500 + "1" + "}" * 500, "x.toml: no TOML: it is nested too deeply"),
        ("timeout = " + "1" * 5000, "x.toml: no TOML: "),
        ("name = 'x'", "x.toml: nodes: it does not say how many nodes there are (write nodes = 4)"),
        ("nodse = 4", "x.toml: nodse: there is no key 'nodse' (did you mean nodes?)"),
        ("nodes = 'four'", "x.toml: nodes: 'four' is not a whole number or a table"),
        ("nodes = true", "x.toml: nodes: True is not a whole number or a table"),
        ("nodes = {min = 3, mx = 4}", "x.toml: nodes.mx: there is no key 'mx' (did you mean max?)"),
        ("nodes = {min = 3, max = 2}", "x.toml: nodes: 1 <= min (3) <= max (2) <= 100000 does not hold"),
        ("nodes = {min = 1, max = 2}", "x.toml: nodes: a static world has one size (or set backend to c10d)"),
        ("nodes = 2\nbackend = 'c10'", "x.toml: backend: there is no backend 'c10' (did you mean c10d?)"),
        ("nodes = 2\ntimeout = '5'", "x.toml: timeout: '5' is no span of time (write 250us, 50ms, 1.5s or 2min)"),
        (
            "nodes = 2\ntimeout = '20000min'",
            "x.toml: timeout: a span of time is from 0 to 1000000 s, not 1.2e+06 s",
        ),
        ("nodes = 2\ntimeout = 0", "x.toml: timeout: the deadline is more than 0 s and at most 1000000 s, not 0 s"),
        ("nodes = 2\n[options]\nrank = []", "x.toml: options.rank: [] is not a text"),
        (
            "nodes = 2\n[options]\ntimout = 3",
            "x.toml: options.timout: there is no option of the backend static 'timout' (did you mean timeout?)",
        ),
        (
            "nodes = 2\nbackend = 'c10d'\n[options]\ntipology = true",
            "x.toml: options.tipology: there is no option of the backend c10d 'tipology' (did you mean topology?)",
        ),
        (
            "nodes = 2\nbackend = 'c10d'\n[options]\nkeep_alive_interval = '1x'",
            "x.toml: options: The rendezvous configuration option 'keep_alive_interval' does not represent a valid",
        ),
        (
            "nodes = 2\n[options]\ntimeout = 0",
            "x.toml: options: the option 'timeout' must be from 1 to 2000000 seconds, not 0",
        ),
        (
            "nodes = 2\n[steps]\n'*' = ['join', 'jion']",
            "x.toml: steps.\"*\"[1]: there is no step 'jion' (did you mean join?)",
        ),
        (
            "nodes = 2\n[steps]\n'*' = ['launch']",
            'x.toml: steps."*"[0]: launch needs a span of time (write launch 100ms)',
        ),
        ("nodes = 2\nbackend = 'etcd'", "x.toml: backend: there is no backend 'etcd' (there are static, c10d)"),
        ("nodes = 2\n[steps]\n'*' = []", 'x.toml: steps."*": a rank has something to do'),
        (
            "nodes = 2\n[steps]\n'2' = ['join']",
            'x.toml: steps."2": there is no rank 2: those that are started are 0 to 1',
        ),
        ("nodes = 2\n[steps]\n'1' = ['join']", "x.toml: steps: rank 0 has nothing to do"),
        ("nodes = 2\n[steps]\n'1-0' = ['join']", "x.toml: steps.\"1-0\": the ranks '1-0' run backwards (write 0-1)"),
        ("nodes = 2\n[[faults]]\nranks = 1", "x.toml: faults[0].do: it does not say which fault"),
        ("nodes = 2\n[[faults]]\ndo = 'kil'", "x.toml: faults[0].do: there is no fault 'kil' (did you mean kill?)"),
        ("nodes = 2\n[[faults]]\ndo = 'kill'", "x.toml: faults[0]: kill needs 'ranks' (write kill:2@join)"),
        ("nodes = 2\n[[faults]]\ndo = 'kill'\nranks = 7", "x.toml: faults[0].ranks: there is no rank 7"),
        (
            "nodes = 2\n[[faults]]\ndo = 'kill'\nranks = 1\n[[faults]]\ndo = 'kill'\nranks = 1\nat = 'jion'",
            "x.toml: faults[1].at: there is no step 'jion' (did you mean join?)",
        ),
        (
            "nodes = 2\n[[faults]]\ndo = 'kill'\nranks = 1\nat = 'round1.ful'",
            "x.toml: faults[0].at: there is no phase of a round 'ful' (did you mean full?)",
        ),
        (
            "nodes = 2\n[[faults]]\ndo = 'kill'\nranks = 1\nat = 'join#2'",
            "x.toml: faults[0].at: rank 1 does not join 2 times",
        ),
        (
            "nodes = 2\n[[faults]]\ndo = 'crash'\nranks = 1",
            "x.toml: faults[0].at: a rank crashes as it begins one of its own steps",
        ),
        (
            "nodes = 2\n[[faults]]\ndo = 'late'\nranks = 1\nat = 'join'",
            "x.toml: faults[0].at: a rank that has not started",
        ),
        (
            "nodes = 2\n[[faults]]\ndo = 'kill-store'",
            "x.toml: faults[0]: kill-store is for the backend c10d, not static",
        ),
        (
            "nodes = 2\n[[faults]]\ndo = 'kill'\nranks = 1\nlasts = '1s'",
            "x.toml: faults[0].lasts: kill never heals: leave its span out",
        ),
        ("nodes = 2\n[[faults]]\ndo = 'steal'\nat = '1s'", "x.toml: faults[0].at: steal is there from the start"),
        (
            "nodes = 2\n[[faults]]\ndo = 'delay'\nranks = 0\nby = '1s'",
            "x.toml: faults[0]: rank 0 of a static world hosts the store",
        ),
        (
            "nodes = 2\n[[faults]]\ndo = 'partition'\ngroups = '0,1'",
            "x.toml: faults[0].groups: '0,1' are no two groups (write 0,1|2,3; or > or < for one way)",
        ),
        (
            "nodes = 2\n[[faults]]\ndo = 'bandwidth'\nranks = 1\nper_second = 'fast'",
            "x.toml: faults[0].per_second: 'fast' is no rate in bytes per second",
        ),
        ("nodes = 2\n[expect]\nmissing = 3", "x.toml: expect.missing: there is no rank 3"),
        ("nodes = 2\n[expect]\nrounds = ['a']", "x.toml: expect.rounds[0]: 'a' is not a whole number"),
        ("nodes = 2\n[expect.outcomes]\n9 = 'ok'", 'x.toml: expect.outcomes."9": there is no rank 9'),
        (
            "nodes = 2\n[expect.outcomes]\n1 = 'okay'",
            "x.toml: expect.outcomes.\"1\": there is no outcome 'okay' (did you mean ok?)",
        ),
        (
            "nodes = 2\n[expect.outcomes]\n1 = 'SIGKIL'",
            "x.toml: expect.outcomes.\"1\": there is no outcome 'SIGKIL' (did you mean SIGKILL?)",
        ),
        (
            "nodes = 2\nbackend = 'c10d'\n[options]\nis_host = true",
            "x.toml: options.is_host: there is no option of the backend c10d 'is_host'",
        ),
        ("nodes = 2\n[expect]\nsettled = true", "x.toml: expect.settled: settled is for the backend c10d, not static"),
        (
            "nodes = 3\n[steps]\n'0-1' = ['join']\n'1-2' = ['barrier']",
            'x.toml: steps."1,2": rank 1 is named twice (of two, what is said of fewer ranks counts)',
        ),
        (
            "nodes = 2\n[expect.outcomes]\n1 = 'ok'\n'1-1' = 'SIGKILL'",
            'x.toml: expect.outcomes."1": rank 1 is named twice',
        ),
    ],
)
def test_a_mistake_is_named_by_file_key_and_what_was_meant(text: str, message: str) -> None:
    """Whoever wrote the file need not search."""
    with pytest.raises(ScenarioError) as caught:
        loads(text, file="x.toml")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("short", "message"),
    [
        ("kil:2", "there is no fault 'kil' (did you mean kill?)"),
        ("kill", "kill needs 'ranks' (write kill:2@join)"),
        ("kill:2:3", "kill takes ranks, and nothing behind that (write kill:2@join)"),
        ("kill:two", "ranks: 'two' names no ranks (write 2, or 0,3, or 0-3, or * for all)"),
        ("steal:1", "steal takes no arguments (write steal~1s)"),
        ("kill:2@jion", "there is no step 'jion' (did you mean join?)"),
        ("kill:2@join+1", "'1' is no span of time (write 250us, 50ms, 1.5s or 2min)"),
        ("kill:2@join~2s", "lasts: kill never heals: leave its span out (write kill:2@join)"),
        ("name-wrong:1~2s", "lasts: name-wrong never heals: leave its span out (write name-wrong:1)"),
        ("stop:2@join~long", "'long' is no span of time (write 250us, 50ms, 1.5s or 2min)"),
    ],
)
def test_a_mistake_in_a_short_form_is_named(short: str, message: str) -> None:
    """On the command line there is no key to point at; the text itself is short enough."""
    with pytest.raises(ScenarioError) as caught:
        Planned.parse(short)
    assert str(caught.value) == message


def test_a_moment_may_be_a_number_of_seconds() -> None:
    """As any span of time may, in a file."""
    scenario = loads("nodes = 2\n[[faults]]\ndo = 'kill'\nranks = 1\nat = 1.5")
    assert scenario.faults == (Planned.parse("kill:1@1.5s"),)


def test_a_missing_file_and_an_unknown_name_are_named() -> None:
    """What ends in a suffix is a file; what does not is a name, if there is no such file."""
    with pytest.raises(ScenarioError, match=r"nowhere\.toml: cannot be read"):
        find("nowhere.toml")
    with pytest.raises(ScenarioError, match=r"there is no scenario 'nowhere'"):
        find("nowhere")


def test_a_directory_hides_no_shipped_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the one that its report was written to."""
    (tmp_path / "kill-a-member").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("kill-a-member").name == "kill-a-member"


def test_the_narrowest_script_and_the_nearest_outcome_count() -> None:
    """What is said of one rank goes before what is said of all."""
    short = Script(Ranks.of(2), (Step("join"),))
    scenario = Scenario(
        nodes=Nodes(3, 3),
        scripts=(Script(Ranks(), ALL_STEPS), short),
        faults=(Planned.parse("kill:1"), Planned.parse("kill:2")),
        expect=Expectation(outcomes=((Ranks.of(2), "ok"),)),
    )
    assert (scenario.steps_of(2), scenario.steps_of(1)) == (short.steps, ALL_STEPS)
    assert [scenario.outcome_of(rank) for rank in range(3)] == ["ok", "SIGKILL", "ok"]


def test_an_outcome_for_all_hides_none_for_one() -> None:
    """In whatever order a file has them: the narrowest counts, as with steps."""
    scenario = loads("nodes = 2\n[expect.outcomes]\n'*' = 'any'\n1 = 'SIGKILL'")
    assert [scenario.outcome_of(rank) for rank in range(2)] == ["any", "SIGKILL"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("late:1-2@1s", "late:2@2s"),
        ("clock:*:1s", "clock:1:5s"),
        ("steal~1s", "steal~2s"),
        ("name-wrong:1", "name-wrong:1"),
    ],
)
def test_what_can_be_so_but_once_is_refused_a_second_time(first: str, second: str) -> None:
    """A rank that was started twice would be two of one number."""
    once = Scenario.of_rounds(3, 1).with_faults([first])
    with pytest.raises(ScenarioError, match=f"fault {second}: there is another "):
        once.with_faults([second])


def test_a_scenario_is_a_value() -> None:
    """It is equal to one like it, has a hash, and cannot be changed."""
    scenario = Scenario(nodes=Nodes(2, 2), faults=(Planned.parse("kill:1"),))
    assert scenario == Scenario(nodes=Nodes(2, 2, 2), faults=(Planned.parse("kill:1@0s"),))
    assert len({scenario, loads(dumps(scenario))}) == 1
    with pytest.raises(FrozenInstanceError):
        scenario.name = "other"  # type: ignore[misc]
