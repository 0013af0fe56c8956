"""``rdzv-sim run --report``: real runs, and the files that they leave."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from rdzv.events import VARIABLE
from sim.report.folder import Folder

ROOT = Path(__file__).parents[2]
FILES = {"report.html", "report.json", "trace.json", "junit.xml", "events.jsonl"}


def rdzv_sim(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    argv = [sys.executable, "-m", "sim", *arguments]
    environ = {**os.environ, **environ}
    return subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)


def reported(directory: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return data


def test_a_run_leaves_its_picture_in_all_forms(tmp_path: Path) -> None:
    """Each rank spawns, connects, joins, exchanges, leaves and waits; the command has the seed that was drawn."""
    done = rdzv_sim("run", "-n", "3", "--rounds", "2", "--json", "--report", str(tmp_path / "new" / "folder"))
    folder = tmp_path / "new" / "folder"
    assert done.returncode == 0
    assert done.stderr == f"rdzv-sim: the report is {folder / 'report.html'}\n"
    assert {path.name for path in folder.iterdir()} == FILES
    run, printed = reported(folder), json.loads(done.stdout)
    del run["ranks"], printed["ranks"]
    assert run | printed == run
    assert run["command"] == f"rdzv-sim run --nranks 3 --rounds 2 --seed {printed['seed']}"
    a_round = ["connect", "join", "exchange", "leave"]
    for rank in range(3):
        spans = [span for span in run["spans"] if span["rank"] == rank]
        assert [span["name"] for span in spans] == ["spawn", *a_round, "barrier", *a_round]
        assert all(one["end_s"] <= other["begin_s"] for one, other in itertools.pairwise(spans))
    assert [span["round"] for span in run["spans"] if span["rank"] is None] == [1, 2]
    assert sorted((mark["rank"], mark["name"]) for mark in run["marks"]) == [(rank, "exit") for rank in range(3)]
    assert len(ET.parse(folder / "junit.xml").findall("testsuite/testcase")) == len(run["checks"])
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]


def test_a_program_is_reported_with_what_it_prints_and_how_to_run_it_again(tmp_path: Path) -> None:
    """Also if it fails, and if somebody else listens to the events as well."""
    listener = tmp_path / "others"
    listener.write_text("what was there before\n")
    script = "echo 'it is <b>'; echo oh >&2; exit $RANK"
    given, program = ["--timeout", "12.3456789", "--seed", "3"], ["--", "sh", "-c", script]
    arguments = ["run", "-n", "2", *given, "--report", str(tmp_path), *program]
    done = rdzv_sim(*arguments, RDZV_EVENTS=str(listener))
    assert done.returncode == 1
    run = reported(tmp_path)
    assert sorted((line["rank"], line["stream"], line["text"]) for line in run["lines"]) == [
        *((0, "stderr", "oh"), (0, "stdout", "it is <b>")),
        *((1, "stderr", "oh"), (1, "stdout", "it is <b>")),
    ]
    words = shlex.split(run["command"])
    assert words == ["rdzv-sim", "run", "--nranks", "2", *given, *program]
    assert [(mark["rank"], mark["name"]) for mark in run["marks"] if mark["name"] == "failed"] == [(1, "failed")]
    assert run["failure"].startswith("rank 1 failed first")
    assert listener.read_text() == "what was there before\n"


def test_what_nodes_of_a_program_tell_is_on_their_ranks_lanes(tmp_path: Path) -> None:
    """Any program that meets by rdzv: to listen, the run sets a variable for it."""
    program = tmp_path / "meets.py"
    program.write_text(
        "import os\n"
        "from rdzv import RendezvousParameters, get_rendezvous_handler\n"
        "rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])\n"
        "port = int(os.environ['FREE_PORT'])\n"
        "config = {'rank': rank, 'timeout': 20, 'hosting': 'thread'}\n"
        "handler = get_rendezvous_handler(\n"
        "    RendezvousParameters('static', f'127.0.0.1:{port}', 'x', size, size, **config))\n"
        "handler.next_rendezvous()\n"
        "handler.shutdown()\n"
    )
    from rdzv.utils import get_free_port

    arguments = ["run", "-n", "2", "--report", str(tmp_path), "--", sys.executable, str(program)]
    done = rdzv_sim(*arguments, FREE_PORT=str(get_free_port()), PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        names = [span["name"] for span in reported(tmp_path)["spans"] if span["rank"] == rank]
        assert names == ["spawn", "program", "join", "member"]


def test_faults_of_a_scenario_are_in_the_report(tmp_path: Path) -> None:
    """When they strike, and whom; and the command has them."""
    done = rdzv_sim(
        "run", "-n", "2", "--rounds", "1", "--seed", "1", "--fault", "slow:1:30ms@join", "--report", str(tmp_path)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = reported(tmp_path)
    faults = [(mark["rank"], mark["text"]) for mark in run["marks"] if mark["name"] == "fault"]
    assert faults == [(1, "slow:1:30ms")]
    assert run["command"] == "rdzv-sim run --nranks 2 --rounds 1 --seed 1 --fault slow:1:30ms@join"


def test_a_folder_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    """Nobody waits for a run whose report has no place."""
    (tmp_path / "file").write_text("")
    done = rdzv_sim("run", "-n", "1", "--report", str(tmp_path / "file" / "below"))
    assert done.returncode == 2
    assert "cannot write to" in done.stderr


@pytest.mark.skipif(sys.version_info[:3] == (3, 13, 0), reason="that Python cannot import socket in such a directory")
def test_a_run_from_a_directory_that_is_gone_has_its_report(tmp_path: Path) -> None:
    """It cannot say where to run it again, which is no reason not to show it."""
    gone = tmp_path / "gone"
    gone.mkdir()
    enter = f"import os, runpy, sys; os.rmdir(os.getcwd()); sys.path.insert(0, {str(ROOT)!r})\n"
    module = "runpy.run_module('sim', run_name='__main__')"
    argv = [sys.executable, "-c", enter + module, "run", "-n", "1", "--report", str(tmp_path / "report")]
    done = subprocess.run(argv, cwd=gone, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert reported(tmp_path / "report")["directory"] == ""


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    """On a full disk half a file would be taken for the whole; the error names it."""
    (tmp_path / "report.json").symlink_to("/dev/full")
    done = rdzv_sim("run", "-n", "1", "--report", str(tmp_path))
    assert done.returncode == 1
    assert f"cannot write the output: No space left on device: {tmp_path / 'report.json'}\n" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "events.jsonl"}


@pytest.mark.parametrize("is_new", [True, False])
def test_who_presses_ctrl_c_before_there_is_a_report_finds_nothing_of_one(tmp_path: Path, is_new: bool) -> None:
    """As the run is about to start, or as it is run in virtual time. What was there before stays."""
    code = (
        "import os, signal, sys\n"
        "import sim.cli, sim.virtual.run\n"
        "def interrupt(*_, **__): os.kill(os.getpid(), signal.SIGINT)\n"
        "sim.cli.run = sim.virtual.run.run = interrupt\n"
        "sys.exit(sim.cli.main(sys.argv[1:]))\n"
    )
    if not is_new:
        (tmp_path / "report").mkdir()
    for arguments in ([], ["--virtual"]):
        argv = [sys.executable, "-c", code, "run", "-n", "2", "--report", str(tmp_path / "report"), *arguments]
        assert subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode == 130
        assert [path.name for path in tmp_path.rglob("*")] == ["report"] * (not is_new)


def test_who_runs_on_without_a_report_tells_no_events_to_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a test that replays a token: what it does afterwards is not of that run."""
    monkeypatch.delenv(VARIABLE, raising=False)
    with Folder(tmp_path / "report", 1, ""):
        assert os.environ[VARIABLE] == str(tmp_path / "report" / "events.jsonl")
    assert VARIABLE not in os.environ
    assert not (tmp_path / "report").exists()
