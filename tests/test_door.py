"""The door to the keeper: one that was started ahead is taken or ended, and there are never two."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sim.process import door

ROOT = Path(__file__).parents[1]
GONE_S = 10.0


def test_a_keeper_started_ahead_is_the_one_that_is_taken(tmp_path: Path) -> None:
    """It serves like any other: it ends with its channel, and removes what it was told to."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with door.ahead():
        ahead = door.pids_ahead()
        process, channel = door.start(str(scratch))
        assert {process.pid} == ahead
        assert door.pids_ahead() == set()
    assert process.poll() is None
    channel.close()
    assert process.wait(GONE_S) == 0
    assert not scratch.exists()


def test_a_keeper_of_another_environment_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ranks would not have what has been set since."""
    with door.ahead():
        ahead = door.pids_ahead()
        monkeypatch.setenv("RDZV_TEST_OF_THE_DOOR", "set since")
        process, channel = door.start("")
    assert {process.pid} != ahead
    channel.close()
    assert process.wait(GONE_S) == 0


def test_a_keeper_that_nobody_takes_is_ended() -> None:
    """Such as that of a command which is given a wrong option."""
    with door.ahead():
        (pid,) = door.pids_ahead()
        pidfd = os.pidfd_open(pid)
    try:
        assert select.select([pidfd], [], [], 0)[0]
        assert door.pids_ahead() == set()
    finally:
        os.close(pidfd)


def test_a_keeper_that_was_stopped_goes_on_and_ends() -> None:
    """It would not hear for ever that its channel is closed."""
    process, channel = door.start("")
    os.kill(process.pid, signal.SIGSTOP)
    channel.close()
    door.see_off(process, GONE_S)
    assert process.poll() == 0


def test_a_keeper_that_does_not_end_is_killed() -> None:
    """This one has no reason to."""
    process, channel = door.start("")
    door.see_off(process, 0.1)
    assert process.poll() == -signal.SIGKILL
    channel.close()


def test_the_keeper_is_told_what_to_remove_even_by_one_that_dies_at_once(tmp_path: Path) -> None:
    """The word is on its way when the keeper has not even begun to listen."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    start = f"from sim.process import door; door.start({str(scratch)!r})"
    die = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    # The keeper has the same standard error, so that its end is awaited here, too.
    subprocess.run(
        [sys.executable, "-c", f"{start}; {die}"], cwd=ROOT, stderr=subprocess.PIPE, timeout=GONE_S, check=False
    )
    assert not scratch.exists()


@pytest.mark.parametrize(
    ("meanwhile", "is_copy"),
    [("pass", True), ("threading.Thread(target=done.wait).start()", False), ("sys.settrace(lambda *_: None)", False)],
    ids=["nothing", "a thread", "a tracer"],
)
def test_a_keeper_has_nothing_of_who_starts_it(meanwhile: str, is_copy: bool) -> None:
    """Be it a copy of a process that has just begun, or an interpreter of its own, where a copy would have too much."""
    script = f"""
import json, os, select, socket, sys, threading
kept = os.pipe()
for fd in kept:
    os.set_inheritable(fd, True)
done = threading.Event()
from sim.process import door
{meanwhile}
with door.ahead():
    sys.settrace(None)
    process, channel = door.start("")
from sim.process.messages import Signal
channel.send(Signal(0, 0))
select.select([channel], [], [], {GONE_S})  # it answers, and so has begun
links = {{int(fd): os.readlink(f"/proc/{{process.pid}}/fd/{{fd}}") for fd in os.listdir(f"/proc/{{process.pid}}/fd")}}
is_copy = open(f"/proc/{{process.pid}}/cmdline").read() == open("/proc/self/cmdline").read()
is_apart = os.getsid(process.pid) == process.pid
ours = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in (*kept, channel.fileno())]
channel.close()
done.set()
print(json.dumps([is_copy, is_apart, links[0], links[1], [link for link in links.values() if link in ours]]))
sys.exit(process.wait({GONE_S}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=True)
    assert json.loads(done.stdout) == [is_copy, True, "/dev/null", "/dev/null", []]


def test_what_is_loaded_before_a_keeper_is_forked_wants_to_know_of_no_fork() -> None:
    """Each rank would pay for that."""
    script = """
import os
os.register_at_fork = lambda **hooks: print(hooks)
from sim.process import boot, door
boot.spare()
boot.load_what_both_need()
"""
    done = subprocess.run([sys.executable, "-S", "-c", script], cwd=ROOT, capture_output=True, timeout=60, check=True)
    assert done.stdout == b""
