"""The store's errors as errors of the rendezvous: which run, where, what failed, and what to do about it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdzv import net
from rdzv.errors import DistNetworkError, RendezvousConnectionError, RendezvousError, RendezvousStateError
from rdzv.store.prefix import innermost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rdzv.store.base import Store

_ADVICE = "its host has died or is cut off: start it and the job again (`rdzv serve` hosts one apart from all nodes)"


@dataclass(frozen=True, slots=True)
class Errors:
    """Makes the errors of one run.

    Attributes:
        run_id: The run.
        store: Its store.
    """

    run_id: str
    store: Store

    @property
    def endpoint(self) -> str:
        """Where the store is: ``host:port``, a path, or nothing that can be named."""
        store = innermost(self.store)
        host, port = getattr(store, "host", None), getattr(store, "port", None)
        return net.join_host_port(host, port) if host and port else str(getattr(store, "path", ""))

    @contextlib.contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Errors of the store become errors of the rendezvous, which say what could not be done."""
        try:
            yield
        except DistNetworkError as error:
            raise self.translate(error, what) from error

    def translate(self, error: Exception, what: str) -> RendezvousError:
        """One error as an error of the rendezvous; if it is one, itself."""
        if isinstance(error, RendezvousError):
            return error
        reason = str(error) or type(error).__name__
        if isinstance(error, DistNetworkError):
            reason += f"; {_ADVICE}"
        lost = RendezvousConnectionError(
            f"run {self.run_id!r}: {what}: {reason}", waited_s=getattr(error, "waited_s", None)
        )
        self.locate(lost)
        return lost

    def elsewhere(self, pid: int) -> RendezvousError:
        """A handler is used in a fork of the process that made it, which has this number."""
        problem = f"this handler is that of process {pid}, and cannot be used in its forked child, which needs its own"
        return RendezvousStateError(f"run {self.run_id!r}: {problem}")

    def retold(self, failure: Exception, what: str) -> RendezvousError:
        """A new error for each time that the caller asks about what a thread of ours has failed of."""
        if not isinstance(failure, RendezvousError):
            return self.translate(failure, what)
        told = type(failure)(f"run {self.run_id!r}: {what}: {failure}", waited_s=failure.waited_s)
        self.locate(told)
        return told

    def locate(self, error: RendezvousError) -> None:
        """Say where the store is, if the error does not."""
        endpoint = self.endpoint
        error.endpoint = error.endpoint or endpoint
        if endpoint not in str(error):
            error.args = (f"{error} (the store is {endpoint})",)
