"""Configuration strings, ``key=value,key=value``: the options of one backend as a user types them.

Two readers of the same split:

* `parse_config`, strict: it refuses what a user cannot have meant, and says why and where. `FAULTS` lists every reason.
* `parse_rendezvous_config`, compat: upstream's outcome for every argument.

Values stay text; what they mean is for the backend to say (`rdzv.parameters`), and so is which options exist:
`refuse_unknown_options` is how a backend says that. This module knows no backend. Errors: `rdzv.errors`.
"""

# Annotations are not put off here: for a named tuple each would be compiled by itself, and every start waits for that.
import re
from typing import TYPE_CHECKING, NamedTuple

from rdzv.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

__all__ = ["FAULTS", "RESERVED_KEYS", "parse_config", "parse_rendezvous_config", "refuse_unknown_options"]

RESERVED_KEYS = frozenset(("self", "backend", "endpoint", "run_id", "min_nodes", "max_nodes", "local_addr"))
"""What no option can be called: the parameters beside which `rdzv.RendezvousParameters` takes options by name."""

FAULTS = {
    "key-empty": ("the option has no name", "write NAME=VALUE,NAME=VALUE with single commas and none at either end"),
    "value-missing": ("the option has no value", "write NAME=VALUE; no quotes or backslashes protect a comma in it"),
    "key-char": (
        "this character cannot be here in an option's name",
        "a name is a letter or underscore, then letters, digits, underscores, hyphens and dots, all of them ASCII",
    ),
    "key-reserved": ("this name belongs to a parameter, not to an option", "leave it out and set the parameter"),
    "key-repeated": ("this option is given a second time", "give each option once"),
    "separator": ("options are separated by commas", "write NAME=VALUE,NAME=VALUE"),
    "value-char": ("a control character cannot be part of a value", "leave it out"),
}
"""Why a string is refused: each code with what is wrong and what to write instead, in the order of the checks."""

# Compiled when they are used: every process of a job loads this, and hardly one reads a string.
_KEY = r"[A-Za-z_][A-Za-z0-9_.-]*"
_SEPARATOR = rf"(?<![;\s])[;\s]+{_KEY}\s*="
_CONTROL = r"[\x00-\x1f\x7f-\x9f]"


class _Option(NamedTuple):
    """One piece between commas. Of a key or value that is missing, the position is where it should stand."""

    key: str
    key_at: int
    value: str
    value_at: int


def _options(text: str) -> "Iterator[_Option]":
    body = text.strip()
    if not body:
        return
    piece_at = _blanks_before(text)
    for piece in body.split(","):
        key, equals, value = piece.partition("=")
        value_at = piece_at + len(key) + 1 + _blanks_before(value) if equals else piece_at + len(key.rstrip())
        yield _Option(key.strip(), piece_at + _blanks_before(key), value.strip(), value_at)
        piece_at += len(piece) + 1


def _blanks_before(text: str) -> int:
    """How many blanks stand before the text's first character; 0 if it has none but blanks."""
    return len(text) - len(text.lstrip()) if text.strip() else 0


def parse_config(text: str) -> dict[str, str]:
    """Read a configuration string by the strict grammar.

    >>> parse_config("join_timeout=600, prefix=a=b")
    {'join_timeout': '600', 'prefix': 'a=b'}

    Args:
        text: The string; blank text has no options.

    Returns:
        The options in their order, keys and values without the blanks around them.

    Raises:
        TypeError: The argument is not a str.
        ConfigError: The string does not follow the grammar.
    """
    if not isinstance(text, str):
        raise TypeError(f"a configuration string must be a str, not {text!r}")
    config: dict[str, str] = {}
    for option in _options(text):
        if fault := _first_fault(option, config):
            code, position = fault
            problem, hint = FAULTS[code]
            raise ConfigError(problem, code=code, text=text, position=position, hint=hint)
        config[option.key] = option.value
    return config


def _first_fault(option: _Option, earlier: "Collection[str]") -> tuple[str, int] | None:
    """The code and the position of the first thing that is wrong with an option."""
    key, key_at, value, value_at = option
    if not key:
        return "key-empty", key_at
    if not value:
        return "value-missing", value_at
    legal = re.match(_KEY, key)
    legal_chars = legal.end() if legal else 0
    if legal_chars < len(key):
        return "key-char", key_at + legal_chars
    if key in RESERVED_KEYS:
        return "key-reserved", key_at
    if key in earlier:
        return "key-repeated", key_at
    if separator := re.search(_SEPARATOR, value):
        return "separator", value_at + separator.start()
    if control := re.search(_CONTROL, value):
        return "value-char", value_at + control.start()
    return None


def parse_rendezvous_config(config_str: str) -> dict[str, str]:
    """Read a configuration string exactly as upstream does, for code that relies on it.

    >>> parse_rendezvous_config("a=1 b=2,a=3")  # what `parse_config` is for
    {'a': '3'}

    Raises:
        ValueError: A key or a value is missing; in upstream's words.
    """
    config: dict[str, str] = {}
    for option in _options(config_str):
        if not option.key:
            raise ValueError(
                "The rendezvous configuration string must be in format <key1>=<value1>,...,<keyN>=<valueN>."
            )
        if not option.value:
            raise ValueError(f"The rendezvous configuration option '{option.key}' must have a value specified.")
        config[option.key] = option.value
    return config


def refuse_unknown_options(config: "Mapping[str, object]", known: "Collection[str]", backend: str) -> None:
    """Let no option pass that a backend does not know: a mistyped name would leave the default in force, unnoticed.

    >>> refuse_unknown_options({"timeuot": "5"}, known=("rank", "timeout"), backend="static")
    Traceback (most recent call last):
    rdzv.errors.ConfigError: configuration 'timeuot': backend 'static' has no such option [key-unknown]
      hint: did you mean timeout? The options are rank, timeout

    Args:
        config: The options that were given.
        known: The names of those that the backend has.
        backend: The backend's name.

    Raises:
        ConfigError: Code ``"key-unknown"``, for the first unknown option; its text is the option's name.
    """
    for key in config:
        if key in known:
            continue
        from difflib import get_close_matches

        nearest = "".join(f"did you mean {name}? " for name in get_close_matches(key, known, n=1))
        listing = f"The options are {', '.join(sorted(known))}" if known else "It has no options"
        problem = f"backend {backend!r} has no such option"
        raise ConfigError(problem, code="key-unknown", text=key, hint=nearest + listing)
