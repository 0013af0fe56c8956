"""The entry of the pytest plugin: what pytest loads in every project, so it must cost nothing where nobody uses it.

Knows the names of pytest's hooks and of the mark. The plugin itself is `sim.pytest_plugin`; it is loaded when the first
marked test is collected, because a project may have a folder ``sim`` of its own and must still be able to start pytest.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

_FIXTURES = {"rank", "world_size", "rendezvous", "store", "rank_path"}
_HERE = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: Any) -> None:
    """Two options."""
    group = parser.getgroup("ranks", "tests that run as several processes")
    group.addoption(
        "--ranks-timeout",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="end a test with ranks after so long, unless its mark says otherwise (default: 60)",
    )
    group.addoption("--ranks-keep-logs", metavar="DIR", help="write what each rank printed to DIR/TEST/rankN.log")


def _seconds(text: str) -> float:
    """As a mark's own timeout: more than none."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 1_000_000:
        raise ArgumentTypeError(f"a timeout is more than 0 and at most 1000000 seconds, not {text!r}")
    return seconds


def pytest_configure(config: Any) -> None:
    """One mark; and if somebody asks which fixtures there are, those that it brings."""
    config.addinivalue_line(
        "markers",
        "ranks(world_size, timeout=SECONDS, reuse=False): run the test as so many processes that have met; "
        "a list of world sizes makes a test of each",
    )
    if config.option.showfixtures:
        _offer_fixtures(config.pluginmanager)


def pytest_generate_tests(metafunc: Any) -> None:
    """A marked test with a list of world sizes becomes as many; one that lacks the mark, and needs it, will hear so."""
    if metafunc.definition.get_closest_marker("ranks"):
        try:
            plugin = _plugin()
        except _HiddenError as error:
            pytest.fail(f"{metafunc.definition.nodeid}: {error}", pytrace=False)
        plugin.parametrize(metafunc)
    elif _FIXTURES.intersection(metafunc.fixturenames).difference(metafunc._arg2fixturedefs):  # noqa: SLF001
        _offer_fixtures(metafunc.config.pluginmanager)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: Any, nextitem: Any) -> bool | None:
    """A marked test is run by the plugin, before another that knows no ranks could; any other by pytest, as ever."""
    if item.get_closest_marker("ranks"):
        run: bool | None = _plugin().run(item, nextitem)
        return run
    return None


class _HiddenError(RuntimeError):
    """The simulator cannot be loaded: another package has its name."""


def _offer_fixtures(manager: Any) -> None:
    """Not where the simulator is hidden: who has such names there, as parameters perhaps, means none of ours."""
    with suppress(_HiddenError):
        _plugin().offer_fixtures(manager)


def _plugin() -> Any:
    """The plugin. A name, not an import: this package does not depend on the simulator."""
    try:
        return import_module("sim.pytest_plugin")
    except ModuleNotFoundError as error:
        hiding = getattr(sys.modules.get("sim"), "__file__", None)
        if hiding is None or Path(hiding).resolve().parents[1] == _HERE:
            raise
        raise _HiddenError(
            f"the mark 'ranks' needs the package sim that came with rdzv, in {_HERE}, and this project's own {hiding} "
            "hides it: give that another name"
        ) from error
