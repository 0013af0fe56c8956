"""A timeline written down: JSON, Chrome trace, JUnit, and the page's text; a browser looks at that elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections import defaultdict
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, strategies as st

from sim.check.history import Ending
from sim.check.invariants import Check
from sim.plan import Plan
from sim.report.chrome import chrome_trace
from sim.report.document import document
from sim.report.junit import junit
from sim.report.page import embedded, page
from sim.report.recorder import Line
from sim.report.timeline import Mark, Span, Timeline

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"owned=1\">"
HOSTILE += "<!-- \u2028 & \x00\x1b[31m \udcff ]]>"
SPANS = (
    *(Span(0, "spawn", None, 0.0, 1.0), Span(0, "join", 1, 1.0, 2.0)),
    *(Span(1, "join", 1, 1.5, 2.5), Span(None, "round", 1, 1.0, 2.5)),
)


@pytest.fixture(name="hostile")
def _hostile(made_result) -> Timeline:
    """A run in which everything that can be text is hostile, and that failed."""
    plan = Plan(world_size=2, seed=5)
    ranks = list(made_result(plan).ranks)
    ranks[1] = ranks[1]._replace(ending=Ending(1, 3, True, HOSTILE, 3.0), error=HOSTILE)
    checks = (Check("ranks", True, "0..1"), Check("exits", False, HOSTILE))
    result = made_result(plan, ranks=tuple(ranks), checks=checks)
    marks = (Mark(1, "failed", HOSTILE, 3.0), Mark(None, HOSTILE, HOSTILE, 4.0))
    lines = (Line(0, "stdout", HOSTILE, 1.0), Line(1, "stderr", "fine", 2.0))
    return Timeline(
        result, f"rdzv-sim run -- {HOSTILE}", HOSTILE, "2026-01-02T00:00:00.000+00:00", SPANS, marks, lines, {0: 7}
    )


class Elements(HTMLParser):
    """The elements of a document, and the text in each kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.texts: defaultdict[str, str] = defaultdict(str)
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1]
        self.texts[attributes.get("id") or tag] += data


def test_the_document_has_all_that_the_command_prints_and_what_happened_when(hostile: Timeline) -> None:
    """``report.json`` is an interface: these names."""
    data = json.loads(json.dumps(document(hostile)))
    facts = {"ok", "world_size", "rounds", "seed", "duration_s", "ranks", "checks"}
    happened = {"spans", "marks", "lines", "passages"}
    assert data.keys() == facts | happened | {"made_by", "began", "command", "directory", "failure"}
    assert data["spans"][1] == {"rank": 0, "name": "join", "round": 1, "begin_s": 1.0, "end_s": 2.0}
    assert data["marks"][0].keys() == {"rank", "name", "text", "at_s"}
    assert data["lines"][1] == {"rank": 1, "stream": "stderr", "text": "fine", "at_s": 2.0}
    assert [(rank["error"], rank["cut_bytes"]) for rank in data["ranks"]] == [("", 7), (HOSTILE, 0)]


def test_the_trace_keeps_to_the_format_and_its_spans_nest(hostile: Timeline) -> None:
    """Times are microseconds, every thread has a name, and on a thread nothing overlaps by half."""
    trace = json.loads(json.dumps(chrome_trace(hostile)))
    threads = {event["tid"]: event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"}
    assert threads == {1: "rounds", 2: "rank 0", 3: "rank 1"}
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [(event["name"], event["tid"], event["ts"], event["dur"]) for event in spans] == [
        ("spawn", 2, 0.0, 1e6),
        ("join", 2, 1e6, 1e6),
        ("join", 3, 1.5e6, 1e6),
        ("round 1", 1, 1e6, 1.5e6),
    ]
    instants = [event for event in trace["traceEvents"] if event["ph"] == "i"]
    assert [(event["s"], event["args"]["text"]) for event in instants] == [("t", HOSTILE), ("g", HOSTILE)]
    assert {event["pid"] for event in trace["traceEvents"]} == {1}


def test_junit_has_a_case_for_each_check_and_the_reason_of_a_failure(hostile: Timeline) -> None:
    """And is XML whatever was printed: what XML cannot have is replaced."""
    root = ET.fromstring(junit(hostile))
    suite = root[0]
    assert (root.tag, suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("testsuites", "2", "1", "0")
    assert [case.get("name") for case in suite.iter("testcase")] == ["ranks", "exits"]
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "document.title='owned'" in str(failure.text)
    assert "rank 1 failed first" in str(failure.text)
    assert suite.findtext("system-out") == "[0] " + re.sub("[\x00\x1b\udcff]", "\ufffd", HOSTILE)
    assert suite.findtext("system-err") == "[1] fine"


def test_a_page_of_hostile_text_has_no_element_of_its_making(hostile: Timeline) -> None:
    """Only the frame's own elements are there, and the document comes out as it went in."""
    data = document(hostile)
    elements = Elements(page(data))
    plain = Elements(page({**data, "command": "", "directory": "", "failure": "", "marks": [], "lines": []}))
    assert [tag for tag, _ in elements.tags] == [tag for tag, _ in plain.tags]
    assert json.loads(elements.texts["document"]) == data
    assert elements.texts["title"].rstrip("\n") == f"FAILED: {data['command']}".replace("\udcff", "?")
    page(data).encode()  # what cannot be encoded must not end the report


def test_a_page_asks_for_nothing_and_runs_its_own_program_alone(hostile: Timeline) -> None:
    """The policy names the hash of the one script and the one style; no address of anything else is in the frame."""
    text = page(document(hostile))
    elements = Elements(text)
    policy = next(
        attributes["content"] for tag, attributes in elements.tags if "http-equiv" in attributes and tag == "meta"
    )
    program, style = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[-1] for tag in ("script", "style"))
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (program, style)]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; base-uri 'none'"
    )
    assert [(tag, name) for tag, attributes in elements.tags for name in attributes if name in ("src", "href")] == []
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://", program + style)


@given(st.text() | st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_whatever_is_embedded_has_no_markup_and_means_the_same(value: object) -> None:
    """So no text can end the element that holds it, open a comment, or be an entity."""
    written = embedded(value)
    assert not set(written) & set("<>&\u2028\u2029")
    assert html.unescape(written) == written
    assert json.loads(written) == value
