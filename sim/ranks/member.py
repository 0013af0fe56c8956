"""One rank: what it does after the fork, and the fixtures that a test finds there.

Meets the others in the test's store, runs the item by pytest's own protocol, and writes down every report as it comes,
so that what was reported stays known however the process ends. Must not know the verdict.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, NoReturn

import pytest
from _pytest.config import create_terminal_writer

from rdzv.handler import RendezvousInfo, RendezvousStoreInfo
from rdzv.store import PrefixStore, TCPStore
from sim.process import stacks
from sim.process.work import HOST, environment
from sim.ranks import measure
from sim.ranks.fixtures import Fixtures, Place
from sim.ranks.messages import Debugging, RankDone, Reported, RunTest
from sim.ranks.outcome import end_of, kind_of

if TYPE_CHECKING:
    import warnings
    from collections.abc import Mapping

    from sim.process.channel import Channel

RUN_ID = "ranks"  # the prefix of the keys of a test's store
STORE_MARGIN_S = 60.0  # a wait that hangs is ended by the test's deadline, which says more than the store could
_MEETING = "met"


class Member(Fixtures):
    """The plugin in a rank. In the zygote it is there as well, and idle: pytest must know its fixtures to collect.

    Attributes:
        warned: The warnings of the set-up before the fork, as they are written down.
    """

    def __init__(self, channel: Channel, measured: Mapping[str, Any]) -> None:
        """Prepare, for all ranks that will be forked.

        Args:
            channel: To the pytest that wants the ranks.
            measured: What to measure the coverage of.
        """
        self._channel = channel
        self._measured = measured
        self.warned: list[dict[str, Any]] = []
        self._pid = 0
        self._number = 0
        self._stack: IO[str] | None = None
        self._order: RunTest
        self._info: RendezvousInfo
        self._reports: IO[str]
        self._config: pytest.Config

    # Fixtures

    def place(self, fixture: str) -> Place:
        """As `Fixtures.place`."""
        del fixture
        return Place(self._number, self._info)

    @pytest.fixture
    def tmp_path(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A directory of the test, which all of its ranks share."""
        name = re.sub(r"\W", "_", request.node.name)[:30]
        path = tmp_path_factory.getbasetemp() / f"{name}-{Path(self._order.directory).name}"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    # Life after the fork

    def live(
        self,
        number: int,
        item: pytest.Item,
        order: RunTest,
        orders: Channel,
        items: Mapping[str, Mapping[str, pytest.Item]],
    ) -> NoReturn:
        """Run the test, and others if so ordered, then end the process.

        Args:
            number: Which rank this is.
            item: The test.
            order: To run it.
            orders: Where more come from.
            items: All that may be ordered, by file and node id.
        """
        self._pid, self._number = os.getpid(), number
        while True:
            self._run(item, order)
            self._channel.send(RankDone(number))
            message = orders.receive() if order.reuse else None
            if not isinstance(message, RunTest):
                break
            order, item = message, items[message.path][message.node_id]
        sys.stdout.flush()
        os._exit(0)

    def _run(self, item: pytest.Item, order: RunTest) -> None:
        self._order = order
        redirect(item.config.pluginmanager.getplugin("capturemanager"), Path(order.directory), self._number)
        former, self._stack = self._stack, self._file("stack")
        stacks.write_on_signal(self._stack)
        if former:
            former.close()
        with contextlib.ExitStack() as stack:
            self._reports = stack.enter_context(self._file("reports"))
            while self.warned:
                self._write(warning=self.warned.pop(0))
            try:
                self._meet(stack)
                stack.callback(measure.save, measure.start(self._measured))
                item._initrequest()  # type: ignore[attr-defined]  # noqa: SLF001
                # Its parent stands for the next test: what is wider than a function stays as it is.
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=item.parent)
            except BaseException as error:  # noqa: BLE001 -- pytest.exit, an interrupt, or a fault of a plugin
                self._end_fork()
                self._write(crash=stacks.traceback_of(error))
                if isinstance(error, pytest.exit.Exception):
                    self._write(stop=str(error))
                self._channel.send(Reported(self._number, "call", "failed", time.monotonic()))

    def _meet(self, stack: contextlib.ExitStack) -> None:
        order = self._order
        directory = Path(order.directory)
        os.environ.update(environment(self._number, order.world_size, order.port, RUN_ID, directory, os.environ))
        client = TCPStore(HOST, order.port, timeout=order.timeout_s + STORE_MARGIN_S)
        stack.callback(client.close)
        info = RendezvousStoreInfo(HOST, order.port)
        self._info = RendezvousInfo(PrefixStore(RUN_ID, client), self._number, order.world_size, info)
        client.barrier(_MEETING, order.world_size)
        client.delete_key(_MEETING)

    def _file(self, kind: str) -> IO[str]:
        return Path(self._order.directory, f"rank{self._number}.{kind}").open("a", encoding="utf-8", buffering=1)

    def _end_fork(self) -> None:
        """End this process if it is no rank, but a fork that the test made, and that has come out of it."""
        if os.getpid() != self._pid:
            os._exit(1)

    def _write(self, **entry: Any) -> None:
        self._reports.write(json.dumps(entry, default=str) + "\n")

    # Hooks

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Remember the configuration."""
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a report down."""
        self._end_fork()
        self._config.hook.pytest_report_teststatus(report=report, config=self._config)  # may fail it for its subtests
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        data["sections"] = [(name, end_of(content)) for name, content in data["sections"]]
        data["told_at"] = time.clock_gettime(time.CLOCK_MONOTONIC)  # and not `time.monotonic`, which a test may replace
        self._write(report=data)
        self._channel.send(Reported(self._number, data["when"], kind_of(data), time.monotonic()))

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str) -> None:
        """Write a warning down; one that comes before there are ranks, as soon as there are."""
        if when != "runtest":
            return
        category = warning_message.category
        warning = {
            "message": str(warning_message.message),
            "category": [category.__module__, category.__qualname__],
            "filename": warning_message.filename,
            "lineno": warning_message.lineno,
        }
        if not self._pid:
            self.warned.append(warning)
        elif os.getpid() == self._pid:
            self._write(warning=warning)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """With ``--pdb``: only the rank that fails first is looked at; the others go on without the debugger."""
        manager = item.config.pluginmanager
        debugger = manager.getplugin("pdbinvoke")
        if debugger is None or call.excinfo is None or isinstance(call.excinfo.value, pytest.skip.Exception):
            return
        try:
            Path(self._order.directory, "debugger").touch(exist_ok=False)
        except FileExistsError:
            manager.unregister(debugger)
        else:
            writer = create_terminal_writer(item.config, sys.stdout)
            manager.register(SimpleNamespace(_tw=writer), "terminalreporter")  # what the debugger writes through

    def pytest_enter_pdb(self) -> None:
        """Nobody must be hurried now."""
        self._channel.send(Debugging(self._number))


def redirect(capture: Any, directory: Path, rank: int) -> None:
    """Let pytest capture this rank's output in files of its own, which can be read whatever becomes of the rank.

    The files behind its descriptors so far are shared with the zygote and all other ranks.
    """
    for stream in ("out", "err"):
        captured = getattr(capture._global_capturing, stream)  # noqa: SLF001
        if hasattr(captured, "targetfd"):
            fd = os.open(directory / f"rank{rank}.{stream}", os.O_RDWR | os.O_CREAT, 0o600)
            os.dup2(fd, captured.tmpfile.fileno(), inheritable=False)
            os.close(fd)
