"""``@pytest.mark.ranks`` in projects as they are: ordinary tests beside it, other plugins, odd names, odd places."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

pytest_plugins = ["pytester"]
TIMEOUT_S = 60.0


def run(pytester: pytest.Pytester, *args: str, **sources: str) -> pytest.RunResult:
    """Run a project of some files."""
    pytester.makepyfile(**{name: "import pytest\n" + source for name, source in sources.items()})
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *args, timeout=TIMEOUT_S)


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
