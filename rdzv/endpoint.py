"""Endpoints: the text that names where the nodes meet, and the value it stands for.

Two readers that agree on every sane text:

* `Endpoint.parse`, strict, for our own handlers. It refuses what cannot work or could be meant in two ways, and says
  why and where; `FAULTS` lists every reason.
* `parse_rendezvous_endpoint`, compat: upstream's outcome for every argument, whatever one may think of it.

A strict text, blanks around it aside, is one of ::

    HOST            HOST:PORT           a name or a dotted-quad IPv4 address
    [ADDRESS]       [ADDRESS]:PORT      an IPv6 address, a zone (fe80::1%eth0) allowed
                                        nothing at all: localhost

The strict reader is ``_read`` and the functions it calls, in the order in which they judge a text; the first fault ends
it. All of them take the whole text and bounds in it, so that every index is a position which a user can be shown.

This module knows texts only: it resolves no name and opens no socket (see `rdzv.net`). Errors: `rdzv.errors`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from rdzv.errors import EndpointError

__all__ = ["DEFAULT_PORT", "FAULTS", "Endpoint", "parse_rendezvous_endpoint"]

DEFAULT_PORT = 29400
"""The port of an endpoint that has none, where one may be left out: upstream's, for elastic jobs."""

PORT_MAX = 65535
LABEL_CHARS_MAX = 63
_LABEL_RAW_CHARS_MAX = 1000  # composing makes one character of four at the most, and is slow in long texts
HOST_CHARS_MAX = 253  # without the trailing dot

_HOST_PORT = "write HOST:PORT, as in localhost:29400"
_BRACKETS = "write one pair of brackets around the address, as in [::1]:29400"
_ZONE = "write the interface behind the percent sign, as in [fe80::1%eth0]:29400"

FAULTS = {
    "scheme": ("an endpoint has no scheme", "leave out everything up to the slashes"),
    "bracket-nested": ("a bracket inside brackets", _BRACKETS),
    "bracket-open": ("this bracket is never closed", _BRACKETS),
    "host-empty": ("the host is missing", "write localhost if this machine is meant"),
    "host-char": ("this character cannot be part of a host", "write a name, an IPv4 address, or [IPV6]"),
    "zone-empty": ("the zone is missing", _ZONE),
    "zone-encoded": ("the zone is encoded as in a URL", _ZONE),
    "bracket-not-ipv6": ("only an IPv6 address belongs in brackets", "leave out the brackets"),
    "ipv6-invalid": ("this is not an IPv6 address", "write it as in [2001:db8::1]:29400"),
    "unspecified-address": ("this address names no machine", "write one at which the other nodes reach the host"),
    "after-bracket": ("only a colon and a port can follow the bracket", "write [ADDRESS]:PORT"),
    "bracket-stray": ("a bracket without its partner", _BRACKETS),
    "userinfo": ("an endpoint has no user", "leave out everything up to the @"),
    "path": ("an endpoint has no path", "leave out the slash and what belongs to it"),
    "host-list": ("an endpoint names one host", "choose the host at which all nodes meet"),
    "ipv6-unbracketed": ("an IPv6 address without brackets: its end could be a port", _BRACKETS),
    "colons": ("one colon too many", _HOST_PORT),
    "label-empty": ("a label is missing before this dot or at the end", "write names as in node1.example.com"),
    "label-hyphen": ("no label of a name begins or ends with a hyphen", "leave out the hyphen"),
    "label-alnum": ("each label of a name has a letter or a digit", "write names as in node1.example.com"),
    "label-long": (f"a label of a name has at most {LABEL_CHARS_MAX} characters", "shorten it"),
    "host-long": (f"a name has at most {HOST_CHARS_MAX} characters", "shorten it"),
    "host-numeric": ("a number alone is no host", _HOST_PORT),
    "ipv4-invalid": ("a host that ends in a number must be an IPv4 address", "write it as in 10.0.0.1, no zeros ahead"),
    "port-empty": ("the port is missing behind the colon", _HOST_PORT),
    "port-char": ("a port is made of the digits 0 to 9", _HOST_PORT),
    "port-range": (f"a port is at most {PORT_MAX}", _HOST_PORT),
    "default-port": (f"the port is missing, and there is no default port from 0 to {PORT_MAX}", _HOST_PORT),
    "host-form": ("a host is kept without outer blanks and in NFC", "make the value with Endpoint.parse"),
}
"""Why a text is refused: each code with what is wrong and what to write instead, in the order of the checks.

``"default-port"`` depends on more than the text, and ``"host-form"`` is the constructor's alone.
"""

_SCHEME = re.compile(r"[\w+.-]+(?=://)")
_FOREIGN = re.compile(r"[][@/,]")
_FOREIGN_CODES = {"[": "bracket-stray", "]": "bracket-stray", "@": "userinfo", "/": "path", ",": "host-list"}
_NOT_IN_BRACKETS = re.compile(r"[^A-Za-z0-9:.%_+-]")
_NOT_IN_ASCII_NAME = re.compile(r"[^A-Za-z0-9._-]")
_NOT_IN_PORT = re.compile(r"[^0-9]")
_OCTETS = frozenset(map(str, range(256)))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and a port. Its text parses back to it: that is what makes it valid, and the constructor sees to it.

    >>> Endpoint.parse("[fe80::1%eth0]", default_port=29400)
    Endpoint(host='fe80::1%eth0', port=29400)
    >>> str(Endpoint("::1", 80))
    '[::1]:80'

    Attributes:
        host: A name (case kept; Unicode in NFC), an IPv4 address, or an IPv6 address without brackets, a zone included.
        port: From 0 to 65535; 0 lets the one who binds it choose.

    Raises:
        TypeError: The host is not a str, or the port not an int.
        EndpointError: No text stands for this host and this port.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        if not isinstance(self.host, str):
            raise TypeError(f"an endpoint's host must be a str, not {self.host!r}")
        if not isinstance(self.port, int):
            raise TypeError(f"an endpoint's port must be an int, not {self.port!r}")
        text = str(self)
        host, _ = _read(text, None)
        if host != self.host:
            position = next(i for i, (kept, given) in enumerate(zip(host, self.host, strict=False)) if kept != given)
            raise _fault(text, "host-form", position)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str | None, default_port: int | None = None) -> Endpoint:
        """Read a text by the strict grammar.

        Args:
            text: The endpoint; ``None`` and blank text stand for localhost.
            default_port: The port of a text that has none, from 0 to 65535; ``None`` if the text must have one. It is
                judged only when it is needed.

        Raises:
            TypeError: The text is neither a str nor ``None``.
            EndpointError: The text does not follow the grammar; or it has no port, and the default is none (code
                ``"default-port"``, no position).
        """
        if text is None:
            text = ""
        if not isinstance(text, str):
            raise TypeError(f"an endpoint must be a str or None, not {text!r}")
        return cls(*_read(text, default_port))


def _fault(text: str, code: str, position: int | None) -> EndpointError:
    problem, hint = FAULTS[code]
    return EndpointError(problem, code=code, text=_masked(text), position=position, hint=hint)


def _masked(text: str) -> str:
    """The text fit for a log: what may be a password is struck out, character by character, so that positions hold."""
    userinfo, at, rest = text.rpartition("@")
    user, colon, password = userinfo.partition(":")
    return user + colon + re.sub("[^@]", "*", password) + at + rest


@lru_cache(maxsize=16, typed=True)  # the constructor reads again what `Endpoint.parse` has just read
def _read(text: str, default_port: object) -> tuple[str, int]:
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    port_at: int | None
    if start >= end:
        host, port_at = "localhost", None
    elif text[start] == "[":
        host, port_at = _bracketed(text, start, end)
    else:
        host, port_at = _unbracketed(text, start, end)

    if port_at is not None:
        return host, _port(text, port_at, end)
    if isinstance(default_port, int) and not isinstance(default_port, bool) and 0 <= default_port <= PORT_MAX:
        return host, default_port
    raise _fault(text, "default-port", None)


def _bracketed(text: str, start: int, end: int) -> tuple[str, int | None]:
    """Read ``[ADDRESS]`` and the colon after it: the host, and where its port begins if it has one."""
    close = text.find("]", start, end)
    nested = text.find("[", start + 1, close if close >= 0 else end)
    if nested >= 0:
        raise _fault(text, "bracket-nested", nested)
    if close < 0:
        raise _fault(text, "bracket-open", start)

    host_at = start + 1
    host = text[host_at:close]
    if not host:
        raise _fault(text, "host-empty", host_at)
    if stranger := _NOT_IN_BRACKETS.search(text, host_at, close):
        raise _fault(text, "host-char", stranger.start())
    address, percent, zone = host.partition("%")
    if percent and not zone:
        raise _fault(text, "zone-empty", close - 1)
    if zone.startswith("25") and not zone.isdecimal():  # all digits are an interface's index
        raise _fault(text, "zone-encoded", host_at + len(address))
    if ":" not in host:
        raise _fault(text, "bracket-not-ipv6", host_at)
    number = _address(host)
    if number is None:
        raise _fault(text, "ipv6-invalid", host_at)
    if number == 0:
        raise _fault(text, "unspecified-address", host_at)

    after = close + 1
    if after == end:
        return host, None
    if text[after] != ":":
        raise _fault(text, "after-bracket", after)
    return host, after + 1


def _unbracketed(text: str, start: int, end: int) -> tuple[str, int | None]:
    """Read a name or an IPv4 address and the colon after it: the host, and where its port begins if it has one."""
    if scheme := _SCHEME.match(text, start, end):
        raise _fault(text, "scheme", scheme.end())
    if foreign := _FOREIGN.search(text, start, end):
        raise _fault(text, _FOREIGN_CODES[foreign[0]], foreign.start())
    host, *rest = text[start:end].split(":")
    if len(rest) > 1:
        head, _, tail = text[start:end].rpartition(":")
        is_address_and_port = tail.isascii() and tail.isdecimal() and _address(head) is not None
        if is_address_and_port or _address(text[start:end]) is not None:
            raise _fault(text, "ipv6-unbracketed", start)
        raise _fault(text, "colons", start + len(host) + 1 + len(rest[0]))

    if not host:
        raise _fault(text, "host-empty", start)
    host_end = start + len(host)
    _check_name(text, start, host_end)
    return _nfc(host), host_end + 1 if rest else None


def _check_name(text: str, start: int, end: int) -> None:
    for stranger in _NOT_IN_ASCII_NAME.finditer(text, start, end):
        if not _is_letter_or_mark(stranger[0]):
            raise _fault(text, "host-char", stranger.start())

    name = text[start:end].removesuffix(".")  # a trailing dot ends a fully qualified name
    labels = name.split(".")
    label_at = start
    for label in labels:
        _check_label(text, label, label_at)
        label_at += len(label) + 1
    if len(_nfc(name)) > HOST_CHARS_MAX:
        raise _fault(text, "host-long", start + min(HOST_CHARS_MAX, len(name)))

    if labels[-1].isdecimal():  # resolvers take such a host for an address, and differ in which one
        if len(labels) == 1:
            raise _fault(text, "host-numeric", start)
        number = _address(text[start:end])
        if number is None:
            raise _fault(text, "ipv4-invalid", start)
        if number == 0:
            raise _fault(text, "unspecified-address", start)


def _check_label(text: str, label: str, start: int) -> None:
    if not label:
        raise _fault(text, "label-empty", start)
    if label[0] == "-":
        raise _fault(text, "label-hyphen", start)
    if label[-1] == "-":
        raise _fault(text, "label-hyphen", start + len(label) - 1)
    if not any(map(str.isalnum, label)):
        raise _fault(text, "label-alnum", start)
    # Lengths are those of the host as it is kept. Composing can, rarely, make a text longer than it was: hence the min.
    if len(label) > _LABEL_RAW_CHARS_MAX or len(_nfc(label)) > LABEL_CHARS_MAX:
        raise _fault(text, "label-long", start + min(LABEL_CHARS_MAX, len(label)))


def _port(text: str, start: int, end: int) -> int:
    if start == end:
        raise _fault(text, "port-empty", start)
    if stranger := _NOT_IN_PORT.search(text, start, end):
        raise _fault(text, "port-char", stranger.start())
    digits = text[start:end].lstrip("0") or "0"
    if len(digits) > len(str(PORT_MAX)) or int(digits) > PORT_MAX:  # int() refuses thousands of digits in its own words
        raise _fault(text, "port-range", start)
    return int(digits)


def _address(text: str) -> int | None:
    """An address as a number: IPv6 if there is a colon in it, else IPv4; ``None`` if it is neither."""
    if ":" not in text:  # without ipaddress, which takes long to load
        parts = text.split(".")
        is_one = len(parts) == 4 and all(part in _OCTETS for part in parts)
        return int.from_bytes(map(int, parts), "big") if is_one else None
    from ipaddress import ip_address

    try:
        return int(ip_address(text))
    except ValueError:
        return None


def _is_letter_or_mark(char: str) -> bool:
    """Whether a name may hold this non-ASCII character: ligatures, superscripts and the like stand for other ones."""
    from unicodedata import category, normalize

    return category(char)[0] in "LM" and normalize("NFKC", char) == char


def _nfc(text: str) -> str:
    if text.isascii():
        return text
    from unicodedata import normalize

    return normalize("NFC", text)


_COMPAT_HOST = r"[\w.:-]+\n?"  # upstream anchors with a dollar sign, which lets one newline through
_COMPAT_PORT = r"[0-9]{1,5}"


def parse_rendezvous_endpoint(endpoint: str | None, default_port: int) -> tuple[str, int]:
    """Split an endpoint into host and port exactly as upstream does, for code that relies on it.

    >>> parse_rendezvous_endpoint("::1", 29400)  # what `Endpoint.parse` is for
    (':', 1)

    Args:
        endpoint: The text; ``None`` and blank text stand for localhost.
        default_port: The port of a text that has none. It is handed back unchecked.

    Raises:
        ValueError: The port, or else the host, is refused; in upstream's words.
    """
    text = endpoint if endpoint is None else endpoint.strip()
    if not text:
        return "localhost", default_port

    host, *rest = [text] if text.startswith("[") and text.endswith("]") else text.rsplit(":", 1)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    port = default_port
    if rest:
        if not re.fullmatch(_COMPAT_PORT, rest[0]) or int(rest[0]) > PORT_MAX:
            raise ValueError(
                f"The port number of the rendezvous endpoint '{text}' must be an integer between 0 and 65536."
            )
        port = int(rest[0])
    if not re.fullmatch(_COMPAT_HOST, host):
        raise ValueError(
            f"The hostname of the rendezvous endpoint '{text}' must be a dot-separated list of labels, "
            "an IPv4 address, or an IPv6 address."
        )
    return host, port
