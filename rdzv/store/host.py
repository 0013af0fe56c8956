"""Where a store's server lives: in a thread of this process, in a process of its own, or with another store's.

`StoreProcess` starts a fresh interpreter that inherits the bound sockets, so the port is known before the process runs.
A control socket ties the two together: the server stops when told to over it, and at once when its owner dies, since
the socket then ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import weakref
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from rdzv import net
from rdzv.core.wire import Limits
from rdzv.errors import ConnectTimeoutError, DistNetworkError
from rdzv.store.base import to_bytes
from rdzv.store.bound import bound_sockets
from rdzv.store.server import SPIN_S, Listener, StoreServer

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

    from rdzv.store.arrival import Flag
    from rdzv.store.base import Key, Value

    Hosting = Literal["thread", "process"]

logger = logging.getLogger("rdzv.store")

_LOG_LINES_MAX = 1000  # that wait to be written; what comes beyond them is counted
_LOG_END_S = 1.0  # how long a log that is not read may hold up the end of the process
_START_S = 30.0  # a fresh interpreter takes 0.05 s; a machine under load may be a hundred times slower
_STREAMS = 3  # the standard ones of a process
_STOP_S = 1.0  # what a process that is told to stop may take before it is killed


class StoreProcess:
    """A store's server in a process of its own. It does not wait for this process's interpreter lock.

    It serves from construction until `stop`, until this object is collected, or until this process dies.

    Attributes:
        host: The host that it was given.
        local_host: An address at which this machine itself reaches it.
        port: The port that it listens on, never 0.
        endpoint: Both, as ``host:port``.
        pid: The server's process id.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        listen_fd: int | None = None,
        limits: Limits | None = None,
        timeout_s: float = 30.0,
        spin: bool = True,
        initial: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Bind, start the process and wait until it serves.

        The arguments and the errors are those of `StoreServer`; the process's start, behind the look-up of a name, may
        take ``timeout_s`` as well. With ``spin`` it awaits the next request of a few busy clients awake, for 50 us.
        """
        sockets = bound_sockets(host, port, listen_fd, timeout_s)
        self.host = host
        self.local_host, self.port = net.local_address(sockets[0])
        self.endpoint = net.join_host_port(host, self.port)
        texts = [[key.decode("latin-1"), value.decode("latin-1")] for key, value in (initial or {}).items()]
        ours, theirs = socket.socketpair()
        try:
            self._process = _started(sockets, theirs, self.endpoint, asdict(limits or Limits()), spin, texts)
            self._await_start(ours, max(0.001, min(_START_S, timeout_s)))
        except BaseException:
            ours.close()
            if hasattr(self, "_process"):
                self._process.kill()
                self._process.wait(_STOP_S)
            raise
        self.pid = self._process.pid
        _of_this_process.add(ours)
        self._control = ours
        self._finalizer = weakref.finalize(self, _stop, ours, self._process, 0.0)

    def _await_start(self, control: socket.socket, timeout_s: float) -> None:
        control.settimeout(timeout_s)
        try:
            has_started = control.recv(1) == b"+"
        except TimeoutError as error:
            problem = f"the process to serve {self.endpoint} did not start within {timeout_s:g} s"
            raise TimeoutError(errno.ETIMEDOUT, problem) from error
        if not has_started:
            raise OSError(f"the process to serve {self.endpoint} ended with status {self._process.wait(_STOP_S)}")

    def stop(self, linger_s: float = 0.0) -> None:
        """Wait for the clients to leave, serving them as before, for at most ``linger_s``, then close."""
        if self._finalizer.detach():
            _stop(self._control, self._process, linger_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoint} {'up' if self._finalizer.alive else 'stopped'}>"


def _started(sockets: Sequence[socket.socket], control: socket.socket, *orders: object) -> subprocess.Popen[bytes]:
    """The process to serve on these sockets, which are its own from then on, as the control socket is."""
    import fcntl  # here, as the others: a host in a thread needs none of them, and has others wait for it
    import subprocess
    from pathlib import Path

    fds = []
    home = str(Path(__file__).parents[2])
    program = f"import sys; sys.path.append({home!r}); from rdzv.store.host import main; main()"
    with control, contextlib.ExitStack() as handed_over:
        for sock in sockets:
            handed_over.enter_context(sock)
        for sock in sockets:
            # Not where its standard streams will be: their numbers are free if we were started without them.
            fds.append(fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, _STREAMS))
            handed_over.callback(os.close, fds[-1])
        return subprocess.Popen(
            [sys.executable, "-S", "-I", "-c", program, json.dumps([fds, *orders])],
            stdin=control.fileno(),
            stdout=subprocess.DEVNULL,
            pass_fds=fds,
            start_new_session=True,  # a Ctrl-C meant for the ranks must not take the store from under them
        )


Server = StoreServer | StoreProcess

_tenants: weakref.WeakValueDictionary[int, Server] = weakref.WeakValueDictionary()
_tenants_lock = threading.Lock()  # of two that come at the same time, one hosts and the other shares


def host_store(
    host: str,
    port: int,
    *,
    listen_fd: int | None,
    hosting: Hosting,
    timeout_s: float,
    shared: bool = False,
    spin: bool = True,
    initial: Mapping[Key, Value] | None = None,
) -> Server:
    """A server, or with ``shared`` the one of this process that is shared on that port already.

    Raises:
        ValueError: There is no such hosting.
        OSError: As `rdzv.store.server.StoreServer`.
    """
    if hosting not in ("thread", "process"):
        raise ValueError(f"a store is hosted in a 'thread' or in a 'process', not in a {hosting!r}")
    kind = partial(StoreProcess, spin=spin) if hosting == "process" else StoreServer
    held = {b"/" + to_bytes(key): to_bytes(value, "value") for key, value in (initial or {}).items()}
    start = partial(kind, host, port, listen_fd=listen_fd, timeout_s=timeout_s, initial=held)
    if not shared:
        return start()
    if not _tenants_lock.acquire(timeout=timeout_s):
        raise OSError(errno.ETIMEDOUT, "another thread has been starting a shared store for too long")
    try:
        server = _tenants.get(port)
        if server is None:
            server = start()
            _tenants[server.port] = server
        return server
    finally:
        _tenants_lock.release()


def host_for_all(host: str, port: int, *, timeout_s: float, give_up: Flag = None, **how: Any) -> Server | None:
    """As `host_store`, once the host's name is known.

    Returns:
        The server; ``None`` if the launcher says that it serves a store on this port itself, for all to use.

    Raises:
        ConnectTimeoutError: The name of the host was not known in time.
        DistNetworkError: The address is taken or is not of this machine.
    """
    began_at = time.monotonic()
    deadline_at = began_at + timeout_s

    def host_it() -> Server | None:
        try:
            return host_store(host, port, timeout_s=max(0.0, deadline_at - time.monotonic()), **how)
        except OSError:
            if _agent_serves(port):
                return None
            raise

    try:
        return net.when_known(host_it, deadline_at, logger, give_up)
    except OSError as error:
        where = net.join_host_port(host, port)
        reason = error.strerror or error
        if isinstance(error, (socket.gaierror, TimeoutError)):  # upstream listens anywhere, and so its client fails
            waited_s = time.monotonic() - began_at
            problem = (
                f"the client socket has timed out after {waited_s:.1f} s: no store can listen at {where}: {reason}"
            )
            raise ConnectTimeoutError(problem, endpoint=where, waited_s=waited_s) from error
        problem = f"The server socket has failed to listen on any local network address of {where}: {reason}"
        raise DistNetworkError(problem, endpoint=where) from error


def _agent_serves(port: int) -> bool:
    """Whether the launcher says so, in one of the words that torch takes."""
    from rdzv.parameters import TRUE_WORDS

    said = os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "")
    return said.lower() in TRUE_WORDS and os.environ.get("MASTER_PORT") == str(port)


def release(server: Server, linger_s: float) -> None:
    """Stop a server that one store lets go of, unless other stores may share it; then the last reference stops it."""
    if _tenants.get(server.port) is not server:
        server.stop(linger_s)


def _stop(control: socket.socket, process: subprocess.Popen[bytes], linger_s: float) -> None:
    import subprocess

    has_stopped = False
    with control, contextlib.suppress(OSError):
        control.sendall(f"{linger_s}\n".encode())
        control.shutdown(socket.SHUT_WR)
        control.settimeout(linger_s + _STOP_S)
        has_stopped = not control.recv(1)  # the end of the stream
    try:
        process.wait(_STOP_S if has_stopped else 0.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_S)


_of_this_process: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked child must not keep its parent's server alive by holding the control socket, nor share it as its own."""
    global _tenants, _tenants_lock  # whoever had the lock is not here
    for control in list(_of_this_process):
        control.close()
    _tenants, _tenants_lock = weakref.WeakValueDictionary(), threading.Lock()


os.register_at_fork(after_in_child=_let_go_in_child)


def main() -> None:
    """The program of the process: serve until told to stop, or until the owner is gone."""
    _set_up_process()
    fds, endpoint, limits, spin, texts = json.loads(sys.argv[1])
    control = socket.socket(fileno=os.dup(0))
    sockets = [socket.socket(fileno=fd) for fd in fds]
    initial = {key.encode("latin-1"): value.encode("latin-1") for key, value in texts}
    listener = Listener(endpoint, sockets, Limits(**limits), SPIN_S if spin else 0.0, initial)
    threading.Thread(target=_obey, args=(control, listener), daemon=True).start()
    with contextlib.suppress(OSError):  # the owner is gone already: `_obey` sees that too, and ends what is served
        control.sendall(b"+")
    listener.serve()


def serve(
    host: str,
    port: int,
    *,
    listen_fd: int | None,
    limits: Limits,
    spin: bool,
    linger_s: float,
    on_ready: Callable[[int], None],
) -> None:
    """Serve a store in the foreground, until SIGINT, SIGTERM or SIGHUP: the command ``rdzv serve``.

    Args:
        host: What to listen on.
        port: 0 to 65535; with 0 the system chooses.
        listen_fd: The descriptor of a bound socket to listen on instead; it is duplicated.
        limits: How much the store holds.
        spin: Whether to await the next request of a few busy clients without sleeping, for a moment.
        linger_s: For how long to wait for the clients to leave, once a signal has come, in seconds.
        on_ready: Is called with the port when clients can connect.

    Raises:
        OSError: As `rdzv.store.server.StoreServer`.
    """
    _set_up_process()
    sockets = bound_sockets(host, port, listen_fd, _START_S)
    port = sockets[0].getsockname()[1]
    listener = Listener(net.join_host_port(host, port), sockets, limits, SPIN_S if spin else 0.0)
    lingers = iter((linger_s,))  # a second signal ends it at once
    has_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signums = (signal.SIGINT, signal.SIGTERM, *(() if has_nohup else (signal.SIGHUP,)))

    def end(*_: object) -> None:
        signal.set_wakeup_fd(-1)  # the listener will close it
        listener.stop(next(lingers, 0.0))

    for signum in signums:
        signal.signal(signum, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signums)  # who started us may have blocked them
    signal.set_wakeup_fd(listener.waker, warn_on_full_buffer=False)  # one just before a wait would not end that
    with contextlib.closing(listener):
        on_ready(port)
        listener.serve()


class _Log(logging.Handler):
    """Writes to stderr from a thread of its own: nobody is served worse because nobody reads the log."""

    def __init__(self) -> None:
        super().__init__()
        from queue import SimpleQueue

        self._lines: SimpleQueue[str] = SimpleQueue()
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="rdzv-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() >= _LOG_LINES_MAX:
            self._lost += 1
            return
        if self._lost:
            self._lines.put(f"rdzv.store: {self._lost} lines of this log were lost: it is not read\n")
            self._lost = 0
        self._lines.put(f"{self.format(record)}\n")

    def close(self) -> None:
        """At exit: write what is left, if it is read."""
        self._lines.put("")
        self._thread.join(_LOG_END_S)
        super().close()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # the reader is gone
            while line := self._lines.get():
                data = line.encode(errors="backslashreplace")
                while data:
                    data = data[os.write(2, data) :]


def _set_up_process() -> None:
    """Log to stderr, and allow as many connections as the system lets this process have."""
    import resource

    while (fd := os.open(os.devnull, os.O_RDWR)) < _STREAMS:  # or a client would be sent the log in place of stderr
        pass
    os.close(fd)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING, handlers=[_Log()])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems name a limit that they do not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _obey(control: socket.socket, listener: Listener) -> None:
    """Wait for the order to stop; the end of the owner, however it came, is one."""
    linger_s = 0.0
    try:
        linger_s = float(control.makefile("rb").readline())
    except (OSError, ValueError):
        pass
    finally:
        listener.stop(linger_s)
