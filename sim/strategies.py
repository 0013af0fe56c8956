"""Hypothesis strategies: for everything a user of rdzv types, and for scenarios in which things go wrong.

Endpoints, configuration strings and parameters are built from the grammars, every fault by construction; none of them
asks a parser what is valid. So a test of a parser, ours or another, can lean on them. Scenarios are those that
``rdzv-sim search`` draws. First the functions, then the building blocks, then one strategy per fault of an endpoint.

Needs Hypothesis, which the extra ``sim`` brings. The grammars themselves are in `rdzv.endpoint` and `rdzv.config`.

>>> from hypothesis import given
>>> from rdzv import Endpoint
>>> @given(endpoints())
... def test_that_any_endpoint_can_be_read(text):
...     assert Endpoint.parse(text).port <= 65535
>>> test_that_any_endpoint_can_be_read()
"""

from __future__ import annotations

import unicodedata
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from rdzv.config import RESERVED_KEYS

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ImportError("sim.strategies needs Hypothesis, which the extra 'sim' of rdzv brings") from error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from hypothesis.strategies import DrawFn, SearchStrategy
    from typing_extensions import Self

    from rdzv.parameters import RendezvousParameters
    from sim.scenario import Scenario

    Item = TypeVar("Item")

__all__ = ["bad_endpoints", "configs", "endpoints", "options", "parameters", "scenarios"]


def endpoints(*, portless: bool = False) -> SearchStrategy[str]:
    """Texts that `rdzv.Endpoint.parse` accepts.

    Names (international ones too), IPv4, IPv6 with and without a zone; ports with leading zeros; blanks around it all.

    Args:
        portless: Draw also texts without a port, which need a default port: hosts alone, and no text at all.
    """
    return _padded(_ENDPOINTS | _HOSTS | st.just("") if portless else _ENDPOINTS)


def bad_endpoints(*codes: str) -> SearchStrategy[str]:
    """Texts that `rdzv.Endpoint.parse` refuses, whatever the default port.

    Args:
        *codes: The faults to draw, by their codes in `rdzv.endpoint.FAULTS`; every fault of a text if none is named.

    Raises:
        ValueError: No text has such a fault.
    """
    unknown = sorted(set(codes) - set(_BAD_ENDPOINTS))
    if unknown:
        raise ValueError(f"no endpoint's text has the fault {unknown[0]!r}; there are {', '.join(_BAD_ENDPOINTS)}")
    return _padded(st.one_of([_BAD_ENDPOINTS[code] for code in codes or _BAD_ENDPOINTS]))


def options() -> SearchStrategy[dict[str, str]]:
    """Options as a backend gets them from a configuration string: names that are no parameter's, values not empty."""
    return st.dictionaries(_OPTION_NAMES, _OPTION_VALUES, max_size=5)


def configs(saying: SearchStrategy[dict[str, str]] | None = None) -> SearchStrategy[str]:
    """Configuration strings that `rdzv.parse_config` accepts.

    Args:
        saying: The options that the string shall say; any if ``None``. To know what to expect, draw the options first
            and pass them on with ``just``.
    """
    return (options() if saying is None else saying).flatmap(_written)


def parameters(backend: str | None = None) -> SearchStrategy[RendezvousParameters]:
    """Parameters that `rdzv.RendezvousParameters` accepts. Whether a backend likes them is for the backend to say.

    Args:
        backend: The backend's name; any of several if ``None``.
    """
    from rdzv.parameters import RendezvousParameters

    def build(backend: str, node_counts: list[int], config: dict[str, str], **fields: str) -> RendezvousParameters:
        min_nodes, max_nodes = sorted(node_counts)
        return RendezvousParameters(backend=backend, min_nodes=min_nodes, max_nodes=max_nodes, **fields, **config)

    return st.builds(
        build,
        backend=st.sampled_from(("static", "c10d", "etcd-v2", "mine")) if backend is None else st.just(backend),
        node_counts=st.lists(st.integers(1, 4096), min_size=2, max_size=2),
        config=options(),
        endpoint=endpoints(portless=True),
        run_id=st.text(min_size=1, max_size=20),
        local_addr=st.none() | _NAMES | _IPV4,
    )


def scenarios(*kinds: str, base: Scenario | None = None) -> SearchStrategy[Scenario]:
    """Scenarios as ``rdzv-sim search`` draws them: trouble, then quiet, and what must hold of that.

    For example::

        from functools import partial
        from sim.search.judge import tried
        from sim.virtual.run import run

        @given(scenarios(), st.integers(0, 2**32))
        def test_that_my_protocol_is_safe(scenario, seed):
            assert tried(partial(run, launcher=MyNode), scenario, seed).finding is None

    A drawn fault need not find its moment. `sim.search.judge.tried` does not hold that against a run; the run's own
    verdict, ``ok``, would.

    Args:
        kinds: The names of the faults that may happen; all of them if none is named.
        base: The scenario to start from; any if ``None``.

    Raises:
        ScenarioError: There is no such fault.
    """
    from sim.faults import FAULTS, fault_named
    from sim.search.draw import draw as draw_scenario

    names = [fault_named(name).name for name in kinds] or list(FAULTS)
    return st.composite(lambda draw: draw_scenario(_Chances(draw), names, base))()


class _Chances:
    """All streams of `sim.virtual.streams` in one, drawn by Hypothesis: whatever comes first is the simplest."""

    def __init__(self, draw: DrawFn) -> None:
        self._draw = draw

    def __getitem__(self, name: str) -> Self:
        return self

    def below(self, end: int) -> int:
        return self._draw(st.integers(0, end - 1))

    def chance(self, probability: float) -> bool:
        return self.below(100) >= 100 * (1 - probability)

    def pick(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]


def _text(alphabet: str | SearchStrategy[str], chars_min: int = 0, chars_max: int = 8) -> SearchStrategy[str]:
    return st.text(alphabet, min_size=chars_min, max_size=chars_max)


def _join(*parts: str | SearchStrategy[str]) -> SearchStrategy[str]:
    return st.tuples(*[st.just(part) if isinstance(part, str) else part for part in parts]).map("".join)


def _maybe(*parts: str | SearchStrategy[str]) -> SearchStrategy[str]:
    return st.just("") | _join(*parts)


def _padded(texts: SearchStrategy[str]) -> SearchStrategy[str]:
    return _join(_OUTER_BLANKS, texts, _OUTER_BLANKS)


def _written(options: dict[str, str]) -> SearchStrategy[str]:
    pieces = [_join(_padded(st.just(key)), "=", _padded(st.just(value))) for key, value in options.items()]
    return st.tuples(*pieces).map(",".join) if pieces else _OUTER_BLANKS


def _labels(core: str | SearchStrategy[str]) -> SearchStrategy[str]:
    """Labels of a name around one character that makes them legal."""
    inner = _text(_LETTERS + _DIGITS + "_-")
    edge = st.sampled_from(_LETTERS + _DIGITS + "_")
    return _join(_maybe(edge, inner), _text(core, 1, 1), _maybe(inner, edge))


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DIGITS = "0123456789"
_OUTER_BLANKS = st.just("") | _text(" \t\r\n\x1c\u0085\u00a0\u2028\u3000", 1, 2)

_FOREIGN_LETTERS = st.characters(min_codepoint=128, categories=["L"]).filter(
    lambda char: unicodedata.normalize("NFKC", char) == char
)
_FOREIGN_MARKS = st.characters(categories=["M"]).filter(lambda char: unicodedata.normalize("NFKC", char) == char)
_FOREIGN_LABELS = _join(_FOREIGN_LETTERS, _text(_FOREIGN_LETTERS | _FOREIGN_MARKS | st.sampled_from(_LETTERS)))
_LABELS = _labels(_LETTERS + _DIGITS) | _FOREIGN_LABELS | st.just("a" * 63)
_ASCII_NAMES = _join(st.lists(_join(_labels(_LETTERS + _DIGITS), "."), max_size=3).map("".join), _labels(_LETTERS))
_NAMES = _ASCII_NAMES | _join(
    st.lists(_join(_LABELS, "."), max_size=3).map("".join), _labels(_LETTERS) | _FOREIGN_LABELS
)
_LONGEST_NAME = ".".join(["a" * 63] * 3 + ["a" * 61])

_IPV4 = st.ip_addresses(v=4).filter(lambda address: address != IPv4Address(0)).map(str)
_IPV6_NUMBERS = st.ip_addresses(v=6).filter(lambda address: address != IPv6Address(0))
_PLAIN_IPV6 = (
    _IPV6_NUMBERS.map(str)
    | _IPV6_NUMBERS.map(lambda address: address.exploded)
    | _IPV6_NUMBERS.map(lambda address: str(address).upper())
    | _join("::ffff:", _IPV4)
    | st.just("::1")
)
_INTERFACES = _join(st.sampled_from(_LETTERS), _text(_LETTERS + _DIGITS + "_.:+-"))
_ZONES = _INTERFACES | _text(_DIGITS, 1, 3)
_IPV6 = _PLAIN_IPV6 | _join(_PLAIN_IPV6, "%", _ZONES)

_PORTS = _join(_text("0", 0, 6), (st.integers(0, 65535) | st.sampled_from((0, 1, 65535))).map(str))
_SUFFIXES = _maybe(":", _PORTS)
_HOSTS = _join(_NAMES | st.just(_LONGEST_NAME), st.sampled_from(("", "."))) | _IPV4 | _join("[", _IPV6, "]")
_ENDPOINTS = _join(_HOSTS, ":", _PORTS)

_OPTION_NAMES = _join(st.sampled_from(_LETTERS + "_"), _text(_LETTERS + _DIGITS + "_.-", 0, 12)).filter(
    lambda name: name not in RESERVED_KEYS
)
_OPTION_WORDS = _text(st.characters(categories=["L", "M", "N", "P", "S"], exclude_characters=",;"), 1)
_OPTION_VALUES = (
    _OPTION_WORDS
    | st.integers().map(str)
    | st.booleans().map(str)
    | _join(_OPTION_WORDS, " ", _text(_LETTERS + _DIGITS + "_./:", 1))
)

# What no host can hold, without the characters that have a fault of their own.
_STRANGERS = st.sampled_from(" \t\n\r\0\"!#$%&'*<>?\\^`{|}~²１ａﬁª٠。\u200b\ufeff😀") | st.characters(
    categories=("N", "P", "S", "Z", "Cc", "Cf"), exclude_characters=_DIGITS + "-_.[]@/,:"
)
_STRANGERS_IN_BRACKETS = _STRANGERS.filter(lambda char: char not in "%+") | st.sampled_from("@/,")
_ZERO_IPV6 = st.sampled_from(("::", "0::0", "0:0:0:0:0:0:0:0", "::0.0.0.0", "::%eth0"))
_GROUPS = _text("0123456789abcdefABCDEF", 1, 4)
_BAD_IPV6 = (
    st.integers(2, 7).flatmap(lambda count: st.tuples(*[_GROUPS] * count)).map(":".join)
    | st.tuples(*[_GROUPS] * 9).map(":".join)
    | _join(_text(_DIGITS, 5, 6), "::1")
    | _join(_GROUPS, st.sampled_from("ghxyz_-+."), "::1")
    | _join(_GROUPS, "::", _GROUPS, "::", _GROUPS)
    | _join(_PLAIN_IPV6, "%", _INTERFACES, "%", _ZONES)
    | st.sampled_from((":", ":::", "::1.2.3", "::256.0.0.1", "::1.2.3.04"))
)
_BAD_IPV4 = (
    _join(_NAMES, ".", _text(_DIGITS, 1, 3))
    | _join(_IPV4, ".", st.integers(0, 255).map(str) | st.just(""))
    | _join(st.integers(256, 999).map(str), _text("0", 0, 1), ".1.1.1")
    | _join("0", st.integers(0, 99).map(str), ".1.1.1")
    | st.integers(2, 3).flatmap(lambda count: st.tuples(*[st.integers(0, 255).map(str)] * count)).map(".".join)
)
_USERS = _text(_LETTERS + _DIGITS, 1)

_BAD_ENDPOINTS = {
    "scheme": _join(
        st.sampled_from(("http", "https", "tcp", "etcd-v2", "file", "c10d", "grpc+tls")), "://", _ENDPOINTS
    ),
    "bracket-nested": _join("[", _maybe(_IPV6), "[", _IPV6, st.sampled_from(("]", "]]")), _SUFFIXES),
    "bracket-open": _join("[", _maybe(_IPV6), _SUFFIXES),
    "host-empty": _join(":", _maybe(_PORTS)) | _join("[]", _SUFFIXES),
    "host-char": _join(_maybe(_NAMES), _STRANGERS.filter(str.strip), _maybe(_NAMES), ":", _PORTS)
    | _join(_NAMES, _STRANGERS, _NAMES, _SUFFIXES)
    | _join("[", _IPV6, _STRANGERS_IN_BRACKETS, _maybe(_ZONES), "]", _SUFFIXES),
    "zone-empty": _join("[", _PLAIN_IPV6, "%]", _SUFFIXES),
    "zone-encoded": _join("[", _PLAIN_IPV6, "%25", _text(_DIGITS), st.sampled_from(_LETTERS), "]", _SUFFIXES),
    "bracket-not-ipv6": _join("[", _ASCII_NAMES | _IPV4, "]", _SUFFIXES),
    "ipv6-invalid": _join("[", _BAD_IPV6, "]", _SUFFIXES),
    "unspecified-address": _join(_join("[", _ZERO_IPV6, "]") | st.just("0.0.0.0"), _SUFFIXES),  # noqa: S104
    "after-bracket": _join("[", _IPV6, "]", _STRANGERS | st.sampled_from(_LETTERS + _DIGITS + "[]@/,-."), _PORTS),
    "bracket-stray": _join(_NAMES | _PLAIN_IPV6, st.sampled_from("[]"), _SUFFIXES),
    "userinfo": _join(_USERS, _maybe(":", _USERS), "@", _ENDPOINTS),
    "path": _join(_NAMES, _maybe(":", _PORTS), "/", _USERS) | _join(st.sampled_from(("/", "//")), _ENDPOINTS),
    "host-list": _join(_NAMES, _SUFFIXES, ",", _ENDPOINTS),
    "ipv6-unbracketed": _join(_IPV6 | _ZERO_IPV6, _SUFFIXES),
    "colons": _join(_NAMES, ":", _PORTS, ":", _PORTS | _USERS | st.just("")),
    "label-empty": _join(st.just(".") | _join(_maybe(_NAMES, "."), ".", _maybe(_NAMES)), _SUFFIXES),
    "label-hyphen": _join(_join("-", _maybe(_NAMES)) | _join(_NAMES, "-", _maybe(".", _NAMES)), _SUFFIXES),
    "label-alnum": _join(
        _maybe(_NAMES, "."), st.sampled_from(("_", "__", "_-_", "\u0308")), _maybe(".", _NAMES), _SUFFIXES
    ),
    "label-long": _join(_maybe(_LABELS, "."), _text(_LETTERS, 64, 80), _maybe(".", _NAMES), _SUFFIXES),
    "host-long": _join(_LONGEST_NAME, "a", _SUFFIXES) | _join(_LONGEST_NAME, ".", _NAMES, _SUFFIXES),
    "host-numeric": _join(_text(_DIGITS, 1), st.sampled_from(("", ".")), _SUFFIXES),
    "ipv4-invalid": _join(_BAD_IPV4, _SUFFIXES),
    "port-empty": _join(_HOSTS, ":"),
    "port-char": _join(_HOSTS, ":", _text(_DIGITS), _STRANGERS | st.sampled_from(_LETTERS + "+-_."), _text(_DIGITS, 1)),
    "port-range": _join(_HOSTS, ":", _text("0"), (st.just(65536) | st.integers(65536, 10**30)).map(str)),
}
