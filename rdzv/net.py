"""Addresses and sockets: what a host's name stands for, what to listen on, how to reach it, and which port is free.

The only place of the library that resolves names. A look-up has no time limit of its own in any C library, so it runs
on a thread that is left behind when the deadline passes. Numeric addresses and ``localhost`` are never looked up.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

    Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]

Found = TypeVar("Found")

LOOPBACKS = ("127.0.0.1", "::1")
WILDCARDS = dict(zip(("0.0.0.0", "::"), LOOPBACKS, strict=True))  # noqa: S104 -- each with its family's loopback address
BACKLOG = 4096  # clients that may knock before the server looks up; the system may lower it
_PORT_TRIES = 64
_RESOLVE_S_MIN, _RESOLVE_S_MAX = 0.1, 1.0
_TRY_S_MAX = 5.0  # to connect once to one address: the system asks again at ever longer intervals


def join_host_port(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def shown(address: tuple[str | int, ...]) -> str:
    """``host:port`` of a socket's end, for people; a loopback address by its name, which needs no look-up."""
    host, port = str(address[0]), int(address[1])
    return join_host_port("localhost" if host in LOOPBACKS else host, port)


def numeric_address(host: str, port: int) -> Address | None:
    """The address that a numeric host stands for, or ``None`` if the host is a name."""
    address, _, zone = host.partition("%")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
        if family is socket.AF_INET:
            return None if zone else (family, (address, port))
        return family, (address, port, 0, _scope_id(zone))
    return None


def _scope_id(zone: str) -> int:
    if not zone or zone.isdecimal():
        return int(zone or 0)
    try:
        return socket.if_nametoindex(zone)
    except OSError as error:
        raise OSError(errno.ENODEV, f"there is no network interface {zone!r}") from error


def is_localhost(host: str) -> bool:
    """Whether a host is the name that means this machine everywhere, whatever a resolver says."""
    return host.rstrip(".").lower() == "localhost"


def resolve(host: str, port: int, deadline_at: float) -> Sequence[Address]:
    """The addresses of a host, in the order in which to try them.

    Args:
        host: A numeric address, ``localhost``, or a name to look up.
        port: The port to put into the addresses.
        deadline_at: When to give up, on the clock of `time.monotonic`, in seconds.

    Raises:
        TimeoutError: The look-up took too long.
        OSError: The name cannot be resolved, or not now.
        ValueError: It could never be a name.
    """
    if (address := numeric_address(host, port)) is not None:
        return [address]
    if is_localhost(host):
        return [address for name in LOOPBACKS if (address := numeric_address(name, port)) is not None]
    if ":" in host:
        raise ValueError(f"{host!r} is no host: it has a colon, and is no IPv6 address; the port goes apart")
    # As bytes: a str would pull in the idna codec, and 5 ms, for names that are plain ASCII anyway.
    name: str | bytes = host.encode("ascii") if host.isascii() else host
    try:
        rows = in_time(lambda: socket.getaddrinfo(name, port, type=socket.SOCK_STREAM), deadline_at - time.monotonic())
    except TimeoutError as error:
        raise TimeoutError(errno.ETIMEDOUT, f"the name {host!r} was not resolved in time") from error
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"the host {host!r} is not known: {error.strerror}") from error
    except UnicodeError as error:
        raise ValueError(f"{host!r} is no host name: {error}") from error
    return [(family, address) for family, _, _, _, address in rows]  # type: ignore[misc]


def in_time(look_up: Callable[[], Found], timeout_s: float) -> Found:
    """What a call of the resolver finds; if it takes too long, its thread is left behind.

    Raises:
        TimeoutError: It took longer than ``timeout_s`` seconds.
    """
    found: list[Found] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            found.append(look_up())
        except Exception as error:  # noqa: BLE001 -- raised again, where it is waited for
            failed.append(error)

    thread = threading.Thread(target=run, name="rdzv-resolver", daemon=True)
    thread.start()
    thread.join(max(0.0, timeout_s))
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(errno.ETIMEDOUT, f"the resolver took longer than {timeout_s:g} s")
    return found[0]


def when_known(
    act: Callable[[], Found], deadline_at: float, logger: logging.Logger, give_up: Callable[[], bool] | None = None
) -> Found:
    """What a call gives once the resolver knows the name that it needs; name services of clusters can be late.

    Args:
        act: The call. All that it raises is final, but for a name that is not known.
        deadline_at: When to give up, on the clock of `time.monotonic`, in seconds.
        logger: Where to say once that a name is awaited.
        give_up: Asked before each further try; if it is true, the time is over.

    Raises:
        OSError: As the call; if the name is still not known, the last try's.
    """
    pause_s = _RESOLVE_S_MIN
    while True:
        try:
            return act()
        except socket.gaierror as error:
            left_s = deadline_at - time.monotonic()
            if pause_s == _RESOLVE_S_MIN and left_s > 0:
                logger.warning("%s: asking again for %.0f s", error.strerror or error, left_s)
            time.sleep(max(0.0, min(pause_s, left_s)))
            if left_s <= pause_s or (give_up is not None and give_up()):
                raise
        pause_s = min(_RESOLVE_S_MAX, 2 * pause_s)


def bind(host: str, port: int, deadline_at: float) -> list[socket.socket]:
    """Sockets bound to what the host stands for on this machine, on one port, and on nothing wider.

    ``localhost`` is both loopback addresses. A name is every address of it that this machine has. ``::`` is every
    address of both families, ``0.0.0.0`` every IPv4 one.

    Args:
        host: Whose addresses to bind.
        port: The port, 0 to 65535; with 0 the system chooses one that is free on all of the addresses.
        deadline_at: When to give up resolving a name, on the clock of `time.monotonic`, in seconds.

    Raises:
        OSError: The port is taken, or no address of the host is one of this machine's; the message has the address.
    """
    addresses = list(dict.fromkeys(resolve(host, port, deadline_at)))
    for tries_left in reversed(range(_PORT_TRIES if port == 0 and len(addresses) > 1 else 1)):
        bound: list[socket.socket] = []
        try:
            for family, address in addresses:
                at_port = bound[0].getsockname()[1] if bound else port
                if (sock := _bind_one(family, (address[0], at_port, *address[2:]))) is not None:
                    bound.append(sock)
        except OSError as error:
            for sock in bound:
                sock.close()
            if error.errno == errno.EADDRINUSE and tries_left:
                continue  # the port that the first address got is taken on the second
            raise
        if bound:
            return bound
    raise OSError(
        errno.EADDRNOTAVAIL,
        f"{host!r} is no address of this machine, so nothing can listen there: name one of its own to listen on (bind)",
    )


def _bind_one(family: int, address: tuple[str, int] | tuple[str | int, ...]) -> socket.socket | None:
    """A bound socket, or ``None`` if the address is not one of this machine's."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        sock.bind(address)
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        where = join_host_port(str(address[0]), int(address[1]))
        raise OSError(error.errno, f"cannot listen on {where}: {os.strerror(error.errno or 0)}") from error
    return sock


def is_local(host: str, deadline_at: float) -> bool:
    """Whether one of the addresses that a host stands for is this machine's: one that a socket can be bound to.

    So it finds aliases and the addresses of every network card; wildcards stand for no machine. On a machine that lets
    anybody bind any address (``ip_nonlocal_bind``), every host seems local.

    Args:
        host: A name, or a numeric address without brackets.
        deadline_at: When to give up resolving a name, on the clock of `time.monotonic`, in seconds.

    Raises:
        OSError: The name cannot be resolved, or not now.
        ValueError: It could never be a name.
    """
    for family, (address, *rest) in resolve(host, 0, deadline_at):
        if address not in WILDCARDS and (sock := _bind_one(family, (address, *rest))) is not None:
            sock.close()
            return True
    return False


def local_address(sock: socket.socket) -> tuple[str, int]:
    """Host and port at which this machine reaches its own bound socket: a wildcard's loopback, else its address."""
    host, port = sock.getsockname()[:2]
    return WILDCARDS.get(host, host), port


def connect(host: str, port: int, deadline_at: float) -> socket.socket:
    """A connected socket, after one try of each address of the host.

    Args:
        host: Whom to reach.
        port: The port, 1 to 65535.
        deadline_at: When to give up, on the clock of `time.monotonic`, in seconds.

    Raises:
        OSError: None of the addresses answers; this is the last one's error.
    """
    failure = OSError(errno.EADDRNOTAVAIL, f"{host!r} has no addresses")
    addresses = resolve(host, port, deadline_at)
    for number, (family, address) in enumerate(addresses):
        # One that is silent leaves time for the others; and whoever tries again is heard sooner than he who waits on.
        share_s = min(_TRY_S_MAX, (deadline_at - time.monotonic()) / (len(addresses) - number))
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            failure = error
            continue
        try:
            sock.settimeout(max(0.001, share_s))
            sock.connect(address)
            if sock.getsockname() == sock.getpeername():  # a client's own port can meet itself when nobody listens
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            failure = error
        else:
            return sock
    raise failure


def get_socket_with_port() -> socket.socket:
    """A socket that holds a free port on every address of this machine, IPv4 and IPv6, and does not listen yet.

    Pass it on (its ``fileno()`` as ``listen_fd``) rather than its number: a port that was let go can be taken by
    anybody. Nobody can connect before somebody listens on it.

    Raises:
        OSError: No port is to be had.
    """
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        host = "::"
    except OSError:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        host = ""
    try:
        sock.bind((host, 0))  # without SO_REUSEADDR, which would let another one bind beside it
    except OSError:
        sock.close()
        raise
    return sock


def get_free_port() -> int:
    """A port that was free on every address of this machine a moment ago.

    Anybody can take it before you do. Prefer port 0, or `get_socket_with_port`.
    """
    with get_socket_with_port() as sock:
        port: int = sock.getsockname()[1]
        return port
