"""The page in a real browser: what is seen, what keys and mouse do, and that hostile text stays text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sim.check.history import Ending
from sim.check.invariants import Check
from sim.plan import Plan
from sim.process.messages import Started
from sim.report.document import document
from sim.report.page import page
from sim.report.recorder import Line, Recorder
from sim.report.timeline import Mark, Span, Timeline, timeline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = "</script><script>owned = 1</script><img src=x onerror='owned = 1'><b id=owned>"
VIEW = "[chart.view.begin, chart.view.end]"


@pytest.fixture(name="written")
def _written(made_result, tmp_path: Path) -> Callable[..., Path]:
    """Writes a page of so many ranks: each spawns for 1 s, then joins until it ends at 10 s; the last one fails."""

    def write(world_size: int) -> Path:
        last = world_size - 1
        plan = Plan(world_size=world_size, rounds=1)
        ranks = list(made_result(plan).ranks)
        ranks[last] = ranks[last]._replace(ending=Ending(last, 1, True, "the join", 10.0), error=HOSTILE)
        result = made_result(plan, ranks=tuple(ranks), checks=(Check("exits", False, HOSTILE),))
        spans: list[Span] = []
        for rank in range(world_size):
            spans += [Span(rank, "spawn", None, 0.0, 1.0), Span(rank, "join", 1, 1.0, 10.0)]
        marks = (Mark(0, "fault", HOSTILE, 5.0), Mark(last, "failed", HOSTILE, 10.0))
        lines = tuple(Line(rank, "stdout", f"{HOSTILE} of {rank}", 2.0) for rank in range(world_size))
        whole = (*spans, Span(None, "round", 1, 1.0, 10.0))
        run = Timeline(result, f"run {HOSTILE}", HOSTILE, "2026-01-02T00:00:00.000+00:00", whole, marks, lines, {})
        path = tmp_path / "report.html"
        path.write_text(page(document(run)), "utf-8")
        return path

    return write


def box(browser: Any) -> dict[str, float]:
    """Where the chart is."""
    place: dict[str, float] = browser.run("document.getElementById('chart').getBoundingClientRect().toJSON()")
    return place


@pytest.mark.parametrize("world_size", [4, 256])
def test_the_page_opens_from_disk_and_shows_every_rank(browser, written, world_size: int) -> None:
    """Without an error, without a request, and without scrolling sideways; hostile text is text."""
    path = written(world_size)
    browser.open(path)
    assert browser.complaints() == []
    assert browser.requests() == [path.as_uri()]
    assert browser.run("document.getElementById('verdict').textContent") == "✗ Failed"
    assert browser.run("document.querySelectorAll('#lanes tbody tr').length") == world_size
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("typeof owned + document.querySelectorAll('#owned, img').length") == "undefined0"
    assert HOSTILE in browser.run("document.getElementById('log').textContent")
    assert HOSTILE in browser.run("document.getElementById('error').textContent")


def test_a_rank_that_hung_is_told_of_as_in_the_table(browser, made_result, tmp_path: Path) -> None:
    """Above its stack are the words of its row, which are those of the terminal: that a key is one, and in quotes."""
    plan = Plan(world_size=1)
    ending = Ending(0, -9, False, "the program", 10.0)
    rank = made_result(plan).ranks[0]._replace(ending=ending, stack="in the_middle", keys=("is that, it",))
    recorder = Recorder(1)
    recorder.began_at, recorder.heard = 0.0, [(1.0, 0, Started(100, 1.0))]
    run = timeline(made_result(plan, ranks=(rank,)), recorder, (), "rdzv-sim run", "/")
    path = tmp_path / "report.html"
    path.write_text(page(document(run)), "utf-8")
    browser.open(path)
    row = "had to be ended in the program, waiting for the key 'is that, it'"
    assert browser.run("document.querySelector('#lanes tbody td:last-child').textContent") == row
    assert browser.run("document.getElementById('error').textContent") == f"rank 0 {row}: SIGKILL\nin the_middle"


def test_what_is_drawn_has_the_colours_of_the_scheme(browser, written) -> None:
    """Light or dark as people have it; in the middle of a lane is the colour of what the rank does."""
    path = written(4)
    backgrounds = []
    for scheme in ("light", "dark"):
        browser.open(path, scheme)
        pixel = "[...chart.brush.getImageData(700, AXIS + chart.lane * 1.5, 1, 1).data].slice(0, 3)"
        wanted = browser.run("getComputedStyle(document.documentElement).getPropertyValue('--join')")
        drawn = browser.run(pixel)
        assert "#" + "".join(f"{part:02x}" for part in drawn) == wanted
        backgrounds.append(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert len(set(backgrounds)) == 2


def test_keys_zoom_move_and_choose(browser, written) -> None:
    """All that the mouse can do, for people who have none; and what is chosen is said."""
    browser.open(written(4))
    browser.run("document.getElementById('chart').focus()")
    begin, end = browser.run(VIEW)
    browser.press("+")
    closer = browser.run(VIEW)
    assert begin < closer[0] < closer[1] < end
    browser.press("ArrowRight")
    assert browser.run(VIEW)[0] > closer[0]
    browser.press("0")
    assert browser.run(VIEW) == pytest.approx([begin, end])
    browser.press("End")
    assert browser.run("document.getElementById('whose').value") == "3"
    assert browser.run("document.getElementById('said').textContent").startswith("rank 3: ")
    browser.press("n")
    assert browser.run("document.getElementById('said').textContent") == "rank 3: spawn, 1.00 s, at 0 s"
    lane = browser.run("chart.lane")
    browser.press("]")
    assert browser.run("chart.lane") > lane


def test_the_mouse_tells_what_it_points_at_and_zooms(browser, written) -> None:
    """The lane under it, the span in it, and the fault that is close."""
    browser.open(written(4))
    place = box(browser)
    x, y = place["x"] + browser.run("chart.x(5)"), place["y"] + browser.run("chart.y(0) + chart.lane / 2")
    browser.mouse("mouseMoved", x + 30, y)
    tip = browser.run("document.getElementById('tip').textContent")
    assert tip.startswith("rank 0 at 5.")
    assert tip.endswith("join, round 1, 9.00 s\n1.000 s to 10.00 s")
    browser.mouse("mouseMoved", x, y)
    assert f"fault: {HOSTILE}" in browser.run("document.getElementById('tip').textContent")
    before = browser.run(VIEW)
    browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-120, modifiers=2)
    after = browser.run(VIEW)
    assert after[1] - after[0] < before[1] - before[0]
    assert browser.run("chart.x(5)") == pytest.approx(x - place["x"], abs=2)  # what is pointed at stays there
    browser.click(x, y)
    assert browser.run("document.querySelector('#lanes .chosen').id") == "rank-0"
    assert "of 3" not in browser.run("document.getElementById('log').textContent")


def test_a_picture_of_256_ranks_is_drawn_within_a_frame_or_two(browser, written) -> None:
    """Drawn as often as the mouse moves. The bound is wide: the machine may be busy."""
    browser.open(written(256))
    timed = "() => { const at = performance.now(); chart.paint(); return performance.now() - at; }"
    times = browser.run(f"Array.from({{length: 20}}, {timed})")
    assert min(times) < 33


def test_no_word_is_cut_or_broken_at_256_ranks(browser, written) -> None:
    """The first lane's number keeps clear of the axis, however low lanes are; the heads of the tables have one line."""
    browser.open(written(256))
    drawn = """(() => {
        const heights = [], real = chart.brush.fillText;
        chart.brush.fillText = (text, x, y) => { if (/^(✗ )?\\d+$/.test(text)) heights.push(y); };
        chart.paint();
        chart.brush.fillText = real;
        return [Math.min(...heights) - AXIS, heights.length];
    })()"""
    clear, count = browser.run(drawn)
    assert count > 20
    assert clear >= 6
    rows = "[...document.querySelectorAll('thead tr')].map((row) => row.offsetHeight)"
    assert max(browser.run(rows)) < 36
