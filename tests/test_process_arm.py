"""The process arm with real processes: worlds that meet, ranks that fail or hang, programs and what they are given."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sim.check.history import Meeting
from sim.plan import Plan, RunResult
from sim.process.machine import CannotRunError
from sim.process.messages import Message, Started, Struck
from sim.process.program import LINE_BYTES_MAX, Lines
from sim.process.supervisor import run
from sim.scenario import Scenario

ROOT = Path(__file__).parents[1]


def run_and_signal(signum: int, rank: int, plan: Plan) -> RunResult:
    """Run a plan, and signal one rank at the barrier after the first round, before anyone is let on."""

    def on_event(number: int, message: Message) -> None:
        if isinstance(message, Started):
            pids[number] = message.pid
        elif isinstance(message, Meeting) and (number, message.round) == (rank, 1):
            os.kill(pids[number], signum)

    pids: dict[int, int] = {}
    return run(plan, on_event)


# The built-in job


@pytest.mark.parametrize(("world_size", "rounds"), [(1, 1), (1, 3), (2, 2), (8, 5), (20, 2)])
def test_a_world_meets_and_all_checks_hold(world_size: int, rounds: int) -> None:
    """Every rank completes every round, in a process of its own."""
    result = run(Plan(world_size=world_size, rounds=rounds))
    assert result.ok, result.failure or result.checks
    assert [len(rank.meetings) for rank in result.ranks] == [rounds] * world_size
    assert len({rank.pid for rank in result.ranks}) == world_size
    assert result.failure == ""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_rank_that_is_killed_is_blamed_and_the_others_do_not_hang(signum: signal.Signals) -> None:
    """Whatever its death makes of the others, the rank that died is the first that failed."""
    plan = Plan(world_size=4, rounds=3, grace_s=0.2)
    result = run_and_signal(signum, 2, plan)
    assert not result.ok
    assert result.failure.startswith(f"rank 2 failed first, in the barrier of round 1: {signum.name}")
    assert result.duration_s < plan.timeout_s / 2


def test_a_rank_that_hangs_is_named_by_those_that_wait_for_it() -> None:
    """The ranks' own time-outs come before the end of the run, so that they can still say whom they missed."""
    result = run_and_signal(signal.SIGSTOP, 1, Plan(world_size=3, rounds=2, timeout_s=3))
    errors = [rank.error for rank in result.ranks if rank.error]
    assert errors
    assert all("RendezvousTimeoutError" in error and "rank 1 of 3 is missing" in error for error in errors)
    assert "rank 1 had to be ended in the barrier of round 1" in result.failure


def test_a_run_that_reaches_its_deadline_says_who_was_where() -> None:
    """Where nobody else can complain, the supervisor does."""
    result = run_and_signal(signal.SIGSTOP, 0, Plan(world_size=1, rounds=2, timeout_s=0.5))
    assert result.failure == (
        "the run's deadline of 0.5 s has passed; rank 0 had to be ended in the barrier of round 1, "
        "stopped by a signal such as SIGSTOP"
    )
    assert not result.ok
    assert result.ranks[0].ending.exit == -signal.SIGKILL  # a stopped process does not hear SIGTERM


def test_an_error_in_the_callers_function_ends_the_run_and_every_rank() -> None:
    """However the call is left, nothing survives it."""
    pidfds: list[int] = []

    def on_event(_: int, message: Message) -> None:
        if isinstance(message, Started):
            pidfds.append(os.pidfd_open(message.pid))
        elif isinstance(message, Meeting):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Plan(world_size=3), on_event)
    assert len(pidfds) == 3
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 0)[0]
        os.close(pidfd)


@pytest.mark.parametrize(("world_size", "started"), [(2, 2), (200, 1)], ids=["when all run", "amid the starts"])
@pytest.mark.parametrize(
    ("signum", "words"),
    [(signal.SIGKILL, "was lost (SIGKILL)"), (signal.SIGTERM, "was asked to end by SIGTERM, and ends the ranks")],
)
def test_a_keeper_that_is_ended_takes_its_ranks_along_and_is_named(
    world_size: int, started: int, signum: int, words: str
) -> None:
    """The ranks' parent-death signal: without the keeper nobody would end them. No rank is said to have failed."""
    pidfds: list[int] = []

    def on_event(_: int, message: Message) -> None:
        if isinstance(message, Started):
            with suppress(ProcessLookupError):  # of those still amid their start, some are gone by now
                pidfds.append(os.pidfd_open(message.pid))
                if len(pidfds) == started:
                    stat = Path(f"/proc/{message.pid}/stat").read_text()
                    os.kill(int(stat.rpartition(")")[2].split()[1]), signum)

    result = run(Plan(world_size=world_size, program=("sleep", "60")), on_event)
    assert f"the keeper process {words}" in result.failure
    assert "failed first" not in result.failure
    assert not result.ok
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 10)[0]
        os.close(pidfd)


def test_nothing_is_left_to_import_for_a_rank() -> None:
    """What a rank would import on first use costs each rank; the keeper does it for all of them."""
    code = (
        "import sys, time, sim.process.keeper\n"
        "from sim.process import channel, messages, rank\n"
        "ours, theirs = channel.pair()\n"
        "job = messages.StartJob(1, 2, 1, '127.0.0.1:1', 'job', time.monotonic() + 1, 0.0)\n"
        "before = set(sys.modules)\n"
        "try: rank.run_job(job, channel.Channel.of(theirs))\n"
        "except Exception as error: assert 'rank 0' in str(error), error\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    argv = [sys.executable, "-S", "-c", code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("\n", "")


# The plan


@pytest.mark.parametrize(
    "bad",
    [
        {"world_size": 0},
        {"rounds": 0},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
        {"grace_s": -1},
        {"delay_s_max": float("nan")},
    ],
)
def test_a_plan_that_cannot_be_is_refused(bad: dict[str, Any]) -> None:
    """The number that is out of range is named."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        Plan(**bad)


def test_a_seed_draws_the_same_run_again_and_another_seed_another() -> None:
    """Order of arrival and delays come from the seed, differ between rounds, and leave nobody out."""
    plan, same, other = Plan(world_size=50, seed=1), Plan(world_size=50, seed=1), Plan(world_size=50, seed=2)
    assert plan.arrivals(1) == same.arrivals(1)
    assert plan.delay_s(3, 1) == same.delay_s(3, 1)
    assert sorted(plan.arrivals(1)) == list(range(50))
    assert len({tuple(order) for order in (plan.arrivals(1), plan.arrivals(2), other.arrivals(1))}) == 3
    assert len({plan.delay_s(3, 1), plan.delay_s(3, 2), plan.delay_s(4, 1), other.delay_s(3, 1)}) == 4
    assert all(0 <= plan.delay_s(3, number) <= plan.delay_s_max for number in range(1, 20))


def test_too_few_open_files_are_refused_before_anything_starts() -> None:
    """A run that would fail half-way says so beforehand; it raises a soft limit by itself."""
    code = (
        "import resource, sys\n"
        "from sim.plan import Plan\n"
        "from sim.process.supervisor import run\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 200))\n"
        "print(run(Plan(world_size=20, rounds=1)).ok)\n"
        "run(Plan(world_size=200))\n"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True\n"
    assert "CannotRunError: this run needs" in done.stderr
    assert "the hard limit is 200" in done.stderr


def test_another_system_than_linux_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the kernel cannot keep the promise that nothing is left behind."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(CannotRunError, match=r"needs Linux.*darwin"):
        run(Plan())


# Programs


def run_program(*argv: str, world_size: int = 2, **settings: Any) -> tuple[RunResult, dict[tuple[int, str], bytes]]:
    """Run a program; the result, and what it printed by rank and stream."""
    printed: dict[tuple[int, str], bytes] = defaultdict(bytes)

    def on_output(rank: int, stream: str, lines: bytes) -> None:
        assert lines.endswith(b"\n")
        printed[rank, stream] += lines

    plan = Plan(world_size=world_size, program=argv, **{"timeout_s": 30.0, "grace_s": 0.1, **settings})
    return run(plan, on_output=on_output), dict(printed)


def run_python(code: str, **settings: Any) -> tuple[RunResult, dict[tuple[int, str], bytes]]:
    """Run a Python program, given as text."""
    return run_program(sys.executable, "-S", "-c", code, **settings)


def test_a_program_gets_the_environment_of_a_launchers_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of what PyTorch's launcher sets, on one node, and the rest as the caller has it."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SIM_TEST_INHERITED", "as it was")
    result, printed = run_python("import os, json; print(json.dumps(dict(os.environ)))", seed=7)
    assert result.ok, result.failure
    for rank in (0, 1):
        environ = json.loads(printed[rank, "stdout"])
        error_file = Path(environ["TORCHELASTIC_ERROR_FILE"])
        assert str(rank) in error_file.name
        assert not error_file.parent.exists()  # any more
        expected = {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "0",
            "GROUP_WORLD_SIZE": "1",
            "ROLE_NAME": "default",
            "ROLE_RANK": str(rank),
            "ROLE_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "0",
            "TORCHELASTIC_RUN_ID": "sim-7",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT",
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
            "OMP_NUM_THREADS": "1",
            "SIM_TEST_INHERITED": "as it was",
        }
        assert expected.items() <= environ.items()


@pytest.mark.parametrize(("world_size", "inherited", "seen"), [(1, None, None), (1, "4", "4"), (2, "4", "4")])
def test_threads_are_limited_only_where_many_ranks_share_and_nobody_chose(
    world_size: int, inherited: str | None, seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher's rule for OMP_NUM_THREADS."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if inherited:
        monkeypatch.setenv("OMP_NUM_THREADS", inherited)
    _, printed = run_python("import os; print(os.environ.get('OMP_NUM_THREADS'))", world_size=world_size)
    assert printed[0, "stdout"].decode().strip() == str(seen)


def test_a_programs_ranks_share_the_store_that_is_served_already() -> None:
    """They find it where the environment says, and are all clients of it."""
    code = (
        f"import os, sys; sys.path.append({str(ROOT)!r}); from rdzv import TCPStore\n"
        "store = TCPStore(os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']), timeout=20)\n"
        "rank, size = os.environ['RANK'], int(os.environ['WORLD_SIZE'])\n"
        "store.set(rank, 'from ' + rank); print(store.multi_get(map(str, range(size))))\n"
    )
    result, printed = run_python(code, world_size=3)
    assert result.ok, printed
    assert {printed[rank, "stdout"] for rank in range(3)} == {b"[b'from 0', b'from 1', b'from 2']\n"}


def test_output_comes_by_whole_lines_whatever_the_bytes() -> None:
    """Lines are not cut, streams are not mixed, bytes are not decoded, and a last line without an end gets one."""
    code = (
        "import os\n"
        "os.write(1, b'be'); os.write(1, b'gun\\nsec'); os.write(2, b'err\\xff\\0'); os.write(1, b'ond\\n\\nlast')\n"
        "assert os.read(0, 1) == b''\n"
    )
    result, printed = run_python(code)
    assert result.ok, printed
    assert printed == {
        key: value
        for rank in (0, 1)
        for key, value in (((rank, "stdout"), b"begun\nsecond\n\nlast\n"), ((rank, "stderr"), b"err\xff\0\n"))
    }


def test_a_line_without_end_is_passed_on_in_pieces() -> None:
    """No rank can make the supervisor hoard its output."""
    lines = Lines()
    assert lines.feed(b"x" * (LINE_BYTES_MAX - 1)) == b""
    assert lines.feed(b"yz") == b"x" * (LINE_BYTES_MAX - 1) + b"yz\n"
    assert lines.feed(b"a\nb") == b"a\n"
    assert lines.flush() == b"b\n"
    assert lines.flush() == b""


def test_the_rank_that_fails_first_is_named_and_the_others_are_ended(tmp_path: Path) -> None:
    """They get a grace to end by themselves, then are ended: of SIGABRT here, since Python writes its stack on that."""
    code = (
        "import os, signal, sys\n"
        "rank = int(os.environ['RANK'])\n"
        "if rank == 2: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pipe = {str(tmp_path / 'ready')!r}\n"
        "if rank == 1: open(pipe).read(); sys.exit(3)\n"  # when the others are ready
        "open(pipe, 'w').close(); signal.pause()\n"
    )
    os.mkfifo(tmp_path / "ready")
    result, _ = run_python(code, world_size=3)
    assert result.failure == ("rank 1 failed first, in the program: exit 3; ranks 0, 2 had to be ended in the program")
    assert [check.name for check in result.checks if not check.passed] == ["exits"]
    assert [rank.ending.exit for rank in result.ranks] == [-signal.SIGABRT, 3, -signal.SIGABRT]


def test_a_file_that_cannot_be_executed_is_the_ranks_failure(tmp_path: Path) -> None:
    """What the system says, not a traceback of the simulator's."""
    script = tmp_path / "script"
    script.write_text("no program\n")
    script.chmod(0o755)
    result, _ = run_program(str(script), world_size=1)
    assert result.ranks[0].ending.exit == 126
    assert result.ranks[0].error == f"cannot execute {script}: Exec format error\n"


def test_a_rank_that_signals_its_process_group_hits_no_other(tmp_path: Path) -> None:
    """Each rank is a session of its own, as it would be on a machine of its own."""
    os.mkfifo(tmp_path / "alive")
    # Rank 1 reads until rank 0, which holds the other end, is dead.
    pipe = tmp_path / "alive"
    script = f"if [ $RANK = 0 ]; then exec 9>{pipe}; kill -KILL 0; else read line <{pipe}; exit 5; fi"
    result, _ = run_program("sh", "-c", script, grace_s=10.0)
    assert [rank.ending.exit for rank in result.ranks] == [-signal.SIGKILL, 5]


def test_a_process_that_a_rank_leaves_behind_ends_with_the_run() -> None:
    """A daemon that holds a rank's output neither keeps the run from ending nor survives it."""
    result, printed = run_program("sh", "-c", "sleep 60 & echo $!", world_size=1)
    assert result.ok
    assert result.duration_s < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(printed[0, "stdout"]), 0)


@pytest.mark.parametrize("is_started", [False, True])
def test_a_machine_that_refuses_what_a_run_needs_is_named(is_started: bool) -> None:
    """Here a descriptor, at the beginning or for the second rank; it may be a process or a thread as well.

    Nobody is told that output could not be written.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def refuse(*_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))

    if not is_started:
        refuse()
    try:
        with pytest.raises(CannotRunError, match=r"the machine refuses what this run needs: .*Too many open files"):
            run(Plan(world_size=2), refuse)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("fault", ["slow:0:1ms@0s", "slow:0:1ms@join"])
def test_what_a_function_of_the_callers_raises_is_not_the_machines_refusal(fault: str) -> None:
    """As when it cannot write what it is told, from the first fault on: that error ends the run, as it is."""
    full = OSError(errno.ENOSPC, "No space left on device")

    def write(_: int | None, message: Message) -> None:
        if isinstance(message, Struck):
            raise full

    with pytest.raises(OSError, match="No space left") as raised:
        run(Plan.of(Scenario.of_rounds(2, 1).with_faults([fault]), seed=1), write)
    assert raised.value is full
