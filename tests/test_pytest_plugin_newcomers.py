"""What the plugin says to somebody who does not know it yet: the fixtures, a mark that is missing, a short stack."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

pytest_plugins = ["pytester"]
TIMEOUT_S = 60.0


def run(pytester: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    """Run a project of one file."""
    pytester.makepyfile(test_it="import pytest\n" + source)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:randomly", *args, timeout=TIMEOUT_S)


def test_a_test_that_lacks_the_mark_is_told_so(pytester: pytest.Pytester) -> None:
    """Not that there is no fixture of that name; a fixture of the project's own with such a name is left alone."""
    source = """
def test_lacks_it(store): pass
@pytest.fixture
def mine(rank_path): pass
def test_lacks_it_too(mine): pass
class TestOwn:
    @pytest.fixture
    def rank(self): return "own"
    def test_own(self, rank): assert rank == "own"
@pytest.mark.ranks(2)
def test_has_it(rank, store): assert rank < 2
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=2, errors=2)
    text = result.stdout.str()
    assert (
        "the fixture 'store' is there for tests that run in ranks: mark this one, as in @pytest.mark.ranks(2)" in text
    )
    assert "the fixture 'rank_path' is there for tests" in text


def test_the_fixtures_are_listed_with_what_they_are(pytester: pytest.Pytester) -> None:
    """As all others, by ``pytest --fixtures``."""
    text = run(pytester, "", "--fixtures").stdout.str()
    for name, about in {
        "rank": "Which of the test's processes this is",
        "world_size": "How many processes run the test",
        "rendezvous": "Where the ranks have met",
        "store": "A store that all ranks of the test share",
        "rank_path": "A directory of this rank alone",
    }.items():
        assert re.search(rf"^{name} -- .*\n    {about}", text, re.MULTILINE), name


def test_a_stack_shows_what_the_test_did_and_little_of_what_is_below(pytester: pytest.Pytester) -> None:
    """One frame of rdzv, which says what was asked of it, and none of pytest's or of ours around the test."""
    source = """
@pytest.mark.ranks(1, timeout=0.4)
def test_hangs(store):
    store.get("never")
"""
    text = run(pytester, source).stdout.str()
    stack = text[text.index("(most recent call first)") :].split("=====")[0]
    assert re.findall(r'File ".*?([^/]+)", line \d+ in (\w+)', stack) == [
        ("prefix.py", "get"),
        ("test_it.py", "test_hangs"),
    ]


def test_a_call_into_c_that_the_wish_for_its_stack_wakes_has_hung(pytester: pytest.Pytester) -> None:
    """Whatever comes of it then: it did not pass, and the test was not in its tear-down."""
    source = """
import ctypes
@pytest.mark.ranks(2, timeout=2)
def test_sleeps(rank):
    if rank == 1:
        ctypes.CDLL(None).sleep(600)
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["rank 1 of 2 had to be ended after 2 s*", "rank 1: had to be ended in the call"])


def test_where_all_warnings_are_errors_a_hang_does_not_fail_the_tests_after_it(pytester: pytest.Pytester) -> None:
    """What is read to tell where a rank hangs is closed, or else each rank to come would find it left open."""
    source = """
@pytest.mark.ranks(2, timeout=0.4)
def test_hangs(store): store.get("never")
@pytest.mark.ranks(2)
def test_next(): pass
"""
    result = run(pytester, source, "-W", "error")
    result.assert_outcomes(passed=1, failed=1)
    assert "ResourceWarning" not in result.stdout.str() + result.stderr.str()


def test_a_rank_that_a_signal_has_stopped_is_told_so(pytester: pytest.Pytester) -> None:
    """It cannot say where it is."""
    source = """
import os, signal

@pytest.mark.ranks(2, timeout=0.5)
def test_stops(rank, store):
    if rank == 1: os.kill(os.getpid(), signal.SIGSTOP)
    store.barrier("both", 2)
"""
    text = run(pytester, source).stdout.str()
    assert "rank 1: had to be ended in the call, stopped by a signal such as SIGSTOP" in text
    assert "rank 0: had to be ended in the call, waiting for the key 'both/last_member'" in text


def test_who_fails_after_a_death_has_a_traceback_too(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of those that fail alike; the death has none, and theirs may say why. Kept logs have each rank's.

    The short summary has the line that leads, even in CI, where pytest cuts nothing.
    """
    monkeypatch.setenv("CI", "true")
    source = """
import os

@pytest.mark.ranks(4)
def test_it(rank, store):
    if rank == 3: os._exit(9)
    store.barrier("others", 3)
    fail(rank)

def fail(rank):
    if rank < 2: raise ValueError("alike")
    raise KeyError("otherwise")
"""
    text = run(pytester, source, "--ranks-keep-logs=logs").stdout.str()
    assert "rank 3: ended in the call: exit 9" in text
    assert "rank 3 of 4 failed first" in text
    assert [f"rank {rank} failed after that" in text for rank in range(4)] == [True, False, True, False]
    for line in ('raise ValueError("alike")', 'raise KeyError("otherwise")'):
        assert sum(shown.startswith(">") and line in shown for shown in text.splitlines()) == 1
    assert text.splitlines()[-2] == "FAILED test_it.py::test_it - Failed: rank 3: ended in the call: exit 9"
    (kept,) = pytester.path.glob("logs/*/rank1.log")
    assert '>       if rank < 2: raise ValueError("alike")' in kept.read_text()


def test_of_a_rank_that_prints_without_an_end_the_last_is_kept(pytester: pytest.Pytester) -> None:
    """To read gigabytes would take long behind the deadline, and all of the memory."""
    source = """
@pytest.mark.ranks(2)
def test_prints(rank, store):
    assert rank == 0 or store.get("printed") == b"not all"
    print("begin", *range(300_000), "last", sep="\\n", flush=True)
    store.set("printed", "all")
    store.get("never")
"""
    result = run(pytester, source, "--ranks-keep-logs", "logs")
    result.assert_outcomes(failed=1)
    (log,) = pytester.path.glob("logs/*/rank0.log")
    text = log.read_text()
    assert re.search(r"^\[\d{6} characters before this are left out\]$", text, re.MULTILINE)
    assert "\n299999\nlast\n" in text
    assert "begin" not in text
    assert len(text) < 1_100_000


def test_a_rank_that_prints_one_endless_line_does_not_fill_the_report(pytester: pytest.Pytester) -> None:
    """Its end is shown, as the last lines of others are."""
    source = """
@pytest.mark.ranks(1, timeout=1)
def test_prints(store):
    print("x" * 100_000, end="!", flush=True)
    store.get("never")
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "xxx!" in text
    assert len(text) < 20_000


def test_of_a_long_assertion_the_other_ranks_have_its_start(pytester: pytest.Pytester) -> None:
    """The first rank to fail shows all of it; each other has a line."""
    source = """
@pytest.mark.ranks(4)
def test_fails(rank):
    assert 0, f"rank {rank} " + "z" * 100_000
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    assert len(result.stdout.str()) < 250_000
    result.stdout.re_match_lines([r"rank \d: failed in the call: .*AssertionError: rank \d z+\.\.\."])


def test_what_a_plugin_warns_of_as_it_is_configured_is_told_once(pytester: pytest.Pytester) -> None:
    """The process that forks the ranks is configured as well. What a test warns of is told as ever."""
    pytester.makeconftest("import warnings\ndef pytest_configure(): warnings.warn('of the configuration')\n")
    source = """
import warnings
@pytest.mark.ranks(2)
def test_warns(rank):
    warnings.warn(f"of rank {rank}")
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=1, warnings=2)
    told = result.stdout.str() + result.stderr.str()
    assert told.count("UserWarning: of the configuration") == 1
    assert "of rank 1" in told


def test_ctrl_c_shows_where_the_ranks_were(pytester: pytest.Pytester) -> None:
    """As the deadline would have: who waits for a test that hangs need not wait for that."""
    pytester.makeconftest("import os\nos.environ.setdefault('PYTEST_PID', str(os.getpid()))\n")
    source = """
import os, signal
@pytest.mark.ranks(2)
def test_hangs(rank, store):
    if rank: os.kill(int(os.environ["PYTEST_PID"]), signal.SIGINT)
    store.get("never")
"""
    result = run(pytester, source)
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*had to be ended in the call*", "*in test_hangs", "*! KeyboardInterrupt !*"])


def test_what_a_rank_prints_in_a_test_that_passes_is_kept_to_its_end_too(pytester: pytest.Pytester) -> None:
    """All that all ranks print would have to be read, and is shown of none."""
    source = """
@pytest.mark.ranks(1)
def test_prints(): print("begin", *range(300_000), "last", sep="\\n")
"""
    run(pytester, source, "--ranks-keep-logs", "logs").assert_outcomes(passed=1)
    (log,) = pytester.path.glob("logs/*/rank0.log")
    text = log.read_text()
    assert re.search(r"^\[\d{6} characters before this are left out\]$", text, re.MULTILINE)
    assert "\n299999\nlast\n" in text
    assert "begin" not in text


def test_a_rank_that_stops_its_parent_does_not_hold_up_the_end(pytester: pytest.Pytester) -> None:
    """Nor does it cost what the others can say."""
    source = """
import os, signal
@pytest.mark.ranks(2, timeout=1)
def test_stops(rank, store):
    if rank: os.kill(os.getppid(), signal.SIGSTOP)
    store.get("never")
@pytest.mark.ranks(2)
def test_goes_on(): pass
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*waiting for the key 'never'"])


def test_a_rank_that_stops_the_keeper_does_not_hold_up_the_end(pytester: pytest.Pytester) -> None:
    """Which would wait for it twice; the keeper is the parent of the ranks' parent."""
    source = """
import os, pathlib, signal
@pytest.mark.ranks(1)
def test_stops():
    stat = pathlib.Path(f"/proc/{os.getppid()}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGSTOP)
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=1)
    assert result.duration < 15.0  # and not twenty seconds late


def test_a_mark_of_a_parameter_takes_one_world_size(pytester: pytest.Pytester) -> None:
    """A list would have to make several tests of what is one already, and is told that."""
    source = """
ranks = pytest.mark.ranks
@pytest.mark.parametrize("size", [pytest.param(2, marks=ranks(2)), pytest.param(3, marks=ranks([3, 4]))])
def test_it(size, world_size): assert size == world_size
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["the mark ranks([[]3, 4[]]) came too late to make a test of each size*"])
