"""The reports of the ranks of a test, made those of one test: what pytest shows, counts and writes to JUnit's XML.

The reports are one rank's own, that of the rank to be shown: the first that failed, by itself; else one that failed as
its mark foresees; else one that hung; else one that passed; else, if all have skipped the test, one that did. Knows
pytest's reports. Must not know how the ranks were run.
"""

from __future__ import annotations

import copy
import json
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from _pytest._code.code import ExceptionRepr

from sim.check.invariants import named
from sim.ranks.course import GRACE_S
from sim.ranks.outcome import blamed, folded, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sim.ranks.home import Result
    from sim.ranks.outcome import Outcome

_ORDER = ("failed", "xfailed", "hung", "xpassed", "passed", "skipped")


def reports_of(item: pytest.Item, result: Result, timeout_s: float) -> list[pytest.TestReport]:
    """The test's reports.

    Args:
        item: The test.
        result: What became of it.
        timeout_s: Its deadline, in seconds.
    """
    outcomes = result.outcomes
    shown = min(outcomes, key=lambda outcome: (_ORDER.index(outcome.kind), _when(outcome)))
    others = [outcome for outcome in outcomes if outcome is not shown]
    reports = [_restored(item, data) for data in shown.reports]
    if shown.kind == "hung":
        hung = [outcome for outcome in outcomes if outcome.kind == "hung"]
        text = f"{named('rank', [outcome.rank for outcome in hung])} of {len(outcomes)} had to be ended"
        text = f"{text} after {timeout_s:g} s: the test's time was up\n\n"
        text += _all(hung, [other for other in others if other not in hung])
        _fail(item, reports, shown.phase, text)
    elif shown.kind == "failed" and not any(report.failed for report in reports):
        reports = [report for report in reports if report.when != shown.phase]
        _fail(item, reports, shown.phase, _all([shown], others) + _followers(item, shown, others))
    elif others and shown.kind == "failed":
        _fold(next(report for report in reports if report.failed), shown, others)
    for report in reports:
        report.sections = [(f"{name} (rank {shown.rank})", content) for name, content in report.sections]
    if result.error:
        reports = [report for report in reports if report.when != "teardown"]
        _fail(item, reports, "teardown", f"a fixture wider than a function could not be torn down\n\n{result.error}")
    elif reports[-1].when != "teardown":
        reports.append(made_report(item, "teardown", _nothing))
    # The clock on the wall: to make the ranks ready belongs to the set-up, and what no phase of the shown rank
    # accounts for, such as waiting for the others, to the call.
    reports[-2].duration += max(0.0, result.ran_s - sum(report.duration for report in reports))
    reports[0].duration += result.ready_s
    return reports


def made_report(item: pytest.Item, when: Any, does: Callable[[], object]) -> pytest.TestReport:
    """The report of something that this process does as a phase of the test."""
    call = pytest.CallInfo.from_call(does, when=when, reraise=(pytest.exit.Exception, KeyboardInterrupt))
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
    return report


def traceback_of(item: pytest.Item, outcome: Outcome) -> str:
    """How pytest shows a rank's failure; empty if the rank has reported none."""
    told = outcome.telling
    return _restored(item, told).longreprtext if told and kind_of(told) == "failed" else ""


def pass_on_warnings(item: pytest.Item, outcomes: Sequence[Outcome]) -> None:
    """Let pytest know of the warnings that the ranks have raised, once each."""
    for line in dict.fromkeys(json.dumps(warning) for outcome in outcomes for warning in outcome.warnings):
        warning = json.loads(line)
        module, name = warning["category"]
        try:
            category = getattr(import_module(module), name)
        except (ImportError, AttributeError):  # one that was defined within a function
            category = UserWarning
        message = warnings.WarningMessage(warning["message"], category, warning["filename"], warning["lineno"])
        item.ihook.pytest_warning_recorded.call_historic(
            kwargs={"warning_message": message, "when": "runtest", "nodeid": item.nodeid, "location": None}
        )


def _when(outcome: Outcome) -> float:
    return blamed(outcome) if outcome.failed_at is not None else outcome.rank


def _all(first: list[Outcome], others: list[Outcome]) -> str:
    return "\n".join(filter(None, [folded(first, full=True), folded(others, full=False)]))


def _followers(item: pytest.Item, shown: Outcome, others: list[Outcome]) -> str:
    """What to add where the first that failed has no traceback: those of the others, of what is the same in a line one.

    They may say why it has died.
    """
    told = {other.line: other for other in reversed(others)}.values()
    tracebacks = {other.rank: text for other in told if (text := traceback_of(item, other))}
    parts = (f"\n\nrank {rank} failed after that:\n\n{text}" for rank, text in sorted(tracebacks.items()))
    return f"\nrank {shown.rank} of {len(others) + 1} failed first" * bool(tracebacks) + "".join(parts)


def _fold(report: pytest.TestReport, shown: Outcome, others: list[Outcome]) -> None:
    """Under a rank's own traceback: what became of the others, a line each."""
    title = f"rank {shown.rank} of {len(others) + 1} failed first"
    text = folded(others, full=False)
    if any(other.kind == "hung" for other in others):
        text += f"\n(had to be ended: still running {GRACE_S:g} s after the first failure)"
    if isinstance(report.longrepr, ExceptionRepr):
        report.longrepr.addsection(title, text)
    else:
        report.longrepr = f"{report.longrepr}\n{title}\n{text}"


def _fail(item: pytest.Item, reports: list[pytest.TestReport], when: str, text: str) -> None:
    def fail() -> None:
        pytest.fail(text, pytrace=False)

    report = made_report(item, when, fail)
    if isinstance(report.longrepr, ExceptionRepr) and (crash := report.longrepr.reprcrash):
        crash.message = crash.message.partition("\n")[0]  # of the short summary, which in CI repeats all of it
    reports.append(report)


def _nothing() -> None:
    pass


def _restored(item: pytest.Item, data: dict[str, Any]) -> pytest.TestReport:
    """The report of a rank. JSON knows no tuples; pytest does."""
    own = copy.deepcopy(data)  # which pytest takes apart
    report: pytest.TestReport = item.config.hook.pytest_report_from_serializable(config=item.config, data=own)
    report.location = item.location
    report.user_properties = [(name, value) for name, value in report.user_properties]
    if isinstance(report.longrepr, list):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, reason)
    return report
