"""The zygote: a second pytest of the same command line that runs no test itself, but forks the ranks that do.

It has one thread, and refuses to fork with more. It collects a file when a test of it is first asked for, and sets up
what is wider than a function before the fork: once, for all ranks to inherit. What fails there fails anew in every
rank, with its first traceback, because pytest keeps it: so there is nothing to report from here.

Knows pytest's collection and set-up. Must not know what became of a test; that is `sim.ranks.home`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest
from _pytest.warnings import catch_warnings_for_item

from sim.process import descendants, stacks
from sim.process.channel import Channel, pair
from sim.process.messages import Exited, Failed
from sim.ranks import measure
from sim.ranks.member import Member
from sim.ranks.messages import EndRanks, EndSession, FinishTest, RunTest, TestFinished, TestStarted

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

CHANNEL_FD = 3  # where `sim.ranks.home` puts it
PLUGIN_NAME = "rdzv-ranks-zygote"
_LEFT_OUT = {"rerunfailures": "flaky", "timeout": "timeout"}  # plugins that have no place in a rank, and their marks
_STRAYS_TIMEOUT_S = 5.0
_THREADS_TIMEOUT_S = 0.1  # a thread that was joined may linger in the kernel
_OUTCOMES = (Exception, SystemExit, pytest.fail.Exception, pytest.skip.Exception)  # what a set-up can end with
_TEXT_CHARS_MAX = 10_000  # of a traceback, which must fit a packet; the end of it says most


def main(config: pytest.Config, boot: Mapping[str, Any]) -> NoReturn:
    """Be the zygote, until pytest has had enough.

    Args:
        config: Of this process's pytest, parsed and not yet configured.
        boot: What `sim.ranks.home` wrote down for it.
    """
    os.set_inheritable(CHANNEL_FD, False)
    descendants.adopt_orphans()
    measure.stop()
    faulthandler.register(stacks.SIGNAL, os.open(boot["stack"], os.O_WRONLY | os.O_CREAT, 0o600))  # a rank has its own
    manager = config.pluginmanager
    manager.unregister(name="terminal")  # it would tell of a session of its own
    # The first has a thread under xdist, or where that could be, and one rank cannot run again. The second watches over
    # the whole test already; a rank whose time were up in the same moment could not show any more where it hung.
    for name, mark in _LEFT_OUT.items():
        if manager.hasplugin(name):
            manager.unregister(name=name)
            config.addinivalue_line("markers", f"{mark}: of the plugin {name}")
    for name, value in boot["options"].items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)
    if boot["workerinput"] is not None:
        config.workerinput, config.workeroutput = boot["workerinput"], {}  # type: ignore[attr-defined]
    config.args = []  # nothing is collected at first
    zygote = Zygote(Channel.of(CHANNEL_FD), boot["measure"])
    manager.register(zygote, PLUGIN_NAME)
    manager.register(zygote.member)
    status = config.hook.pytest_cmdline_main(config=config)
    sys.stdout.flush()
    os._exit(int(status))


@dataclass(slots=True)
class _Rank:
    """A forked process."""

    number: int
    pid: int
    pidfd: int
    orders: Channel


class Zygote:
    """The plugin that makes a pytest one."""

    def __init__(self, channel: Channel, measured: Mapping[str, Any]) -> None:
        """Take over the channel to the pytest that wants the ranks.

        Args:
            channel: One that blocks.
            measured: What the ranks measure the coverage of.
        """
        self._channel = channel
        self._poller = select.poll()
        self._poller.register(channel, select.POLLIN)
        self.member = Member(channel, measured)
        self._ranks: dict[int, _Rank] = {}  # by pidfd
        self._items: dict[str, dict[str, pytest.Item]] = {}  # by file and node id
        self._directories: dict[Path, Any] = {}
        self._ignores_children = False  # whether a module or a fixture has it so
        self._errors: list[str] = []
        self._item: pytest.Item
        self._spared: set[int] = set()  # processes of what is wider than a function
        self._set_up = 0  # how often that has changed
        self._forked_at = -1  # at which of these

    # Hooks

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self) -> None:
        """Let no plugin warn once more of what the pytest that wants the ranks has told already."""
        self._show_warning, warnings.showwarning = warnings.showwarning, _not_again

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Every plugin is configured."""
        warnings.showwarning = self._show_warning

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of running tests: do as told."""
        # Made here, or the first ranks would race for it.
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # noqa: SLF001
        more = True
        while more:
            ready = {fd for fd, _ in self._poller.poll()}
            for rank in [self._ranks[fd] for fd in ready if fd in self._ranks]:
                self._channel.send(Exited(rank.number, rank.pid, self._reap(rank), time.monotonic()))
            if self._channel.fileno() in ready:
                more = self._on_message(session)
        return True

    # To collect file by file must come to the same as to collect all: a directory is one node, its fixtures are set up
    # once; and what a conftest.py has must not be forgotten as pytest 9.1 does, if the first file is of elsewhere.

    @pytest.hookimpl(hookwrapper=True, optionalhook=True)
    def pytest_collect_directory(self, path: Path) -> Generator[None, Any, None]:
        """Have the same node for a directory in each collection."""
        outcome = yield
        if not outcome.excinfo and (node := outcome.get_result()):
            outcome.force_result(self._directories.setdefault(path, node))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_collection_finish(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Keep the fixtures of directories that are still to be collected."""
        pending = getattr(session._fixturemanager, "_pending_conftests", {})  # noqa: SLF001
        kept = dict(pending)
        yield
        pending.update(kept)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember why a file cannot be collected."""
        if report.failed:
            self._errors.append(report.longreprtext)

    def pytest_fixture_setup(self) -> None:
        """Notice that the ranks of the last test lack something."""
        self._set_up += 1

    # Doing as told

    def _on_message(self, session: pytest.Session) -> bool:
        """Do what one message asks for; whether there will be more."""
        message = self._channel.receive()
        if isinstance(message, RunTest):
            try:
                self._run(session, message)
            except _OUTCOMES as error:
                self._end_ranks()
                text = str(error) if isinstance(error, _CannotRunError) else traceback.format_exc()
                self._channel.send(Failed(text[-_TEXT_CHARS_MAX:]))
        elif isinstance(message, EndRanks):
            stacks.ask_for([rank.pid for rank in self._ranks.values()])
            for rank in self._ranks.values():
                os.kill(rank.pid, signal.SIGKILL)
        elif isinstance(message, FinishTest):
            self._finish(message)
        else:
            self._end_ranks()
            failure = self._tear_down(session, None)
            if isinstance(message, EndSession):  # else whoever wanted to know is gone
                self._channel.send(TestFinished(failure))
            return False
        return True

    def _run(self, session: pytest.Session, order: RunTest) -> None:
        item = self._item = self._collected(session, order)
        self._prepare(item)
        living = [rank.pid for rank in self._ranks.values()]
        if order.reuse and self._set_up == self._forked_at and len(living) == order.world_size:
            for rank in self._ranks.values():
                rank.orders.send(order)
        else:
            self._end_ranks()
            self._refuse_threads()
            self._spared = set(descendants.children())
            self._forked_at = self._set_up
            sys.stdout.flush()
            sys.stderr.flush()
            gc.freeze()  # the collector would touch, and so copy, every page in every rank
            try:
                for number in range(order.world_size):
                    self._fork(number, order)
            except OSError as error:
                text = f"the machine refuses rank {len(self._ranks)} of {order.world_size}: {error.strerror}"
                raise _CannotRunError(text) from error
        self._channel.send(TestStarted(tuple(rank.pid for rank in self._ranks.values())))

    def _collected(self, session: pytest.Session, order: RunTest) -> pytest.Item:
        items = self._items.get(order.path)
        if items is None:
            self._errors.clear()
            items = {item.nodeid: item for item in session.perform_collect([order.path])}
            if not self._errors:
                self._items[order.path] = items
        if order.node_id not in items:
            reason = "\n".join(self._errors) or f"its id differs; here are: {', '.join(items) or 'none at all'}"
            where = "in the process that forks the ranks"
            raise _CannotRunError(f"{order.node_id} cannot be collected {where}: {reason[: _TEXT_CHARS_MAX // 2]}")
        return items[order.node_id]

    def _prepare(self, item: pytest.Item) -> None:
        """Tear down what this test does not need, and set up what is wider than a function."""
        state = item.session._setupstate  # noqa: SLF001
        capture = item.config.pluginmanager.getplugin("capturemanager")
        before, failure = list(state.stack), ""
        self.member.warned.clear()
        with _warnings_of(item), capture.item_capture("setup", item):
            try:
                state.teardown_exact(item)
                state.setup(cast("pytest.Item", item.parent))
                state.stack[item] = ([], None)  # or pytest would think that it is being torn down
                for name in wide_fixtures(item):
                    item._request.getfixturevalue(name)  # type: ignore[attr-defined]  # noqa: SLF001
            except _OUTCOMES as error:
                if not _is_kept(error, item):
                    failure = _in_words(error, item)
        state.stack.pop(item, None)
        self._set_up += list(state.stack) != before
        if failure:  # such as of a fixture with parameters, which is torn down when the next one is due
            raise _CannotRunError(f"a fixture wider than a function could not be set up, or torn down first\n{failure}")

    def _refuse_threads(self) -> None:
        deadline_at = time.monotonic() + _THREADS_TIMEOUT_S
        while (count := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < deadline_at:  # noqa: PTH208
            time.sleep(0.001)
        if count > 1:
            known = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
            names = ", ".join(known) or f"{count - 1} unknown to Python, such as those of a library for numbers"
            raise _CannotRunError(
                f"there are threads in the process that forks the ranks: {names}. A fork would copy their locks and "
                "not them. An import, or a fixture wider than a function, has started them: start them in a "
                "function-scoped fixture, or in a process"
            )

    def _fork(self, number: int, order: RunTest) -> None:
        orders, theirs = pair()
        zygote_pid = os.getpid()
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:  # then nobody could learn how a rank ended
            self._ignores_children = True
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            pid = os.fork()
        except OSError:
            os.close(theirs)
            orders.close()
            raise
        if pid:
            os.close(theirs)
            rank = _Rank(number, pid, os.pidfd_open(pid), orders)
            self._ranks[rank.pidfd] = rank
            self._poller.register(rank.pidfd, select.POLLIN)
            return
        try:
            descendants.die_with_parent(zygote_pid)
            os.setsid()  # so that a rank which signals its process group does not end the others
            if self._ignores_children:
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            for rank in self._ranks.values():
                os.close(rank.pidfd)
                rank.orders.close()
            orders.close()
            self.member.live(number, self._item, order, Channel.of(theirs), self._items)
        except BaseException:  # noqa: BLE001 -- a rank must never come back into the zygote's stack
            traceback.print_exc()
        finally:
            os._exit(1)

    def _reap(self, rank: _Rank) -> int:
        del self._ranks[rank.pidfd]
        self._poller.unregister(rank.pidfd)
        _, status = os.waitpid(rank.pid, 0)
        os.close(rank.pidfd)
        rank.orders.close()
        return os.waitstatus_to_exitcode(status)

    def _end_ranks(self) -> None:
        """End the ranks that are left for the next test; they are idle."""
        for rank in list(self._ranks.values()):
            os.kill(rank.pid, signal.SIGKILL)
            self._reap(rank)

    def _finish(self, message: FinishTest) -> None:
        if message.dismiss:
            self._end_ranks()
        end_all_but({*self._spared, *(rank.pid for rank in self._ranks.values())})
        node = self._item.listchain()[message.keep - 1] if message.keep else None
        self._channel.send(TestFinished(self._tear_down(self._item.session, node)))

    def _tear_down(self, session: pytest.Session, down_to: Any) -> str:
        """Tear down all that is below a node of the tree of tests; if that fails, its traceback, and what was said."""
        state, traceback_text = session._setupstate, ""  # noqa: SLF001
        if not state.stack:  # there may have been no item yet
            return ""
        capture = session.config.pluginmanager.getplugin("capturemanager")
        with capture.item_capture("teardown", self._item):
            try:
                state.teardown_exact(down_to)
            except _OUTCOMES as error:
                traceback_text = _in_words(error, self._item)
        printed = [
            f"\n--- Captured {stream} teardown ---\n{text}"
            for when, stream, text in self._item._report_sections  # noqa: SLF001
            if when == "teardown"
        ]
        return traceback_text and (traceback_text + "".join(printed))[-_TEXT_CHARS_MAX:]


class _CannotRunError(Exception):
    """The test cannot be run in ranks; the message says why."""


def _not_again(*_: Any, **__: Any) -> None:
    pass


def wide_fixtures(item: pytest.Item) -> list[str]:
    """The fixtures of an item that are wider than a function, in the order in which pytest would set them up.

    One of a class is not, where there is none: pytest tears it down with the function then.
    """
    item._initrequest()  # type: ignore[attr-defined]  # noqa: SLF001
    known = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]  # noqa: SLF001
    narrow = ("function",) if item.getparent(pytest.Class) else ("function", "class")
    return [name for name in item.fixturenames if name in known and known[name][-1].scope not in narrow]  # type: ignore[attr-defined]


def _warnings_of(item: pytest.Item) -> contextlib.AbstractContextManager[None]:
    """Filter and record the warnings of a set-up as pytest does those of a test, which only begins in the ranks."""
    if not item.config.pluginmanager.hasplugin("warnings"):
        return contextlib.nullcontext()
    return catch_warnings_for_item(item.config, item.ihook, "runtest", item)


def _is_kept(error: BaseException, item: pytest.Item) -> bool:
    """Whether pytest keeps an error of a set-up, and so raises it anew in each rank."""
    known = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]  # noqa: SLF001
    results = [fixture.cached_result for fixtures in known.values() for fixture in fixtures]
    kept = [result[2] for result in results if result]
    kept += [exception for _, exception in item.session._setupstate.stack.values()]  # noqa: SLF001
    return any(error is one for entry in kept for one in (entry if isinstance(entry, tuple) else (entry,)))


def _in_words(error: BaseException, item: pytest.Item) -> str:
    return str(item.repr_failure(pytest.ExceptionInfo.from_exception(error)))


def end_all_but(spared: set[int]) -> None:
    """Kill and reap the children of this process, and what falls to it as orphans, but for some."""
    deadline_at = time.monotonic() + _STRAYS_TIMEOUT_S
    while (strays := set(descendants.children()) - spared) and time.monotonic() < deadline_at:
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)
