"""`rdzv.endpoint`: both readers against the tables, then the properties that hold for every text."""

import json
import pickle
import unicodedata
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from rdzv import Endpoint, EndpointError, parse_rendezvous_endpoint
from rdzv.endpoint import FAULTS
from sim.strategies import bad_endpoints, endpoints

# The second table visits what the first leaves open: the order of the checks, the positions, the edges of each rule.
CASES = [
    case
    for name in ("endpoint-cases.json", "endpoint-further.json")
    for case in json.loads((Path(__file__).parent / "cases" / name).read_text(encoding="utf-8"))
]

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)  # lone surrogates too
GRAMMAR_CHARS = st.sampled_from("[]:.%@/,-_ 0123456789abcxyzAF\n\t\0\u0308\u00fc\u00b2\uff11\u200b") | st.characters()


def outcome(text, default_port=29400):
    """What the strict reader makes of a text, as the tables write it."""
    try:
        endpoint = Endpoint.parse(text, default_port)
    except EndpointError as error:
        return {"error": error.code, "pos": error.position}
    return {"host": endpoint.host, "port": endpoint.port}


def compat_outcome(text, default_port=29400):
    """The same for the compat reader."""
    try:
        host, port = parse_rendezvous_endpoint(text, default_port)
    except ValueError as error:
        return {"error": "ValueError", "about": "port" if "port number" in str(error) else "host"}
    return {"host": host, "port": port}


def label_of(text):
    return ascii(text)[:40]


@st.composite
def mutants(draw, originals):
    """Texts a few keystrokes away from one of the originals."""
    text = draw(originals)
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        piece = draw(st.sampled_from((text[start:end], "")) | GRAMMAR_CHARS)
        text = text[:start] + piece + text[draw(st.sampled_from((start, end))) :]
    return text


case_texts = st.sampled_from([case["endpoint"] for case in CASES if case["endpoint"] is not None])
hard_texts = mutants(case_texts) | mutants(endpoints()) | bad_endpoints() | endpoints(portless=True) | ANY_TEXT


@pytest.mark.parametrize("case", CASES, ids=lambda case: label_of(case["endpoint"]))
def test_strict_reads_each_case_as_the_table_says(case):
    """The table's column «strict», values, codes and positions."""
    assert outcome(case["endpoint"], case["default_port"]) == case["strict"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: label_of(case["endpoint"]))
def test_compat_reads_each_case_as_the_table_says(case):
    """The table's column «torch», values and which part is blamed."""
    assert compat_outcome(case["endpoint"], case["default_port"]) == case["torch"]


@pytest.mark.parametrize("case", [case for case in CASES if case["sane"]], ids=lambda case: label_of(case["endpoint"]))
def test_both_readers_agree_where_the_table_calls_upstream_sane(case):
    """A program that moves from compat to strict sees no difference on a sane text."""
    strict = outcome(case["endpoint"], case["default_port"])
    compat = compat_outcome(case["endpoint"], case["default_port"])
    assert "error" in compat if "error" in strict else compat == strict


def test_each_documented_fault_has_a_case():
    """`FAULTS` documents neither too much nor too little: all but the constructor's own fault occurs in the tables."""
    assert {case["strict"].get("error") for case in CASES} - {None} == set(FAULTS) - {"host-form"}


@pytest.mark.parametrize("default_port", [None, -1, 65536, True, 80.0, "80"])
@pytest.mark.parametrize("text", ["localhost", "", None, "[::1]"])
def test_a_missing_port_without_usable_default_is_a_fault_of_its_own(text, default_port):
    """No place in the text is to blame; the message says what is missing."""
    with pytest.raises(EndpointError, match=r"the port is missing.*default-port.*\n +hint: write HOST:PORT") as caught:
        Endpoint.parse(text, default_port)
    assert caught.value.position is None


@pytest.mark.parametrize("default_port", [0, 1, 65535])
def test_a_default_port_within_range_stands_in(default_port):
    """Both ends of the range, and nothing else, are legal."""
    assert Endpoint.parse("host", default_port) == Endpoint("host", default_port)


def test_the_default_port_is_judged_only_when_needed_and_last():
    """A text with a port needs none; a faulty host is reported first."""
    assert Endpoint.parse("host:80", -1).port == 80
    assert outcome("-host", -1) == {"error": "label-hyphen", "pos": 0}


@pytest.mark.parametrize("not_a_text", [b"localhost:80", 80, ["localhost"], Endpoint("localhost", 80)], ids=repr)
def test_strict_refuses_what_is_no_text_with_a_type_error(not_a_text):
    """A programming error, unlike a faulty text, is no ValueError."""
    with pytest.raises(TypeError, match="must be a str"):
        Endpoint.parse(not_a_text)


@pytest.mark.parametrize(
    ("not_a_text", "error"), [(80, AttributeError), (["x"], AttributeError), (b"x", TypeError)], ids=repr
)
def test_compat_leaks_the_errors_that_upstream_leaks(not_a_text, error):
    """Outcomes are equal for every argument, sensible or not."""
    with pytest.raises(error):
        parse_rendezvous_endpoint(not_a_text, 29400)


@pytest.mark.parametrize(
    ("host", "port", "code", "position"),
    [
        ("", 80, "host-empty", 0),
        ("a b", 80, "host-char", 1),
        ("[::1]", 80, "bracket-nested", 1),
        ("host:80", 80, "ipv6-invalid", 1),
        ("::", 80, "unspecified-address", 1),
        ("0.0.0.0", 80, "unspecified-address", 0),
        ("80", 80, "host-numeric", 0),
        ("tcp://host", 80, "host-char", 5),
        ("host", -1, "port-char", 5),
        ("host", 65536, "port-range", 5),
        ("host", True, "port-char", 5),
        (" host", 80, "host-form", 0),
        ("bu\u0308cher", 80, "host-form", 1),
    ],
)
def test_the_constructor_refuses_what_no_text_stands_for(host, port, code, position):
    """An Endpoint cannot be invalid, however it was made."""
    with pytest.raises(EndpointError) as caught:
        Endpoint(host, port)
    assert (caught.value.code, caught.value.position) == (code, position)


@pytest.mark.parametrize(("host", "port"), [(b"host", 80), (None, 80), ("host", "80"), ("host", 80.0), ("host", None)])
def test_the_constructor_refuses_other_types(host, port):
    """A port that was read but not converted is the caller's mistake."""
    with pytest.raises(TypeError, match="must be a"):
        Endpoint(host, port)


def test_an_endpoint_is_a_value():
    """Equal by content, usable as a key, immutable, small, and able to travel."""
    endpoint = Endpoint.parse("[fe80::1%eth0]:80")
    assert {endpoint: 1}[Endpoint("fe80::1%eth0", 80)] == 1
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint
    assert not hasattr(endpoint, "__dict__")
    with pytest.raises(FrozenInstanceError):
        endpoint.port = 81


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("user:secret@host:80", "user:******@host:80"),
        ("tcp://user:secret@host", "tcp:*************@host"),
        ("user:sec/ret@host", "user:*******@host"),
        ("user:sec@ret@host:80", "user:***@***@host:80"),
        ("user@host:80", "user@host:80"),
        ("host:80 90", "host:80 90"),
    ],
)
def test_an_error_shows_no_password(text, shown):
    """Errors end up in logs, whatever their code; all but a password is shown, at its place."""
    with pytest.raises(EndpointError) as caught:
        Endpoint.parse(text)
    assert caught.value.text == shown
    assert "sec" not in str(caught.value) + repr(vars(caught.value))


@given(endpoints(portless=True))
def test_what_is_read_can_be_written_and_read_again(text):
    """``parse`` and ``str`` are inverse to one another, for every valid text."""
    endpoint = Endpoint.parse(text, 29400)
    assert Endpoint.parse(str(endpoint)) == endpoint
    assert Endpoint(endpoint.host, endpoint.port) == endpoint


@settings(max_examples=400)
@given(hard_texts)
@example("\u01ed\u031b" * 32)  # composing makes it longer
@example("\u01d6\u031b" * 32)
@example("\u302a;")  # a mark that combines, and counts as wide all the same
def test_a_text_is_read_or_refused_at_a_place_in_it(text):
    """No text raises anything else. What is accepted is a value that survives; what is refused, is so at a caret."""
    try:
        endpoint = Endpoint.parse(text, 29400)
    except EndpointError as caught:
        error = caught
    else:
        assert Endpoint.parse(str(endpoint)) == endpoint
        assert unicodedata.is_normalized("NFC", endpoint.host)
        return
    assert FAULTS[error.code] == (error.problem, error.hint)
    assert 0 <= error.position <= len(text) == len(error.text)
    shown, caret = str(error).split("\n")[1:3]
    assert shown == "  " + "".join(char if char.isprintable() else "\ufffd" for char in error.text)
    assert caret == "  " + " " * columns(shown[2:][: error.position]) + "^"


def columns(text):
    """Of a terminal, that a text takes."""
    standing = [char for char in text if unicodedata.category(char) not in ("Mn", "Me")]
    return len(standing) + sum(unicodedata.east_asian_width(char) in "WF" for char in standing)


@pytest.mark.parametrize(
    ("text", "columns_before"),
    [("\u6771\u4eac:99999", 5), ("\uff48ost:1", 0), ("e\u0301\u0323-:1", 1), ("\u6771\x00:1", 2)],
    ids=["wide", "full width", "marks that combine", "what cannot be printed"],
)
def test_the_caret_stands_under_the_fault_on_a_terminal(text, columns_before):
    """Wide characters take two columns there, and marks that combine none."""
    with pytest.raises(EndpointError) as caught:
        Endpoint.parse(text, 29400)
    assert str(caught.value).split("\n")[2] == "  " + " " * columns_before + "^"


@settings(max_examples=400)
@given(hard_texts)
def test_a_text_that_both_readers_accept_means_the_same_to_both(text):
    """Strict only ever refuses or repairs: composing apart, it never reads another endpoint than upstream."""
    strict, compat = outcome(text), compat_outcome(text)
    if "error" not in strict and "error" not in compat:
        assert strict == {"host": unicodedata.normalize("NFC", compat["host"]), "port": compat["port"]}


@given(st.text(st.characters(exclude_characters="[]@/,:"), max_size=60))
def test_a_host_fault_points_at_the_first_stranger(text):
    """With a legal character above the caret, that fault is gone: the next one, if any, is another."""
    got = outcome(text)
    if got.get("error") == "host-char":
        assert outcome(text[: got["pos"]] + "a" + text[got["pos"] + 1 :]) != got


@pytest.mark.parametrize("piece", [":", "[", "]", ".", "-", "@", "1", "0", "a", "%", " ", "a.", "1.", "::", "\u0308"])
@pytest.mark.parametrize("frame", ["{}", "h:{}", "[{}]", "[::1]:{}", "u:{}@h"])
def test_long_texts_are_read_in_linear_time(piece, frame):
    """Half a million characters take a moment; anything quadratic would run into the suite's time limit."""
    outcome(frame.format(piece * (500_000 // len(piece))))
