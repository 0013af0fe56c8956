"""How a backend's name becomes a handler: registration, and plug-ins of really installed distributions."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path

import pytest

from rdzv import RendezvousHandlerRegistry, RendezvousParameters, get_rendezvous_handler, rendezvous_handler_registry

ROOT = Path(__file__).parents[1]


class Handler:
    """A handler of the one backend ``dummy``, whatever is asked for."""

    def __init__(self, params: RendezvousParameters) -> None:
        self.params = params
        self.shutdowns = 0

    def get_backend(self) -> str:
        return "dummy"

    def shutdown(self) -> bool:
        self.shutdowns += 1
        return True


def ask(backend: str) -> RendezvousParameters:
    return RendezvousParameters(backend, "localhost:29400", "job", 1, 1)


def exactly(text: str) -> str:
    return f"^{re.escape(text)}$"


def test_a_registered_backend_makes_handlers_from_parameters() -> None:
    """The creator gets the very parameters, each time."""
    registry = RendezvousHandlerRegistry()
    registry.register("dummy", Handler)
    params = ask("dummy")
    first, second = registry.create_handler(params), registry.create_handler(params)
    assert first.params is second.params is params
    assert first is not second


def test_registering_an_equal_creator_again_changes_nothing() -> None:
    """Modules that register themselves may be loaded twice; bound methods are equal, not identical."""
    registry = RendezvousHandlerRegistry()
    made = []
    registry.register("dummy", made.append)
    registry.register("dummy", made.append)


def test_a_name_belongs_to_one_creator() -> None:
    """The error, in upstream's words, names both; the first keeps the name."""
    registry = RendezvousHandlerRegistry()
    other = lambda params: Handler(params)  # noqa: E731, PLW0108 -- a creator that equals no other
    registry.register("dummy", Handler)
    text = f"The rendezvous backend 'dummy' cannot be registered with '{other}' as it is already registered with "
    with pytest.raises(ValueError, match=exactly(f"{text}'{Handler}'.")):
        registry.register("dummy", other)
    assert type(registry.create_handler(ask("dummy"))) is Handler


def test_a_backend_needs_a_name() -> None:
    """No parameters could ever ask for it."""
    with pytest.raises(ValueError, match=exactly("The rendezvous backend name must be a non-empty string.")):
        RendezvousHandlerRegistry().register("", Handler)


@pytest.mark.parametrize("name", ["other", "Dummy", "dummy "])
def test_an_unknown_name_is_refused_in_upstreams_words(name: str) -> None:
    """Names are taken literally; the cause lists those there are, and so does a note, where Python has notes."""
    registry = RendezvousHandlerRegistry()
    registry.register("dummy", Handler)
    text = f"The rendezvous backend '{name}' is not registered. Did you forget to call `register`?"
    with pytest.raises(ValueError, match="not registered") as caught:
        registry.create_handler(ask(name))
    assert str(caught.value) == text  # without the note, which `match` would read too
    assert isinstance(caught.value.__cause__, KeyError)
    assert "['dummy']" in str(caught.value.__cause__)
    if sys.version_info >= (3, 11):
        assert traceback.format_exception_only(caught.value)[-1] == f"{name!r} is none of ['dummy']\n"


def test_a_handler_of_another_backend_is_refused_and_shut_down() -> None:
    """It may hold sockets already."""
    registry = RendezvousHandlerRegistry()
    made: list[Handler] = []

    def create(params: RendezvousParameters) -> Handler:
        made.append(Handler(params))
        return made[-1]

    registry.register("asked", create)
    text = "The rendezvous backend 'dummy' does not match the requested backend 'asked'."
    with pytest.raises(RuntimeError, match=exactly(text)):
        registry.create_handler(ask("asked"))
    assert [handler.shutdowns for handler in made] == [1]


def test_an_error_of_that_shutdown_does_not_hide_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the mismatch is raised, as the only error."""

    class Stubborn(Handler):
        def shutdown(self) -> bool:
            raise OSError("the door is stuck")

    registry = RendezvousHandlerRegistry()
    registry.register("asked", Stubborn)
    with pytest.raises(RuntimeError, match="does not match") as caught:
        registry.create_handler(ask("asked"))
    assert caught.value.__context__ is None
    [record] = caplog.records
    assert (record.name, record.levelno) == ("rdzv", logging.WARNING)
    assert "the door is stuck" in caplog.text


def test_a_creator_that_makes_nothing_is_named() -> None:
    """A forgotten ``return`` is the usual reason."""
    registry = RendezvousHandlerRegistry()
    registry.register("dummy", print)
    with pytest.raises(RuntimeError, match=r"print.*'dummy' made no handler"):
        registry.create_handler(ask("dummy"))


def test_the_global_registry_holds_the_built_in_backends() -> None:
    """They cannot be replaced, and what they refuse reaches the caller."""
    with pytest.raises(ValueError, match=r"'static' cannot be registered with .* already registered"):
        rendezvous_handler_registry.register("static", Handler)
    with pytest.raises(ValueError, match="rank"):
        get_rendezvous_handler(ask("static"))


PLUGIN = """
    class Handler:
        def __init__(self, params):
            self.params = params

        def get_backend(self):
            return self.params.backend

    def provide():
        return Handler
"""


class Site:
    """A directory of installed distributions, and a fresh interpreter that sees them beside rdzv alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def install(self, distribution: str, module: str, source: str = PLUGIN, *, backend: str = "extra") -> None:
        """A distribution whose one entry point provides the backend by ``module:provide``."""
        folder = self.directory / f"{distribution.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[torchrun.handlers]\n{backend} = {module}:provide\n")
        if source:
            (self.directory / f"{module}.py").write_text(textwrap.dedent(source))

    def run(self, body: str) -> tuple[list[str], str]:
        """The lines that the body prints, and the log."""
        prelude = f"""
            import sys
            sys.path[:0] = [{str(self.directory)!r}, {str(ROOT)!r}]
            import rdzv

            def ask(backend):
                params = rdzv.RendezvousParameters(backend, "localhost:29400", "job", 1, 1)
                try:
                    return type(rdzv.get_rendezvous_handler(params)).__module__
                except ValueError as error:
                    return str(error)
        """
        program = textwrap.dedent(prelude) + textwrap.dedent(body)
        command = [sys.executable, "-I", "-S", "-c", program]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines(), ended.stderr


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Nothing is installed there yet."""
    return Site(tmp_path)


UNKNOWN = "The rendezvous backend 'extra' is not registered. Did you forget to call `register`?"


def test_a_plugin_provides_its_backend(site: Site) -> None:
    """It takes no more than to be installed; asking again gives another handler of the same creator."""
    site.install("some-plugin", "some_plugin")
    assert site.run("print(ask('extra'), ask('extra'))") == (["some_plugin some_plugin"], "")


def test_nothing_is_searched_until_an_unknown_name_is_asked_for(site: Site) -> None:
    """Neither at import nor for a backend that is registered."""
    site.install("some-plugin", "some_plugin")
    body = """
        class Mine:
            def __init__(self, params): pass
            def get_backend(self): return "mine"

        rdzv.rendezvous_handler_registry.register("mine", Mine)
        ask("mine")
        print("importlib.metadata" in sys.modules)
        ask("extra")
        print("importlib.metadata" in sys.modules)
    """
    assert site.run(body) == (["False", "True"], "")


def test_plugins_that_were_not_asked_for_are_not_loaded(site: Site) -> None:
    """A broken plug-in breaks, or slows down, nobody but those who want it."""
    site.install("a-broken-plugin", "broken_plugin", "raise SystemExit('broken')", backend="other")
    site.install("some-plugin", "some_plugin")
    assert site.run("print(ask('extra'), 'broken_plugin' in sys.modules)") == (["some_plugin False"], "")


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("", "No module named 'bad_plugin'"),
        ("1 / 0", "ZeroDivisionError"),
        ("supply = 1", "has no attribute 'provide'"),
        ("def provide(): raise OSError('no licence')", "no licence"),
        ("def provide(surplus): pass", "surplus"),
        ("def provide(): return 5", "returned 5, which is not a creator"),
    ],
)
def test_a_plugin_that_fails_is_reported_and_the_next_one_serves(site: Site, source: str, fault: str) -> None:
    """The log has the distribution, the entry point and the traceback; alone, its backend is not registered."""
    site.install("bad-plugin", "bad_plugin", source)
    lines, log = site.run("print(ask('extra'))")
    assert lines == [UNKNOWN]
    assert "the distribution bad-plugin failed to provide the rendezvous backend 'extra' by bad_plugin:provide" in log
    assert fault in log

    site.install("good-plugin", "good_plugin")
    lines, log = site.run("print(ask('extra'))")
    assert lines == ["good_plugin"]
    assert fault in log


@pytest.mark.parametrize("order", [("alpha-plugin", "beta-plugin"), ("beta-plugin", "alpha-plugin")])
def test_of_two_claims_the_first_by_name_wins_and_is_named(site: Site, order: tuple[str, str]) -> None:
    """Whatever was installed first, and wherever: all nodes of a job must choose alike."""
    other_site = Site(site.directory / "elsewhere")
    other_site.directory.mkdir()
    for place, distribution in zip((site, other_site), order, strict=True):
        place.install(distribution, distribution.replace("-", "_"))
    lines, log = site.run(f"sys.path.insert(1, {str(other_site.directory)!r})\nprint(ask('extra'))")
    assert lines == ["alpha_plugin"]
    assert "claimed by the distributions alpha-plugin, beta-plugin: using alpha_plugin:provide of alpha-plugin" in log


def test_our_own_entry_points_are_not_for_us(site: Site) -> None:
    """They show us to torchrun; loading them here would pull torch in, and lead in a circle."""
    site.install("rdzv", "our_torch_plugin", "raise SystemExit('loaded')")
    assert site.run("print(ask('extra'))") == ([UNKNOWN], "")


def test_a_registered_backend_wins_over_a_plugin_whichever_came_first(site: Site) -> None:
    """The program that runs knows better than what happens to be installed."""
    site.install("some-plugin", "some_plugin")
    body = """
        class Mine:
            def __init__(self, params): pass
            def get_backend(self): return "extra"

        print(ask("extra"))
        rdzv.rendezvous_handler_registry.register("extra", Mine)
        print(ask("extra"))
    """
    assert site.run(body) == (["some_plugin", "__main__"], "")


def test_a_registry_of_ones_own_knows_no_plugins(site: Site) -> None:
    """It holds what its owner put there."""
    site.install("some-plugin", "some_plugin")
    body = """
        try:
            rdzv.RendezvousHandlerRegistry().create_handler(rdzv.RendezvousParameters("extra", "", "job", 1, 1))
        except ValueError as error:
            print(error)
        print("importlib.metadata" in sys.modules)
    """
    assert site.run(body) == ([UNKNOWN, "False"], "")


def test_threads_that_ask_at_once_get_handlers_of_one_creator(site: Site) -> None:
    """Though each may have searched, all agree on one find."""
    site.install(
        "some-plugin", "some_plugin", PLUGIN.replace("return Handler", "return lambda params: Handler(params)")
    )
    body = """
        import threading

        registry, together, creators = rdzv.rendezvous_handler_registry, threading.Barrier(8), set()

        def work():
            together.wait(30)
            creators.add(registry._creator_of("extra"))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(creators))
    """
    assert site.run(body) == (["1"], "")
