"""The command ``rdzv-sim``: what it prints, where, and with which exit status."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RANK_KEYS = {"rank", "pid", "rounds", "join_s", "exit"}
CHECK_NAMES = ["ranks", "world_size", "run_id", "bootstrap", "repeats", "values", "exits"]


def rdzv_sim(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    argv = [sys.executable, "-m", "sim", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options)


def test_json_is_one_object_with_everything_a_script_needs() -> None:
    """The interface of ``--json``: these names, these types, and nothing else on standard output."""
    done = rdzv_sim("run", "-n", "3", "--rounds", "2", "--seed", "11", "--json")
    run = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert run.keys() == {"ok", "world_size", "rounds", "seed", "duration_s", "ranks", "checks"}
    assert (run["ok"], run["world_size"], run["rounds"], run["seed"]) == (True, 3, 2, 11)
    assert 0 < run["duration_s"] < 60
    assert [rank["rank"] for rank in run["ranks"]] == [0, 1, 2]
    for rank in run["ranks"]:
        assert rank.keys() == RANK_KEYS
        assert (rank["rounds"], rank["exit"]) == (2, 0)
        assert rank["pid"] > 0
        assert 0 < rank["join_s"] < run["duration_s"]
    assert [check["name"] for check in run["checks"]] == CHECK_NAMES
    assert all(check["passed"] and check["detail"] for check in run["checks"])


def test_json_of_a_program_keeps_standard_output_for_itself() -> None:
    """What the ranks print goes to standard error then, all of it."""
    done = rdzv_sim("run", "-n", "2", "--json", "--", "sh", "-c", "echo printed; exit $RANK")
    run = json.loads(done.stdout)
    assert (done.returncode, run["ok"], run["rounds"]) == (1, False, 0)
    assert [rank["exit"] for rank in run["ranks"]] == [0, 1]
    assert [(check["name"], check["passed"]) for check in run["checks"]] == [("exits", False)]
    assert {"[0] printed", "[1] printed"} <= set(done.stderr.splitlines())


def test_the_tables_show_every_rank_of_a_small_world() -> None:
    """A row for each, one for each check, and the seed that would draw the run again."""
    done = rdzv_sim("run", "-n", "2", "--rounds", "1", "--seed", "5")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"^ +[01] +\d+ +1 +[\d.]+ ms +exit 0 *$", done.stdout, re.MULTILINE)) == 2
    assert re.findall(r"holds +(\w+)", done.stdout) == CHECK_NAMES
    assert re.search(r"^2 ranks, 1 round, [\d.]+ s, seed 5: all checks hold$", done.stdout, re.MULTILINE)


def test_a_pipe_gets_whole_lines() -> None:
    """It has no width at which lines would have to end, unless somebody sets one."""
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = rdzv_sim("run", "-n", "2", "--virtual", "--seed", "5", env=environ)
    summary = r"2 ranks, 3 rounds, [\d.]+ s of virtual time, digest \w+, seed 5: all checks hold"
    assert re.fullmatch(summary, done.stdout.splitlines()[-1])


def test_the_table_of_a_large_world_is_folded() -> None:
    """The slowest have a row each, and the rest share one."""
    done = rdzv_sim("run", "-n", "40", "--rounds", "1")
    assert done.returncode == 0
    assert len(re.findall(r"^ +\d+ +\d+ +1 ", done.stdout, re.MULTILINE)) == 24
    assert re.search(r"16 more +median [\d.]+ ms +exit 0", done.stdout)


def test_no_rank_is_left_out_of_the_table_of_a_large_world_that_fails() -> None:
    """Nor is one that was killed shown as one that ended well, since a scenario has it so."""
    done = rdzv_sim("run", "-n", "30", "--rounds", "1", "--fault", "kill:0@join", "--timeout", "2")
    assert done.returncode == 1
    assert len(re.findall(r"^ +\d+ +\d+ +0 ", done.stdout, re.MULTILINE)) == 24
    assert re.findall(r"\d+ more .*", done.stdout)[0].split() == ["6", "more", "not", "well"]
    assert "exit 0" not in done.stdout


def test_a_terminal_gets_a_live_bar_and_a_pipe_does_not() -> None:
    """The bar is drawn on standard error while the run goes, and leaves standard output alone."""
    controller, terminal = pty.openpty()
    argv = [sys.executable, "-m", "sim", "run", "-n", "2", "--rounds", "4"]
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=terminal) as command:
        os.close(terminal)
        drawn = b""
        while chunk := _read(controller):
            drawn += chunk
        printed, _ = command.communicate(timeout=60)
    os.close(controller)
    assert command.returncode == 0
    assert b"round" in drawn
    assert b"8/8" in drawn
    assert b"\x1b" not in printed


def test_no_color_means_plain_text() -> None:
    """Also where it would be bold: not one escape sequence in what is printed to a terminal."""
    controller, terminal = pty.openpty()
    argv = [sys.executable, "-m", "sim", "run", "-n", "2", "--rounds", "1"]
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    with subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=terminal, stderr=subprocess.DEVNULL) as command:
        os.close(terminal)
        drawn = b""
        while chunk := _read(controller):
            drawn += chunk
    os.close(controller)
    assert command.returncode == 0
    assert b"all checks hold" in drawn
    assert b"\x1b" not in drawn


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except OSError:  # how a pseudo-terminal ends
        return b""


def test_output_is_prefixed_line_by_line_on_the_stream_it_came_from() -> None:
    """Standard output to standard output, standard error to standard error."""
    done = rdzv_sim("run", "-n", "2", "--", "sh", "-c", "echo out; printf more; echo err >&2")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ["[0] more", "[0] out", "[1] more", "[1] out"]
    *errors, last = done.stderr.splitlines()
    assert sorted(errors) == ["[0] err", "[1] err"]
    assert re.fullmatch(r"rdzv-sim: 2 ranks ended with exit status 0 after [\d.]+ s", last)


def test_a_failing_program_fails_the_command_and_says_who_was_first() -> None:
    """Exit status 1, and on standard error the rank, its exit code, and whom it took along."""
    done = rdzv_sim("run", "-n", "2", "--", "sh", "-c", "[ $RANK = 0 ] && exit 7; sleep 60")
    assert done.returncode == 1
    assert done.stderr == (
        "rdzv-sim: rank 0 failed first, in the program: exit 7; rank 1 had to be ended in the program\n"
    )


def test_options_of_the_program_are_the_programs_own() -> None:
    """With or without the two hyphens, nothing behind the program's name is read as ours."""
    for separator in (["--"], []):
        done = rdzv_sim("run", "-n", "1", *separator, "printf", "%s %s\\n", "-n", "--json")
        assert done.stdout == "[0] -n --json\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "-n", "0"], "'-n'"),
        (["run", "-n", "many"], "'-n'"),
        (["run", "--rounds", "0"], "'--rounds'"),
        (["run", "--timeout", "0"], "'--timeout'"),
        (["run", "--timeout", "nan"], "timeout_s must be more than 0"),
        (["run", "--nonesuch"], "--nonesuch"),
        (["walk"], "walk"),
        (["run", "--rounds", "2", "--", "true"], "--rounds is for the built-in job"),
        (["run", "--", "nonesuch-program"], "command not found: nonesuch-program"),
    ],
)
def test_bad_usage_is_told_apart_from_a_failed_run(arguments: list[str], words: str) -> None:
    """Exit status 2, and what is wrong on standard error."""
    done = rdzv_sim(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


@pytest.mark.parametrize(
    ("words", "of_process", "status"),
    [
        (["run", "-n", "2", "--"], [], 2),
        (["run", "--virtual"], ["--"], 0),
        (["run", "-n", "1", "--", "echo", "--"], [], 0),
    ],
)
def test_two_hyphens_announce_a_command_in_the_words_that_are_given(
    words: list[str], of_process: list[str], status: int
) -> None:
    """And not in those that the process was started with."""
    code = f"import sys\nfrom sim.cli import main\nsys.exit(main({words}))"
    argv = [sys.executable, "-c", code, *of_process]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert ("there is no command after --" in done.stderr) == bool(status)


@pytest.mark.parametrize("registered", [(), ("at the end",)])
def test_what_others_want_done_at_the_end_of_the_command_is_done(registered: tuple[str, ...]) -> None:
    """It does not take itself apart, but threads are waited for, and what is to be called then is."""
    code = f"""
import atexit, threading
for said in {registered}:
    atexit.register(print, said)
threading.Thread(target=lambda: (threading.main_thread().join(), print("a thread"))).start()
from sim.__main__ import main
main()
"""
    argv = [sys.executable, "-c", code, "run", "-n", "1", "--nonesuch"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (2, ["a thread", *registered])


def test_a_machine_that_cannot_is_no_failed_run() -> None:
    """Nothing was checked, so nothing failed: exit status 2."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n"
        "from sim.__main__ import main; main()"
    )
    argv = [sys.executable, "-c", code, "run", "-n", "1000"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "the hard limit is 200" in done.stderr


ELSEWHERE = """
import os, select, signal, socket, sys
sys.platform = "elsewhere"
for module, name in (
    (os, "pidfd_open"), (os, "sched_getaffinity"), (select, "epoll"), (signal, "SIGRTMAX"), (socket, "MSG_CMSG_CLOEXEC")
):
    delattr(module, name)
if __name__ == "__main__":  # and not in a worker of a search
    from sim.__main__ import main
    main()
"""


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["run", "-n", "2", "--virtual"], 0, "all checks hold"),
        (["search", "--seeds", "2", "--faults", "kill"], 0, "nothing found"),
        (["run", "-n", "2"], 2, "needs Linux"),
    ],
    ids=["run", "search", "processes"],
)
def test_a_system_without_what_linux_alone_has_can_do_all_but_run_processes(
    arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    """And says so in a sentence: virtual time needs no such system."""
    program = tmp_path / "elsewhere.py"
    program.write_text(ELSEWHERE)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, str(program), *arguments]
    done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_is_named(missing: str, tmp_path: Path) -> None:
    """Without site-packages but for the other one: the command says what brings it."""
    for present in {"click", "rich"} - {missing}:
        spec = importlib.util.find_spec(present)
        assert spec
        assert spec.origin
        (tmp_path / present).symlink_to(Path(spec.origin).parent)
    code = f"import sys; sys.path += [{str(ROOT)!r}, {str(tmp_path)!r}]; from sim.__main__ import main; main()"
    argv = [sys.executable, "-S", "-P" if sys.version_info >= (3, 11) else "-E", "-c", code, "run", "-n", "1"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"rdzv-sim needs the package {missing}, which the extra 'sim' of rdzv brings\n"


def test_a_reader_that_has_seen_enough_ends_the_run_quietly() -> None:
    """As in ``rdzv-sim ... | head -1``: no traceback."""
    argv = [sys.executable, "-m", "sim", "run", "-n", "2", "--", "yes"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout
        assert command.stderr
        assert re.fullmatch(rb"\[[01]\] y\n", command.stdout.readline())
        command.stdout.close()
        assert command.stderr.read() == b""
        assert command.wait(30) == 1
