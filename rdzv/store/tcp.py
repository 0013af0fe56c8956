"""TCPStore: the API of a store on a server, and the server itself if this process hosts it.

A call that could block asks on the connection for commands first. So it sees every earlier write of this object, and a
value that is there costs one exchange; only what is missing is waited for, on a connection of its own.
"""

from __future__ import annotations

import math
import os
import struct
import time
import weakref
from typing import TYPE_CHECKING, Any

from rdzv.core import wire
from rdzv.core.wire import ADD, COMPARE_SET, GET  # for the hot ones, since that is one module less to look in
from rdzv.errors import DistNetworkError, QueueEmptyError, is_from_within
from rdzv.store.arrival import count_in
from rdzv.store.base import (
    DEFAULT_TIMEOUT,
    Deadline,
    Store,
    many,
    to_bytes,
    to_int64,
    to_keys,
    to_pairs,
    to_port,
    to_seconds,
    to_text,
)
from rdzv.store.client import StoreClient
from rdzv.store.connection import ANSWER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rdzv.core.wire import Reply, Request
    from rdzv.store.arrival import Flag
    from rdzv.store.base import Key, Timeout, Value
    from rdzv.store.host import Hosting, Server

_LOOK_S_MIN, _LOOK_S_MAX = 0.01, 0.5
_PING: Request = (wire.PING, 0)
_encode: Callable[[Any], bytes] = str.encode
_UNUSUAL = (TypeError, ValueError, StopIteration)  # a key or a value is no str, or the talk could not be entered
_NO_POP: Request = (wire.MULTI_GET, [])  # without a reply; if a push ended the wait, the server now wakes the next one


class TCPStore(Store):
    """A store on a server that speaks the protocol of c10d's TCPStore, ours or torch's.

    What a write promises: `set`, `append`, `multi_set` and `queue_push` have no reply in this protocol. Such a write is
    certain once a later call of this object that has a reply has returned (`flush` is the cheapest), or with
    ``sync=True``. If the connection is lost before that, the next call's error says how many writes may be lost.

    Making one connects, and hosts the server first if this is the master. Any number of threads may use one object; a
    thread that waits holds up no other. After a fork, the child's object connects anew when it is first used.

    Args:
        host_name: Whom to connect to, and what the master listens on: a name, or an address without brackets.
        port: 0 to 65535; 0 only for the master: the system chooses, and `port` tells.
        world_size: How many stores join, this one included; ``None`` or negative if that is not known.
        is_master: Whether to host the server in this process.
        timeout: For how long to try to connect, or to host, and the default of every later call.
        wait_for_workers: With a world size: count this store in, and let the master wait for all.
        multi_tenant: Share the server of another master of this process on the same port that said so too.
        master_listen_fd: The descriptor of a bound socket for the master to listen on, which takes it over.
        use_libuv: ``False`` if the server is torch's old one, which has no queues.
        hosting: Where the master's server lives: in a ``"thread"``, for a process that mostly waits, or in a
            ``"process"`` of its own, for one that computes.
        bind: What the master listens on if not on the host: an address of this machine, or a wildcard.
        listen_fd: As ``master_listen_fd``, but it stays the caller's: the master listens on a duplicate.
        spin: Whether to await a reply, and in a hosting process a request, awake for up to 100 us before sleeping.
        give_up: Asked before each try to connect, which takes 5 s for each silent address, and before a name that is
            to be listened on is asked for again: if true, the time is over.
        initial: What a server that this object starts holds before any client can ask.

    Raises:
        TypeError: An argument is of the wrong type, or the port is out of range.
        ValueError: The world size is 0, or the timeout is negative.
        DistNetworkError: The port is taken, nobody answers in time, or the peer is no store.
        DistStoreError: Not all workers came in time.

    Attributes:
        host: The host that it was given.
        port: The server's port.
        client: The connections, for procedures that ask for several things at once.
        libuvBackend: As it was given with ``use_libuv``.
    """

    def __init__(
        self,
        host_name: str,
        port: int,
        world_size: int | None = None,
        is_master: bool = False,
        timeout: Timeout = DEFAULT_TIMEOUT,
        wait_for_workers: bool = True,
        multi_tenant: bool = False,
        master_listen_fd: int | None = None,
        use_libuv: bool = True,
        *,
        hosting: Hosting = "thread",
        bind: str | None = None,
        listen_fd: int | None = None,
        spin: bool = True,
        give_up: Flag = None,
        initial: Mapping[Key, Value] | None = None,
    ) -> None:
        port = to_port(port)
        if not isinstance(host_name, str) or type(is_master).__name__ not in ("bool", "bool_"):  # the latter is numpy's
            raise TypeError(f"a host must be a str, and is_master a bool: not {host_name!r} and {is_master!r}")
        if world_size is not None and to_int64(world_size, "the world size") == 0:
            raise ValueError("TCPStore world size cannot be 0")
        self.host, self.libuvBackend, self._timeout_s = host_name, use_libuv, to_seconds(timeout)
        self._server: Server | None = None
        if is_master:
            from rdzv.store.host import host_for_all, release

            self._release = release  # a finalizer may close when nothing can be imported any more
            how: dict[str, Any] = {"shared": multi_tenant, "spin": spin, "initial": initial, "give_up": give_up}
            fd = listen_fd if master_listen_fd is None else master_listen_fd
            how |= {"timeout_s": self._timeout_s, "listen_fd": fd, "hosting": hosting}
            self._server = host_for_all(bind or host_name, port, **how)
            if self._server and master_listen_fd is not None:
                os.close(master_listen_fd)  # the server has a duplicate; who is to let go of the port is this store
            port = self._server.port if self._server else port
        elif port == 0:
            raise DistNetworkError("port 0 is for the master: a client must know the port", endpoint=f"{host_name}:0")
        self.port = port
        try:
            reach = self._server.local_host if self._server else host_name
            self.client = StoreClient(reach, port, self._timeout_s, spin=spin, give_up=give_up)
            if self._server:
                weakref.finalize(self, self.client.close)  # at exit before the server stops, or that would name it
            if world_size is not None and world_size > 0 and wait_for_workers:
                count_in(self.client, world_size, self._deadline(), awaits_all=self.hosts)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        server = f"TCPServer(port={self.port})" if self._server else "<nullptr>"
        return f"{type(self).__name__}(client={getattr(self, 'client', 'closed')}, server={server})"

    # What has no counterpart upstream

    @property
    def hosts(self) -> bool:
        """Whether the server lives with this object."""
        return self._server is not None

    def close(self, linger_s: float = 0.0) -> None:
        """Close the connections; a host then waits for the others to leave, for at most ``linger_s``, and stops."""
        if hasattr(self, "client"):
            self.client.close()
        server, self._server = self._server, None
        if server is not None:
            self._release(server, linger_s)

    def flush(self) -> None:
        """Make all earlier writes of this object certain, or raise the error that lost them."""
        self._ask([_PING])

    def reconnect(self, timeout: Timeout) -> None:
        """Connect anew if the connection was lost: for callers who know which of their requests may be made twice.

        Nothing does so by itself, since what was under way may or may not have happened, and the server that listens
        there now may be another one with other keys.

        Raises:
            ConnectTimeoutError: No store answered in time.
        """
        if (lost := self.client).has_ended():
            self.client = StoreClient(lost.host, self.port, to_seconds(timeout), spin=lost.spin)
            self.client.set_timeout(self._timeout_s)
            lost.close()

    # Upstream's methods

    def set_timeout(self, timeout: Timeout, /) -> None:
        """Change `timeout` for the calls to come."""
        super().set_timeout(timeout)
        self.client.set_timeout(self._timeout_s)

    def set(self, key: Key, value: Value, /, *, sync: bool = False) -> None:
        """Store a value. See the class for what a write promises; ``sync`` makes it certain."""
        self._write((wire.SET, b"/" + to_bytes(key), to_bytes(value, "value")), sync=sync)

    def append(self, key: Key, value: Value, /, *, sync: bool = False) -> None:
        """Store the value behind the one that is there. See the class for what a write promises."""
        self._write((wire.APPEND, b"/" + to_bytes(key), to_bytes(value, "value")), sync=sync)

    def multi_set(self, keys: Iterable[Key], values: Iterable[Value], /, *, sync: bool = False) -> None:
        """Store many values, all at once on our server. See the class for what a write promises.

        Raises:
            DistStoreError: There are more of one than of the other; nothing was sent.
        """
        items = [item for key, value in to_pairs(to_keys(keys), values) for item in (b"/" + key, value)]
        request: Request = (wire.MULTI_SET, items)
        self._ask([request, _PING] if sync else [request])

    def queue_push(self, key: Key, value: Value, /, *, sync: bool = False) -> None:
        """Put a value at the end of a queue. See the class for what a write promises."""
        self._need_queues()
        self._write((wire.QUEUE_PUSH, b"/" + to_bytes(key), to_bytes(value, "value")), sync=sync)

    def get(self, key: Key, /) -> bytes:
        """The value of a key, waiting for it if need be.

        Raises:
            StoreTimeoutError: It did not appear in time.
            DistNetworkError: The server is gone or silent.
        """
        name, began_at = b"/" + to_bytes(key), time.monotonic()
        if self.libuvBackend:  # its old server closes the connection of who reads what is not there
            value: bytes = self.client.ask_one((GET, name))
            if value:  # and not empty, so that it is certain to be there: one exchange for torch's two
                return value
        return self._get([name], Deadline(self._timeout_s, began_at))[0]

    def multi_get(self, keys: Iterable[Key], /) -> list[bytes]:
        """The values of the keys, waiting for all of them if need be.

        Raises:
            StoreTimeoutError: Not all appeared in time; the error names the missing ones.
            DistNetworkError: The server is gone or silent.
        """
        names, deadline = _wire_keys(keys), self._deadline()
        if self.libuvBackend and names and all(values := self.client.ask_one((wire.MULTI_GET, names))):
            return values  # type: ignore[no-any-return]
        return self._get(names, deadline)

    def wait(self, keys: Iterable[Key], timeout: Timeout | None = None, /) -> None:
        """Wait until all the keys are there.

        Raises:
            StoreTimeoutError: Not all appeared in time; the error names the missing ones.
            DistNetworkError: The server is gone or silent.
        """
        names, deadline = _wire_keys(keys), self._deadline(timeout)
        if self._ask([(wire.CHECK, names)], deadline) != [[0]]:
            self._await_keys(names, deadline, [_NO_POP])

    def add(self, key: Key, amount: int, /) -> int:
        """Add to the number at the key, 0 if missing, and return the sum; kept as decimal text.

        Raises:
            TypeError: The amount is no int of 64 bits.
            DistNetworkError: The value there is no number (the server then closes the connection), or it is gone.
        """
        try:
            return self.client.talk.send((ADD, b"/" + _encode(key), amount))  # type: ignore[no-any-return]
        except _UNUSUAL as error:
            if is_from_within(error):
                raise
        except struct.error:
            to_int64(amount)  # which says what is wrong with it
            raise
        return self.client.ask_one((ADD, b"/" + to_bytes(key), to_int64(amount)))  # type: ignore[no-any-return]

    def check(self, keys: Iterable[Key], /) -> bool:
        """Whether all the keys are there now; a queue that is not empty counts as well."""
        return not self.client.ask_one((wire.CHECK, _wire_keys(keys)))

    def compare_set(self, key: Key, expected: Value, desired: Value, /) -> bytes:
        """Store ``desired`` if the value is ``expected``. See `Store.compare_set` for what it returns."""
        try:
            request = COMPARE_SET, b"/" + _encode(key), _encode(expected), _encode(desired)
            return self.client.talk.send(request)  # type: ignore[no-any-return]
        except _UNUSUAL as error:
            if is_from_within(error):
                raise
        name, before, after = b"/" + to_bytes(key), to_bytes(expected, "value"), to_bytes(desired, "value")
        return self.client.ask_one((COMPARE_SET, name, before, after))  # type: ignore[no-any-return]

    def delete_key(self, key: Key, /) -> bool:
        """Forget a key; whether it was there. Waits that have seen it are not undone."""
        count: int = self.client.ask_one((wire.DELETE_KEY, b"/" + to_bytes(key)))
        return count > 0

    def num_keys(self) -> int:
        """How many keys the server has, those of barriers and of the counting of workers among them."""
        return int(self.client.ask_one((wire.GETNUMKEYS,)))

    def list_keys(self) -> list[str]:
        """The users' keys, in no particular order; a key that is no UTF-8 comes with surrogate escapes."""
        (reply,) = self._ask([(wire.LIST_KEYS,)])
        return [to_text(key[1:]) for key in reply if isinstance(key, bytes) and key.startswith(b"/")]

    def queue_pop(self, key: Key, block: bool = True) -> bytes:
        """Take the first value of a queue, waiting for one if ``block``.

        Raises:
            QueueEmptyError: There is none, and ``block`` is false. Or a key of that name has a value: the server would
                take the wait for one for that, and so it would end at once, again and again.
            StoreTimeoutError: None came in time.
        """
        self._need_queues()
        name, deadline = b"/" + to_bytes(key), self._deadline()
        requests: list[Request] = [(wire.QUEUE_POP, name), (wire.CHECK, [name])]
        (length, *values), ready = self._ask(requests, deadline)
        while not length:
            if not block or ready == [0]:
                shown = to_text(name[1:])
                reason = ", and cannot be waited for: a key of that name has a value" if block else ""
                raise QueueEmptyError(
                    f"the queue {shown!r} is empty{reason}", keys=[shown], endpoint=self.client.endpoint
                )
            (length, *values), ready = self._await_keys([name], deadline, requests)
        return values[0]  # type: ignore[return-value]

    def queue_len(self, key: Key, /) -> int:
        """How many values a queue holds."""
        self._need_queues()
        return int(self.client.ask_one((wire.QUEUE_LEN, b"/" + to_bytes(key))))

    def barrier(self, key: Key, world_size: int, timeout: Timeout | None = None) -> None:
        """Wait until ``world_size`` callers have come to this key. It serves once: take a new key for each round.

        Raises:
            StoreTimeoutError: The others did not come in time; this arrival stays counted.
        """
        name, number = b"/" + to_bytes(key), to_int64(world_size, "the world size")
        deadline = self._deadline(timeout)
        if self.client.wait((wire.BARRIER, name, number), deadline.at) is None:
            problem = f"fewer than {world_size} came to the barrier in the store at {self.client.endpoint}"
            raise deadline.missed([name[1:]], problem, self.client.endpoint, applied="yes")

    def clone(self) -> TCPStore:
        """A client of the same server with a connection and a timeout of its own."""
        ours = self.client
        store = TCPStore(ours.host, self.port, timeout=self._timeout_s, use_libuv=self.libuvBackend, spin=ours.spin)
        store.host = self.host  # which a host reaches at an address of its own
        return store

    def has_extended_api(self) -> bool:
        """True."""
        return True

    # Inside

    def _deadline(self, timeout: Timeout | None = None) -> Deadline:
        return Deadline(self._timeout_s if timeout is None else to_seconds(timeout))

    def _ask(self, requests: Sequence[Request], deadline: Deadline | None = None) -> list[Reply]:
        now = time.monotonic()
        deadline_at = now + self._timeout_s if deadline is None else deadline.at
        return self.client.ask(requests, max(deadline_at, now + ANSWER_S))

    def _write(self, request: Request, *, sync: bool) -> None:
        if sync:
            self._ask([request, _PING])
        else:
            self.client.ask_one(request)

    def _get(self, names: list[bytes], deadline: Deadline) -> list[bytes]:
        """The values of keys of which some seem to be missing: on all but torch's old server, by a look at them."""
        check: Request = (wire.CHECK, names)
        read: Request = (wire.MULTI_GET, names) if len(names) != 1 else (wire.GET, names[0])
        requests = [check, read] if self.libuvBackend else [check]
        ready, *values = [[1]] if self.libuvBackend and names else self._ask([check], deadline)
        while True:
            if ready == [0]:
                values = values or self._ask([read], deadline)
                found = [value for reply in values for value in reply if isinstance(value, bytes)]
                if all(found) or self._ask([check], deadline) == [[0]]:
                    return found  # an empty value may also be a key that was deleted between the two requests
            ready, *values = self._await_keys(names, deadline, requests)

    def _await_keys(self, names: list[bytes], deadline: Deadline, then: Sequence[Request]) -> list[Reply]:
        """Wait for keys that were not there a moment ago; the replies to what is asked once they are."""
        # Torch's old server does not tell of keys that a compare_set has made: there, look by ourselves now and then.
        look_s = math.inf if self.libuvBackend else _LOOK_S_MIN
        while True:
            if slice_s := min(deadline.left_s, look_s):
                until, began_at = time.monotonic() + slice_s, deadline.began_at
                if (replies := self.client.wait((wire.WAIT, names), until, then=then, began_at=began_at)) is not None:
                    return replies
            checks = self._ask([(wire.CHECK, [name]) for name in names], deadline)
            missing = [name for name, reply in zip(names, checks, strict=True) if reply != [0]]
            if not missing:
                return self._ask(then, deadline)  # it came at the last moment, or torch's server has not told
            if not deadline.left_s:
                problem = f"still missing in the store at {self.client.endpoint}"
                raise deadline.missed([name[1:] for name in missing], problem, self.client.endpoint)
            look_s = min(_LOOK_S_MAX, 2 * look_s)

    def _need_queues(self) -> None:
        if not self.libuvBackend:
            raise NotImplementedError("torch's old store server has no queues")


def _wire_keys(keys: Iterable[Key]) -> list[bytes]:
    return [b"/" + to_bytes(key) for key in many(keys)]
