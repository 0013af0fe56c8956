"""Upstream's helpers, under upstream's names: what code written against torch's elastic utilities imports.

The parsers and the free ports are at home in `rdzv.endpoint`, `rdzv.config` and `rdzv.net`, and only pass through here.
Knows the machine (its names, its clock, its threads), and no rendezvous.
"""

from __future__ import annotations

import ipaddress
import logging
import random
import re
import socket
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from rdzv.config import parse_rendezvous_config as _parse_rendezvous_config
from rdzv.endpoint import PORT_MAX, parse_rendezvous_endpoint
from rdzv.net import get_free_port, get_socket_with_port, in_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

__all__ = [
    "RESOLVER_TIMEOUT_S",
    "_PeriodicTimer",
    "_delay",
    "_matches_machine_hostname",
    "_parse_rendezvous_config",
    "_try_parse_port",
    "get_free_port",
    "get_socket_with_port",
    "machine_name",
    "parse_rendezvous_endpoint",
]

_T = TypeVar("_T")

_logger = logging.getLogger("rdzv")

RESOLVER_TIMEOUT_S = 10.0
"""How long the resolver may take over this machine's own name. Its own limits add up to 35 s and more (cpython#79345);
one server asked twice, as is usual, is done within ten."""


def _delay(seconds: float | tuple[float, float]) -> None:
    """Sleep.

    Args:
        seconds: For how long; or the bounds of a random time. Nothing below zero is waited for.
    """
    if isinstance(seconds, tuple):
        seconds = random.uniform(*seconds)  # noqa: S311 -- it spreads load and guards nothing
    time.sleep(max(0.0, seconds))


def _try_parse_port(port_str: str) -> int | None:
    """The port that one to five ASCII digits name, 0 to 65535; ``None`` for any other text."""
    if not re.fullmatch("[0-9]{1,5}", port_str):
        return None
    port = int(port_str)
    return port if port <= PORT_MAX else None


def machine_name() -> str:
    """This machine's fully qualified name; its plain host name where the resolver knows none, or takes too long."""
    return _in_time(socket.getfqdn, socket.gethostname(), "this machine's fully qualified name")


def _matches_machine_hostname(host: str) -> bool:
    """Guess whether a host is this machine.

    It is if it is ``localhost`` or a loopback address; if it is the machine's host name, or the canonical form of that;
    or if both have an address in common. Aliases and the addresses of further network cards may go unrecognised, and so
    does every name that the resolver does not know in time.

    Args:
        host: A name, or a numeric address without brackets.
    """
    if host == "localhost" or _is_loopback(host):
        return True
    own_name = socket.gethostname()
    if host == own_name:
        return True
    return bool(host) and _in_time(partial(_is_same_host, host, own_name), False, f"the host {host!r}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_same_host(host: str, own_name: str) -> bool:
    _, addresses = _look_up(host)
    own_canonical_names, own_addresses = _look_up(own_name)
    return host in own_canonical_names or not addresses.isdisjoint(own_addresses)


def _look_up(host: str) -> tuple[set[str], set[str | int]]:
    """The canonical names and the addresses of a host; none if it cannot be resolved, or could never be a name."""
    try:
        rows = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP, flags=socket.AI_CANONNAME)
    except (OSError, ValueError):
        rows = []
    return {name for _, _, _, name, _ in rows if name}, {address[0] for *_, address in rows}


def _in_time(ask: Callable[[], _T], otherwise: _T, what: str) -> _T:
    """What the resolver answers, or the fallback if it takes too long."""
    try:
        return in_time(ask, RESOLVER_TIMEOUT_S)
    except TimeoutError:
        message = "looking up %s took longer than %g s: going on with %r"
        _logger.warning(message, what, RESOLVER_TIMEOUT_S, otherwise)
        return otherwise


class _PeriodicTimer:
    """Calls a function again and again on a daemon thread, until it is cancelled or nobody holds the timer any more.

    The interval lies between the end of one call and the start of the next, and before the first. An error of the
    function ends the timer, and is reported by `threading.excepthook`.

    Args:
        interval: The time between calls; more than zero.
        function: What to call.
        *args: Its positional arguments.
        **kwargs: Its keyword arguments.

    Raises:
        ValueError: The interval is not positive.
    """

    def __init__(self, interval: timedelta, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        self._interval_s = interval.total_seconds()
        if self._interval_s <= 0:
            raise ValueError(f"the interval of a timer must be positive, not {interval}")
        self._call = partial(function, *args, **kwargs)
        self._name: str | None = None
        self._stop: Callable[[], object] | None = None

    @property
    def name(self) -> str | None:
        """The name that was set for the thread; ``None`` for the usual one, ``PeriodicTimer``."""
        return self._name

    def set_name(self, name: str) -> None:
        """Name the thread.

        Raises:
            RuntimeError: It runs already.
        """
        self._require_not_started()
        self._name = name

    def start(self) -> None:
        """Start calling; only once in a timer's life.

        Raises:
            RuntimeError: It was started before.
        """
        self._require_not_started()
        stopped = threading.Event()
        # The thread must not hold the timer, or the timer could never be collected.
        thread = threading.Thread(
            target=_call_periodically,
            args=(stopped, self._interval_s, self._call),
            name=self._name or "PeriodicTimer",
            daemon=True,
        )
        stop = weakref.finalize(self, _stop_thread, thread, stopped)
        stop.atexit = False  # at exit the thread may be gone already, and joining it could block for ever
        self._stop = stop  # before the thread starts, since the function may cancel its own timer
        thread.start()

    def cancel(self) -> None:
        """Stop calling, and wait for a call that is under way; may be called at any time, any number of times."""
        if self._stop is not None:
            self._stop()

    def _require_not_started(self) -> None:
        if self._stop is not None:
            raise RuntimeError("The timer has already started.")


def _call_periodically(stopped: threading.Event, interval_s: float, call: Callable[[], object]) -> None:
    while not stopped.wait(interval_s):
        call()


def _stop_thread(thread: threading.Thread, stopped: threading.Event) -> None:
    stopped.set()
    if thread is not threading.current_thread():  # the function itself may cancel its timer, or drop it
        thread.join()
