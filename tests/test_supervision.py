"""What a run tells of ranks that failed or hung, by hand of its command; and of one that was cut short."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from array import array
from pathlib import Path
from typing import Any, NoReturn

import pytest

from sim.check.history import Meeting
from sim.plan import Plan, RunResult
from sim.process.messages import Phase, Started
from sim.process.program import write_by
from sim.process.supervisor import run
from sim.scenario import Nodes, Scenario, Script, Step
from sim.scenario_text import Ranks

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 60.0  # for a busy machine
PTRACE_CONT, PTRACE_SEIZE = 7, 0x4206
JOINED = f"""
import os, signal, sys
sys.path.append({str(ROOT)!r})
from rdzv import TCPStore
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout={TIMEOUT_S})
def wait_for(key):
    store.get(key)
"""


def run_python(code: str, **settings: Any) -> RunResult:
    """Run ranks of a Python program, given as text, that have the store."""
    settings = {"world_size": 3, "timeout_s": TIMEOUT_S, **settings}
    return run(Plan(program=(sys.executable, "-S", "-c", JOINED + code), **settings))


def rdzv_sim(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    argv = [sys.executable, "-m", "sim", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)


# Who failed, and who hung where


def test_a_program_that_hangs_shows_its_stack_and_its_key() -> None:
    """Of each rank that had to be ended; of the one that failed first, what it said last."""
    code = 'if rank == 1: store.wait(["here/0", "here/2"]); raise ValueError("no more")\n'
    code += 'store.set(f"here/{rank}", "x"); wait_for("never")\n'
    result = run_python(code)
    assert result.failure == (
        "rank 1 failed first, in the program: exit 1; "
        "ranks 0, 2 had to be ended in the program, waiting for the key 'never'"
    )
    assert result.ranks[1].error.endswith("\nValueError: no more\n")
    for rank in (result.ranks[0], result.ranks[2]):
        assert rank.keys == ("never",)
        assert re.findall(r", line \d+ in (\S+)", rank.stack) == ["get", "wait_for", "<module>"]
        assert rank.ending.exit == -signal.SIGABRT


def test_one_that_heeds_no_sigterm_still_says_where_it_is() -> None:
    """SIGTERM comes first where somebody may want to clean up; but it may hang there, too."""
    code = 'signal.signal(signal.SIGTERM, lambda *_: wait_for("for ever")); store.set(str(rank), "x")\n'
    code += 'if rank == 0: store.get("1"); sys.exit(4)\n'
    code += "signal.pause()\n"
    result = run_python(code, world_size=2)
    assert result.ranks[0].ending.exit == 4
    assert re.findall(r", line \d+ in (\S+)", result.ranks[1].stack) == ["get", "wait_for", "<lambda>", "<module>"]


def test_the_stack_of_a_program_is_no_output_of_it(tmp_path: Path) -> None:
    """It comes once, in the report, and not amid what the ranks print; nor does it leave a core behind."""
    code = f"import os, resource; os.chdir({str(tmp_path)!r})\n"
    code += (
        "_, hard = resource.getrlimit(resource.RLIMIT_CORE); resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))\n"
    )
    code += "import sys, time; sys.stderr.write('begun\\n'); time.sleep(60)\n"
    done = rdzv_sim("run", "-n", "3", "--timeout", "1.5", "--", sys.executable, "-S", "-c", code)
    assert done.returncode == 1
    assert done.stderr.count("most recent call first") == 1
    assert sorted(re.findall(r"^\[\d\] .*", done.stderr, re.MULTILINE)) == [f"[{rank}] begun" for rank in range(3)]
    assert "the run's deadline of 1.5 s has passed; ranks 0-2 had to be ended in the program" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_stops_its_parent_does_not_hold_up_the_end() -> None:
    """Which would wait for it to end the ranks, and then to end."""
    code = 'if rank == 0: os.kill(os.getppid(), signal.SIGSTOP)\nstore.get("never")\n'
    result = run_python(code, world_size=2, timeout_s=2.0)
    assert all(rank.keys == ("never",) for rank in result.ranks)
    assert result.duration_s < 10.0  # and not ten seconds late


def test_a_reader_that_is_late_costs_what_he_has_not_read_and_not_the_reasons() -> None:
    """What ranks print is passed on until the deadline; where they were then is told on standard error all the same."""
    code = "import os, time\nwhile os.environ['RANK'] == '0': print('x' * 100)\ntime.sleep(60)"
    argv = [sys.executable, "-m", "sim", "run", "-n", "2", "--timeout", "1", "--", sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = process.stderr.read()  # and nothing of the other
        assert process.wait(TIMEOUT_S) == 1
        assert process.stdout.read().startswith("[0] xxx")
    assert "standard output was not read by the deadline" in said
    assert "ranks 0-1 had to be ended in the program" in said
    assert "rank 0 did not end:" in said


def test_a_reader_that_does_not_read_holds_up_no_run_that_is_cut_short() -> None:
    """Whoever has a run ended does not wait for its deadline, which is an hour away."""
    argv = [sys.executable, "-m", "sim", "run", "-n", "2", "--", "yes"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        unread, deadline_at = array("i", [0]), time.monotonic() + TIMEOUT_S
        while unread[0] < 1 << 16:  # what a pipe holds
            assert time.monotonic() < deadline_at
            fcntl.ioctl(process.stdout, termios.FIONREAD, unread)
            time.sleep(0.01)
        process.terminate()
        said = process.stderr.read()
        assert process.wait(TIMEOUT_S) == 143
    assert "the end of what the ranks have printed is lost" in said
    assert "the run was cut short after" in said


def test_what_is_being_written_when_a_run_is_cut_short_is_written_to_its_end() -> None:
    """Half a line would spoil the next one, which may be another rank's."""
    reads_fd, writes_fd = os.pipe()
    output = b"".join(b"%d\n" % number for number in range(100_000))
    received: list[bytes] = []

    def read() -> None:
        while piece := os.read(reads_fd, 1 << 16):
            received.append(piece)

    reader = threading.Thread(target=read)

    def interrupt(*_: object) -> NoReturn:  # when the pipe is full, or before
        reader.start()
        raise SystemExit(143)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(SystemExit):
            write_by(time.monotonic() + TIMEOUT_S, writes_fd, output)
    finally:
        signal.signal(signal.SIGALRM, before)
        os.close(writes_fd)
        reader.join()
        os.close(reads_fd)
    assert b"".join(received) == output


def test_a_rank_of_the_built_in_job_says_where_it_hung() -> None:
    """One that waits for another that is gone, and that had no time to find out."""
    pids: dict[int, int] = {}

    def on_event(number: int | None, message: object) -> None:
        if isinstance(message, Started) and number is not None:
            pids[number] = message.pid
        elif isinstance(message, Meeting) and (number, message.round) == (1, 1):
            os.kill(pids[1], signal.SIGKILL)

    result = run(Plan(world_size=2, rounds=2, timeout_s=TIMEOUT_S, grace_s=0.2), on_event)
    assert result.failure.startswith("rank 1 failed first")
    assert "in run_job" in result.ranks[0].stack
    assert result.ranks[0].ending.exit == -signal.SIGTERM


def deafen(pid: int) -> threading.Thread:
    """Keep SIGTERM from a process, as if it came to no line of Python any more; the thread ends with it."""
    tracing = threading.Event()
    refused: list[str] = []

    def trace() -> None:
        ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        ptrace.argtypes = [ctypes.c_long] * 4
        if ptrace(PTRACE_SEIZE, pid, 0, 0):
            refused.append(os.strerror(ctypes.get_errno()))
        tracing.set()
        if refused:
            return
        while os.WIFSTOPPED(status := os.waitpid(pid, 0)[1]):
            signum = os.WSTOPSIG(status)
            ptrace(PTRACE_CONT, pid, 0, 0 if signum == signal.SIGTERM else signum)

    thread = threading.Thread(target=trace)
    thread.start()
    assert tracing.wait(TIMEOUT_S)
    if refused:
        pytest.skip(f"the machine lets nobody trace a process: {refused[0]}")
    return thread


def test_a_rank_of_a_scenario_that_cannot_heed_sigterm_says_where_it_hung() -> None:
    """Python calls a handler between two lines: one that comes to no line any more has another way."""
    threads: list[threading.Thread] = []
    results: list[RunResult] = []

    def on_event(_: int | None, message: object) -> None:
        if isinstance(message, Started):
            threads.append(deafen(message.pid))
        elif isinstance(message, Phase):
            raise KeyboardInterrupt

    scenario = Scenario(nodes=Nodes(1, 1), scripts=(Script(Ranks(), (Step("join"),)),))
    with pytest.raises(KeyboardInterrupt):
        run(Plan.of(scenario), on_event, on_cut_short=results.append)
    threads[0].join(TIMEOUT_S)
    (rank,) = results[0].ranks
    assert rank.ending.exit == -signal.SIGABRT
    assert "in announce" in rank.stack


# A run that is cut short

READY_IN_WAIT = """
def look(_, frame):
    while frame and frame.f_code.co_name != "wait":
        frame = frame.f_back
    print("ready", flush=True) if frame else signal.setitimer(signal.ITIMER_REAL, 0.05)
signal.signal(signal.SIGALRM, look)
signal.setitimer(signal.ITIMER_REAL, 0.05)
"""


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("program", [True, False], ids=["a program", "a scenario"])
def test_a_run_that_is_cut_short_reports_what_there_was(
    signum: int, status: int, program: bool, tmp_path: Path
) -> None:
    """With all files of the report, and with where each rank was."""
    report = tmp_path / "report"
    what = ["--", sys.executable, "-S", "-c", JOINED + READY_IN_WAIT + "wait_for('never')"]
    if not program:
        scenario = tmp_path / "waits.toml"
        scenario.write_text('nodes = 2\n[steps]\n"*" = ["join", "run sh -c \'echo ready; exec sleep 60\'"]\n')
        what = ["--scenario", str(scenario)]
    argv = [sys.executable, "-m", "sim", "run", *(["-n", "2"] if program else []), "--report", str(report), *what]
    stream = "stdout" if program else "stderr"
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        for _ in range(2):
            assert getattr(command, stream).readline().endswith("ready\n")
        command.send_signal(signum)
        told = "".join(command.communicate(timeout=TIMEOUT_S))
    assert command.returncode == status
    assert "the run was cut short after" in told
    data = json.loads((report / "report.json").read_text())
    assert {path.name for path in report.iterdir()} >= {"report.html", "trace.json", "junit.xml"}
    assert data["failure"].startswith("the run was cut short after")
    assert all("wait_for" in rank["stack"] if program else "in run" in rank["stack"] for rank in data["ranks"])
    assert [rank["keys"] for rank in data["ranks"]] == ([["never"]] * 2 if program else [[], []])


# Faults for programs

ROUNDS = (
    JOINED
    + """
import time
began_at = time.monotonic()
for step in range(4):
    store.set(f"{step}/{rank}", "x")
    store.wait([f"{step}/{other}" for other in range(size)])
store.add("done", 1)
"""
)


@pytest.mark.parametrize(
    ("fault", "least_s"),
    [
        ("stop:1~300ms", 0.3),
        ("late:1@300ms", 0.3),
        ("slow:2:300ms", 0.3),
        ("delay:*:20ms", 0.2),
        ("bandwidth:1:20kB", 0),
        ("partition:0,1|2~300ms", 0.3),
        ("refuse:1~300ms", 0.3),
    ],
)
def test_a_program_outlives_a_fault_that_heals(fault: str, least_s: float) -> None:
    """And takes the time that it costs: so it has struck."""
    done = rdzv_sim("run", "-n", "3", "--fault", fault, "--json", "--", sys.executable, "-S", "-c", ROUNDS)
    told = json.loads(done.stdout)
    assert (done.returncode, [check["name"] for check in told["checks"]]) == (0, ["outcomes", "faults"]), done.stderr
    assert told["duration_s"] >= least_s
    assert f"rdzv-sim: {fault.partition('@')[0].partition('~')[0].replace('*', '0')} strikes after" in done.stderr


def test_a_rank_that_a_fault_kills_is_not_the_one_to_blame() -> None:
    """The others go on without it, for as long as the run may last, and are shown where they hang."""
    code = JOINED + 'store.set(str(rank), "x")\nif rank != 2: wait_for("2 again")\nsignal.pause()\n'
    done = rdzv_sim(
        *("run", "-n", "3", "--timeout", "3", "--fault", "kill:2@500ms", "--", sys.executable, "-S", "-c", code)
    )
    assert done.returncode == 1
    assert "rdzv-sim: kill:2 strikes after" in done.stderr
    wanted = (
        "the run's deadline of 3 s has passed; ranks 0-1 had to be ended in the program, waiting for the key '2 again'"
    )
    assert wanted in done.stderr
    assert "failed first" not in done.stderr


def test_a_rank_that_is_stopped_is_said_to_be() -> None:
    """It can show no stack; so it is told why."""
    program = ("--", sys.executable, "-S", "-c", "import signal; signal.pause()")
    done = rdzv_sim("run", "-n", "2", "--timeout", "2", "--fault", "stop:1@500ms", *program)
    assert "rank 1 had to be ended in the program, stopped by a signal such as SIGSTOP" in done.stderr
    assert "rank 0 had to be ended in the program" in done.stderr


def test_a_world_beyond_the_machine_is_refused_before_anything_is_made_for_it() -> None:
    done = rdzv_sim("run", "-n", "1000000000000")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"this run needs 1000000000\d+ open files, and the hard limit is \d+", done.stderr)


def test_what_a_killed_rank_has_started_goes_with_it() -> None:
    """As on a machine of its own: a shell around a program does not save the program."""
    done = rdzv_sim(*("run", "-n", "1", "--fault", "kill:0@500ms", "--", "sh", "-c", "sleep 60; echo survived"))
    assert (done.returncode, done.stdout) == (0, "")
    assert re.search(r"0 ranks ended with exit status 0, rank 0 by a fault, after [\d.]+ s", done.stderr)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("lose:1@1.5s", "is gone"), ("truncate:1:down@1.5s", "is gone"), ("kill-store@1.5s", "DistNetworkError")],
)
def test_a_lost_way_to_the_store_is_what_the_program_says(fault: str, words: str) -> None:
    """The rank that fails first is shown with its last words, and the key is known of those that wait.

    The fault comes late enough for ranks that start slowly: who connects to a store that is gone tries for minutes.
    """
    code = JOINED + 'if rank == 1:\n    while True: store.add("n", 1)\nwait_for("never")\n'
    done = rdzv_sim("run", "-n", "2", "--timeout", "30", "--fault", fault, "--", sys.executable, "-S", "-c", code)
    assert done.returncode == 1
    assert "failed first, in the program: exit 1" in done.stderr
    assert words in done.stderr
    if "store" not in fault:
        assert "rank 0 had to be ended in the program, waiting for the key 'never'" in done.stderr


def test_a_fault_that_comes_too_late_for_a_program_fails_the_run() -> None:
    """A run that was over before proves nothing."""
    done = rdzv_sim("run", "-n", "2", "--fault", "kill:1@50s", "--", "true")
    assert done.returncode == 1
    assert "rdzv-sim: faults: kill:1@50s never struck" in done.stderr
    assert "outcomes: rank 1 ended with ok, not SIGKILL" in done.stderr


# The built-in job


@pytest.mark.parametrize("backend", ["static", "c10d"])
def test_the_built_in_job_meets_by_either_backend(backend: str) -> None:
    """As often as it is told to, with as many ranks."""
    done = rdzv_sim("run", "-n", "4", "--rounds", "3", "--backend", backend, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], told["rounds"]) == (0, True, 3)
    assert [rank["rounds"] for rank in told["ranks"]] == [3] * 4
