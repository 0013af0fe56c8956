"""Scenarios as TOML: read with every mistake named by file, key and what was probably meant, and written again.

Knows TOML and `sim.scenario`. Scenarios that ship with the simulator are files in ``sim/scenarios``, known by their
names. What `dumps` writes `loads` reads as the same value.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.faults import fault_named
from sim.faults.triggers import START, AtTime, Trigger, parse_trigger
from sim.scenario import BACKENDS, TIMEOUT_S, Expectation, Nodes, Planned, Scenario, Script, Step
from sim.scenario_text import Ranks, ScenarioError, seconds, seconds_text, span, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHIPPED = Path(__file__).with_name("scenarios")
_KEYS = ("name", "about", "backend", "timeout", "nodes", "options", "steps", "faults", "expect")


def names() -> list[str]:
    """The names of the scenarios that ship."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def find(file_or_name: str) -> Scenario:
    """The scenario in a file, or the one that ships under a name.

    Raises:
        ScenarioError: There is neither, or it is no scenario.
    """
    path = Path(file_or_name)
    if not path.suffix and (path.is_dir() or not path.exists()):
        if file_or_name not in names():
            raise unknown("scenario", file_or_name, names())
        path = SHIPPED / f"{file_or_name}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"cannot be read: {getattr(error, 'strerror', '') or error}", file=str(path)) from error
    return loads(text, file=str(path), name=path.stem)


def loads(text: str, *, file: str = "", name: str = "scenario") -> Scenario:
    """Read a scenario.

    Args:
        text: The TOML.
        file: Where it is from, for errors.
        name: What it is called if it does not say.

    Raises:
        ScenarioError: It is none.
    """
    try:
        table = tomllib.loads(text)
    except RecursionError as error:
        raise ScenarioError("no TOML: it is nested too deeply", file=file) from error
    except ValueError as error:  # the reader's own, or that of a number with too many digits
        raise ScenarioError(f"no TOML: {error}", file=file) from error
    try:
        return _scenario(_Table(table, _KEYS), name)
    except ScenarioError as error:
        error.file = file
        raise


def dumps(scenario: Scenario) -> str:
    """Write a scenario."""
    return "\n".join(_lines(scenario)) + "\n"


# Reading


class _Table:
    """A table of a file, whose keys are asked for one by one; those that nobody can ask for are refused."""

    def __init__(self, values: dict[str, Any], known: tuple[str, ...]) -> None:
        self._values = values
        for key in values:
            if key not in known:
                error = unknown("key", key, known)
                error.key = key
                raise error

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """The value of a key, which must be of that kind."""
        if key not in self._values:
            return default
        return _of_kind(self._values[key], kind, key)

    def read(self, key: str, kind: type | tuple[type, ...], make: Callable[[Any], Any], default: Any = None) -> Any:
        """What is made of the value of a key; errors in it name the key."""
        if key not in self._values:
            return default
        return _within(key, make, self.get(key, kind))


def _scenario(table: _Table, name: str) -> Scenario:
    if "nodes" not in table:
        raise ScenarioError("it does not say how many nodes there are", key="nodes", hint="write nodes = 4")
    return Scenario(
        nodes=table.read("nodes", (int, dict), _nodes),
        name=table.get("name", str, name),
        about=table.get("about", str, ""),
        backend=table.get("backend", str, BACKENDS[0]),
        options=table.read("options", dict, _options, ()),
        scripts=table.read("steps", dict, _scripts, Scenario.__dataclass_fields__["scripts"].default),
        faults=table.read("faults", list, _faults, ()),
        expect=table.read("expect", dict, _expectation, Expectation()),
        timeout_s=table.read("timeout", (str, int, float), _seconds, TIMEOUT_S),
    )


def _nodes(value: Any) -> Nodes:
    if isinstance(value, int):
        return Nodes(value, value)
    table = _Table(value, ("min", "max", "started"))
    least = table.get("min", int, 1)
    most = table.get("max", int, max(least, table.get("started", int, least)))
    return Nodes(least, most, table.get("started", int, most))


def _options(value: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, _of_kind(option, (str, int, float, bool), name)) for name, option in value.items())


def _scripts(value: dict[str, Any]) -> tuple[Script, ...]:
    return tuple(_within(f'"{ranks}"', _script, ranks, steps) for ranks, steps in value.items())


def _script(ranks: str, steps: Any) -> Script:
    texts = _of_kind(steps, list, "")
    parsed = [_within(f"[{index}]", Step.parse, _of_kind(text, str, f"[{index}]")) for index, text in enumerate(texts)]
    return Script(Ranks.parse(ranks), tuple(parsed))


def _faults(value: list[Any]) -> tuple[Planned, ...]:
    return tuple(_within(f"[{index}]", _planned, _of_kind(one, dict, f"[{index}]")) for index, one in enumerate(value))


def _planned(value: dict[str, Any]) -> Planned:
    if "do" not in value:
        raise ScenarioError("it does not say which fault", key="do", hint='write do = "kill"')
    kind = _within("do", fault_named, _of_kind(value["do"], str, "do"))
    table = _Table(value, ("do", *kind.arguments(), "at", "lasts"))
    texts = {name: str(table.get(name, (str, int))) for name in kind.arguments() if name in table}
    return Planned(
        kind.of(texts),
        table.read("at", (str, int, float), _moment, START),
        table.read("lasts", (str, int, float), _seconds),
    )


def _moment(value: Any) -> Trigger:
    return parse_trigger(value) if isinstance(value, str) else AtTime(span(value))


def _expectation(value: dict[str, Any]) -> Expectation:
    table = _Table(value, ("outcomes", "rounds", "missing", "within", "settled"))
    return Expectation(
        outcomes=table.read("outcomes", dict, _outcomes, ()),
        rounds=table.read("rounds", list, _sizes),
        missing=table.read("missing", (str, int), lambda ranks: Ranks.parse(str(ranks))),
        within_s=table.read("within", (str, int, float), _seconds),
        settled=table.get("settled", bool, False),
    )


def _outcomes(value: dict[str, Any]) -> tuple[tuple[Ranks, str], ...]:
    named = value.items()
    return tuple(
        (_within(f'"{ranks}"', Ranks.parse, ranks), _of_kind(text, str, f'"{ranks}"')) for ranks, text in named
    )


def _sizes(value: list[Any]) -> tuple[int, ...]:
    return tuple(_of_kind(size, int, f"[{index}]") for index, size in enumerate(value))


def _seconds(value: Any) -> float:
    return seconds(value) if isinstance(value, str) else span(value)


def _of_kind(value: Any, kind: type | tuple[type, ...], key: str) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
        wanted = " or ".join(words.get(one, "a list" if one is list else "a table") for one in kinds)
        raise ScenarioError(f"{value!r} is not {wanted}", key=key)
    return value


def _within(key: str, make: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return make(*arguments)
    except ScenarioError as error:
        raise error.within(key) from None


# Writing


def _lines(scenario: Scenario) -> Iterator[str]:
    nodes = scenario.nodes
    yield f"name = {_toml(scenario.name)}"
    if scenario.about:
        yield f"about = {_toml(scenario.about)}"
    yield f"backend = {_toml(scenario.backend)}"
    yield f"timeout = {_toml(seconds_text(scenario.timeout_s))}"
    yield f"nodes = {{min = {nodes.min}, max = {nodes.max}, started = {nodes.started}}}"
    if scenario.options:
        yield from ("", "[options]")
        yield from (f"{_toml(name)} = {_toml(value)}" for name, value in scenario.options)
    yield from ("", "[steps]")
    for script in scenario.scripts:
        yield f"{_toml(str(script.ranks))} = [{', '.join(_toml(str(step)) for step in script.steps)}]"
    for planned in scenario.faults:
        yield from ("", "[[faults]]", f"do = {_toml(planned.fault.name)}")
        yield from (f"{name} = {_toml(text)}" for name, text in planned.fault.texts().items())
        yield f"at = {_toml(str(planned.at))}"
        if planned.lasts_s is not None:
            yield f"lasts = {_toml(seconds_text(planned.lasts_s))}"
    if scenario.expect != Expectation():
        yield from _expect_lines(scenario.expect)


def _expect_lines(expect: Expectation) -> Iterator[str]:
    yield from ("", "[expect]")
    if expect.rounds is not None:
        yield f"rounds = [{', '.join(map(str, expect.rounds))}]"
    if expect.missing:
        yield f"missing = {_toml(str(expect.missing))}"
    if expect.within_s is not None:
        yield f"within = {_toml(seconds_text(expect.within_s))}"
    if expect.settled:
        yield "settled = true"
    if expect.outcomes:
        pairs = ", ".join(f"{_toml(str(ranks))} = {_toml(outcome)}" for ranks, outcome in expect.outcomes)
        yield f"outcomes = {{{pairs}}}"


def _toml(value: str | float | bool) -> str:
    r"""A value as TOML has it.

    >>> _toml("a\tb"), _toml(True), _toml(0.5)
    ('"a\\tb"', 'true', '0.5')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    return (
        '"'
        + "".join(escapes.get(c) or (f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c) for c in value)
        + '"'
    )
