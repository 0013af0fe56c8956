"""The sockets that a server serves on: they listen before anybody is told where, so that no port is raced for."""

from __future__ import annotations

import errno
import os
import socket
import time

from rdzv import net
from rdzv.store.base import to_port


def bound_sockets(host: str, port: int, listen_fd: int | None, timeout_s: float) -> list[socket.socket]:
    """The sockets to serve on: a duplicate of the one that was passed, or new ones on what the host stands for.

    They listen: who connects from now on waits in the backlog until he is served.

    Raises:
        TypeError: The port is none.
        OSError: As `rdzv.net.bind`; or the descriptor is no bound stream socket.
    """
    port = to_port(port)
    sockets = net.bind(host, port, time.monotonic() + timeout_s) if listen_fd is None else [_duplicate(listen_fd, port)]
    try:
        for sock in sockets:
            sock.listen(net.BACKLOG)  # another one may listen by now, if both had bound before
    except OSError as error:
        where = net.join_host_port(*sock.getsockname()[:2])
        for sock in sockets:
            sock.close()
        raise OSError(error.errno, f"cannot listen on {where}: {error.strerror}") from error
    return sockets


def _duplicate(listen_fd: int, port: int) -> socket.socket:
    try:
        fd = os.dup(listen_fd)
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise
    except OSError as error:
        raise OSError(error.errno, f"descriptor {listen_fd} cannot be listened on: {error.strerror}") from error
    bound_port = sock.getsockname()[1] if sock.family in (socket.AF_INET, socket.AF_INET6) else None
    if sock.type != socket.SOCK_STREAM or bound_port is None:
        sock.close()
        raise OSError(errno.ENOTSOCK, f"descriptor {listen_fd} is no TCP socket")
    if not bound_port or port not in (0, bound_port):
        sock.close()
        wanted = f"port {bound_port}, not {port}" if bound_port else "no port"
        raise OSError(errno.EINVAL, f"descriptor {listen_fd} is bound to {wanted}")
    return sock
