"""N processes that know one endpoint string meet; each leaves with a rank, the world size and a shared store.

Where things are (each file says what it knows, and what it must not know)::

    errors                every error, in one tree
    endpoint  config      the two grammars: strict for our own handlers, compat for drop-in parsers
    parameters            what a user asks for
    handler  registry     the interface of a rendezvous, and how a backend's name becomes one
    static                the rendezvous of a fixed world: rank 0 hosts, all wait for all
    store/                drivers: TCPStore, its server, PrefixStore, HashStore, FileStore
    core/                 what they drive: bytes, events and the time in; bytes, replies and the next deadline out
    net                   addresses, sockets, free ports
    utils                 upstream's helpers under upstream's names
    cli                   the command ``rdzv``

Importing this package imports none of that: every public name is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rdzv.config import parse_config, parse_rendezvous_config
    from rdzv.endpoint import Endpoint, parse_rendezvous_endpoint
    from rdzv.errors import (
        ConfigError,
        ConnectTimeoutError,
        DistError,
        DistNetworkError,
        DistStoreError,
        EndpointError,
        QueueEmptyError,
        RendezvousClosedError,
        RendezvousConnectionError,
        RendezvousError,
        RendezvousGracefulExitError,
        RendezvousStateError,
        RendezvousTimeoutError,
        StoreTimeoutError,
        TextError,
    )
    from rdzv.handler import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo
    from rdzv.net import get_free_port, get_socket_with_port
    from rdzv.parameters import RendezvousParameters
    from rdzv.registry import (
        RendezvousHandlerCreator,
        RendezvousHandlerRegistry,
        get_rendezvous_handler,
        rendezvous_handler_registry,
    )
    from rdzv.static import StaticTCPRendezvous
    from rdzv.store import PrefixStore, Store, StoreServer, TCPStore

_HOMES = {
    "rdzv.config": ("parse_config", "parse_rendezvous_config"),
    "rdzv.endpoint": ("Endpoint", "parse_rendezvous_endpoint"),
    "rdzv.errors": (
        "ConfigError",
        "ConnectTimeoutError",
        "DistError",
        "DistNetworkError",
        "DistStoreError",
        "EndpointError",
        "QueueEmptyError",
        "RendezvousClosedError",
        "RendezvousConnectionError",
        "RendezvousError",
        "RendezvousGracefulExitError",
        "RendezvousStateError",
        "RendezvousTimeoutError",
        "StoreTimeoutError",
        "TextError",
    ),
    "rdzv.handler": ("RendezvousHandler", "RendezvousInfo", "RendezvousStoreInfo"),
    "rdzv.net": ("get_free_port", "get_socket_with_port"),
    "rdzv.parameters": ("RendezvousParameters",),
    "rdzv.registry": (
        "RendezvousHandlerCreator",
        "RendezvousHandlerRegistry",
        "get_rendezvous_handler",
        "rendezvous_handler_registry",
    ),
    "rdzv.static": ("StaticTCPRendezvous",),
    "rdzv.store": ("PrefixStore", "Store", "StoreServer", "TCPStore"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]  # noqa: PLE0604 -- the names are all strings; a test compares them with the imports above


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME_OF:
        try:  # rdzv.static, rdzv.store and the other modules, without importing them first
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
