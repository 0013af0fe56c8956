"""The interface of a store, with upstream's names, and what every store does alike with arguments and timeouts.

Keys and values go in as str, bytes or bytearray; a str stands for its UTF-8 bytes. Values come out as bytes.
Timeouts are seconds or a timedelta.
"""

from __future__ import annotations

import operator
import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from rdzv.errors import DistStoreError, StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import SupportsIndex

    from typing_extensions import Self

Key = str | bytes | bytearray
Value = str | bytes | bytearray
Timeout = timedelta | float

DEFAULT_TIMEOUT = timedelta(seconds=300)
INT64 = range(-(1 << 63), 1 << 63)
_INT64_MIN, _INT64_MAX = INT64[0], INT64[-1]
NAMES_SHOWN_MAX = 10  # in the text of an error; its ``keys`` has them all

_NOT_HERE = "Not implemented."  # upstream's words
_NUMBER = re.compile(rb"\s*[+-]?[0-9]{1,4000}\s*")
_TIMEOUT_S_MAX = 24 * 24 * 3600.0  # 24 days: poll(2) cannot wait for longer, since it counts milliseconds in 32 bits


def to_bytes(
    text: Key | Value, what: str = "key", _is: Callable[[object, type], bool] = isinstance, _str: type = str
) -> bytes:
    """A key or a value as bytes. Hot: what it needs is bound to it, as in `rdzv.core.requests`.

    Raises:
        TypeError: It is neither str, bytes nor bytearray, or a str with lone surrogates.
    """
    if _is(text, _str):
        try:
            return text.encode()  # type: ignore[union-attr]
        except UnicodeEncodeError as error:
            raise TypeError(f"a {what} must be text that UTF-8 can carry, not {text!r}") from error
    if isinstance(text, bytes):
        return text
    if isinstance(text, bytearray):
        return bytes(text)
    raise TypeError(f"a {what} must be str or bytes, not {type(text).__name__}")


def many(items: Iterable[Key], what: str = "keys") -> Iterable[Key]:
    """The keys or values, if they are not a single one.

    Raises:
        TypeError: A str or bytes was given, whose characters would be taken for keys or values.
    """
    if isinstance(items, (str, bytes, bytearray)):
        raise TypeError(f"{what} must be a list of {what}, not a single {type(items).__name__}")
    return items


def to_keys(keys: Iterable[Key]) -> list[bytes]:
    """Many keys as bytes.

    Raises:
        TypeError: A single str or bytes was given, or one of them is neither.
    """
    return [to_bytes(key) for key in many(keys)]


def to_pairs(names: Sequence[bytes], values: Iterable[Value]) -> list[tuple[bytes, bytes]]:
    """Each name with its value as bytes.

    Raises:
        DistStoreError: There are more of one than of the other.
        TypeError: A value is neither str, bytes nor bytearray, or there is a single one in place of many.
    """
    contents = [to_bytes(value, "value") for value in many(values, "values")]
    if len(names) != len(contents):
        raise DistStoreError(f"{len(names)} keys and {len(contents)} values: nothing was stored", keys=names)
    return list(zip(names, contents, strict=True))


def to_int64(number: SupportsIndex, what: str = "the amount") -> int:
    """A number that 64 bits hold; of any type that stands for a whole number, such as numpy's.

    Raises:
        TypeError: It is no such number.
    """
    try:
        value = operator.index(number)
    except TypeError:
        value = INT64.stop
    if not _INT64_MIN <= value <= _INT64_MAX:  # a range would have to be asked in twice the time
        raise TypeError(f"{what} must be an int of 64 bits, not {number!r}")
    return value


def added(key: Key, stored: bytes | None, amount: int) -> int:
    """The number that is stored, 0 if there is none, and an amount more.

    Raises:
        TypeError: The amount is no int of 64 bits.
        ValueError: What is stored is no decimal number, or the sum is outside of 64 bits.
    """
    amount = to_int64(amount)
    if stored and not _NUMBER.fullmatch(stored):
        raise ValueError(f"cannot add to {key!r}: its value {stored[:40]!r} is no decimal number")
    number = int(stored or 0) + amount
    if number not in INT64:
        raise ValueError(f"cannot add {amount} to {key!r}: the sum with {int(stored or 0)} is outside of 64 bits")
    return number


def to_text(name: bytes) -> str:
    """A key as `Store.list_keys` returns it; what is no UTF-8 comes as surrogate escapes."""
    return name.decode(errors="surrogateescape")


def to_port(port: SupportsIndex) -> int:
    """A port, 0 included: who binds it lets the system choose.

    Raises:
        TypeError: It is none.
    """
    if isinstance(port, bool) or not 0 <= (number := to_int64(port, "a port")) <= 65535:
        raise TypeError(f"a port must be an int from 0 to 65535, not {port!r}")
    return number


def to_seconds(timeout: Timeout) -> float:
    """A timeout in seconds; 0 means «look once, do not wait».

    Raises:
        TypeError: It is neither a number nor a timedelta.
        ValueError: It is negative or not a number.
    """
    seconds: float
    if isinstance(timeout, timedelta):
        seconds = timeout.total_seconds()
    elif isinstance(timeout, (int, float)) and not isinstance(timeout, bool):
        seconds = timeout
    else:
        raise TypeError(f"a timeout must be a timedelta or seconds, not {type(timeout).__name__}")
    if not seconds >= 0:  # or no number at all
        raise ValueError(f"a timeout must not be negative, and {timeout!r} is")
    return float(min(seconds, _TIMEOUT_S_MAX))


def shown_keys(names: Sequence[bytes]) -> str:
    """The first of some keys, as a message has them, each with a "/" before it as on the wire."""
    shown = ", ".join("/" + name.decode(errors="backslashreplace") for name in names[:NAMES_SHOWN_MAX])
    return shown + f" and {len(names) - NAMES_SHOWN_MAX} more" * (len(names) > NAMES_SHOWN_MAX)


class Deadline:
    """How long a call may wait, counted from when it began, which is now if nothing is said.

    Attributes:
        timeout_s: How long in all, in seconds.
        at: When it is over, on the clock of `time.monotonic`, in seconds.
    """

    __slots__ = ("at", "timeout_s")

    def __init__(self, timeout_s: float, began_at: float | None = None) -> None:
        self.timeout_s = timeout_s
        self.at = (time.monotonic() if began_at is None else began_at) + timeout_s

    @property
    def began_at(self) -> float:
        """When the call began, on that clock."""
        return self.at - self.timeout_s

    @property
    def left_s(self) -> float:
        """How long is left, in seconds; 0 when it is over."""
        return max(0.0, self.at - time.monotonic())

    def missed(
        self, names: Sequence[bytes], problem: str, endpoint: str = "", applied: str = "no"
    ) -> StoreTimeoutError:
        """The error of a wait that was not met.

        Args:
            names: The keys still missing.
            problem: What is wrong with them, and in which store, as the end of a sentence.
            endpoint: The server's endpoint, if there is one.
            applied: Whether the operation has taken effect all the same.
        """
        return StoreTimeoutError(
            f"wait timeout after {self.timeout_s * 1000:.0f}ms, keys: {shown_keys(names)}: {problem}",
            keys=map(to_text, names),
            endpoint=endpoint,
            waited_s=time.monotonic() - self.began_at,
            applied=applied,
        )


class Store:
    """Keys and values that several processes share. A store of your own may leave out what it cannot do.

    Every call that waits raises an error when its timeout has passed; the error names the keys still missing.
    """

    _timeout_s = DEFAULT_TIMEOUT.total_seconds()

    @property
    def timeout(self) -> timedelta:
        """For how long a call waits if it is not told otherwise; 300 s at first."""
        return timedelta(seconds=self._timeout_s)

    def set_timeout(self, timeout: Timeout, /) -> None:
        """Change `timeout` for the calls to come."""
        self._timeout_s = to_seconds(timeout)

    def set(self, key: Key, value: Value, /) -> None:
        """Store a value."""
        raise NotImplementedError(_NOT_HERE)

    def get(self, key: Key, /) -> bytes:
        """The value of a key, waiting for it if need be."""
        raise NotImplementedError(_NOT_HERE)

    def add(self, key: Key, amount: int, /) -> int:
        """Add to the number at the key, 0 if missing, and return the sum; kept as decimal text."""
        raise NotImplementedError(_NOT_HERE)

    def append(self, key: Key, value: Value, /) -> None:
        """Store the value behind the one that is there.

        A store that leaves this out has it by way of `compare_set`. Then a missing key is empty for a moment, and of
        two callers that append the same at the same time, one may be lost.
        """
        addition = to_bytes(value, "value")
        found = self.compare_set(key, b"", b"")
        while (now := self.compare_set(key, found, found + addition)) != found + addition:
            found = now

    def check(self, keys: Iterable[Key], /) -> bool:
        """Whether all the keys are there now."""
        raise NotImplementedError(_NOT_HERE)

    def compare_set(self, key: Key, expected: Value, desired: Value, /) -> bytes:
        """Store ``desired`` if the value is ``expected``; a missing key matches an empty ``expected``.

        Returns:
            The value now stored; of a missing key that did not match, ``expected``. So the set has happened if this
            is ``desired``, provided that ``desired`` was not there before.
        """
        raise NotImplementedError(_NOT_HERE)

    def delete_key(self, key: Key, /) -> bool:
        """Forget a key; whether it was there."""
        raise NotImplementedError(_NOT_HERE)

    def multi_get(self, keys: Iterable[Key], /) -> list[bytes]:
        """The values of the keys, waiting for all of them if need be."""
        return [self.get(key) for key in many(keys)]

    def multi_set(self, keys: Iterable[Key], values: Iterable[Value], /) -> None:
        """Store many values.

        Raises:
            DistStoreError: There are more of one than of the other; nothing was stored.
        """
        names = list(many(keys))
        for key, (_, value) in zip(names, to_pairs(to_keys(names), values), strict=True):
            self.set(key, value)

    def num_keys(self) -> int:
        """How many keys the store has, its own among them."""
        raise NotImplementedError(_NOT_HERE)

    def list_keys(self) -> list[str]:
        """The users' keys, in no particular order."""
        raise NotImplementedError(_NOT_HERE)

    def wait(self, keys: Iterable[Key], timeout: Timeout | None = None, /) -> None:
        """Wait until all the keys are there."""
        raise NotImplementedError(_NOT_HERE)

    def queue_push(self, key: Key, value: Value, /) -> None:
        """Put a value at the end of a queue; queues are a name space beside the keys."""
        raise NotImplementedError(_NOT_HERE)

    def queue_pop(self, key: Key, block: bool = True) -> bytes:
        """Take the first value of a queue, waiting for one if ``block``."""
        raise NotImplementedError(_NOT_HERE)

    def queue_len(self, key: Key, /) -> int:
        """How many values a queue holds."""
        raise NotImplementedError(_NOT_HERE)

    def barrier(self, key: Key, world_size: int, timeout: Timeout | None = None) -> None:
        """Wait until ``world_size`` callers have come to this key. It serves once: take a new key for each round."""
        name, world_size = to_bytes(key), to_int64(world_size, "the world size")
        deadline = Deadline(to_seconds(self.timeout if timeout is None else timeout))
        members, last = (
            key + end if isinstance(key, str) else name + end.encode() for end in ("/num_members", "/last_member")
        )
        if self.add(members, 1) == world_size:
            self.set(last, "1")
        self.wait([last], timedelta(seconds=deadline.left_s))  # which a store of somebody's own may rely on

    def clone(self) -> Self:
        """Another store object for the same keys, with a connection and a timeout of its own."""
        raise NotImplementedError(_NOT_HERE)

    def has_extended_api(self) -> bool:
        """Whether append, multi_get and multi_set are more than the basic operations done in turn."""
        return False
