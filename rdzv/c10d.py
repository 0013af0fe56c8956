"""The backend ``c10d``: the document of a rendezvous under one key of a store, over TCP or in a file.

Upstream's own backend reads what this one writes, and the other way round. The value under `head_key` is one of::

    Y2FuaW1hZGFt            nobody has written a document yet
    <base64>                the document
    <base64>:<nonce>        likewise; the nonce tells one write from another

The value is the token. Upstream has no nonce, so it takes any write of the same bytes for its own, cannot see that a
document was replaced and then put back, and can never replace an empty one. A nonce cures that. It consists of
characters that are not base64's, and which upstream's reader therefore skips. The first document has none, since
upstream's tests want its plain base64. What remains: if several write the same bytes when there is no document, each is
told that it has; who must know which one it was names the writer in the document.

`create_backend` opens the store: the process that finds the endpoint to be its own machine's hosts it.
"""

from __future__ import annotations

import logging
import os
import time
from base64 import b64decode, b64encode
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from rdzv import net
from rdzv.backend import RendezvousBackend, Token
from rdzv.endpoint import DEFAULT_PORT, Endpoint
from rdzv.errors import (
    DistError,
    DistNetworkError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousStateError,
    noted,
)
from rdzv.hosting import HOST_OPTIONS, SECONDS_MAX, HostOptions
from rdzv.store.base import DEFAULT_TIMEOUT
from rdzv.store.file import FileStore
from rdzv.store.tcp import TCPStore

if TYPE_CHECKING:
    from rdzv.elastic import DynamicRendezvousHandler
    from rdzv.parameters import RendezvousParameters
    from rdzv.store.base import Store

__all__ = [
    "BACKEND_OPTIONS",
    "DEFAULT_PORT",
    "NO_STATE",
    "C10dRendezvousBackend",
    "create_backend",
    "create_rdzv_handler",
    "decode_state",
    "encode_state",
    "head_key",
]

logger = logging.getLogger("rdzv.c10d")

BACKEND_OPTIONS = ("store_type", "read_timeout", "is_host", *HOST_OPTIONS)
"""The options that `create_backend` knows. It leaves others alone: they may be the handler's."""

READ_TIMEOUT_S = 60
NO_STATE = b"Y2FuaW1hZGFt"

_NONCE_BYTES = 8
_NONCE_DIGITS = b"#$%&()*,-.;<>?@["
_TO_NONCE = bytes.maketrans(b"0123456789abcdef", _NONCE_DIGITS)
_FAILED = "The connection to the C10d store has failed. See inner exception for details."  # upstream's tests pin these
_NO_FILE = "The file creation for C10d store has failed. See inner exception for details."


def head_key(run_id: str) -> str:
    """The key of a run's document.

    Raises:
        ValueError: The run id is empty.
    """
    if not run_id:
        raise ValueError("The run id must be a non-empty string.")
    return f"torch.rendezvous.{run_id}"


def encode_state(state: bytes, nonce: bytes = b"") -> bytes:
    """The value to store for a document.

    >>> encode_state(b"document"), encode_state(b"document", nonce=b"four")
    (b'ZG9jdW1lbnQ=', b'ZG9jdW1lbnQ=:***[,),%')

    Args:
        state: The document.
        nonce: What tells this write from all others; empty for the first document of a run.
    """
    value = b64encode(state)
    if nonce or value in (b"", NO_STATE):  # which would be taken for no token, and for no document
        value += b":" + nonce.hex().encode().translate(_TO_NONCE)
    return value


def decode_state(value: bytes) -> tuple[bytes, bytes] | None:
    """The document and the token that a stored value is; ``None`` if nobody has written a document yet.

    Raises:
        RendezvousStateError: The value is none that `encode_state` makes.
    """
    if value == NO_STATE:
        return None
    text, _, nonce = value.partition(b":")
    try:
        if text.startswith(b"="):  # of which Python 3.10 makes an empty document
            raise ValueError("padding of nothing")
        state = b64decode(text, validate=True)
    except ValueError as error:
        raise RendezvousStateError(f"a value that is no state: {value[:80]!r}: {error}") from error
    if nonce.strip(_NONCE_DIGITS):
        raise RendezvousStateError(f"a value that is no state: {value[:80]!r}: no nonce stands after its colon")
    return state, value


class C10dRendezvousBackend(RendezvousBackend):
    """A document in a store; the token is the stored value. It uses the store's `compare_set` alone, and never waits.

    Args:
        store: Where the document is, shared by the nodes.
        run_id: The job's name; not empty.

    Raises:
        ValueError: The run id is empty.
        RendezvousConnectionError: The store fails.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._key = head_key(run_id)
        self._has_seen_one = False  # a document
        self._read()

    @property
    def name(self) -> str:
        """The backend's name: ``c10d``."""
        return "c10d"

    def over(self, store: Store) -> C10dRendezvousBackend:
        """The same document, by way of another client of the same store, which is not asked yet."""
        other = copy(self)
        other._store = store  # noqa: SLF001
        return other

    def get_state(self) -> tuple[bytes, Token] | None:
        """As `RendezvousBackend.get_state`."""
        return self._decoded(self._read())

    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        """As `RendezvousBackend.set_state`."""
        if token and isinstance(token, bytes):
            expected, offered = token, encode_state(state, os.urandom(_NONCE_BYTES))
        else:
            # Nodes that begin together have seen no document yet: they offer theirs at once, without another look.
            current = self.get_state() if token or self._has_seen_one else None
            if current is not None:
                return *current, False
            if token:
                return None
            expected, offered = NO_STATE, encode_state(state)
        stored = self._compare_set(expected, offered)
        if stored == expected != offered:  # so a store answers when the key is absent: it lost what it had
            if token:  # that as well
                return None
            self._read()
            stored = self._compare_set(expected, offered)
        current = self._decoded(stored)
        return None if current is None else (*current, stored == offered)

    def _read(self) -> bytes:
        """The stored value. A plain `get` would wait for a key that is absent, and this makes it present."""
        return self._compare_set(b"", NO_STATE)

    def _compare_set(self, expected: bytes, desired: bytes) -> bytes:
        try:
            stored = self._store.compare_set(self._key, expected, desired)
        except (ValueError, RuntimeError, TimeoutError) as error:
            raise RendezvousConnectionError(
                f"the store failed with the state in {self._key!r}: {error}",
                endpoint=getattr(error, "endpoint", ""),
                waited_s=getattr(error, "waited_s", None),
            ) from error
        self._has_seen_one = stored != NO_STATE
        return stored

    def _decoded(self, value: bytes) -> tuple[bytes, Token] | None:
        try:
            return decode_state(value)
        except RendezvousStateError as error:
            raise RendezvousStateError(f"{self._key!r} holds {error}") from error


def create_backend(params: RendezvousParameters) -> tuple[C10dRendezvousBackend, Store]:
    """The backend that the parameters describe, and its store.

    The store is a `TCPStore` at the endpoint, ``host:port`` by the strict grammar, or a `FileStore` whose path the
    endpoint is. An empty endpoint is localhost, or a new temporary file. Options:

    * ``store_type``: ``tcp`` (default) or ``file``;
    * ``read_timeout``: for how long to try to reach the store, and its timeout afterwards, in whole seconds, 1 or more
      (default 60; for a file the store's own 300);
    * ``is_host``: whether this process hosts the store. If it is not given, it does where the endpoint's host is an
      address of this machine and nobody serves there yet;
    * ``bind``, ``listen_fd``, ``hosting``, ``linger_s``: how to host, as in `rdzv.static`; ``linger_s`` is what the
      store's owner passes to `TCPStore.close`.

    Raises:
        ValueError: An option or the endpoint is malformed (an `EndpointError` then), or the run id is empty.
        RendezvousConnectionError: The store cannot be hosted, reached or used; the cause says why.
        RendezvousError: There is no temporary file to be had.
    """
    store_type = str(params.get("store_type", "tcp")).strip().lower()
    if store_type not in ("tcp", "file"):
        raise ValueError("Invalid store type given. Currently only supports file and tcp.")
    store = _tcp_store(params) if store_type == "tcp" else _file_store(params)
    try:
        return C10dRendezvousBackend(store, params.run_id), store
    except BaseException:
        if isinstance(store, TCPStore):
            store.close()
        raise


def _read_timeout_s(params: RendezvousParameters) -> int:
    timeout_s = params.get_as_int("read_timeout", READ_TIMEOUT_S)
    if timeout_s is None or timeout_s < 1:
        raise ValueError("The read timeout must be a positive integer.")
    return min(timeout_s, SECONDS_MAX)


def _file_store(params: RendezvousParameters) -> FileStore:
    timeout = _read_timeout_s(params) if "read_timeout" in params.config else DEFAULT_TIMEOUT
    path = params.endpoint or _temporary_file()
    if not params.endpoint and params.max_nodes > 1:
        logger.warning("no other node knows the new file %s: give all of them one path as the endpoint", path)
    started_at = time.monotonic()
    try:
        return FileStore(path, timeout=timeout)
    except (ValueError, RuntimeError) as error:
        raise _failed(error, path, started_at) from error


def _temporary_file() -> str:
    import tempfile

    try:
        fd, path = tempfile.mkstemp(prefix="rdzv-")
    except OSError as error:
        raise RendezvousError(f"{_NO_FILE} ({error})") from error
    os.close(fd)
    return path


def _tcp_store(params: RendezvousParameters) -> TCPStore:
    endpoint = Endpoint.parse(params.endpoint, DEFAULT_PORT)
    is_host = params.get_as_bool("is_host")
    timeout_s = _read_timeout_s(params)
    options = HostOptions.parse(params)
    started_at = time.monotonic()
    try:
        if is_host is None:
            store = _host_or_join(endpoint, options, started_at + timeout_s)
        elif is_host:
            store = options.host(endpoint.host, endpoint.port, timeout_s)
        else:
            store = TCPStore(endpoint.host, endpoint.port, timeout=timeout_s)
    except (ValueError, RuntimeError, OSError) as error:
        raise _failed(error, str(endpoint), started_at) from error
    store.set_timeout(timeout_s)
    if store.hosts:
        logger.info("this process hosts the store of run %r at %s", params.run_id, endpoint)
        _warn_if_lonely(params, endpoint, store)
    return store


def _host_or_join(endpoint: Endpoint, options: HostOptions, deadline_at: float) -> TCPStore:
    """Of the processes on the endpoint's machine, whoever comes first hosts; all others join."""
    if net.when_known(lambda: net.is_local(endpoint.host, deadline_at), deadline_at, logger):
        try:
            return options.host(endpoint.host, endpoint.port, max(0.0, deadline_at - time.monotonic()))
        except DistError as error:
            why_not = f"this process cannot host it: {error}"
    else:
        why_not = (
            f"this machine does not host it, for {endpoint.host!r} is no address of its own; "
            "if it should, behind a service address or NAT, give it is_host=1 and bind=ADDRESS"
        )
    logger.info("joining the store at %s: %s", endpoint, why_not)
    try:
        return TCPStore(endpoint.host, endpoint.port, timeout=max(0.0, deadline_at - time.monotonic()))
    except DistError as error:
        raise DistNetworkError(f"{error}; {why_not}", endpoint=error.endpoint, waited_s=error.waited_s) from error


def _warn_if_lonely(params: RendezvousParameters, endpoint: Endpoint, store: TCPStore) -> None:
    """Say what keeps others away. A loopback address that is written out is meant: that is how one tests."""
    if params.max_nodes == 1 or params.get("bind") or params.get("listen_fd") is not None:
        return
    host, bound = endpoint.host, store.client.host
    is_name = not net.is_localhost(host) and net.numeric_address(host, 0) is None
    if not (params.endpoint or "").strip():
        reason = "no endpoint was given: give all nodes one"
    elif endpoint.port == 0 and params.get("is_host") is None:
        reason = f"nobody else knows that the system chose port {store.port}: give one that all nodes know"
    elif is_name and bound.startswith(("127.", "::1")):
        reason = f"this machine takes {host!r} for {bound}: give bind=ADDRESS, one that other nodes can reach"
    else:
        return
    logger.warning("other nodes cannot join the store at %s: %s", endpoint, reason)


def _failed(error: Exception, where: str, started_at: float) -> RendezvousConnectionError:
    logger.error("the store at %s: %s", where, error)  # for callers who show the text alone, which is upstream's
    waited_s = time.monotonic() - started_at
    failure = RendezvousConnectionError(_FAILED, endpoint=where, waited_s=waited_s)
    return noted(failure, f"the store at {where} failed after {waited_s:.1f} s")


def create_rdzv_handler(params: RendezvousParameters) -> DynamicRendezvousHandler:
    """The elastic handler over this backend; it owns the store. For the options see there and at `create_backend`.

    Raises:
        ValueError: As `rdzv.elastic.create_handler` and `create_backend`.
        RendezvousConnectionError: The store cannot be hosted or reached.
    """
    from rdzv.elastic import DynamicRendezvousHandler
    from rdzv.elastic_options import ElasticOptions, RendezvousSettings, check_options

    check_options(params, "c10d")
    settings, options = RendezvousSettings.parse(params), ElasticOptions.parse(params)
    backend, store = create_backend(params)
    return DynamicRendezvousHandler(settings, store, backend, replace(options, owns_store=isinstance(store, TCPStore)))
