"""torchrun's door to the elastic rendezvous: ``torchrun --rdzv-backend=rdzv --rdzv-endpoint=HOST:PORT train.py``.

torch finds `creator` by the entry point ``rdzv`` of the group ``torchrun.handlers``, and loads this module whenever
its elastic package is imported; so the rendezvous itself is imported only when somebody asks for it. All that is here
turns our types into torch's: the handler, what it returns, what it raises, and the store.

The agent's store is a subclass of torch's `Store` over the client that the handler has already. A second client, of
torch's own kind, would be one more that the host of the store waits for at the end, and would hang for ever where a
server accepts and does not answer. torch's C++ code can use the subclass as well.

This is the only file of the package that imports torch. `rdzv.elastic` is what it adapts.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rdzv import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from rdzv.elastic import DynamicRendezvousHandler
    from rdzv.store.base import Store


def create_agent_handler(params: api.RendezvousParameters) -> AgentHandler:
    """A handler for torchrun's agent; for the options see `rdzv.c10d.create_rdzv_handler`.

    Raises:
        ValueError: The endpoint or an option is malformed or unknown; the text says where, and what would do.
        api.RendezvousConnectionError: The store cannot be hosted or reached.
    """
    from rdzv.c10d import create_rdzv_handler
    from rdzv.parameters import RendezvousParameters

    ours = RendezvousParameters(
        params.backend,
        params.endpoint,
        params.run_id,
        params.min_nodes,
        params.max_nodes,
        params.local_addr,
        **params.config,
    )
    with _errors_of_torch():
        return AgentHandler(params.backend, create_rdzv_handler(ours))


def creator() -> Callable[[api.RendezvousParameters], AgentHandler]:
    """What the entry point names: torch calls it, and registers what it returns."""
    return create_agent_handler


# Not before these two: torch's elastic package looks for them as it is imported, also if that happens here.
import torch.distributed as dist  # noqa: E402
from torch.distributed.elastic.rendezvous import api  # noqa: E402

__all__ = ["AgentHandler", "AgentStore", "create_agent_handler", "creator"]

logger = logging.getLogger("rdzv.torch")

_OF_TORCH: dict[type, type[Exception]] = {
    getattr(errors, name): getattr(module, name)
    for module in (api, dist)
    for name in errors.__all__
    if hasattr(module, name)
}
_FINISHED = "torchelastic/agent/terminal_state/num_members"  # torch's agents count themselves in where they end
_RECONNECT_S = 1.0  # the agent also has to look after its workers


@contextmanager
def _errors_of_torch() -> Iterator[None]:
    """Raise our errors as those of torch that have the same name."""
    try:
        yield
    except (errors.RendezvousError, errors.DistError) as error:
        text, cause = str(error), error.__cause__
        if cause and str(cause) not in text:
            text = f"{text} ({cause})"
        kind = next(_OF_TORCH[ours] for ours in type(error).__mro__ if ours in _OF_TORCH)
        raise kind(text) from error


class AgentStore(dist.Store):  # type: ignore[misc]  # torch's types are not checked here
    """A store of ours as one of torch's. Its methods are those of `rdzv.Store`, and raise torch's errors."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    @property
    def timeout(self) -> timedelta:
        """For how long an operation waits."""
        return self._store.timeout

    def clone(self) -> AgentStore:
        """The same store, for another thread."""
        return AgentStore(self._store.clone())


def _call_of(name: str) -> Callable[..., Any]:
    def call(store: AgentStore, *args: Any, **options: Any) -> Any:
        with _errors_of_torch():
            return getattr(store._store, name)(*args, **options)  # noqa: SLF001 -- a method of that class

    return call


for _name in (
    *("set", "get", "add", "append", "check", "compare_set", "delete_key", "multi_get", "multi_set", "wait"),
    *("num_keys", "list_keys", "queue_push", "queue_pop", "queue_len", "barrier", "set_timeout", "has_extended_api"),
):
    setattr(AgentStore, _name, _call_of(_name))


class AgentHandler(api.RendezvousHandler):  # type: ignore[misc]  # as above
    """A handler of ours as one of torch's.

    Args:
        backend: The name under which the agent knows it.
        handler: What it adapts.
    """

    def __init__(self, backend: str, handler: DynamicRendezvousHandler) -> None:
        self._backend, self._handler = backend, handler
        self._store: AgentStore | None = None  # that of the present round

    def get_backend(self) -> str:
        """The backend's name."""
        return self._backend

    def get_run_id(self) -> str:
        """The id of the job."""
        return self._handler.get_run_id()

    @property
    def use_agent_store(self) -> bool:
        """Whether a fresh store for the workers is served at the address of the bootstrap info."""
        return self._handler.use_agent_store

    def next_rendezvous(self) -> api.RendezvousInfo:
        """Meet the other agents.

        Raises:
            SystemExit: With status 0, if the job has ended while this agent waited as a spare or for its first round.
                It is not needed; torch's own error for this, RendezvousGracefulExitError, makes its launcher fail.
            api.RendezvousError: As `rdzv.elastic.DynamicRendezvousHandler.next_rendezvous`, in torch's classes.
        """
        with _errors_of_torch():
            is_newcomer = self._store is None and not self._handler.is_closed()
            try:
                info = self._handler.next_rendezvous()
            except (errors.RendezvousClosedError, errors.RendezvousGracefulExitError) as error:
                if is_newcomer or isinstance(error, errors.RendezvousGracefulExitError):
                    logger.warning("this agent is not needed: %s", error)
                    raise SystemExit(0) from error
                hint = "a new job needs an id of its own (--rdzv-id), or --rdzv-conf=reopen=1 to open this one again"
                raise errors.RendezvousClosedError(f"{error}; {hint}") from error
        self._store = AgentStore(info.store)
        bootstrap = info.bootstrap_store_info
        address = api.RendezvousStoreInfo(bootstrap.master_addr, bootstrap.master_port)
        return api.RendezvousInfo(self._store, info.rank, info.world_size, address)

    def is_closed(self) -> bool:
        """Whether the job is known to be closed."""
        with _errors_of_torch():
            return self._handler.is_closed()

    def set_closed(self) -> None:
        """Close the job for all agents."""
        with _errors_of_torch():
            self._handler.set_closed()

    def num_nodes_waiting(self) -> int:
        """For how many nodes the agent should restart its workers; none once an agent's workers have finished.

        Such an agent waits for the others to finish too, and looks at nothing else: a next round would wait for it.
        """
        with _errors_of_torch():
            waiting = self._handler.num_nodes_waiting()
        return 0 if waiting and self._store and self._may_be_finishing(self._store) else waiting

    @staticmethod
    def _may_be_finishing(store: AgentStore) -> bool:
        """Whether an agent's workers have finished, or that cannot be told now; the agent asks again soon."""
        try:
            return store.check([_FINISHED])  # type: ignore[no-any-return]
        except dist.DistNetworkError:
            from rdzv.store.prefix import innermost

            # A connection that nobody used for long was lost; nothing of the agent's was under way. If its host is
            # gone, the handler is to tell: it looks for as long as a node may be silent.
            with suppress(errors.DistNetworkError):
                innermost(store._store).reconnect(_RECONNECT_S)  # noqa: SLF001 -- of this module's own class
            return True

    def shutdown(self) -> bool:
        """Leave; the others go on, and are told whether this agent has failed."""
        error = sys.exc_info()[1]  # the launcher calls this while it passes the agent's failure on
        has_failed = isinstance(error, Exception)
        reason = f"its agent has failed: {type(error).__name__}" if has_failed else "its agent has finished"
        with _errors_of_torch():
            return self._handler.shutdown(reason)
