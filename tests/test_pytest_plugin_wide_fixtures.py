"""What goes wrong in fixtures wider than a function, which live in the process that forks the ranks: it is told."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]
TIMEOUT_S = 60.0


def run(pytester: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    """Run a project of one file."""
    pytester.makepyfile(test_it="import os, signal, sys, threading, time\nimport pytest\n" + source)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:randomly", *args, timeout=TIMEOUT_S)


def test_one_with_parameters_that_cannot_be_torn_down_for_the_next_fails_that_one(pytester: pytest.Pytester) -> None:
    """And the last one at the end, as without ranks."""
    result = run(
        pytester,
        """
@pytest.fixture(scope="module", params=[1, 2])
def server(request):
    yield
    raise ValueError(f"server {request.param} died")
@pytest.mark.ranks(2)
def test_one(server): pass
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["a fixture wider than a function could not be *", "*ValueError: server 1 died"])


def test_one_of_a_class_where_there_is_none_is_each_ranks_own(pytester: pytest.Pytester) -> None:
    """As pytest has it: it is torn down with the function, and what goes wrong then is an error."""
    result = run(
        pytester,
        """
@pytest.fixture(scope="class")
def server():
    yield os.getpid()
    raise ValueError("it died")
@pytest.mark.ranks(2)
def test_one(server): assert server == os.getpid()
@pytest.mark.ranks(2)
def test_two(server): assert server == os.getpid()
""",
    )
    result.assert_outcomes(passed=2, errors=2)


@pytest.mark.parametrize("last", ["@pytest.mark.ranks(2)\ndef test_last(thread): pass", "def test_last(): pass"])
def test_what_cannot_be_torn_down_at_the_end_is_an_error(pytester: pytest.Pytester, last: str) -> None:
    """Also if the last test has no ranks, and warnings are errors; or if it cannot be run in those that there are."""
    source = """
@pytest.fixture(scope="session")
def server():
    yield
    raise ValueError("it died")
@pytest.fixture(scope="session")
def thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()
@pytest.mark.ranks(2)
def test_first(server): pass
"""
    result = run(pytester, source + last, "-W", "error")
    assert result.ret == 1
    passes = "thread" not in last
    result.assert_outcomes(passed=1 + passes, failed=not passes, errors=passes)
    result.stdout.fnmatch_lines(["a fixture wider than a function could not be torn down*", "*ValueError: it died"])


def test_an_error_of_any_length_is_shown(pytester: pytest.Pytester) -> None:
    """Its end, if it is too long to be handed on whole."""
    result = run(
        pytester,
        """
@pytest.fixture(scope="module")
def long():
    yield
    raise ValueError("y" * 300_000 + "!")
@pytest.mark.ranks(2)
def test_one(long): pass
""",
    )
    result.assert_outcomes(passed=1, errors=1)
    assert "yyy!" in result.stdout.str()


def test_a_set_up_that_would_end_the_process_fails_its_test_alone(pytester: pytest.Pytester) -> None:
    """As without ranks: SystemExit is an error like others there."""
    result = run(
        pytester,
        """
@pytest.fixture(scope="module")
def ends(): sys.exit(3)
@pytest.mark.ranks(2)
def test_one(ends): pass
@pytest.mark.ranks(2)
def test_two(): pass
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*SystemExit: 3"])


def test_who_ignores_the_end_of_children_has_ranks_all_the_same(pytester: pytest.Pytester) -> None:
    """And they ignore it too."""
    result = run(
        pytester,
        """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
@pytest.mark.ranks(2)
def test_one(): assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
@pytest.mark.ranks(2)
def test_dies(rank): os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*in the call: SIGKILL*"])


def test_a_machine_that_refuses_a_rank_is_named_as_such(pytester: pytest.Pytester) -> None:
    """By what it lacks, not by our own traceback."""
    result = run(
        pytester,
        """
import resource
@pytest.fixture(scope="module")
def few():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
@pytest.mark.ranks(30)
def test_many(few): pass
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the machine refuses rank * of 30: Too many open files"])


@pytest.mark.parametrize("how", ["ctrl-c", "timeout"])
def test_a_set_up_that_hangs_shows_where(pytester: pytest.Pytester, how: str) -> None:
    """It is not in the ranks, whose deadline has not begun: but whoever breaks it off learns what it was at."""
    pytester.makeconftest("import os\nos.environ.setdefault('PYTEST_PID', str(os.getpid()))\n")
    breaks_off = "os.kill(int(os.environ['PYTEST_PID']), signal.SIGINT)" if how == "ctrl-c" else "pass"
    result = run(
        pytester,
        f"""
@pytest.fixture(scope="module")
def hangs():
    {breaks_off}
    threading.Event().wait(50)
@pytest.mark.timeout(2, method="signal")
@pytest.mark.ranks(2)
def test_one(hangs): pass
""",
    )
    assert result.ret == (2 if how == "ctrl-c" else 1)
    result.stdout.fnmatch_lines(["the process that forks the ranks was not ready*", "*test_it.py*in hangs"])


def test_a_rank_whose_reports_are_lost_has_failed(pytester: pytest.Pytester) -> None:
    """Such as by a test that removes more than it should, or may write no large files."""
    result = run(
        pytester,
        """
import resource, shutil
@pytest.mark.ranks(2)
def test_removes(rank):
    if not rank: shutil.rmtree(os.path.dirname(os.environ["TORCHELASTIC_ERROR_FILE"]))
@pytest.mark.ranks(1)
def test_cuts():
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    assert False, "}" * 20_000
@pytest.mark.ranks(2)
def test_goes_on(): pass
""",
    )
    result.assert_outcomes(passed=1, failed=1, errors=1)  # the latter in its set-up, for all that is known
    result.stdout.fnmatch_lines(["*not all that it has reported is there*"])
    result.stdout.no_fnmatch_line("*IndexError*")


def test_the_warnings_of_one_are_those_of_the_test(pytester: pytest.Pytester) -> None:
    """Shown once, not by each rank that inherits it; and an error where the project or a mark has it so."""
    source = """
@pytest.fixture(scope="module", params=["shown", "an error", "hidden"])
def wide(request): warnings.warn(request.param)

@pytest.mark.filterwarnings("error:an error", "ignore:hidden")
@pytest.mark.ranks(2)
def test_it(wide): pass

@pytest.mark.ranks(2)
def test_goes_on(): pass
"""
    result = run(pytester, "import warnings\n" + source)
    result.assert_outcomes(passed=3, errors=1, warnings=1)
    result.stdout.fnmatch_lines(["E * UserWarning: an error", "*UserWarning: shown"])
