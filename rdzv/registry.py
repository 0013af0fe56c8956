"""How a backend's name becomes a handler: those registered, those built in, and plug-ins of other distributions.

A plug-in is an entry point of the group ``torchrun.handlers``, whose name is the backend's and which resolves to a
function of no arguments that returns the creator. Nothing is looked for at import. Only when somebody asks for a name
that nobody registered are the installed distributions searched for it, and only what claims that very name is loaded:
no plug-in can slow down, or break, a job that does not ask for it.

The built-in backends are imported when they are first asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from rdzv.errors import noted
from rdzv.handler import RendezvousHandler
from rdzv.parameters import RendezvousParameters

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "RendezvousHandlerCreator",
    "RendezvousHandlerRegistry",
    "get_rendezvous_handler",
    "rendezvous_handler_registry",
]

_logger = logging.getLogger("rdzv")

RendezvousHandlerCreator = Callable[[RendezvousParameters], RendezvousHandler]
"""Makes a handler of one backend from parameters; it raises a ValueError for those that the backend refuses."""


class RendezvousHandlerRegistry:
    """Creators by the name of their backend. All methods may be called from any thread.

    Args:
        plugin_group: The group of entry points in which to look for a name that is not registered; empty for none.
    """

    def __init__(self, plugin_group: str = "") -> None:
        self._plugin_group = plugin_group
        # Apart, so that what is registered wins over a plug-in, whichever came first.
        self._creators: dict[str, RendezvousHandlerCreator] = {}
        self._plugins: dict[str, RendezvousHandlerCreator] = {}

    def register(self, backend: str, creator: RendezvousHandlerCreator) -> None:
        """Make a backend known. Registering the same creator again changes nothing.

        Args:
            backend: The backend's name; case matters.
            creator: Makes a handler of that backend from parameters.

        Raises:
            ValueError: The name is empty, or taken by another creator.
        """
        if not backend:
            raise ValueError("The rendezvous backend name must be a non-empty string.")
        holder = self._creators.setdefault(backend, creator)
        if holder != creator:
            raise ValueError(
                f"The rendezvous backend '{backend}' cannot be registered with '{creator}' "
                f"as it is already registered with '{holder}'."
            )

    def create_handler(self, params: RendezvousParameters) -> RendezvousHandler:
        """Make a handler of the backend that the parameters name.

        Raises:
            ValueError: Nobody registered the backend, and no plug-in provides it.
            RuntimeError: What the creator made is not a handler of that backend.
        """
        try:
            creator = self._creator_of(params.backend)
        except KeyError as error:
            problem = f"The rendezvous backend '{params.backend}' is not registered. Did you forget to call `register`?"
            raise noted(ValueError(problem), error.args[0]) from error
        handler: RendezvousHandler | None = creator(params)
        if handler is None:
            raise RuntimeError(f"The creator '{creator}' of the rendezvous backend '{params.backend}' made no handler.")
        backend = handler.get_backend()
        if backend != params.backend:
            _shut_down(handler)
            raise RuntimeError(
                f"The rendezvous backend '{backend}' does not match the requested backend '{params.backend}'."
            )
        return handler

    def _creator_of(self, backend: str) -> RendezvousHandlerCreator:
        for known in (self._creators, self._plugins):
            if backend in known:
                return known[backend]
        plugin = _load_plugin(self._plugin_group, backend) if self._plugin_group else None
        if plugin is None:
            raise KeyError(f"{backend!r} is none of {sorted({*self._creators, *self._plugins})}")
        # No lock: a plug-in is foreign code, and may itself ask. Threads that race agree on the first one's find.
        return self._plugins.setdefault(backend, plugin)


def _load_plugin(group: str, backend: str) -> RendezvousHandlerCreator | None:
    """The creator of the first distribution, in the order of their names, that claims the backend and delivers."""
    from importlib.metadata import entry_points

    found = [(_distribution_name(point), point) for point in entry_points(group=group, name=backend)]
    # Our own entry point is there for torchrun, which is to find us; here it would lead in a circle.
    claims = sorted((claim for claim in found if claim[0] != "rdzv"), key=lambda claim: (claim[0], claim[1].value))
    for distribution, point in claims:
        try:
            creator = _creator_from(point)
        except Exception:
            message = "the distribution %s failed to provide the rendezvous backend %r by %s"
            _logger.warning(message, distribution, backend, point.value, exc_info=True)
            continue
        if len(claims) > 1:
            message = "the rendezvous backend %r is claimed by the distributions %s: using %s of %s"
            names = ", ".join(name for name, _ in claims)
            _logger.warning(message, backend, names, point.value, distribution)
        return creator
    return None


def _distribution_name(point: EntryPoint) -> str:
    name = point.dist.name if point.dist else ""
    return name.lower().replace("_", "-")


def _creator_from(point: EntryPoint) -> RendezvousHandlerCreator:
    creator: RendezvousHandlerCreator = point.load()()
    if not callable(creator):
        raise TypeError(f"{point.value} returned {creator!r}, which is not a creator")
    return creator


def _shut_down(handler: RendezvousHandler) -> None:
    """Shut a rejected handler down; why it was rejected matters more than an error on the way."""
    try:
        handler.shutdown()
    except Exception:
        _logger.warning("the rejected handler %r failed to shut down", handler, exc_info=True)


def _create_static_handler(params: RendezvousParameters) -> RendezvousHandler:
    from rdzv.static import create_rdzv_handler

    return create_rdzv_handler(params)


def _create_c10d_handler(params: RendezvousParameters) -> RendezvousHandler:
    from rdzv.c10d import create_rdzv_handler

    return create_rdzv_handler(params)


rendezvous_handler_registry = RendezvousHandlerRegistry(plugin_group="torchrun.handlers")
"""The global registry: it has the built-in backends and the plug-ins; register those of your own here."""

rendezvous_handler_registry.register("static", _create_static_handler)
rendezvous_handler_registry.register("c10d", _create_c10d_handler)


def get_rendezvous_handler(params: RendezvousParameters) -> RendezvousHandler:
    """Make a handler of the backend that the parameters name, from the global registry.

    Raises:
        ValueError: Nobody registered the backend, and no plug-in provides it; or the backend refuses the parameters.
        RuntimeError: What the creator made is not a handler of that backend.
    """
    return rendezvous_handler_registry.create_handler(params)
