"""``@pytest.mark.ranks`` as its users see it: what runs where, how often, and what pytest then says."""

from __future__ import annotations

import re

import pytest

pytest_plugins = ["pytester"]
TIMEOUT_S, RANKS_TIMEOUT_S = 60.0, 20.0


def run(pytester: pytest.Pytester, source: str, *args: str, conftest: str = "") -> pytest.RunResult:
    """Run a project of one file."""
    if conftest:
        pytester.makeconftest(conftest)
    pytester.makepyfile(test_it="import os, signal, sys, time\nimport pytest\n" + source)
    limits = (f"--ranks-timeout={RANKS_TIMEOUT_S}", "-p", "no:cacheprovider", "-p", "no:randomly")
    return pytester.runpytest_subprocess(*limits, *args, timeout=TIMEOUT_S)


def outcomes(result: pytest.RunResult) -> dict[str, int]:
    return {name: count for name, count in result.parseoutcomes().items() if name != "deselected"}


def lines_of(result: pytest.RunResult, *wanted: str) -> None:
    """The output has these, in any order."""
    text = result.stdout.str()
    for part in wanted:
        assert part in text


def test_the_body_runs_in_processes_that_have_met(pytester: pytest.Pytester) -> None:
    """Each with a number of its own, one store, and the environment that PyTorch's launcher would give it."""
    result = run(
        pytester,
        """
@pytest.mark.ranks(4)
def test_together(rank, world_size, store, rendezvous):
    assert [key for key in store.list_keys() if "pid/" not in key] == []
    store.set(f"pid/{rank}", str(os.getpid()))
    pids = {int(store.get(f"pid/{other}")) for other in range(world_size)}
    assert len(pids) == world_size == 4
    assert (rank, world_size) == (rendezvous.rank, rendezvous.world_size)
    assert os.environ["RANK"] == str(rank) and os.environ["WORLD_SIZE"] == "4"
    address = rendezvous.bootstrap_store_info
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == (address.master_addr, str(address.master_port))
    store.barrier("read", world_size)

@pytest.mark.ranks([1, 3])
def test_sizes(request, world_size, store):
    assert request.node.name == f"test_sizes[ranks{world_size}]"
    assert store.add("here", 1) <= world_size
    store.barrier("all", world_size)
    assert int(store.get("here")) == world_size

@pytest.mark.ranks([2, 3])
@pytest.mark.parametrize("value", ["a", "b"])
def test_both(value, store):
    assert store.compare_set("value", "", value) == value.encode()

@pytest.mark.ranks(2)
class TestClass:
    def test_in_a_class(self, rank):
        assert rank < 2

def test_no_ranks():
    assert "RANK" not in os.environ
""",
    )
    assert outcomes(result) == {"passed": 9}


def test_the_scope_of_a_fixture_says_where_it_is_set_up(pytester: pytest.Pytester) -> None:
    """A function's in each rank; what is wider once, before the ranks are forked, which inherit it; torn down once."""
    conftest = """
import os, pytest
def log(line):
    with open("log", "a") as file:
        file.write(line + "\\n")
def fixture(scope):
    def inner():
        log(f"{scope} up")
        yield {"pid": os.getpid(), "scope": scope}
        log(f"{scope} down")
    return pytest.fixture(inner, scope=scope, name=scope)
session, package, module, class_, function = map(fixture, ("session", "package", "module", "class", "function"))
"""
    body = """
class Test:
    @pytest.mark.ranks(3)
    def test_one(self, rank, store, world_size, request, function):
        wide = [request.getfixturevalue(name)["pid"] for name in ("session", "module")]
        assert set(wide) != {os.getpid()} and function["pid"] == os.getpid()
        store.set(str(rank), str(wide))
        assert store.get("0") == store.get("2")
        store.barrier("read", world_size)
        assert open("log").read().count("function up") == 3
        store.barrier("counted", world_size)
    @pytest.mark.ranks(2)
    def test_two(self): pass
Test = pytest.mark.usefixtures("session", "package", "module", "class")(Test)
@pytest.mark.ranks(2)
def test_three(module): pass
"""
    pytester.makepyfile(test_other="import os, pytest\n@pytest.mark.ranks(2)\ndef test_other(session): pass\n")
    assert outcomes(run(pytester, body, conftest=conftest)) == {"passed": 4}
    log = (pytester.path / "log").read_text().split("\n")
    assert [line for line in log if not line.startswith("function")] == [
        *("session up", "package up", "module up", "class up", "class down", "module down", "package down"),
        *("session down", ""),
    ]
    assert log.count("function up") == log.count("function down") == 3


def test_paths_are_the_tests_and_the_ranks_own(pytester: pytest.Pytester) -> None:
    """``tmp_path`` is one directory for all ranks of a test; ``rank_path`` is a rank's own, within it."""
    source = """
@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.ranks(3)
def test_paths(turn, rank, world_size, store, tmp_path, rank_path):
    assert not (tmp_path / "seen").exists() and rank_path.parent == tmp_path and not list(rank_path.iterdir())
    (rank_path / "mine").write_text(str(rank))
    store.barrier("written", world_size)
    assert sorted(file.read_text() for file in tmp_path.glob("*/mine")) == ["0", "1", "2"]
    store.barrier("read", world_size)
    (tmp_path / "seen").touch()

def test_without_ranks(tmp_path):
    assert not list(tmp_path.iterdir())
"""
    result = run(pytester, source, f"--basetemp={pytester.path / 'base'}")
    assert outcomes(result) == {"passed": 3}
    assert len(list((pytester.path / "base").glob("**/mine"))) == 6


def test_a_failure_is_the_first_failing_ranks_own(pytester: pytest.Pytester) -> None:
    """Its traceback, with pytest's rewriting of assertions, and its output; then the others, a line for all alike."""
    source = """
@pytest.mark.ranks(4, timeout=30)
def test_differs(rank, world_size, store):
    print("said by", rank)
    numbers = {"rank": rank}
    if rank == 2:
        assert numbers == {"rank": 7}
    store.get("never")

@pytest.mark.ranks(2)
def test_set_up(broken): pass

@pytest.mark.ranks(2)
def test_wide(broken_once): pass

@pytest.mark.ranks(2)
def test_torn_down(torn): pass
"""
    conftest = """
import pytest
@pytest.fixture
def broken(rank): assert rank == 2
@pytest.fixture(scope="session")
def broken_once():
    open("set_up", "a").write("x")
    assert 1 == 2
@pytest.fixture
def torn(rank):
    yield
    assert rank == 0
"""
    result = run(pytester, source, conftest=conftest)
    assert outcomes(result) == {"failed": 1, "errors": 3, "passed": 1}
    lines_of(
        result,
        "AssertionError: assert {'rank': 2} == {'rank': 7}",
        "Differing items:",
        "rank 2 of 4 failed first",
        "ranks 0-1, 3: had to be ended in the call, waiting for the key 'never'",
        "Captured stdout call (rank 2)",
        "said by 2",
        "ERROR at setup of test_set_up",
        "ERROR at teardown of test_torn_down",
        "rank 1 of 2 failed first",
        "rank 0: passed",
    )
    assert "said by 1" not in result.stdout.str()
    assert (pytester.path / "set_up").read_text() == "x"


def test_a_hang_ends_by_its_deadline_with_stacks_and_keys(pytester: pytest.Pytester) -> None:
    """Each rank that hung says where, and the store says what it waited for; even if it cannot be asked in Python."""
    source = """
@pytest.mark.ranks(3, timeout=0.5)
def test_hangs(rank, store):
    print("last words of", rank)
    if rank == 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        store.barrier("without the others", 3)
    if rank == 2:
        stays_here()

def stays_here():
    time.sleep(600)

@pytest.mark.ranks(2)
def test_set_up_hangs(slow): pass

@pytest.fixture
def slow(store): store.get("fixture")
"""
    result = run(pytester, source, "--ranks-timeout", "0.4")
    assert outcomes(result) == {"failed": 1, "errors": 1}
    lines_of(
        result,
        "ranks 1-2 of 3 had to be ended after 0.5 s",
        "rank 1: had to be ended in the call, waiting for the key 'without the others/last_member'",
        'store.barrier("without the others", 3)',
        "in stays_here\n        time.sleep(600)\n",
        "last words of 2",
        "rank 0: passed",
        "ranks 0-1 of 2 had to be ended after 0.4 s",
        "in the setup, waiting for the key 'fixture'",
    )


def test_a_death_is_told_with_its_last_words(pytester: pytest.Pytester) -> None:
    """A rank that ends, is killed or crashes has no traceback of pytest's to show; what it said is kept."""
    source = """
import ctypes, faulthandler
@pytest.mark.parametrize("way", ["exit", "kill", "crash", "leave"])
@pytest.mark.filterwarnings("ignore::pytest.PytestReturnNotNoneWarning")
@pytest.mark.ranks(2)
def test_dies(way, rank, store):
    if rank == 0:
        return way != "kill" or store.get("never")
    print("before the end")
    os.write(2, b"to the end\\n")
    if way == "exit": os._exit(3)
    if way == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if way == "crash": ctypes.string_at(0)
    pytest.exit("enough")
"""
    result = run(pytester, source)
    assert outcomes(result) == {"failed": 4}
    lines_of(
        result,
        "rank 1: ended in the call: exit 3",
        "rank 1: ended in the call: SIGKILL",
        "rank 1: ended in the call: SIGSEGV",
        'in test_dies\n        if way == "crash": ctypes.string_at(0)',
        "rank 1: failed: _pytest.outcomes.Exit: enough",
        "Interrupted: rank 1: enough",
        "rank 1 printed last:\n    before the end\n    to the end",
        "rank 0: had to be ended in the call, waiting for the key 'never'",
    )


def test_skips_and_expected_failures_are_those_of_the_test(pytester: pytest.Pytester) -> None:
    """Skipped if all ranks skip it; a rank that leaves by skipping is no failure; a mark foresees the first failure."""
    source = """
@pytest.mark.ranks(2)
def test_all_skip(): pytest.skip("no reason to stay")

@pytest.mark.ranks(2)
def test_one_skips(rank):
    if rank: pytest.skip("not me")

@pytest.mark.skip(reason="by mark")
@pytest.mark.ranks(2)
def test_mark(never): pass

@pytest.fixture(scope="module")
def never(): open("set_up", "w")

@pytest.mark.xfail(strict=True, reason="known")
@pytest.mark.ranks(2)
def test_one_xfails(rank, store):
    if rank: raise ValueError
    store.get("never")

@pytest.mark.xfail(strict=True)
@pytest.mark.ranks(2)
def test_xpass(): pass

@pytest.mark.xfail(raises=KeyError)
@pytest.mark.ranks(2)
def test_another_error(): raise ValueError

@pytest.mark.xfail(reason="a known deadlock")
@pytest.mark.ranks(2, timeout=0.3)
def test_deadlock(store): store.get("never")

@pytest.mark.ranks(2)
def test_raises(rank, store):
    store.set_timeout(0)
    with pytest.raises(Exception, match="key"):
        store.get("never")
"""
    result = run(pytester, source, "-rs")
    assert outcomes(result) == {"skipped": 2, "passed": 2, "xfailed": 2, "failed": 2}
    lines_of(result, "no reason to stay", "by mark", "[XPASS(strict)]")
    assert not (pytester.path / "set_up").exists()


def test_processes_are_fresh_unless_reuse_is_asked_for(pytester: pytest.Pytester) -> None:
    """Reused ones have a new store for each test, and are given up after a failure or a change of what they inherit."""
    source = """
def note(rank, store):
    assert store.add("mine", 1) <= 2
    store.barrier("all", 2)
    if rank == 0:
        with open("pids", "a") as file: file.write(f"{os.getpid()}\\n")

@pytest.mark.parametrize("turn", range(2))
@pytest.mark.ranks(2)
def test_fresh(turn, rank, store): note(rank, store)

@pytest.mark.parametrize("turn", range(3))
@pytest.mark.ranks(2, reuse=True)
def test_reused(turn, rank, store, tmp_path, rank_path):
    note(rank, store)
    assert turn < 2

@pytest.fixture(scope="module")
def wide(): return os.getpid()

@pytest.mark.parametrize("turn", range(2))
@pytest.mark.ranks(2, reuse=True)
def test_wide(turn, rank, store, wide):
    note(rank, store)
    assert wide == os.getppid()
"""
    result = run(pytester, source)
    assert outcomes(result) == {"passed": 6, "failed": 1}
    fresh_0, fresh_1, reused_0, reused_1, reused_2, wide_0, wide_1 = (pytester.path / "pids").read_text().split()
    assert len({fresh_0, fresh_1, reused_0, wide_0}) == 4
    assert reused_0 == reused_1 == reused_2
    assert wide_0 == wide_1


def test_a_thread_where_ranks_are_forked_is_refused(pytester: pytest.Pytester) -> None:
    """A fork copies the locks and not the thread: so it is named, and nothing hangs."""
    source = """
import threading
@pytest.fixture(scope="module")
def helper():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="my helper")
    thread.start()
    yield
    stop.set()
    thread.join()

@pytest.mark.ranks(2)
def test_refused(helper): pass

def test_thread_is_fine_without_ranks(helper): pass

@pytest.mark.ranks(2)
def test_own_thread():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
"""
    result = run(pytester, source, "-k", "not own_thread")
    assert outcomes(result) == {"failed": 1, "passed": 1}
    lines_of(result, "there are threads in the process that forks the ranks: my helper")


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        ("ranks()", "the mark is ranks(world_size, timeout=SECONDS, reuse=False), not ranks()"),
        ("ranks(0)", "1 to 1000 ranks, or takes a list of such numbers, not 0"),
        ("ranks(100_000)", "1 to 1000 ranks, or takes a list of such numbers, not 100000"),
        ("ranks(2, reuse='yes')", "reuse is True or False, not 'yes'"),
        ("ranks(2, timeout='soon')", "more than 0 and at most 1000000 seconds, not 'soon'"),
        ("ranks(2, time_out=3)", "not ranks(2, time_out=3)"),
    ],
)
def test_a_senseless_mark_is_refused_by_name(mark: str, complaint: str) -> None:
    """Where it is read, before anything runs."""
    from sim.ranks.mark import Ranks

    made = eval(mark, {"ranks": pytest.mark.ranks}).mark
    with pytest.raises(ValueError, match=re.escape(complaint)):
        Ranks.of(made.args, made.kwargs)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_a_default_deadline_that_is_none_is_refused(pytester: pytest.Pytester, seconds: str) -> None:
    """As the mark's own would be."""
    result = run(pytester, "", "--ranks-timeout", seconds)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*a timeout is more than 0 and at most 1000000 seconds, not '{seconds}'"])
