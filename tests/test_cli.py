"""`rdzv.cli`: what the command prints, where, and its exit status."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rdzv import TCPStore, get_socket_with_port
from rdzv.cli import main
from rdzv.hosting import SECONDS_MAX


def test_parse_shows_how_endpoints_are_read(capsys):
    """One line for each text, in their order."""
    assert main(["parse", "--default-port", "29400", "[::1]:080", " localhost "]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["'[::1]:080': host '::1', port 80", "' localhost ': host 'localhost', port 29400"]
    assert err == ""


def test_parse_points_at_the_fault_and_goes_on(capsys):
    """A refused text goes to standard error with its caret; the others are still shown."""
    assert main(["parse", "host:80", "ho st:80", "host:81"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == ["'host:80': host 'host', port 80", "'host:81': host 'host', port 81"]
    assert err.splitlines()[1:3] == ["  ho st:80", "    ^"]


def test_parse_takes_a_text_that_begins_with_a_hyphen_after_two(capsys):
    """As the help says."""
    assert main(["parse", "--", "-host:80"]) == 1
    assert "[label-hyphen]" in capsys.readouterr().err


def test_parse_demands_a_port_where_there_is_no_default(capsys):
    """There is no built-in default: it differs from backend to backend."""
    assert main(["parse", "localhost"]) == 1
    assert "[default-port]" in capsys.readouterr().err


def test_parse_reads_configuration_strings(capsys):
    """The other grammar, chosen by a flag."""
    assert main(["parse", "--config", "timeout=5, rank=0", "", "a=1;b=2"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == ["'timeout=5, rank=0': timeout '5', rank '0'", "'': no options"]
    assert "[separator]" in err


def test_parse_compat_reads_as_upstream_does(capsys):
    """Sane or not."""
    assert main(["parse", "--compat", "--default-port", "70000", "::1", "localhost"]) == 0
    assert capsys.readouterr().out == "'::1': host ':', port 1\n'localhost': host 'localhost', port 70000\n"
    assert main(["parse", "--compat", "--config", "a=1 b=2"]) == 0
    assert capsys.readouterr().out == "'a=1 b=2': a '1 b=2'\n"


def test_parse_json_prints_an_object_for_each_text(capsys):
    """What a script needs, refused texts included, in the order of the arguments; a person still sees the errors."""
    assert main(["parse", "--json", "host:80", "user:pw@host"]) == 1
    out, err = capsys.readouterr()
    read, refused = map(json.loads, out.splitlines())
    assert read == {"text": "host:80", "host": "host", "port": 80}
    assert refused["text"] == "user:**@host"
    assert refused["error"].keys() == {"code", "position", "problem", "hint"}
    assert (refused["error"]["code"], refused["error"]["position"]) == ("userinfo", 7)
    assert "[userinfo]" in err


def test_parse_json_has_the_options_and_the_message_of_compat(capsys):
    """Options stay apart from the object's own fields; upstream's errors have nothing but a text."""
    assert main(["parse", "--json", "--config", "text=1"]) == 0
    assert json.loads(capsys.readouterr().out) == {"text": "text=1", "config": {"text": "1"}}
    assert main(["parse", "--json", "--compat", "host:"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["problem"].startswith("The port number")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["parse"],
        ["nonsense"],
        ["parse", "--default-port", "x", "host"],
        ["parse", "--config", "--default-port", "1", "a=1"],
        ["parse", "-host:80"],
        ["serve", "--ready-fd", "-1"],
        ["serve", "--listen-fd", "2147483648"],
    ],
    ids=" ".join,
)
def test_bad_usage_exits_with_status_two(argv, capsys):
    """And says how it is used."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: rdzv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["0.0.0.0:0"], "write localhost and add --bind 0.0.0.0"),
        (["[::]:0"], "write localhost and add --bind 0.0.0.0"),
        (["--key-bytes-max", "0"], "--key-bytes-max must be more than 0, not 0"),
        (["--patience-s", "nan"], "--patience-s must be more than 0, not nan"),
        (["--linger", "-1"], "--linger takes 0 to "),
    ],
    ids=str,
)
def test_what_serve_cannot_take_is_told_by_the_option_to_change(argv, words, capsys):
    assert main(["serve", *argv]) == 2
    assert words in capsys.readouterr().err


def test_serve_writes_its_port_into_what_is_no_file_and_leaves_it_there(tmp_path):
    """A pipe, a device, or a link to one, as /dev/stdout is: a file in its place would break it for everybody."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for file in (pipe, link):
        argv = [sys.executable, "-m", "rdzv", "serve", "127.0.0.1:0", "--port-file", str(file)]
        unread = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
        problem = f"rdzv serve: cannot write the port file {file}: nobody reads from it\n"
        assert (unread.returncode, unread.stderr) == (1, problem)  # and does not wait for a reader for ever
        told = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as server, os.fdopen(told) as reading:
            said = server.stderr.readline()
            port = int(reading.read())
            assert said == f"serving a store at 127.0.0.1:{port}\n"
            server.terminate()
            assert server.wait(60) == 0
        assert pipe.is_fifo()
        assert link.is_symlink()
    assert set(tmp_path.iterdir()) == {pipe, link}


def test_serve_can_be_ended_whatever_signals_were_blocked_where_it_was_started():
    """A mask is inherited, and some launchers leave theirs."""
    argv = [sys.executable, "-m", "rdzv", "serve", "127.0.0.1:0"]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        server = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    with server:
        try:
            assert server.stderr.readline().startswith("serving a store at")
            server.terminate()
            assert server.wait(10) == 0
        finally:
            server.kill()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_serve_takes_its_port_file_away_with_it(tmp_path, signum):
    """It is there, whole, as soon as the store serves, and nobody is led to a port that nobody serves."""
    file = tmp_path / "port"
    ready, theirs = os.pipe()
    argv = [sys.executable, "-m", "rdzv", "serve", "127.0.0.1:0", "--port-file", str(file), "--ready-fd", str(theirs)]
    with subprocess.Popen(argv, pass_fds=[theirs], stderr=subprocess.PIPE, text=True) as server:
        os.close(theirs)
        with os.fdopen(ready) as told:
            port = told.read()
        assert file.read_text() == port
        taken = subprocess.run(
            [*argv[:4], f"127.0.0.1:{port.strip()}"], check=False, capture_output=True, text=True, timeout=60
        )
        server.send_signal(signum)
        assert server.wait(60) == 0
    assert not file.exists()
    assert taken.returncode == 1
    assert taken.stderr == f"rdzv serve: cannot listen on 127.0.0.1:{port.strip()}: Address already in use\n"


def test_serve_stays_if_it_was_told_to_survive_its_terminal():
    argv = [sys.executable, "-m", "rdzv", "serve", "localhost:0", "--ready-fd", "1"]
    with subprocess.Popen(["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *argv], stdout=-1, stderr=-1) as server:
        port = int(server.stdout.readline())
        server.send_signal(signal.SIGHUP)
        for _ in range(3):
            with closing(TCPStore("localhost", port, timeout=60)) as store:
                store.flush()
        server.terminate()
        assert server.wait(60) == 0


@pytest.mark.parametrize("name", [".", "long" * 63], ids=["directory", "long"])
def test_serve_says_which_port_file_cannot_be_written(tmp_path, name):
    argv = [sys.executable, "-W", "error", "-m", "rdzv", "serve", "localhost:0", "--port-file", name]
    done = subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"rdzv serve: cannot write the port file {name}: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-"])
def test_serve_serves_though_nobody_reads_what_it_says(redirected):
    """And says nothing of it where results go."""
    ready, theirs = os.pipe()
    argv = [sys.executable, "-m", "rdzv", "serve", "localhost:0", "--ready-fd", str(theirs)]
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", *argv]
    with subprocess.Popen(command, pass_fds=[theirs], stdout=-1, text=True) as server:
        os.close(theirs)
        with os.fdopen(ready) as told:
            port = int(told.read())
        with closing(TCPStore("localhost", port, timeout=10)) as store:
            assert store.add("k", 1) == 1
        server.terminate()
        assert (server.wait(60), server.stdout.read()) == (0, "")


@pytest.mark.parametrize("number", [1, 2])
def test_serve_may_say_its_port_on_a_standard_stream(number):
    """Which ends for who reads it; and the command goes on with nothing there, rather than with a client's socket."""
    argv = [sys.executable, "-m", "rdzv", "serve", "localhost:0", "--ready-fd", str(number)]
    with subprocess.Popen(argv, stdout=-1, stderr=-1, text=True) as server:
        told = (server.stdout, server.stderr)[number - 1].read()
        with closing(TCPStore("localhost", int(told), timeout=60)) as store:
            assert store.add("k", 1) == 1
        server.terminate()
        assert server.wait(60) == 0


@pytest.mark.parametrize("endpoint", [[], ["localhost"], ["localhost:0"]], ids=str)
def test_serve_takes_the_port_of_the_socket_that_it_is_given(endpoint):
    """An endpoint without a port has that one, and not the default, which only by chance is the socket's."""
    with get_socket_with_port() as sock:
        fd, port = sock.fileno(), sock.getsockname()[1]
        argv = [sys.executable, "-m", "rdzv", "serve", *endpoint, "--listen-fd", str(fd), "--ready-fd", "1"]
        with subprocess.Popen(argv, pass_fds=[fd], stdout=-1, stderr=-1, text=True) as server:
            told = server.stdout.readline()
            server.terminate()
            assert (told, server.wait(60)) == (f"{port}\n", 0)


SLOW = """
import socket, sys, threading
from rdzv import get_socket_with_port
from rdzv.cli import main
def look_up(*_, **__):
    print("asked", flush=True)
    threading.Event().wait()
socket.getaddrinfo = look_up
sys.exit(main(["serve", "slow.invalid:0"]))
"""


def test_serve_can_be_interrupted_before_it_serves():
    """While the name of what it listens on is looked up; there is nothing to say then."""
    with subprocess.Popen([sys.executable, "-c", SLOW], stdout=-1, stderr=-1, text=True) as server:
        assert server.stdout.readline() == "asked\n"
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert server.stderr.read() == ""


def test_the_module_runs_as_a_command():
    """``python -m rdzv`` is the console script, exit status and name included."""
    command = [sys.executable, "-m", "rdzv", "parse", "host:80", "\u00fc b:80"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "'host:80': host 'host', port 80\n")
    assert "[host-char]" in done.stderr


@pytest.mark.parametrize("seconds", ["-1", "nan", "2000001"])
def test_serve_lingers_no_longer_than_any_host_may(seconds, capsys):
    """The limit is that of the option of the same name."""
    assert main(["serve", "localhost:0", "--linger", seconds]) == 2
    assert f"0 to {SECONDS_MAX} seconds, not {float(seconds)}" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["parse", "a:1"], ["--version"], ["parse", "--help"]], ids=" ".join)
def test_output_that_cannot_be_written_is_told_and_fails_the_command(argv):
    """In one line, whenever it is found out: what is printed waits in a buffer until the end."""
    for environment in ({}, {"PYTHONUNBUFFERED": "1"}):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "rdzv", *argv],
                check=False,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                env={**os.environ, **environment},
            )
        assert (done.returncode, done.stderr) == (1, "rdzv: cannot write the output: No space left on device\n")


def test_a_reader_that_has_gone_ends_the_command_quietly():
    """As in ``rdzv parse ... | true``: no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        command = [sys.executable, "-m", "rdzv", "parse", "a:1"]
        done = subprocess.run(command, check=False, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")


def test_parse_refuses_a_default_port_that_is_none(capsys):
    """The option is at fault, and not the text; upstream's parser takes any."""
    assert main(["parse", "--default-port", "99999", "localhost"]) == 2
    assert capsys.readouterr().err == "rdzv parse: --default-port takes 0 to 65535, not 99999\n"
    assert main(["parse", "--compat", "--default-port", "-1", "localhost"]) == 0


@pytest.mark.parametrize("argv", [["nowhere:0"], ["localhost:0", "--bind", "nowhere"]], ids=" ".join)
def test_serve_names_the_host_that_nobody_knows(argv, monkeypatch, capsys):
    """What the resolver says names none."""

    def look_up(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert main(["serve", *argv]) == 1
    assert capsys.readouterr().err == "rdzv serve: the host 'nowhere' is not known: Name or service not known\n"


DEAF = """
import signal, threading
from rdzv.core.wire import Limits
from rdzv.store.host import serve
def on_ready(port):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # in this thread: from now on, the other one takes it
    print(port, flush=True)
serve("127.0.0.1", 0, listen_fd=None, limits=Limits(), spin=True, linger_s=0.0, on_ready=on_ready)
"""


def test_serve_ends_by_a_signal_that_does_not_interrupt_its_wait():
    """As one does not that comes between the last look for signals and the wait."""
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout.readline()
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
