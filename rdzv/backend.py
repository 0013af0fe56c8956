"""What an elastic rendezvous needs from a backend: one small document, replaced under fencing tokens.

A backend of your own has a name and two methods. It comes with a `rdzv.Store`, in which everything lives that is there
for each node. `sim.check.backend` puts any backend through what is promised here; `rdzv.c10d` is one.

The document is a header, a few hundred bytes and never more than 16 KiB, however many nodes there are. It is written
when a round begins or the rendezvous is closed, and not when a node joins, waits or shows that it is alive.

The store must be the same for all nodes that the backend brings together, and offer:

* ``set(key, value)``, ``get(key)``, ``multi_set(keys, values)``, ``multi_get(keys)``, ``delete_key(key)``;
* ``add(key, amount)``, which returns the sum, kept as decimal text;
* ``compare_set(key, expected, desired)``, which returns what is stored afterwards; an absent key matches an empty
  ``expected``;
* ``check(keys)``, which does not wait, and ``wait(keys, timeout)``, which does until all are there;
* ``clone()``, if a thread that waits holds up the others that use the same object, or if a request may take longer
  than a node may be silent: the clone is given a timeout of its own. A backend that uses the store itself can have a
  method ``over(store)``, which returns the same backend over the clone.

Each works as `rdzv.Store` says, and as `sim.check.store` demands. So all stores of upstream's will do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = ["RendezvousBackend", "Token"]

Token = Any
"""Stands for one version of a backend's document. Only the backend that made it knows what is in it."""


class RendezvousBackend(ABC):
    """Keeps the document of one rendezvous.

    Every write makes a new version, with a token of its own. A write names the version that it is to replace, and
    happens only if that is still the current one. So of all writers that have read the same version, one succeeds, and
    the others learn what it wrote. A token that was replaced never becomes current again: not when the same bytes are
    written a second time, nor when earlier ones return.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The backend's name, such as ``"c10d"``."""

    @abstractmethod
    def get_state(self) -> tuple[bytes, Token] | None:
        """Read the document.

        Returns:
            The document and its token; ``None`` if there is none yet.

        Raises:
            RendezvousConnectionError: The backend cannot be reached.
            RendezvousStateError: What is stored is no document.
        """

    @abstractmethod
    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        """Replace the document, if the token is that of the current version.

        Args:
            state: The document to write; it may be empty.
            token: What `get_state` or an earlier call returned; ``None`` to write only if there is no document yet.
                Whatever else is given is a token of no version, and so is that of another backend.

        Returns:
            The current document, its token, and whether this call has written it; ``None`` if there is no document,
            and none was written, since the token is of none that could be replaced.

        Raises:
            RendezvousConnectionError: The backend cannot be reached; the document may have been written.
            RendezvousStateError: What is stored is no document.
        """
