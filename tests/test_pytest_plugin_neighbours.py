"""``@pytest.mark.ranks`` beside the rest of pytest: xdist, capture, options, reports, debugger; and what it leaves."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytest_plugins = ["pytester"]
TIMEOUT_S, GONE_S = 60.0, 30.0
LIMITS = ("--ranks-timeout=20", "-p", "no:cacheprovider", "-p", "no:randomly")
HEAD = "import os, signal, subprocess, sys, time\nimport pytest\n"


def run(pytester: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    """Run a project of one file."""
    pytester.makepyfile(test_it=HEAD + source)
    return pytester.runpytest_subprocess(*LIMITS, *args, timeout=TIMEOUT_S)


def test_under_xdist_each_worker_has_ranks_of_its_own(pytester: pytest.Pytester) -> None:
    """Its workers have threads, and the ranks have none; failures and their traceback come through."""
    source = """
@pytest.mark.parametrize("turn", range(4))
@pytest.mark.ranks(2)
def test_it(turn, rank, world_size, store, worker_id, tmp_path):
    assert len(os.listdir("/proc/self/task")) == 1 and worker_id in ("gw0", "gw1")
    store.set(f"{rank}", worker_id + str(tmp_path))
    assert store.get("0") == store.get("1")
    store.barrier("read", world_size)
    assert turn != 3 or rank == 0, f"turn {turn}"
"""
    result = run(pytester, source, "-n2")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: turn 3", "*rank 1 of 2 failed first*", "rank 0: passed"])


def test_capture_and_its_fixtures_work_in_a_rank(pytester: pytest.Pytester) -> None:
    """Each rank captures for itself; nothing of a test that passes is shown, unless capturing is off."""
    source = """
import logging
@pytest.mark.ranks(2)
def test_fixtures(rank, capsys, caplog):
    print("loud", rank)
    assert capsys.readouterr().out == f"loud {rank}\\n"
    logging.getLogger().warning("from %s", rank)
    assert caplog.messages == [f"from {rank}"]

@pytest.mark.ranks(2)
def test_descriptors(rank, capfd):
    os.system(f"echo from {rank}")
    assert capfd.readouterr().out == f"from {rank}\\n"

@pytest.mark.ranks(2)
def test_prints(rank):
    print(f"loudly by {rank}")  # one write, even where Python does not buffer
    os.system(f"echo more by {rank}")
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=3)
    assert "by" not in result.stdout.str().partition("collected")[2]
    result = run(pytester, source, "-s", "-k", "prints")
    for text in ("loudly by 0", "loudly by 1", "more by 0", "more by 1"):
        assert text in result.stdout.str()


def test_options_and_reports(pytester: pytest.Pytester) -> None:
    """``-x`` stops after the first test that fails; JUnit's XML has one case for a test; logs are kept by rank."""
    source = """
import warnings
@pytest.mark.ranks(3)
def test_passes(rank, record_property):
    record_property("answer", 42)
    print("heard from", rank)
    warnings.warn("careful", DeprecationWarning)

@pytest.mark.ranks([2])
def test_fails(rank):
    print("about to fail", file=sys.stderr)
    assert rank

@pytest.mark.ranks(2)
def test_not_reached(): pass
"""
    result = run(pytester, source, "-x", "--junitxml=report.xml", "--ranks-keep-logs=logs", "--durations=3", "-vv")
    result.assert_outcomes(passed=1, failed=1, warnings=1)
    result.stdout.fnmatch_lines(["*DeprecationWarning: careful"])
    cases = ET.parse(pytester.path / "report.xml").getroot().findall(".//testcase")
    assert [case.get("name") for case in cases] == ["test_passes", "test_fails"]
    assert cases[0].find(".//property").attrib == {"name": "answer", "value": "42"}
    assert "rank 0 of 2 failed first" in (cases[1].find("failure").text or "")
    logs = {str(path.relative_to("logs")): path.read_text() for path in Path("logs").glob("*/*")}
    assert len(logs) == 5
    assert "heard from 2" in logs["test_it.py_test_passes/rank2.log"]
    assert "about to fail" in logs["test_it.py_test_fails/rank0.log"]


def test_the_debugger_opens_in_the_rank_that_fails_first(pytester: pytest.Pytester) -> None:
    """With ``--pdb``, on the terminal, and with all the time in the world; then the other ranks are ended."""
    pytester.makepyfile(
        test_it=HEAD
        + """
@pytest.mark.ranks(3, timeout=1)
def test_it(rank, store):
    secret = "of a rank"
    if rank == 2: store.get("never")
    assert False
"""
    )
    argv = [sys.executable, "-m", "pytest", *LIMITS, "--pdb"]
    # More than the test's timeout passes in the debugger.
    commands = "import time; time.sleep(1.2)\np 'secret', secret\nc\n"
    done = subprocess.run(
        argv, input=commands, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=pytester.path, check=False
    )
    assert "('secret', 'of a rank')" in done.stdout
    assert "1 failed" in done.stdout
    assert done.stdout.count("entering PDB") == 1
    assert "rank 2: had to be ended in the call, waiting for the key 'never'" in done.stdout


@pytest.mark.parametrize("with_plugin", [True, False], ids=["pytest-cov", "coverage"])
def test_lines_that_only_ranks_run_are_covered(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, with_plugin: bool
) -> None:
    """By pytest-cov at once; by coverage alone after ``coverage combine``, as for any other process."""
    for name in [name for name in os.environ if name.startswith("COV")]:
        monkeypatch.delenv(name)  # of a run of these tests that is itself measured, and configured otherwise
    pytester.makepyfile(job="def add(rank):\n    if rank:\n        return 1\n    return 0\n")
    pytester.makepyfile(
        test_it=HEAD + "import job\n@pytest.mark.ranks(2)\ndef test_it(rank): assert job.add(rank) == rank"
    )
    tests = ["-m", "pytest", *LIMITS]
    if with_plugin:
        done = pytester.run(sys.executable, *tests, "--cov=job", "--cov-branch", "--cov-report=term")
    else:
        pytester.run(sys.executable, "-m", "coverage", "run", "--branch", "--include=job.py", "-p", *tests)
        pytester.run(sys.executable, "-m", "coverage", "combine")
        done = pytester.run(sys.executable, "-m", "coverage", "report")
    done.stdout.re_match_lines([r"job\.py +4 +0 +2 +0 +100%"])


IMPORTED = {
    "top/__init__.py": "",
    "top/conftest.py": "import pytest\n@pytest.fixture\ndef outer(rank): return rank\n",
    "top/pkg/__init__.py": "",
    "top/pkg/conftest.py": "import pytest\n@pytest.fixture\ndef inner(outer): return outer + 1\n",
    "top/pkg/test_it.py": "import pytest\n@pytest.mark.ranks([1, 2])\ndef test_it(inner, rank): assert inner > rank",
    "flat/helper_of_flat.py": "def check(rank): assert rank < 2\n",
    "flat/test_flat.py": "import pytest\n@pytest.mark.ranks(2)\ndef test_it(rank, tmp_path): check(rank)\n",
}


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_files_are_imported_as_pytest_was_told_to(pytester: pytest.Pytester, mode: str) -> None:
    """With conftest files of several folders, options in the ini file, and from a folder that is not the root."""
    helper = "check = int\n" if mode == "importlib" else "from helper_of_flat import check\n"
    for name, text in IMPORTED.items():
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(helper + text if name == "flat/test_flat.py" else text)
    pytester.makeini(f"[pytest]\naddopts = --import-mode={mode} --strict-markers\n")
    os.chdir(pytester.path / "flat")
    done = pytester.run(sys.executable, "-m", "pytest", *LIMITS, "..", "-q")
    done.stdout.fnmatch_lines(["3 passed*"])


def test_a_project_that_does_not_use_it_does_not_load_it(pytester: pytest.Pytester) -> None:
    """Not even where a folder of its own is called ``sim``; and where it then does use it, it is told."""
    for name in ("sim/__init__.py", "sim/conftest.py"):
        (pytester.path / name).parent.mkdir(exist_ok=True)
        (pytester.path / name).touch()
    plain = (
        "import sim\ndef test_it(): assert not {'sim.ranks', 'sim.pytest_plugin', 'rdzv.store'} & set(sys.modules)\n"
    )
    run(pytester, plain).assert_outcomes(passed=1)
    result = run(pytester, plain + "@pytest.mark.ranks(2)\ndef test_ranks(): pass\n")
    told = "test_it.py::test_ranks: the mark 'ranks' needs the package sim*own"
    result.stdout.fnmatch_lines([f"{told} {pytester.path}/sim/__init__.py hides it: give that another name"])
    result.stdout.no_fnmatch_line("*_HiddenError*")  # and so no traceback of ours


@pytest.mark.parametrize(("flags", "shows"), [((), "*2 passed*"), (("--fixtures",), "tmp_path *")])
def test_a_project_with_a_sim_of_its_own_may_use_the_names_of_the_fixtures(
    pytester: pytest.Pytester, flags: tuple[str, ...], shows: str
) -> None:
    """As those of parameters; and it may list its fixtures."""
    pytester.mkpydir("sim")
    source = "@pytest.mark.parametrize('rank, store', [(0, 1), (1, 1)])\ndef test_it(rank, store): import sim\n"
    result = run(pytester, source, *flags)
    assert result.ret == 0
    result.stdout.fnmatch_lines([shows])


def test_what_ends_one_test_does_not_touch_the_next(pytester: pytest.Pytester) -> None:
    """The forking process killed, a rank stopped for good, another plugin's time-out, a wide fixture's tear-down."""
    source = """
@pytest.mark.ranks(2)
def test_orphans_itself(rank, store):
    if rank: os.kill(os.getppid(), signal.SIGKILL)
    store.get("never")

@pytest.mark.ranks(2, timeout=0.3)
def test_stops(rank):
    if rank: os.kill(os.getpid(), signal.SIGSTOP)

@pytest.mark.timeout(0.5)
@pytest.mark.ranks(2)
def test_times_out_elsewhere(store): store.get("never")

@pytest.mark.ranks(2)
def test_next(store): store.barrier("both", 2)

@pytest.fixture(scope="module")
def fragile():
    yield
    print("about to break")
    assert 1 == 2

@pytest.fixture(scope="module", autouse=True)
def talkative():
    yield
    print("kept to itself")

@pytest.mark.ranks(2)
def test_torn_down(fragile): pass
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=2, failed=3, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_torn_down*",
            "a fixture wider than a function could not be torn down",
            "E       assert 1 == 2",
            "--- Captured stdout teardown ---",
            "about to break",
            "the process that forks the ranks was lost (SIGKILL)*",
            "rank 1 of 2 had to be ended after 0.3 s: the test's time was up",
            "*Timeout (>0.5s) from pytest-timeout*",
        ]
    )
    assert "kept to itself" not in result.stdout.str().partition("= ERRORS =")[0]


def test_a_fork_that_comes_out_of_its_test_speaks_for_no_rank(pytester: pytest.Pytester) -> None:
    """Nor does it stop the session, whatever takes it out."""
    source = """
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, pytest.exit.Exception])
@pytest.mark.ranks(2)
def test_forks(error, rank):
    pid = os.fork()
    if not pid: raise error("of a child")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=4)


# What is left


DAEMON = """
def leave_daemon():
    rx, tx = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(tx, b"%d" % os.getpid())
            while True: signal.pause()
        os._exit(0)
    return int(os.read(rx, 100))
"""


def test_nothing_is_left_of_a_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """No daemon of a rank, no thread here, no file; but what a wider fixture has started stays for the next test."""
    source = f"""
import pathlib, tempfile, threading
{DAEMON}
@pytest.fixture(scope="session")
def server():
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        assert process.poll() is None
        process.kill()

@pytest.mark.ranks(2)
def test_leaves(rank_path, server):
    (rank_path / "daemon").write_text(str(leave_daemon()))
    assert pathlib.Path(f"/proc/{{server.pid}}/cmdline").read_text()

def test_gone(request, tmp_path_factory):
    daemons = list(tmp_path_factory.getbasetemp().glob("*/*/*/daemon"))
    assert len(daemons) == 2
    assert not any(pathlib.Path("/proc", daemon.read_text()).exists() for daemon in daemons)
    assert len(os.listdir("/proc/self/task")) == 1

@pytest.mark.ranks(2)
def test_server_still_there(server):
    assert pathlib.Path(f"/proc/{{server.pid}}/cmdline").read_text()
"""
    monkeypatch.setenv("TMPDIR", str(pytester.path))
    run(pytester, source).assert_outcomes(passed=3)
    assert [path.name for path in pytester.path.iterdir() if path.name.startswith("rdzv")] == []


@pytest.mark.parametrize(
    ("signum", "while_in"),
    [(signal.SIGKILL, "test"), (signal.SIGKILL, "fixture"), (signal.SIGTERM, "fixture"), (signal.SIGINT, "test")],
)
def test_nothing_outlives_pytest(pytester: pytest.Pytester, signum: signal.Signals, while_in: str) -> None:
    """Neither ranks, nor what they have started, nor a fixture that is still being set up, nor files."""
    source = f"""
{DAEMON}
def tell(*pids):
    os.write({{fd}}, b"".join(b"%d\\n" % pid for pid in pids))

@pytest.fixture(scope="module")
def slow():
    if {while_in == "fixture"}:
        tell(os.getpid(), os.getppid(), leave_daemon(), subprocess.Popen(["sleep", "600"]).pid)
        signal.pause()

@pytest.mark.ranks(2)
def test_it(rank, slow):
    tell(os.getpid(), os.getppid(), leave_daemon(), subprocess.Popen(["sleep", "600"]).pid)
    signal.pause()
"""
    fifo = pytester.path / "pids"
    os.mkfifo(fifo)
    source = source.replace("{fd}", f"os.open({str(fifo)!r}, os.O_WRONLY)")
    pytester.makepyfile(test_it=HEAD + source)
    environ = {**os.environ, "TMPDIR": str(pytester.path)}
    with ExitStack() as stack:
        argv = [sys.executable, "-m", "pytest", *LIMITS]
        command = subprocess.Popen(argv, cwd=pytester.path, env=environ, stdout=subprocess.DEVNULL)
        stack.callback(command.wait)
        stack.callback(command.kill)
        pidfds = []
        keep = os.open(fifo, os.O_RDWR)  # so that the end of one writer is not the end of all
        stack.callback(os.close, keep)
        told = b""
        while told.count(b"\n") < (4 if while_in == "fixture" else 8):
            assert select.select([keep], [], [], GONE_S)[0]
            told += os.read(keep, 4096)
        pids = set(map(int, told.split()))
        for pid in {*pids, *map(parent_of, pids)} - {command.pid}:  # the keeper is somebody's parent
            pidfds.append(os.pidfd_open(pid))
            stack.callback(end, pidfds[-1])
        command.send_signal(signum)
        left = set(pidfds)
        while left and (gone := set(select.select(left, [], [], GONE_S)[0])):
            left -= gone
        assert not left
        command.wait(GONE_S)
        assert [path.name for path in pytester.path.iterdir() if path.name.startswith("rdzv")] == []


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def end(pidfd: int) -> None:
    """Should a test fail, it leaves nothing behind either."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
