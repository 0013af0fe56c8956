"""The compat readers against the real ones: equal outcome, type of error and text included, for every argument."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from rdzv import parse_rendezvous_config, parse_rendezvous_endpoint
from sim.strategies import bad_endpoints, configs, endpoints

pytestmark = pytest.mark.interop

CASES = Path(__file__).parents[1] / "cases"
ENDPOINT_CASES = [
    case
    for name in ("endpoint-cases.json", "endpoint-further.json")
    for case in json.loads((CASES / name).read_text(encoding="utf-8"))
]
CONFIG_CASES = json.loads((CASES / "config-cases.json").read_text(encoding="utf-8"))

PROPERTY = settings(max_examples=500)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)
NO_TEXT = st.sampled_from([None, 0, 80, True, 1.5, b"", b" ", b"host:80", b"a=1", [], ["host"], {}, ("a",)])


@pytest.fixture(scope="module")
def upstream():
    return pytest.importorskip("torch.distributed.elastic.rendezvous.utils", reason="torch is not installed")


def outcome(read, *arguments):
    try:
        return read(*arguments)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it must be the same
        # Python words the errors of a wrong type after the operation that met it: there, the type is the contract.
        return type(error), str(error) if isinstance(error, ValueError) else ""


def pieces(*texts):
    return st.lists(st.sampled_from(texts), max_size=12).map("".join)


endpoint_texts = (
    st.sampled_from([case["endpoint"] for case in ENDPOINT_CASES])
    | endpoints(portless=True)
    | bad_endpoints()
    | pieces(*"[]:.-_@/%,\n \0a1\u00b2\uff11\u0308\u00fc", "::", "80", "65535", "65536", "000000")
    | ANY_TEXT
)
config_texts = (
    st.sampled_from([case["config_string"] for case in CONFIG_CASES])
    | configs()
    | pieces(*"=,; \n\t\0a1", "==", "key", "\u00a0", "\x1c", "\u00e4")
    | ANY_TEXT
)


@pytest.mark.parametrize("case", ENDPOINT_CASES, ids=lambda case: ascii(case["endpoint"])[:40])
def test_each_endpoint_case_is_read_alike(upstream, case):
    """The column «torch» of the tables is torch's, and ours."""
    theirs = outcome(upstream.parse_rendezvous_endpoint, case["endpoint"], case["default_port"])
    assert outcome(parse_rendezvous_endpoint, case["endpoint"], case["default_port"]) == theirs
    expected = case["torch"]
    assert theirs == (expected["host"], expected["port"]) if "host" in expected else expected["about"] in theirs[1]


@PROPERTY
@given(endpoint=endpoint_texts | NO_TEXT, default_port=st.integers() | st.none() | st.text(max_size=3))
def test_any_endpoint_is_read_alike(upstream, endpoint, default_port):
    """Texts from both grammars, from their pieces, from all of Unicode; arguments that are no texts; any default."""
    theirs = outcome(upstream.parse_rendezvous_endpoint, endpoint, default_port)
    assert outcome(parse_rendezvous_endpoint, endpoint, default_port) == theirs


@PROPERTY
@given(text=config_texts | NO_TEXT)
def test_any_configuration_string_is_read_alike(upstream, text):
    """The same for configuration strings; and the options come in the same order."""
    ours, theirs = outcome(parse_rendezvous_config, text), outcome(upstream._parse_rendezvous_config, text)
    assert ours == theirs
    assert list(ours) == list(theirs)
