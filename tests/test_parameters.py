"""What a user asks for: what is refused, how options are read, and that parameters are values."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from rdzv import RendezvousParameters

words = st.sampled_from(["1", "TRUE", "t", "No", "f", " true ", "on", "3.9", "0x10", "1_000", "+7"])
numbers = st.one_of(st.booleans(), st.integers(), st.floats(), st.timedeltas())
any_value = st.one_of(st.none(), words, numbers, st.text(), st.binary(), st.lists(st.integers()))


def ask(**changes: object) -> RendezvousParameters:
    sane = {"backend": "static", "endpoint": "localhost:29400", "run_id": "job", "min_nodes": 2, "max_nodes": 4}
    return RendezvousParameters(**{**sane, **changes})


@pytest.mark.parametrize("number", ["2", 2.0, None, True])
@pytest.mark.parametrize("name", ["min_nodes", "max_nodes"])
def test_what_is_no_whole_number_of_nodes_is_named(name: str, number: object) -> None:
    """Not only where it is compared, in words that say nothing."""
    with pytest.raises(TypeError, match=f"{name} must be an int, not "):
        ask(**{name: number})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"backend": ""}, "The rendezvous backend name must be a non-empty string."),
        ({"backend": None, "min_nodes": 0}, "The rendezvous backend name must be a non-empty string."),
        ({"min_nodes": 0}, "The minimum number of rendezvous nodes (0) must be greater than zero."),
        ({"min_nodes": -1, "max_nodes": -2}, "The minimum number of rendezvous nodes (-1) must be greater than zero."),
        (
            {"max_nodes": 1},
            (
                "The maximum number of rendezvous nodes (1) must be greater than or equal to "
                "the minimum number of rendezvous nodes (2)."
            ),
        ),
    ],
)
def test_the_first_bad_parameter_is_refused_in_upstreams_words(changes: dict[str, object], text: str) -> None:
    """Programs and upstream's tests match these texts."""
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        ask(**changes)


@pytest.mark.parametrize(("min_nodes", "max_nodes"), [(1, 1), (1, 2), (3, 3)])
def test_bounds_of_the_numbers_of_nodes_are_allowed(min_nodes: int, max_nodes: int) -> None:
    """One node is a world, and a world may have a fixed size."""
    params = ask(min_nodes=min_nodes, max_nodes=max_nodes)
    assert (params.min_nodes, params.max_nodes) == (min_nodes, max_nodes)


def test_the_endpoint_and_the_run_id_are_the_backends_affair() -> None:
    """Parameters keep them as given, so that each backend can say what it needs."""
    params = ask(endpoint=None, run_id="", local_addr="10.0.0.1")
    assert (params.endpoint, params.run_id, params.local_addr) == (None, "", "10.0.0.1")


def test_an_absent_option_is_its_default_and_a_present_none_is_none() -> None:
    """A default stands in for what was not given, not for what was given as nothing."""
    params = ask(nothing=None)
    assert params.get("absent") is None
    assert params.get("absent", 5) == 5
    assert params.get_as_int("absent", 5) == 5
    assert params.get_as_bool("absent", default=True) is True
    assert params.get("nothing", 5) is None
    assert params.get_as_int("nothing", 5) is None
    assert params.get_as_bool("nothing", default=True) is None


def test_options_may_change_until_the_handler_is_made() -> None:
    """Callers delete and add options."""
    params = ask(rank=1)
    del params.config["rank"]
    params.config["timeout"] = "30"
    assert params.get("rank") is None
    assert params.get_as_int("timeout") == 30


@pytest.mark.parametrize("word", ["1", "true", "TRUE", "t", "T", "yes", "yEs", "y", 1, True])
def test_words_for_true(word: object) -> None:
    """Upstream's words, in any case."""
    assert ask(is_host=word).get_as_bool("is_host") is True


@pytest.mark.parametrize("word", ["0", "false", "False", "f", "no", "nO", "n", "N", 0, False])
def test_words_for_false(word: object) -> None:
    """Upstream's words, in any case."""
    assert ask(is_host=word).get_as_bool("is_host") is False


@pytest.mark.parametrize(
    "word", ["", " true ", "on", "off", "01", "truefalse", 2, -1, 1.0, b"true", ["1"], timedelta(1)]
)
def test_anything_else_is_no_truth(word: object) -> None:
    """A value that may be a slip is refused, and the cause shows it."""
    text = "The rendezvous configuration option 'is_host' does not represent a valid boolean value."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$") as caught:
        ask(is_host=word).get_as_bool("is_host")
    assert repr(word) in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("value", "number"),
    [("0", 0), (" 4 ", 4), ("-10", -10), ("+7", 7), ("1_000", 1000), (b"5", 5), (3, 3), (600.0, 600)],
)
def test_whole_numbers_and_their_texts(value: object, number: int) -> None:
    """What Python reads as an integer is one, and so is a number without a fraction."""
    assert ask(timeout=value).get_as_int("timeout") == number


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a",
        "3b",
        "3.9",
        "0x10",
        3.9,
        Decimal("3.9"),
        True,
        False,
        float("inf"),
        float("nan"),
        [5],
        timedelta(seconds=5),
    ],
)
def test_anything_else_is_no_integer(value: object) -> None:
    """A fraction is not cut off, a truth is not counted, and no other error escapes."""
    text = "The rendezvous configuration option 'timeout' does not represent a valid integer value."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$") as caught:
        ask(timeout=value).get_as_int("timeout")
    assert caught.value.__cause__ is not None


@given(any_value)
def test_reading_an_option_gives_its_type_or_a_value_error(value: object) -> None:
    """Whatever a configuration holds, a backend meets one kind of error."""
    params = ask(option=value)
    for read, kind in ((params.get_as_bool, bool), (params.get_as_int, int)):
        try:
            outcome = read("option")
        except ValueError:
            continue
        assert outcome is None or type(outcome) is kind


@given(st.integers())
def test_an_integer_survives_the_trip_through_text(number: int) -> None:
    """Options of a command line are texts."""
    assert ask(option=str(number)).get_as_int("option") == ask(option=number).get_as_int("option") == number


def test_parameters_are_equal_if_all_of_them_are() -> None:
    """Equality is by value, of options too; and what can change has no hash."""
    assert ask(rank=0) == ask(rank=0)
    assert ask(rank=0) != ask(rank=1)
    assert ask() != ask(run_id="another")
    assert ask() != "parameters"
    with pytest.raises(TypeError, match="unhashable"):
        hash(ask())


@given(
    st.dictionaries(st.from_regex("[a-z]{1,5}_[0-9]", fullmatch=True), any_value.filter(lambda value: value == value))
)
def test_the_repr_says_everything(options: dict[str, object]) -> None:
    """Evaluated, it gives equal parameters."""
    params = ask(local_addr="::1", **options)
    names = {"RendezvousParameters": RendezvousParameters, "inf": float("inf"), "datetime": __import__("datetime")}
    assert eval(repr(params), names) == params
