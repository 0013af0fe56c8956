"""A run as JUnit XML, for continuous integration: each check is a test case.

Ranks are none: a scenario may kill one and hold all the same. What they did is in the text of the checks that fail,
and what they printed is the suite's output.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from sim.report.failures import failures

if TYPE_CHECKING:
    from sim.report.timeline import Timeline

_NO_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot have, even escaped


def junit(timeline: Timeline) -> bytes:
    """The document."""
    result = timeline.result
    failed = [check for check in result.checks if not check.passed]
    counts = {"tests": len(result.checks), "failures": len(failed), "errors": 0, "skipped": 0}
    totals = {**{name: str(count) for name, count in counts.items()}, "time": f"{result.duration_s:.6f}"}
    root = Element("testsuites", totals)
    suite = SubElement(root, "testsuite", {"name": "rdzv-sim", "timestamp": timeline.began, **totals})
    properties = SubElement(suite, "properties")
    for name, value in (
        ("command", timeline.command),
        ("directory", timeline.directory),
        ("seed", str(result.plan.seed)),
        ("world_size", str(result.plan.world_size)),
    ):
        SubElement(properties, "property", name=name, value=_clean(value))
    for check in result.checks:
        case = SubElement(suite, "testcase", classname="rdzv-sim", name=check.name, time="0")
        if not check.passed:
            failure = SubElement(case, "failure", message=_clean(check.detail), type="check")
            failure.text = _clean("\n".join([check.detail, *failures(result)]))
    for stream, tag in (("stdout", "system-out"), ("stderr", "system-err")):
        lines = [f"[{line.rank}] {line.text}" for line in timeline.lines if line.stream == stream]
        if lines:
            SubElement(suite, tag).text = _clean("\n".join(lines))
    written: bytes = tostring(root, "utf-8", xml_declaration=True)
    return written


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
