"""``@pytest.mark.ranks`` in projects as they are: ordinary tests beside it, other plugins, odd names, odd places."""

from __future__ import annotations

import sys

import pytest

pytest_plugins = ["pytester"]
TIMEOUT_S = 60.0


def run(pytester: pytest.Pytester, *args: str, **sources: str) -> pytest.RunResult:
    """Run a project of some files."""
    if sources:
        pytester.makepyfile(**{name: "import pytest\n" + source for name, source in sources.items()})
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:randomly", *args, timeout=TIMEOUT_S)


def test_ordinary_tests_go_before_and_after_in_any_order(pytester: pytest.Pytester) -> None:
    """What an ordinary test has set up is torn down when no test needs it any more, though the last one had ranks."""
    first = """
@pytest.fixture(scope="module")
def told():
    print("set up")
    yield
    print("torn down")
def test_plain(told): pass
@pytest.mark.ranks(2)
def test_ranks(): pass
"""
    second = """
def test_plain(): pass
class TestIt:
    @pytest.fixture(scope="class")
    def fragile(self):
        yield
        assert 1 == 2
    def test_plain(self, fragile): pass
    @pytest.mark.ranks(2)
    def test_ranks(self): pass
def test_more(): pass
"""
    result = run(pytester, "-s", "-v", test_first=first, test_second=second)
    result.assert_outcomes(passed=6, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*first.py::test_ranks torn down",
            "*second.py::test_plain PASSED*",
            "*ERROR at teardown of TestIt.test_ranks*",
        ],
    )


def test_the_interpreters_own_options_are_those_of_the_ranks(pytester: pytest.Pytester) -> None:
    """Such as what is to become of warnings: a test fails with ranks as it does without."""
    pytester.makepyfile(
        test_it="""
import pytest, sys, warnings
def warn():
    assert sys.flags.dev_mode
    warnings.warn("old", DeprecationWarning)
def test_plain(): warn()
@pytest.mark.ranks(1)
def test_ranks(): warn()
"""
    )
    options = ("-X", "dev", "-W", "error::DeprecationWarning:test_it")
    pytest_argv = ("-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-q", "--tb=line")
    done = pytester.run(sys.executable, *options, *pytest_argv, timeout=TIMEOUT_S)
    done.stdout.fnmatch_lines(["E   DeprecationWarning: old", "E   DeprecationWarning: old", "2 failed*"])


def test_a_plugin_that_starts_a_thread_only_to_run_tests_again_is_left_out(pytester: pytest.Pytester) -> None:
    """As pytest-rerunfailures does where xdist is installed: a fork would copy its locks, and each rank would rerun."""
    pytester.makeconftest("""
import threading
class Reruns:
    def pytest_configure(self, config):
        config.addinivalue_line("markers", "flaky(reruns=1): run again")
        threading.Thread(target=threading.Event().wait, name="server", daemon=True).start()
    def pytest_runtest_protocol(self, item, nextitem):
        assert not item.get_closest_marker("flaky"), "it must not run this one"
def pytest_addoption(parser, pluginmanager):
    pluginmanager.register(Reruns(), "rerunfailures")
""")
    source = "@pytest.mark.flaky(reruns=1)\n@pytest.mark.ranks(2)\ndef test_it(rank): assert rank < 2\n"
    run(pytester, "--strict-markers", test_it=source).assert_outcomes(passed=1)


def test_ranks_are_seeded_with_the_seed_that_pytest_tells(pytester: pytest.Pytester) -> None:
    """That of pytest-randomly, which draws one if it is given none: or a failure could not be seen again."""
    pytester.makeconftest("""
import os
def pytest_addoption(parser):
    parser.addoption("--randomly-seed", default="default")
def pytest_configure(config):
    if config.option.randomly_seed == "default":
        config.option.randomly_seed = os.getpid()
    os.environ.setdefault("TOLD", str(config.option.randomly_seed))
""")
    source = """
import os
@pytest.mark.ranks(2)
def test_it(request): assert request.config.option.randomly_seed == int(os.environ["TOLD"])
"""
    run(pytester, test_it=source).assert_outcomes(passed=1)


def test_a_test_fails_if_a_subtest_of_a_rank_does(pytester: pytest.Pytester) -> None:
    """As it does without ranks, since pytest 9."""
    pytest.importorskip("_pytest.subtests")
    source = """
@pytest.mark.ranks(2)
def test_it(subtests, rank):
    for number in range(3):
        with subtests.test(number=number): assert number != rank + 1
"""
    result = run(pytester, test_it=source)
    result.stdout.fnmatch_lines(["SUBFAILED*test_it*", "FAILED*contains 1 failed subtest"])


def test_the_logs_of_a_test_are_kept_whatever_its_name_or_the_reason_is_told(pytester: pytest.Pytester) -> None:
    """A name may be longer than a directory's can be; and where they cannot be written, the test says so."""
    source = """
@pytest.mark.parametrize("number", [1, 2], ids=["\u00e9" * 200 + "1", "\u00e9" * 200 + "2"])
@pytest.mark.ranks(2)
def test_it(rank, number): print("rank", rank, "of", number)
"""
    run(pytester, "--ranks-keep-logs=logs", test_it=source).assert_outcomes(passed=2)
    kept = sorted(path.read_text() for path in pytester.path.glob("logs/*/rank1.log"))
    assert [f"rank 1 of {number}" in text for number, text in enumerate(kept, 1)] == [True, True]
    like = """
@pytest.mark.parametrize("number", [1, 2], ids=["a b", "a_b"])
@pytest.mark.ranks(1)
def test_it(rank, number): print("rank", rank, "of", number)
"""
    run(pytester, "--ranks-keep-logs=like", test_it=like).assert_outcomes(passed=2)
    assert len({path.read_text() for path in pytester.path.glob("like/*/rank0.log")}) == 2
    pytester.makefile("", no_folder="")
    result = run(pytester, "--ranks-keep-logs=no_folder", test_it=source)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["--ranks-keep-logs: cannot write to *no_folder*: Not a directory"])


def test_options_about_set_up_do_what_they_say(pytester: pytest.Pytester) -> None:
    """With ``--setup-show`` tests run; with ``--setup-plan`` and ``--setup-only`` their bodies do not."""
    source = "@pytest.mark.ranks(2)\ndef test_it(): pytest.fail('it runs')\n"
    run(pytester, "--setup-show", test_it=source).assert_outcomes(failed=1)
    run(pytester, "--setup-plan", test_it=source).assert_outcomes()
    for name in ("skipping", "debugging"):
        run(pytester, "-p", f"no:{name}", test_it=source).assert_outcomes(failed=1)


@pytest.mark.parametrize("name", ["capture", "tmpdir"])
def test_a_plugin_of_pytests_that_ranks_need_is_named(pytester: pytest.Pytester, name: str) -> None:
    """Of others they do without."""
    source = "@pytest.mark.ranks(2)\ndef test_it(): pass\ndef test_plain(): pass\n"
    result = run(pytester, "-p", f"no:{name}", test_it=source)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([f"tests with ranks need pytest's own plugin {name}: leave out -p no:{name}"])


def test_another_plugins_time_limit_shows_where_the_ranks_were(pytester: pytest.Pytester) -> None:
    """With the key that each waited for, as the test's own deadline would."""
    source = """
@pytest.mark.ranks(2)
def test_warms_up(): pass
@pytest.mark.timeout(3, method="signal")
@pytest.mark.ranks(2)
def test_hangs(store): store.get("never")
"""
    result = run(pytester, test_it=source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "Timeout (>3.0s) from pytest-timeout.",
            "rank*: had to be ended in the call, waiting for the key 'never'",
            "* in test_hangs",
        ]
    )


def test_what_takes_a_rank_out_of_its_test_has_a_traceback_of_the_test_alone(pytester: pytest.Pytester) -> None:
    """And not of the hundred frames of pytest and pluggy that have called it."""
    source = """
@pytest.mark.ranks(2)
def test_it(rank):
    if rank: raise KeyboardInterrupt("by hand")
"""
    result = run(pytester, test_it=source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["rank 1: failed: KeyboardInterrupt: by hand", "*test_it.py*in test_it"])
    result.stdout.no_fnmatch_line("*pluggy*line*")


def test_fixtures_of_a_directory_are_found_and_are_set_up_once_for_all_of_its_files(pytester: pytest.Pytester) -> None:
    """Though file by file is collected; pytest 9.1 and later forget a conftest.py whose directory is not collected."""
    conftest = """
import pytest
@pytest.fixture
def narrow(): return "narrow"
@pytest.fixture(scope="package")
def wide(tmp_path_factory):
    with (tmp_path_factory.getbasetemp() / "set_up").open("a+") as file:
        file.write("x")
        file.seek(0)
        return file.read()
"""
    source = """
import pytest
@pytest.mark.ranks(2)
def test_here(narrow, wide): assert (narrow, wide) == ("narrow", "x")
"""
    files = ["tests/test_a.py", "tests/test_b.py", "tests/below/test_c.py"]
    for path, text in {"tests/conftest.py": conftest, **dict.fromkeys(files, source)}.items():
        pytester.path.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
        pytester.path.joinpath(path).write_text(text)
    pytester.makeini("[pytest]")
    for args in ([], ["tests"], files, files[::-1]):
        run(pytester, *args).assert_outcomes(passed=3)
