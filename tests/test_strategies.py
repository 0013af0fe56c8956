"""`sim.strategies`: each strategy draws what it promises, and all kinds of it."""

import re
import subprocess
import sys
from ipaddress import IPv6Address

import pytest
from hypothesis import given, settings, strategies as st

from rdzv import Endpoint, EndpointError, RendezvousParameters, parse_config
from rdzv.endpoint import FAULTS
from sim.strategies import bad_endpoints, configs, endpoints, options, parameters

TEXT_FAULTS = [code for code in FAULTS if code not in ("default-port", "host-form")]


@given(endpoints())
def test_endpoints_are_read_without_a_default_port(text):
    """The plain strategy needs no default port."""
    assert Endpoint.parse(text).host


@given(endpoints(portless=True))
def test_portless_endpoints_are_read_with_a_default_port(text):
    """The wider strategy needs one."""
    assert Endpoint.parse(text, 29400).host


def is_ipv6(text):
    try:
        return bool(IPv6Address(Endpoint.parse(text).host))
    except ValueError:
        return False


KINDS = {
    "blanks around it": lambda text: text != text.strip(),
    "a foreign name": lambda text: not text.strip().isascii(),
    "a name that is composed": lambda text: Endpoint.parse(text).host not in text,
    "IPv4": lambda text: re.fullmatch(r"\d+\.\d+\.\d+\.\d+:\d+", text, re.ASCII),
    "IPv6": lambda text: is_ipv6(text) and "%" not in text,
    "IPv6 with a zone": lambda text: is_ipv6(text) and "%" in text,
    "leading zeros": lambda text: re.search(r":0\d", text.rpartition("]")[2]),
    "port 0": lambda text: Endpoint.parse(text).port == 0,
    "the highest port": lambda text: Endpoint.parse(text).port == 65535,
    "a trailing dot": lambda text: Endpoint.parse(text).host.endswith("."),
    "the longest name": lambda text: len(Endpoint.parse(text).host) == 253,
}


def test_endpoints_come_in_all_kinds():
    """What the grammar has, the strategy draws."""
    seen = set()

    @settings(max_examples=2000, derandomize=True)
    @given(endpoints())
    def each(text):
        seen.update(kind for kind, applies in KINDS.items() if applies(text))

    each()
    assert seen == set(KINDS)


@pytest.mark.parametrize("code", TEXT_FAULTS)
def test_bad_endpoints_have_the_fault_that_was_asked_for(code):
    """Each fault is built, not found: the parser must name just that one."""

    @given(bad_endpoints(code))
    def each(text):
        with pytest.raises(EndpointError) as caught:
            Endpoint.parse(text, 29400)
        assert caught.value.code == code

    each()


def test_bad_endpoints_have_any_fault_if_none_is_asked_for():
    """All of the codes that a text can have, and not that of a missing default port."""
    drawn = set()

    @settings(max_examples=1000, database=None)
    @given(bad_endpoints())
    def each(text):
        with pytest.raises(EndpointError) as caught:
            Endpoint.parse(text, 29400)
        drawn.add(caught.value.code)

    each()
    assert drawn <= set(TEXT_FAULTS)
    assert len(drawn) > len(TEXT_FAULTS) // 2


def test_an_unknown_fault_is_refused():
    """A mistyped code must not quietly draw nothing."""
    with pytest.raises(ValueError, match="default-port"):
        bad_endpoints("port-range", "default-port")


@given(st.data(), options())
def test_configs_say_the_options_they_are_given(data, expected):
    """The text varies, its meaning does not."""
    assert parse_config(data.draw(configs(saying=st.just(expected)))) == expected


@given(configs())
def test_configs_are_read(text):
    """Any configuration string is valid."""
    assert all(parse_config(text).values())


@given(parameters(), parameters(backend="static"))
def test_parameters_are_valid(any_backend, static):
    """They could be constructed, which checks them; and the backend can be fixed."""
    assert isinstance(any_backend, RendezvousParameters)
    assert 1 <= any_backend.min_nodes <= any_backend.max_nodes
    assert static.backend == "static"


def test_a_missing_extra_is_named():
    """Without Hypothesis the error says what brings it."""
    program = "import sys; sys.modules['hypothesis'] = None; import sim.strategies"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert "needs Hypothesis, which the extra 'sim' of rdzv brings" in done.stderr
