"""Every error that rdzv raises, in one tree per public family.

::

    ValueError
      TextError               a text we were given does not follow its grammar: code, position, hint, a caret
        EndpointError         an endpoint
        ConfigError           a configuration string
    Exception
      RendezvousError         the rendezvous failed; upstream's names
        RendezvousClosedError, RendezvousTimeoutError, RendezvousConnectionError,
        RendezvousStateError, RendezvousGracefulExitError
    RuntimeError
      DistError               the store failed; upstream's names
        DistNetworkError      the peer cannot be reached, went away, or does not speak the protocol
          ConnectTimeoutError   (also a TimeoutError) nobody answered in time
        DistStoreError        the store answered, and the answer is a failure
          StoreTimeoutError     (also a TimeoutError) a key did not appear in time
          QueueEmptyError       a pop that may not wait found nothing

Errors carry what they know as attributes, and survive pickling with them: an exception's ``__dict__`` travels along.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

_Error = TypeVar("_Error", bound=Exception)

__all__ = [
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
]


class TextError(ValueError):
    """A text does not follow its grammar.

    Attributes:
        code: The fault's stable name, such as ``"port-range"``.
        text: The text as it was given, untrimmed; of a password before an ``@``, asterisks.
        position: Where the fault is: a 0-based index into ``text`` in code points, or ``None`` if no place is to blame.
        hint: What to write instead, as one sentence without a full stop; may be empty.
    """

    kind = "text"

    def __init__(self, problem: str, *, code: str, text: str, position: int | None = None, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.code = code
        self.text = text
        self.position = position
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        lines = [f"{self.kind} {self.text!r}: {self.problem} [{self.code}]"]
        if self.position is not None:
            shown = _printable(self.text)
            lines += [f"  {shown}", "  " + " " * _columns(shown[: self.position]) + "^"]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


def _rebuild(cls: type[TextError], args: tuple[object, ...]) -> TextError:
    return cls.__new__(cls, *args)


def _printable(text: str) -> str:
    """The text with one visible character for each of its own, so that a caret below it points at the right one."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _columns(text: str) -> int:
    """How many columns of a terminal the text takes: wide characters take two, marks that combine take none."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    return sum(0 if category(char) in ("Mn", "Me") else 1 + (east_asian_width(char) in "WF") for char in text)


class EndpointError(TextError):
    """An endpoint that the strict grammar refuses."""

    kind = "endpoint"


class ConfigError(TextError):
    """A configuration string that the strict grammar refuses."""

    kind = "configuration"


class RendezvousError(Exception):
    """A rendezvous failed.

    Attributes:
        endpoint: Where the nodes were to meet, as text; empty if that does not matter.
        waited_s: For how long this node had waited, in seconds; ``None`` if it had not.
        missing: The ranks that were not there, in ascending order; empty if unknown.
    """

    def __init__(
        self, *args: object, endpoint: str = "", waited_s: float | None = None, missing: Iterable[int] = ()
    ) -> None:
        super().__init__(*args)
        self.endpoint = endpoint
        self.waited_s = waited_s
        self.missing = tuple(missing)


class RendezvousClosedError(RendezvousError):
    """The rendezvous is closed: nobody can join it any more."""


class RendezvousTimeoutError(RendezvousError):
    """The nodes did not all come in time."""


class RendezvousConnectionError(RendezvousError):
    """The store of the rendezvous cannot be hosted, cannot be reached, or was lost."""


class RendezvousStateError(RendezvousError):
    """The shared state of the rendezvous cannot be read, or contradicts itself."""


class RendezvousGracefulExitError(RendezvousError):
    """This node is not needed any more: a reason to stop, not a failure."""


class DistError(RuntimeError):
    """A store operation failed.

    Attributes:
        keys: The keys concerned, as the user wrote them; for a wait that timed out, those still missing.
        endpoint: The server's endpoint as text; empty for a store without a server.
        waited_s: For how long the call had waited, in seconds; ``None`` if it had not.
        applied: Whether the operation has taken effect: ``"no"``, ``"yes"`` or ``"unknown"``.
    """

    def __init__(
        self,
        *args: object,
        keys: Iterable[bytes | str] = (),
        endpoint: str = "",
        waited_s: float | None = None,
        applied: str = "no",
    ) -> None:
        super().__init__(*args)
        self.keys = tuple(keys)
        self.endpoint = endpoint
        self.waited_s = waited_s
        self.applied = applied


class DistNetworkError(DistError):
    """The store's server cannot be reached, went away, or does not speak the protocol."""


class ConnectTimeoutError(DistNetworkError, TimeoutError):
    """The store's server did not answer in time."""


class DistStoreError(DistError):
    """The store answered, and the answer is a failure."""


class StoreTimeoutError(DistStoreError, TimeoutError):
    """A key did not appear in time."""


class QueueEmptyError(DistStoreError):
    """A pop that may not wait found the queue empty."""


def noted(error: _Error, note: str) -> _Error:
    """The error, with a note below its message in a traceback: for messages that are upstream's to the last letter.

    Python 3.10 has no notes; there the cause alone tells.
    """
    if sys.version_info >= (3, 11):
        error.add_note(note)
    return error


def is_from_within(error: BaseException) -> bool:
    """Whether an error was not raised by what was called where it was caught, but by a Python function beneath that.

    For calls of the system, which have none: then it is of a signal's handler.
    """
    return error.__traceback__ is not None and error.__traceback__.tb_next is not None
