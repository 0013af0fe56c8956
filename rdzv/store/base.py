"""The interface of a store, with upstream's names, and what every store does alike with its arguments.

Keys are str or bytes; a str stands for its UTF-8 bytes. Values go in as str, bytes or bytearray, and come out as bytes.
Timeouts are seconds or a timedelta.
"""

from __future__ import annotations

import math
import time
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

Key = str | bytes
Value = str | bytes | bytearray
Timeout = timedelta | float

DEFAULT_TIMEOUT = timedelta(seconds=300)
_TIMEOUT_S_MAX = 10.0 * 365 * 24 * 3600  # longer ones would overflow the system's clocks, and nobody waits them out


def to_bytes(text: Key | Value, what: str = "key") -> bytes:
    """A key or a value as bytes.

    Raises:
        TypeError: It is neither str nor bytes (nor, for a value, bytearray), or a str with lone surrogates.
    """
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise TypeError(f"a {what} must be text that UTF-8 can carry, not {text!r}") from error
    if isinstance(text, bytearray) and what == "value":
        return bytes(text)
    raise TypeError(f"a {what} must be str or bytes, not {type(text).__name__}")


def to_keys(keys: Iterable[Key]) -> list[bytes]:
    """Many keys as bytes.

    Raises:
        TypeError: A single str or bytes was given, or one of them is neither.
    """
    if isinstance(keys, (str, bytes)):
        raise TypeError(f"keys must be a list of keys, not a single {type(keys).__name__}")
    return [to_bytes(key) for key in keys]


def to_seconds(timeout: Timeout) -> float:
    """A timeout in seconds; 0 means «look once, do not wait».

    Raises:
        TypeError: It is neither a number nor a timedelta.
        ValueError: It is negative or not a number.
    """
    if isinstance(timeout, timedelta):
        seconds = timeout.total_seconds()
    elif isinstance(timeout, (int, float)) and not isinstance(timeout, bool):
        seconds = float(timeout)
    else:
        raise TypeError(f"a timeout must be a timedelta or seconds, not {type(timeout).__name__}")
    if seconds < 0 or math.isnan(seconds):
        raise ValueError(f"a timeout must not be negative, and {timeout!r} is")
    return min(seconds, _TIMEOUT_S_MAX)


class Store:
    """Keys and values that several processes share. A store of your own may leave out what it cannot do.

    Every call that waits raises an error when its timeout has passed; the error names the keys still missing.
    """

    @property
    def timeout(self) -> timedelta:
        """For how long a call waits if it is not told otherwise."""
        raise NotImplementedError

    def set_timeout(self, timeout: Timeout, /) -> None:
        """Change `timeout` for the calls to come."""
        raise NotImplementedError

    def set(self, key: Key, value: Value, /) -> None:
        """Store a value."""
        raise NotImplementedError

    def get(self, key: Key, /) -> bytes:
        """The value of a key, waiting for it if need be."""
        raise NotImplementedError

    def add(self, key: Key, amount: int, /) -> int:
        """Add to the number at the key, 0 if missing, and return the sum; kept as decimal text."""
        raise NotImplementedError

    def append(self, key: Key, value: Value, /) -> None:
        """Store the value behind the one that is there."""
        raise NotImplementedError

    def check(self, keys: Iterable[Key], /) -> bool:
        """Whether all the keys are there now."""
        raise NotImplementedError

    def compare_set(self, key: Key, expected: Value, desired: Value, /) -> bytes:
        """Store ``desired`` if the value is ``expected``; a missing key matches an empty ``expected``.

        Returns:
            The value now stored; of a missing key that did not match, ``expected``. So the set has happened if this
            is ``desired``, provided that ``desired`` was not there before.
        """
        raise NotImplementedError

    def delete_key(self, key: Key, /) -> bool:
        """Forget a key; whether it was there."""
        raise NotImplementedError

    def multi_get(self, keys: Iterable[Key], /) -> list[bytes]:
        """The values of the keys, waiting for all of them if need be."""
        raise NotImplementedError

    def multi_set(self, keys: Iterable[Key], values: Iterable[Value], /) -> None:
        """Store many values."""
        raise NotImplementedError

    def num_keys(self) -> int:
        """How many keys the store has, its own among them."""
        raise NotImplementedError

    def list_keys(self) -> list[str]:
        """The users' keys, in no particular order."""
        raise NotImplementedError

    def wait(self, keys: Iterable[Key], timeout: Timeout | None = None, /) -> None:
        """Wait until all the keys are there."""
        raise NotImplementedError

    def queue_push(self, key: Key, value: Value, /) -> None:
        """Put a value at the end of a queue; queues are a name space beside the keys."""
        raise NotImplementedError

    def queue_pop(self, key: Key, block: bool = True) -> bytes:
        """Take the first value of a queue, waiting for one if ``block``."""
        raise NotImplementedError

    def queue_len(self, key: Key, /) -> int:
        """How many values a queue holds."""
        raise NotImplementedError

    def barrier(self, key: Key, world_size: int, timeout: Timeout | None = None) -> None:
        """Wait until ``world_size`` callers have come to this key. It serves once: take a new key for each round."""
        name = to_bytes(key)
        wait_s = to_seconds(self.timeout if timeout is None else timeout)
        deadline_at = time.monotonic() + wait_s
        if self.add(name + b"/num_members", 1) == world_size:
            self.set(name + b"/last_member", "1")
        self.wait([name + b"/last_member"], max(0.0, deadline_at - time.monotonic()))

    def clone(self) -> Self:
        """Another store object for the same keys, with a connection and a timeout of its own."""
        raise NotImplementedError

    def has_extended_api(self) -> bool:
        """Whether append, multi_get and multi_set are there."""
        return True
