"""What a user asks of a rendezvous: which backend, where and under which id to meet, how many nodes, further options.

A value, checked once. It does not know which options a backend has, nor the grammars of what it carries: the endpoint
stays text here (`rdzv.endpoint` reads it), and options stay as given until a backend asks for them as a number or a
truth. `rdzv.registry` turns parameters into a handler.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RendezvousParameters"]

_T = TypeVar("_T")

TRUE_WORDS = ("1", "true", "t", "yes", "y")
_FALSE_WORDS = ("0", "false", "f", "no", "n")


class RendezvousParameters:
    """The parameters of one node's handler; equal if all of them are.

    Each argument is an attribute of the same name.

    Args:
        backend: The backend's name, such as ``"static"``; not empty.
        endpoint: Where the nodes meet, usually ``host:port``; the backend says whether it may be empty.
        run_id: The id of the job, the same on all of its nodes.
        min_nodes: With how many nodes the rendezvous can complete; 1 or more.
        max_nodes: With how many nodes it is full; ``min_nodes`` or more.
        local_addr: The address under which this node is known to the others; ``None`` to let the backend find one.
        **config: The backend's own options by name, a dict that may be changed until the handler is made.

    Raises:
        TypeError: A number of nodes is no whole number.
        ValueError: The backend has no name, or the numbers of nodes are out of range.
    """

    def __init__(
        self,
        backend: str,
        endpoint: str,
        run_id: str,
        min_nodes: int,
        max_nodes: int,
        local_addr: str | None = None,
        **config: Any,
    ) -> None:
        if not backend:
            raise ValueError("The rendezvous backend name must be a non-empty string.")
        for name, number in (("min_nodes", min_nodes), ("max_nodes", max_nodes)):
            if not hasattr(number, "__index__") or isinstance(number, bool):
                raise TypeError(f"{name} must be an int, not {number!r}.")
        if min_nodes < 1:
            raise ValueError(f"The minimum number of rendezvous nodes ({min_nodes}) must be greater than zero.")
        if max_nodes < min_nodes:
            raise ValueError(
                f"The maximum number of rendezvous nodes ({max_nodes}) must be greater than or equal to "
                f"the minimum number of rendezvous nodes ({min_nodes})."
            )
        self.backend = backend
        self.endpoint = endpoint
        self.run_id = run_id
        self.min_nodes = min_nodes
        self.max_nodes = max_nodes
        self.local_addr = local_addr
        self.config = config

    def get(self, key: str, default: Any = None) -> Any:
        """The option as it was given, or the default if it was not."""
        return self.config.get(key, default)

    def get_as_bool(self, key: str, default: bool | None = None) -> bool | None:
        """The option as a truth.

        Args:
            key: The option's name.
            default: What an absent option counts as; it is converted like any value.

        Returns:
            ``True`` or ``False``; ``None`` where the option, or the default of an absent one, is ``None``.

        Raises:
            ValueError: The value is neither a truth, nor 1 or 0, nor one of the words ``1 true t yes y`` and
                ``0 false f no n`` in any case, without blanks around it.
        """
        return self._get_as("boolean", _truth, key, default)

    def get_as_int(self, key: str, default: int | None = None) -> int | None:
        """The option as an integer.

        Args:
            key: The option's name.
            default: What an absent option counts as; it is converted like any value.

        Returns:
            The integer; ``None`` where the option, or the default of an absent one, is ``None``.

        Raises:
            ValueError: The value is neither a whole number nor a text that reads as one in base 10; a truth is none.
        """
        return self._get_as("integer", _whole_number, key, default)

    def _get_as(self, kind: str, convert: Callable[[Any], _T], key: str, default: object) -> _T | None:
        value = self.config.get(key, default)
        if value is None:
            return None
        try:
            return convert(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(
                f"The rendezvous configuration option '{key}' does not represent a valid {kind} value."
            ) from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RendezvousParameters):
            return NotImplemented
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # the attributes may change

    def __repr__(self) -> str:
        fields = [(name, value) for name, value in vars(self).items() if name != "config"]
        arguments = ", ".join(f"{name}={value!r}" for name, value in chain(fields, self.config.items()))
        return f"{type(self).__name__}({arguments})"


def _truth(value: object) -> bool:
    if isinstance(value, int):  # which True and False are too
        word = str(int(value))
    elif isinstance(value, str):
        word = value.lower()
    else:
        raise TypeError(f"{value!r} is neither a truth, nor an integer, nor text")
    if word in TRUE_WORDS:
        return True
    if word in _FALSE_WORDS:
        return False
    raise ValueError(f"{value!r} is none of {', '.join(TRUE_WORDS + _FALSE_WORDS)}")


def _whole_number(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{value!r} is a truth, not a number")
    number = int(value)
    if not isinstance(value, (str, bytes, bytearray)) and number != value:
        raise ValueError(f"{value!r} is not a whole number")
    return number
