"""The pytest plugin: ``@pytest.mark.ranks(4)`` runs a test as four processes that have met.

Loaded by `rdzv._pytest` when a project uses the mark. Its job here, in the pytest that people start, is to have marked
tests run elsewhere and to report what came of them. Where is told in `sim.ranks`.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sim.process.machine import CannotRunError
from sim.ranks import measure
from sim.ranks.course import Interrupted, RanksError, RefusedError
from sim.ranks.fixtures import Fixtures
from sim.ranks.home import Home
from sim.ranks.mark import Ranks
from sim.ranks.outcome import printed
from sim.ranks.verdict import made_report, pass_on_warnings, reports_of, traceback_of
from sim.ranks.zygote import PLUGIN_NAME as ZYGOTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sim.ranks.outcome import Outcome

_NAME_BYTES_MAX = 246  # of a directory, less what tells two apart
_NAME_CHARS_MAX = 50  # how much is kept of a longer name, whatever its letters
_LOST = "a fixture wider than a function could not be torn down after the last test of these ranks"
PLUGIN_NAME, FIXTURES = "rdzv-ranks", "rdzv-ranks-fixtures"

# What the second pytest must not do although the command line says so: select, distribute, report, or write files.
_OPTIONS: dict[str, Any] = {
    **dict.fromkeys(("lf", "failedfirst", "newfirst", "stepwise", "cacheclear", "collectonly", "distload"), False),
    "setupshow": False,
    **dict.fromkeys(("deselect", "numprocesses", "maxprocesses", "xmlpath", "htmlpath", "report_log"), None),
    "keyword": "",
    "markexpr": "",
    "maxfail": 0,
    "dist": "no",
    "tx": [],
    "log_file": "/dev/null",
}


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Make a test of each world size that a mark lists."""
    try:
        ranks = _mark(metafunc.definition)
    except ValueError as error:
        raise pytest.fail.Exception(f"{metafunc.definition.nodeid}: {error}", pytrace=False) from None
    if len(ranks.world_sizes) > 1:
        if "world_size" not in metafunc.fixturenames:
            metafunc.fixturenames.append("world_size")
        ids = [f"ranks{size}" for size in ranks.world_sizes]
        metafunc.parametrize("world_size", ranks.world_sizes, indirect=True, ids=ids)


def offer_fixtures(manager: pytest.PytestPluginManager) -> None:
    """Let pytest list the fixtures, and give them to tests without the mark, which are then told that it is missing."""
    if not manager.hasplugin(ZYGOTE) and not manager.hasplugin(FIXTURES):
        manager.register(Fixtures(), FIXTURES)


def run(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a marked test, and report; nothing in the ranks themselves, where pytest runs it as any other."""
    manager = item.config.pluginmanager
    if manager.hasplugin(ZYGOTE):
        return None
    plugin = manager.getplugin(PLUGIN_NAME)
    if plugin is None:
        plugin = Plugin(item.config)
        manager.register(plugin, PLUGIN_NAME)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in plugin.reports(item, nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


class Plugin:
    """What lasts from the first marked test to the end of the session."""

    def __init__(self, config: pytest.Config) -> None:
        """Prepare; no process is started before the first test."""
        self._config = config
        self._home: Home | None = None
        self._homes = 0
        self._item: pytest.Item  # the last one that had ranks

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End all processes."""
        home, self._home = self._home, None
        if home and (failure := home.finish()):
            item = self._item
            report = made_report(item, "teardown", lambda: pytest.fail(f"{_LOST}\n{failure}", pytrace=False))
            item.ihook.pytest_runtest_logreport(report=report)
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def reports(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        """Run a test; its reports, from the set-up to the tear-down."""
        reports = self._reports(item, nextitem)
        # Ordinary tests before it have set up things in this process, which the next may not need.
        teardown = made_report(item, "teardown", lambda: self._tear_down(item, nextitem))
        if teardown.failed and reports[-1].failed:
            reports[-1].sections.append(("teardown of what was set up before the ranks", teardown.longreprtext))
        elif teardown.failed:
            reports[-1] = teardown
        return reports

    def _tear_down(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        capture = self._config.pluginmanager.getplugin("capturemanager")
        with capture.item_capture("teardown", item) if capture else nullcontext():
            item.session._setupstate.teardown_exact(nextitem)  # noqa: SLF001

    def _reports(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        skipping = self._config.pluginmanager.getplugin("skipping")
        setup = made_report(item, "setup", lambda: skipping and skipping.pytest_runtest_setup(item))
        ran: list[pytest.TestReport] = []
        if setup.passed and not self._config.getoption("setuponly", default=False):  # nor with ``--setup-plan``
            call = made_report(item, "call", lambda: ran.extend(self._run(item, nextitem)))
            if ran:
                return ran
            return [setup, call, made_report(item, "teardown", int)]
        return [setup, made_report(item, "teardown", int)]

    def _run(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        self._item = item
        try:
            ranks = _mark(item)
            size = _world_size(item, ranks)
            timeout_s = ranks.timeout_s or self._config.getoption("ranks_timeout")
            self._home = self._home or self._started()
            result = self._home.run(
                item.nodeid, str(item.path), size, timeout_s, reuse=ranks.reuse, keep=_in_common(item, nextitem)
            )
        except BaseException as error:
            home, self._home = self._home, None
            failure = ""
            if home and isinstance(error, RefusedError):
                failure = home.finish()
            elif home:
                home.close()
            if isinstance(error, Interrupted):
                self._tell(error.where)
                raise KeyboardInterrupt from None
            if not isinstance(error, (RanksError, CannotRunError, ValueError)):
                raise
            text = f"{error}\n\n{_LOST}\n{failure}" if failure else str(error)
            raise pytest.fail.Exception(text, pytrace=False) from None
        if directory := self._config.getoption("ranks_keep_logs"):
            _keep_logs(Path(directory), item, result.outcomes)
        for outcome in result.outcomes:
            if outcome.stop:
                item.session.shouldstop = f"rank {outcome.rank}: {outcome.stop}"
        pass_on_warnings(item, result.outcomes)
        return reports_of(item, result, timeout_s)

    def _tell(self, text: str) -> None:
        if terminal := self._config.pluginmanager.getplugin("terminalreporter"):
            terminal.ensure_newline()
            terminal.write_line(text)

    def _started(self) -> Home:
        config, option = self._config, self._config.option
        capture = config.pluginmanager.getplugin("capturemanager")
        for name, is_there in (("capture", capture), ("tmpdir", hasattr(config, "_tmp_path_factory"))):
            if not is_there:
                raise RanksError(f"tests with ranks need pytest's own plugin {name}: leave out -p no:{name}")
        capture.suspend_global_capture(in_=True)  # so that 0 is what this process was given, for a debugger
        basetemp = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # noqa: SLF001
        self._homes += 1
        options: dict[str, Any] = {"basetemp": str(basetemp / f"ranks{self._homes}")}
        options["usepdb"] = getattr(option, "usepdb", False)
        options["randomly_seed"] = getattr(option, "randomly_seed", None)  # which pytest-randomly has drawn, and told
        boot = {
            "args": ["--no-cov"] * hasattr(option, "no_cov") + [str(arg) for arg in config.invocation_params.args],
            "directory": str(config.invocation_params.dir),
            "path": sys.path,
            "argv": sys.argv,
            "options": {**_OPTIONS, **options},
            "workerinput": _plain(getattr(config, "workerinput", None)),
            "measure": measure.settings(),
        }
        return Home(boot, 0)


def _mark(node: Any) -> Ranks:
    mark = node.get_closest_marker("ranks")
    return Ranks.of(mark.args, mark.kwargs)


def _world_size(item: pytest.Item, ranks: Ranks) -> int:
    """Which of the mark's sizes this test has."""
    if len(ranks.world_sizes) == 1:
        return ranks.world_sizes[0]
    try:
        size: int = item.callspec.params["world_size"]  # type: ignore[attr-defined]
    except (AttributeError, KeyError):
        raise ValueError(
            f"the mark ranks({list(ranks.world_sizes)}) came too late to make a test of each size: a mark of a "
            "parameter, or one that a hook adds, takes a single one"
        ) from None
    return size


def _in_common(item: pytest.Item, other: pytest.Item | None) -> int:
    """How many nodes two tests have in common, from the session down."""
    return sum(
        ours is theirs for ours, theirs in zip(item.listchain(), other.listchain() if other else [], strict=False)
    )


def _plain(values: dict[str, Any] | None) -> dict[str, Any] | None:
    """What of a dictionary can be written down; what xdist tells a worker, mostly."""
    if values is None:
        return None
    plain = {}
    for name, value in values.items():
        try:
            plain[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue
    return plain


def _keep_logs(directory: Path, item: pytest.Item, outcomes: Sequence[Outcome]) -> None:
    readable = re.sub(r"/|::", "_", item.nodeid)
    name = re.sub(r"[^\w.=\[\]-]+", "_", readable)
    if len(name.encode()) > _NAME_BYTES_MAX:
        name = name[:_NAME_CHARS_MAX]
    if name != readable:  # another test's may have come to the same
        name += f"-{zlib.crc32(item.nodeid.encode()):08x}"
    try:
        (directory / name).mkdir(parents=True, exist_ok=True)
        for outcome in outcomes:
            (directory / name / f"rank{outcome.rank}.log").write_text(
                printed(outcome) + traceback_of(item, outcome), "utf-8", "backslashreplace"
            )
    except OSError as error:
        problem = f"--ranks-keep-logs: cannot write to {error.filename or directory}: {error.strerror}"
        raise pytest.fail.Exception(problem, pytrace=False) from None
