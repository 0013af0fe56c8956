"""Stores: what processes share, and the drivers that bring the core to sockets, threads and clocks.

::

    base        the interface, under upstream's names, and its arguments
    prefix      a part of another store
    tcp         the store on a server, and where that lives if this process hosts it
    client      what asks there, for all threads of a process, over one connection and one more for each wait
    arrival     how it comes to the server
    connection  one of these: a socket around `rdzv.core.client`
    loss        how it ends, and what is said of that
    server      the server's loop around `rdzv.core.server`, and the server in a thread
    bound       what it listens on
    poller      how the server hears who has news
    host        the server in a process of its own
    hash        a store inside one process
    file        a store in a file; `log` is that file
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rdzv.store.base import Store
from rdzv.store.prefix import PrefixStore
from rdzv.store.server import StoreServer
from rdzv.store.tcp import TCPStore

if TYPE_CHECKING:
    from rdzv.store.file import FileStore
    from rdzv.store.hash import HashStore

__all__ = ["FileStore", "HashStore", "PrefixStore", "Store", "StoreServer", "TCPStore"]

_LATER = {"FileStore": "rdzv.store.file", "HashStore": "rdzv.store.hash"}  # a process of a job hardly has one


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
