"""Parameters and bootstrap info against torch's own: the same value, or the same class of error.

Where we differ on purpose:

* ``get_as_int`` refuses truths and numbers with a fraction, which torch counts or cuts off;
* ``get_as_int`` raises ValueError where torch lets TypeError (a list, a timedelta) or OverflowError (infinity) escape.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

import rdzv

if TYPE_CHECKING:
    from collections.abc import Callable

torch_rendezvous = pytest.importorskip("torch.distributed.elastic.rendezvous", reason="torch is not installed")
pytestmark = pytest.mark.interop

words = st.sampled_from(
    ["1", "0", "true", "t", "yes", "y", "false", "f", "no", "n", "on", "+7", " 4 ", "1_0", "0x10", "3.9", "\u0661", ""]
)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    words,
    words.map(str.upper),
    words.map(str.encode),
    st.text(),
    st.binary(),
    st.timedeltas(),
    st.lists(st.integers(), max_size=2),
)


def outcome(ask: Callable[[], object]) -> object:
    """The value with its type, or the class of the error."""
    try:
        value = ask()
    except Exception as error:  # noqa: BLE001 -- which one is the question
        return type(error)
    return type(value), value


def both(**changes: object) -> tuple[rdzv.RendezvousParameters, object]:
    """The same parameters, ours and torch's."""
    sane = {"backend": "static", "endpoint": "localhost:29400", "run_id": "job", "min_nodes": 1, "max_nodes": 1}
    arguments = {**sane, **changes}
    return rdzv.RendezvousParameters(**arguments), torch_rendezvous.RendezvousParameters(**arguments)


@given(values)
def test_truths_are_read_as_torch_reads_them(value: object) -> None:
    """No difference at all."""
    ours, theirs = both(option=value)
    assert outcome(lambda: ours.get_as_bool("option")) == outcome(lambda: theirs.get_as_bool("option"))
    assert outcome(lambda: ours.get_as_bool("no", value)) == outcome(lambda: theirs.get_as_bool("no", value))


def is_stricter(value: object) -> bool:
    """Whether we refuse what torch takes, or refuse it in another way."""
    has_fraction = isinstance(value, float) and not value.is_integer()
    return isinstance(value, (bool, list, timedelta)) or has_fraction


@given(values)
def test_integers_are_read_as_torch_reads_them_or_refused(value: object) -> None:
    """Ours is torch's outcome, or, where we are stricter, a ValueError."""
    ours, theirs = both(option=value)
    expected = ValueError if is_stricter(value) else outcome(lambda: theirs.get_as_int("option"))
    assert outcome(lambda: ours.get_as_int("option")) == expected


node_counts = st.one_of(st.integers(-2, 3), st.booleans(), st.floats(), st.sampled_from(["1", "", None, [1]]))


@given(st.sampled_from(["static", "c10d", "", None, 0, " "]), node_counts, node_counts, st.none() | st.text(max_size=3))
def test_parameters_are_refused_as_torch_refuses_them(backend: object, low: object, high: object, text: object) -> None:
    """The same class of error and the same text, or none on both sides; what is no whole number of nodes, we name."""
    arguments = {"backend": backend, "endpoint": text, "run_id": text, "min_nodes": low, "max_nodes": high}

    def attempt(parameters: type) -> object:
        try:
            made = parameters(**arguments, local_addr=text, rank=text)
        except (ValueError, TypeError) as error:
            return type(error), str(error)
        return {name: repr(value) for name, value in vars(made).items()}

    ours, theirs = attempt(rdzv.RendezvousParameters), attempt(torch_rendezvous.RendezvousParameters)
    if backend and not all(type(count) is int for count in (low, high)):
        assert ours[0] is TypeError
        assert "must be an int" in ours[1]
    else:
        assert ours == theirs


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, 65535))
def test_ranks_of_both_kinds_agree_on_the_bootstrap_info(address: str, port: int) -> None:
    """Whoever is rank 0, and whoever reads, over torch's own store."""
    distributed = pytest.importorskip("torch.distributed")
    ours, theirs = rdzv.RendezvousStoreInfo, torch_rendezvous.RendezvousStoreInfo
    for host, guest in ((ours, theirs), (theirs, ours)):
        store = distributed.HashStore()
        first = host.build(0, store, address, port)
        second = guest.build(1, store, "elsewhere")
        assert (first.master_addr, first.master_port) == (second.master_addr, second.master_port) == (address, port)


def test_the_interface_of_a_handler_is_torchs() -> None:
    """The same methods must be there, and the same may be left out."""
    ours, theirs = rdzv.RendezvousHandler, torch_rendezvous.RendezvousHandler
    assert ours.__abstractmethods__ == theirs.__abstractmethods__
    assert {name for name in vars(theirs) if not name.startswith("_")} == {
        n for n in vars(ours) if not n.startswith("_")
    }
