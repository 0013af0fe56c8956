"""Upstream's helpers: whether a host is this machine, ports as text, delays, and the periodic timer."""

from __future__ import annotations

import gc
import socket
import threading
import time
from datetime import timedelta
from queue import SimpleQueue

import pytest

import rdzv
from rdzv import utils
from rdzv.utils import _delay, _matches_machine_hostname, _PeriodicTimer, _try_parse_port, machine_name

TICK = timedelta(milliseconds=5)
PATIENCE_S = 30.0  # how long a healthy but busy machine may take


class Resolver:
    """A resolver that knows these hosts: for each its canonical name and its addresses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, own_name: str, **hosts: tuple[str, list[str]]) -> None:
        self.asked: list[str] = []
        self.hosts = {name.replace("_", "."): entry for name, entry in hosts.items()}
        monkeypatch.setattr("socket.gethostname", lambda: own_name)
        monkeypatch.setattr("socket.getaddrinfo", self.getaddrinfo)

    def getaddrinfo(self, host: str, port: None, **options: int) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if host not in self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        canonical, addresses = self.hosts[host]
        first, *others = [(None, None, 0, "", (address, 0)) for address in addresses]
        return [(*first[:3], canonical, first[4]), *others]


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.8.9.10", "::1", "0000:0000:0000:0000:0000:0000:0000:0001", "node0"]
)
def test_loopback_and_the_host_name_are_this_machine_without_asking_the_resolver(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is certain must not depend on a resolver that may be slow or broken."""
    resolver = Resolver(monkeypatch, "node0")
    assert _matches_machine_hostname(host)
    assert resolver.asked == []


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("node0.example.com", "it is the canonical form of the host name"),
        ("10.0.0.5", "it is the address of the host name"),
        ("service.example.com", "it has one address in common with the host name"),
    ],
)
def test_a_host_that_leads_here_is_this_machine(host: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's guess, in upstream's order."""
    Resolver(
        monkeypatch,
        "node0",
        node0=("node0.example.com", ["fe80::5", "10.0.0.5"]),
        service_example_com=("", ["10.0.0.9", "10.0.0.5"]),
        **{"10_0_0_5": ("", ["10.0.0.5"])},
    )
    assert _matches_machine_hostname(host), why


@pytest.mark.parametrize("host", ["node1", "10.0.0.6", "0.0.0.0", "::2", "nowhere", "", "a..b", "\0"])
def test_any_other_host_is_not_this_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is the wildcard address, nor what no resolver knows, nor nothing at all, whatever a resolver says."""
    Resolver(
        monkeypatch,
        "node0",
        node0=("node0.example.com", ["10.0.0.5"]),
        node1=("node1.example.com", ["10.0.0.6"]),
        **{"10_0_0_6": ("", ["10.0.0.6"]), "0_0_0_0": ("", ["0.0.0.0"]), "::2": ("", ["::2"]), "": ("", ["10.0.0.5"])},
    )
    assert not _matches_machine_hostname(host)


def test_a_machine_that_cannot_resolve_itself_matches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken resolver is no match; no resolver's error escapes."""
    Resolver(monkeypatch, "node0", node1=("node1.example.com", ["10.0.0.6"]))
    assert not _matches_machine_hostname("node1")


@pytest.mark.parametrize("host", ["", "a..b", "x" * 300, "\0", "no such host", "*"])
def test_no_text_raises_with_the_real_resolver(host: str) -> None:
    """Texts that can be no host name are no match, whatever the C library makes of them."""
    assert not _matches_machine_hostname(host)


def test_the_real_machine_is_itself() -> None:
    """By host name, by full name, and by every address of the host name."""
    name = socket.gethostname()
    addresses = {row[4][0] for row in socket.getaddrinfo(name, None)}
    assert all(_matches_machine_hostname(str(host)) for host in {name, machine_name(), *addresses})


def test_a_resolver_that_does_not_answer_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The guess has a limit: a host unknown by then is not this machine, and a warning names it."""
    answered = threading.Event()
    monkeypatch.setattr("rdzv.utils.RESOLVER_TIMEOUT_S", 0.01)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: answered.wait(PATIENCE_S) and [])
    try:
        assert not _matches_machine_hostname("slow.example.com")
    finally:
        answered.set()
    assert "looking up the host 'slow.example.com' took longer than 0.01 s" in caplog.text


@pytest.mark.parametrize(("text", "port"), [("0", 0), ("123", 123), ("00080", 80), ("65535", 65535)])
def test_ports_as_text(text: str, port: int) -> None:
    """One to five digits, of a number that is a port."""
    assert _try_parse_port(text) == port


@pytest.mark.parametrize(
    "text", ["", " ", " 1", "1 ", "1\n", "abc", "-1", "+1", "1_0", "65536", "000080", "\u0661", "\uff11"]
)
def test_texts_that_are_no_port(text: str) -> None:
    """Nothing else is, and no error is raised."""
    assert _try_parse_port(text) is None


@pytest.mark.parametrize(
    ("seconds", "at_least_s"), [(0.01, 0.01), ((0.01, 0.02), 0.01), (0, 0), (-1, 0), ((-2, -1), 0)]
)
def test_a_delay_takes_at_least_its_time(seconds: float | tuple[float, float], at_least_s: float) -> None:
    """A number, or the bounds of a random one; nothing below zero is waited for."""
    before = time.monotonic()
    _delay(seconds)
    assert time.monotonic() - before >= at_least_s


@pytest.mark.parametrize("name", ["get_free_port", "get_socket_with_port", "parse_rendezvous_endpoint"])
def test_helpers_at_home_elsewhere_are_the_same_objects(name: str) -> None:
    """One fact in one place: this module hands them through."""
    assert getattr(utils, name) is getattr(rdzv, name)


@pytest.fixture
def calls() -> SimpleQueue[object]:
    """What a timer's function reports."""
    return SimpleQueue()


def report_thread(calls: SimpleQueue[object]) -> None:
    calls.put(threading.current_thread())


def test_a_timer_calls_with_its_arguments_until_it_is_cancelled(calls: SimpleQueue[object]) -> None:
    """Again and again; and cancelling it, twice if one likes, ends its thread."""
    threads: SimpleQueue[object] = SimpleQueue()

    def function(*args: object, **kwargs: object) -> None:
        report_thread(threads)
        calls.put((args, kwargs))

    timer = _PeriodicTimer(TICK, function, 1, two=2)
    timer.start()
    assert [calls.get(timeout=PATIENCE_S) for _ in range(3)] == [((1,), {"two": 2})] * 3
    timer.cancel()
    timer.cancel()
    assert not threads.get().is_alive()


def test_calls_are_at_least_the_interval_apart(calls: SimpleQueue[object]) -> None:
    """Counted from the start of the timer, and then from the end of one call to the start of the next."""
    ended_at = [time.monotonic()]

    def function() -> None:
        calls.put(time.monotonic() - ended_at[0])
        ended_at[0] = time.monotonic()

    timer = _PeriodicTimer(TICK, function)
    timer.start()
    gaps = [calls.get(timeout=PATIENCE_S) for _ in range(5)]
    timer.cancel()
    assert min(gaps) >= TICK.total_seconds()


def test_cancelling_waits_for_the_call_that_is_under_way(calls: SimpleQueue[object]) -> None:
    """Afterwards nothing of the function runs any more."""
    may_end = threading.Event()
    events: list[str] = []

    def function() -> None:
        report_thread(calls)
        may_end.wait(PATIENCE_S)
        events.append("the call has ended")

    def cancel() -> None:
        timer.cancel()
        events.append("cancel has returned")

    timer = _PeriodicTimer(TICK, function)
    timer.start()
    calls.get(timeout=PATIENCE_S)
    canceller = threading.Thread(target=cancel)
    canceller.start()
    canceller.join(0.02)  # time enough for a cancel that does not wait
    may_end.set()
    canceller.join(PATIENCE_S)
    assert events == ["the call has ended", "cancel has returned"]


def test_a_timer_that_nobody_holds_stops(calls: SimpleQueue[object]) -> None:
    """Its thread has ended when the deletion returns."""
    timer = _PeriodicTimer(TICK, report_thread, calls)
    timer.start()
    thread = calls.get(timeout=PATIENCE_S)
    del timer
    gc.collect()
    assert not thread.is_alive()


def test_a_function_may_cancel_its_own_timer(calls: SimpleQueue[object]) -> None:
    """It is the last call then; the thread does not wait for itself."""

    def function() -> None:
        timer.cancel()
        report_thread(calls)

    timer = _PeriodicTimer(TICK, function)
    timer.start()
    thread = calls.get(timeout=PATIENCE_S)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert calls.empty()


def test_a_timer_starts_once() -> None:
    """Not again while it runs, nor after it was cancelled; in upstream's words."""
    timer = _PeriodicTimer(timedelta(hours=1), lambda: None)
    timer.cancel()  # a timer that has not started can be cancelled, to no effect
    timer.start()
    with pytest.raises(RuntimeError, match=r"^The timer has already started\.$"):
        timer.start()
    timer.cancel()
    with pytest.raises(RuntimeError, match=r"^The timer has already started\.$"):
        timer.start()


@pytest.mark.parametrize(("name", "thread_name"), [(None, "PeriodicTimer"), ("KeepAlive", "KeepAlive")])
def test_the_thread_bears_the_timers_name(name: str | None, thread_name: str, calls: SimpleQueue[object]) -> None:
    """For whoever looks at the threads of a process; it can be set until the start."""
    timer = _PeriodicTimer(TICK, report_thread, calls)
    assert timer.name is None
    if name is not None:
        timer.set_name(name)
    assert timer.name == name
    timer.start()
    thread = calls.get(timeout=PATIENCE_S)
    assert (thread.name, thread.daemon) == (thread_name, True)
    with pytest.raises(RuntimeError, match="already started"):
        timer.set_name("too late")
    timer.cancel()


def test_an_error_of_the_function_ends_the_timer_and_is_reported(
    calls: SimpleQueue[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the hook for errors of threads, so that nobody waits for a heart that has stopped in silence."""
    monkeypatch.setattr(threading, "excepthook", calls.put)
    timer = _PeriodicTimer(TICK, lambda: 1 // 0)
    timer.start()
    report = calls.get(timeout=PATIENCE_S)
    report.thread.join(PATIENCE_S)
    timer.cancel()
    assert report.exc_type is ZeroDivisionError
    assert not report.thread.is_alive()
    assert calls.empty()


@pytest.mark.parametrize("interval", [timedelta(0), timedelta(seconds=-1)])
def test_a_timer_needs_time_between_calls(interval: timedelta) -> None:
    """Without any it would do nothing but call."""
    with pytest.raises(ValueError, match="positive"):
        _PeriodicTimer(interval, lambda: None)
