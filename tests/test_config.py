"""`rdzv.config`: both readers against the table, the properties that hold for every text, and unknown options."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from rdzv import ConfigError, parse_config, parse_rendezvous_config
from rdzv.config import FAULTS, RESERVED_KEYS, refuse_unknown_options
from sim.strategies import configs, options

CASES = json.loads((Path(__file__).parent / "cases" / "config-cases.json").read_text(encoding="utf-8"))

PIECES = st.sampled_from((*'=,; \n\t\0ab1-._"\\\u00a0\u00e4', "==", "timeout", "rank", "endpoint"))
hard_texts = st.lists(PIECES, max_size=15).map("".join) | st.text(max_size=200) | configs()

# What the case table leaves open: the order of the checks, and the positions.
FURTHER = {
    "a=1,b=": "value-missing@6",
    "a= ,b=1": "value-missing@2",
    "a ,b=1": "value-missing@1",
    "  a": "value-missing@3",
    "a b": "value-missing@3",
    "--a=": "value-missing@4",
    "endpoint": "value-missing@8",
    "a=1,  =2": "key-empty@4",
    "a=1, ": "key-empty@4",
    " , ": "key-empty@1",
    "a=1,b c=2": "key-char@5",
    " a=1, \u00e4=1": "key-char@6",
    "a=1;b=2,=": "separator@3",
    "-=1": "key-char@0",
    ".a=1": "key-char@0",
    "a=1,2b=1": "key-char@4",
    '"a"=1': "key-char@0",
    "_a.b-c9=1": {"_a.b-c9": "1"},
    "a=1, min_nodes =2": "key-reserved@5",
    "Endpoint=x": {"Endpoint": "x"},
    "a=1,b=2,a=": "value-missing@10",
    "a=1,b=2,a=3;c=4": "key-repeated@8",
    "a=1 ; b = 2": "separator@3",
    "a=;b=2": "separator@2",
    "a=x y  z=2": "separator@5",
    "a= 1; b_c-d.e=2": "separator@4",
    "a=1\u3000b=2": "separator@3",
    "a=1; 2b=2": {"a": "1; 2b=2"},
    "a=1;2": {"a": "1;2"},
    "a=x y z": {"a": "x y z"},
    "a=1;=2": {"a": "1;=2"},
    "a=x;y=z\t": "separator@3",
    "a=x\ty b=1": "separator@5",
    "a=x\x7f": "value-char@3",
    "a=x\x9by": "value-char@3",
    "a=\0": "value-char@2",
    "a=x\u2028y": {"a": "x\u2028y"},
    "\x1ca=1\x85": {"a": "1"},
}


def outcome(text):
    """What the strict reader makes of a text, as the table writes it."""
    try:
        return {"config": parse_config(text)}
    except ConfigError as error:
        return {"error": error.code, "pos": error.position}


def compat_outcome(text):
    """The same for the compat reader."""
    try:
        return {"config": parse_rendezvous_config(text)}
    except ValueError as error:
        return {"error": "ValueError", "about": "format" if "format" in str(error) else "value"}


def label_of(text):
    return ascii(text)[:40]


@pytest.mark.parametrize("case", CASES, ids=lambda case: label_of(case["config_string"]))
def test_both_readers_read_each_case_as_the_table_says(case):
    """The table's two columns, values, codes and positions."""
    assert outcome(case["config_string"]) == case["strict"]
    assert compat_outcome(case["config_string"]) == case["torch"]


@pytest.mark.parametrize(("text", "expected"), FURTHER.items(), ids=label_of)
def test_strict_reads_each_further_case_as_written_here(text, expected):
    """Edges of the rules that the table does not visit."""
    got = outcome(text)
    assert expected == (f"{got['error']}@{got['pos']}" if "error" in got else got["config"])


def test_each_documented_fault_has_a_case():
    """`FAULTS` documents neither too much nor too little."""
    assert {case["strict"].get("error") for case in CASES} - {None} == set(FAULTS)


@pytest.mark.parametrize("name", sorted(RESERVED_KEYS))
def test_each_reserved_key_is_refused(name):
    """They would collide with the constructor's own parameters, much later and without a place."""
    assert outcome(f"a=1,{name}=x") == {"error": "key-reserved", "pos": 4}


@pytest.mark.parametrize("not_a_text", [None, 5, b"a=1", {"a": "1"}], ids=repr)
def test_strict_refuses_what_is_no_text_with_a_type_error(not_a_text):
    """A programming error, unlike a faulty text, is no ValueError."""
    with pytest.raises(TypeError, match="must be a str"):
        parse_config(not_a_text)


@pytest.mark.parametrize(
    ("not_a_text", "error"), [(None, AttributeError), (5, AttributeError), (b"a=1", TypeError)], ids=repr
)
def test_compat_leaks_the_errors_that_upstream_leaks(not_a_text, error):
    """Outcomes are equal for every argument, sensible or not."""
    with pytest.raises(error):
        parse_rendezvous_config(not_a_text)


@given(st.data(), options())
def test_what_is_written_is_read_by_both(data, expected):
    """Any options that can be written are read back, in their order, whatever the blanks."""
    text = data.draw(configs(saying=st.just(expected)))
    assert list(parse_config(text).items()) == list(expected.items())
    assert parse_rendezvous_config(text) == expected


@settings(max_examples=400)
@given(hard_texts)
def test_a_text_is_read_or_refused_at_a_place_in_it(text):
    """No text raises anything else. What is accepted compat reads alike; what is refused, is so at a caret."""
    try:
        config = parse_config(text)
    except ConfigError as caught:
        error = caught
    else:
        assert parse_rendezvous_config(text) == config
        return
    assert FAULTS[error.code] == (error.problem, error.hint)
    assert 0 <= error.position <= len(text)
    shown, caret = str(error).split("\n")[1:3]
    assert len(shown) == 2 + len(text)
    assert caret.lstrip() == "^"
    assert len(caret) > 2 + error.position or not text[: error.position].isascii()


@given(hard_texts)
def test_compat_raises_nothing_but_value_error(text):
    """And it refuses exactly the texts that strict calls incomplete, if strict gets that far."""
    compat, strict = compat_outcome(text), outcome(text)
    if strict.get("error") in ("key-empty", "value-missing"):
        assert compat["about"] == {"key-empty": "format", "value-missing": "value"}[strict["error"]]


@pytest.mark.parametrize("piece", [",", "=", " ", ";", "a=1,", " a", "; a", "a ", "-"])
def test_long_texts_are_read_in_linear_time(piece):
    """Half a million characters take a moment; anything quadratic would run into the suite's time limit."""
    outcome("a=x" + piece * (500_000 // len(piece)) + "x")


def test_an_unknown_option_is_refused_with_the_nearest_name():
    """A typo is told apart from an option that another backend has; either way the options are listed."""
    known = {"timeout", "rank", "bind"}
    with pytest.raises(ConfigError, match=r"(?s)'timeuot'.*'static'.*did you mean timeout\?.* bind, rank, timeout$"):
        refuse_unknown_options({"rank": 0, "timeuot": 5}, known, "static")
    with pytest.raises(ConfigError, match=r"(?s)'store_type'.*hint: The options are bind, rank, timeout$"):
        refuse_unknown_options({"store_type": "tcp"}, known, "static")
    with pytest.raises(ConfigError, match="It has no options"):
        refuse_unknown_options({"rank": 0}, (), "mine")


def test_known_options_pass():
    """Any subset of them, none included."""
    refuse_unknown_options({}, (), "static")
    refuse_unknown_options({"rank": 0}, ["rank", "timeout"], "static")
