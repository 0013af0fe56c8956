"""N processes that know one endpoint string meet; each leaves with a rank, the world size and a shared store.

Where things are (each file says what it knows, and what it must not know)::

    errors                every error, in one tree
    endpoint  config      the two grammars: strict for our own handlers, compat for drop-in parsers
    parameters            what a user asks for
    handler  registry     the interface of a rendezvous, and how a backend's name becomes one
    static  static_errors
                          the rendezvous of a fixed world, in which rank 0 hosts and all wait for all; and how it fails
    elastic               the rendezvous of nodes that come and go: a handler over the rounds of ``core/``
    elastic_options  elastic_status  elastic_errors
                          what its user may set, may see, and reads when it fails
    driver  tending       its use of a store, and its thread that beats and watches
    bootstrap             the port that rank 0 of each round serves
    backend  c10d         the document that an elastic rendezvous turns on, and where it is kept
    events                what happens, as lines of a log and of JSON
    torch_plugin          torchrun's door to all this; alone in importing torch
    hosting               how a process hosts a store for the others
    store/                drivers: TCPStore, its server, PrefixStore, HashStore, FileStore
    core/                 what they drive: bytes, events and the time in; bytes, replies and the next deadline out
    net                   addresses, sockets, free ports
    utils                 upstream's helpers under upstream's names
    cli                   the command ``rdzv``
    _pytest               the door to the pytest plugin, which is `sim.pytest_plugin`

Importing this package imports none of that: every public name is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rdzv.backend import RendezvousBackend as RendezvousBackend
    from rdzv.c10d import C10dRendezvousBackend as C10dRendezvousBackend
    from rdzv.config import (
        parse_config as parse_config,
        parse_rendezvous_config as parse_rendezvous_config,
    )
    from rdzv.elastic import (
        DynamicRendezvousHandler as DynamicRendezvousHandler,
        RendezvousSettings as RendezvousSettings,
        RendezvousStatus as RendezvousStatus,
        RendezvousTimeout as RendezvousTimeout,
    )
    from rdzv.endpoint import (
        Endpoint as Endpoint,
        parse_rendezvous_endpoint as parse_rendezvous_endpoint,
    )
    from rdzv.errors import (
        ConfigError as ConfigError,
        ConnectTimeoutError as ConnectTimeoutError,
        DistError as DistError,
        DistNetworkError as DistNetworkError,
        DistStoreError as DistStoreError,
        EndpointError as EndpointError,
        QueueEmptyError as QueueEmptyError,
        RendezvousClosedError as RendezvousClosedError,
        RendezvousConnectionError as RendezvousConnectionError,
        RendezvousError as RendezvousError,
        RendezvousGracefulExitError as RendezvousGracefulExitError,
        RendezvousStateError as RendezvousStateError,
        RendezvousTimeoutError as RendezvousTimeoutError,
        StoreTimeoutError as StoreTimeoutError,
        TextError as TextError,
    )
    from rdzv.handler import (
        RendezvousHandler as RendezvousHandler,
        RendezvousInfo as RendezvousInfo,
        RendezvousStoreInfo as RendezvousStoreInfo,
    )
    from rdzv.net import (
        get_free_port as get_free_port,
        get_socket_with_port as get_socket_with_port,
    )
    from rdzv.parameters import RendezvousParameters as RendezvousParameters
    from rdzv.registry import (
        RendezvousHandlerCreator as RendezvousHandlerCreator,
        RendezvousHandlerRegistry as RendezvousHandlerRegistry,
        get_rendezvous_handler as get_rendezvous_handler,
        rendezvous_handler_registry as rendezvous_handler_registry,
    )
    from rdzv.static import StaticTCPRendezvous as StaticTCPRendezvous
    from rdzv.store import (
        FileStore as FileStore,
        HashStore as HashStore,
        PrefixStore as PrefixStore,
        Store as Store,
        StoreServer as StoreServer,
        TCPStore as TCPStore,
    )

_HOMES = {
    "rdzv.backend": ("RendezvousBackend",),
    "rdzv.c10d": ("C10dRendezvousBackend",),
    "rdzv.config": ("parse_config", "parse_rendezvous_config"),
    "rdzv.elastic": ("DynamicRendezvousHandler", "RendezvousSettings", "RendezvousStatus", "RendezvousTimeout"),
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
    "rdzv.store": ("FileStore", "HashStore", "PrefixStore", "Store", "StoreServer", "TCPStore"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]  # noqa: PLE0604


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
