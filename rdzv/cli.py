"""The command ``rdzv``.

A subcommand NAME is two functions side by side: ``_add_NAME`` declares its arguments, ``_NAME`` runs it and returns the
exit status. What it does belongs to the library; here it is called and shown. Results go to standard output, complaints
to standard error.

Exit status: 0 all is well, 1 something was refused or failed (the writing of results, too), 2 bad usage.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import sys
from dataclasses import fields
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdzv import __version__
from rdzv.config import parse_config, parse_rendezvous_config
from rdzv.core.wire import Limits
from rdzv.endpoint import DEFAULT_PORT, PORT_MAX, Endpoint, parse_rendezvous_endpoint
from rdzv.errors import TextError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 -- argparse has no public name for it

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments after the command's name; those of this process if ``None``.

    Returns:
        The exit status.

    Raises:
        SystemExit: Bad usage (status 2), or help was asked for (status 0).
    """
    try:
        try:
            return _run(argv)
        finally:
            print(end="", flush=True)  # here, for at the interpreter's end nobody could tell what is wrong
    except OSError as error:  # of standard output: what else fails has been told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is still to be flushed
        if not isinstance(error, BrokenPipeError):  # whoever has read enough wants no more from us
            print(f"rdzv: cannot write the output: {error.strerror or error}", file=sys.stderr)
        return 1


def _run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="rdzv", description="Rendezvous for many-process jobs.")
    parser.add_argument("--version", action="version", version=f"rdzv {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_parse(commands)
    _add_serve(commands)
    for text in takewhile(lambda text: text != "--", sys.argv[1:] if argv is None else argv):
        if text.startswith("-h") and text != "-h":  # newer Pythons would show the help, and call that a success
            parser.error(f"there is no option {text}; put -- before a text that begins with a hyphen")
    arguments = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run(arguments)


def _add_parse(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "parse",
        help="show how endpoints or configuration strings are read",
        description="Show how each text is read, or why it is refused and where.",
        epilog="Exit status: 0 all were read, 1 some were refused. Put -- before a text that begins with a hyphen.",
    )
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="an endpoint such as localhost:29400")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--default-port", type=int, metavar="PORT", help="the port of endpoints that have none")
    kind.add_argument("--config", action="store_true", help="the texts are configuration strings: key=value,key=value")
    parser.add_argument("--compat", action="store_true", help="read as torch.distributed does, sane or not")
    parser.add_argument("--json", action="store_true", help="print one JSON object per text")
    parser.set_defaults(run=_parse)


def _parse(arguments: argparse.Namespace) -> int:
    port = arguments.default_port
    if port is not None and not arguments.compat and not 0 <= port <= PORT_MAX:
        print(f"rdzv parse: --default-port takes 0 to {PORT_MAX}, not {port}", file=sys.stderr)
        return 2
    all_read = True
    for text in arguments.texts:
        all_read &= _show(text, arguments)
    return 0 if all_read else 1


def _show(text: str, arguments: argparse.Namespace) -> bool:
    """Print how a text is read, or why it is refused; return whether it was read."""
    try:
        reading = _read(text, arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        if arguments.json:
            print(json.dumps(_refusal(text, error)))
        return False
    print(json.dumps({"text": text, **reading}) if arguments.json else _line(text, reading))
    return True


def _read(text: str, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.config:
        return {"config": (parse_rendezvous_config if arguments.compat else parse_config)(text)}
    if arguments.compat:
        host, port = parse_rendezvous_endpoint(text, arguments.default_port)
    else:
        endpoint = Endpoint.parse(text, arguments.default_port)
        host, port = endpoint.host, endpoint.port
    return {"host": host, "port": port}


def _line(text: str, reading: dict[str, Any]) -> str:
    shown = reading.get("config", reading)
    return f"{text!r}: " + (", ".join(f"{name} {value!r}" for name, value in shown.items()) or "no options")


def _refusal(text: str, error: ValueError) -> dict[str, Any]:
    if isinstance(error, TextError):
        fault = {"code": error.code, "position": error.position, "problem": error.problem, "hint": error.hint}
        return {"text": error.text, "error": fault}
    return {"text": text, "error": {"problem": str(error)}}


def _add_serve(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve a store until Ctrl-C, SIGTERM or SIGHUP",
        description="Serve a store that clients of this library and of torch can use, until Ctrl-C, SIGTERM or SIGHUP.",
        epilog="Exit status: 0 after one of these, 1 if the address cannot be served, 2 bad usage.",
    )
    parser.add_argument(
        "endpoint",
        nargs="?",
        default="localhost",
        metavar="ENDPOINT",
        help=f"what to listen on, and nothing else; port 0 lets the system choose  [default: localhost:{DEFAULT_PORT}]",
    )
    parser.add_argument(
        "--bind", metavar="HOST", help="listen on this instead of the endpoint's host; 0.0.0.0 and :: are all"
    )
    parser.add_argument(
        "--listen-fd",
        type=_descriptor,
        metavar="N",
        help="listen on this descriptor, a bound socket, at the port that it has",
    )
    parser.add_argument(
        "--port-file",
        type=Path,
        metavar="F",
        help="write the port there, at once whole, when it serves; removed at the end",
    )
    parser.add_argument(
        "--ready-fd",
        type=_descriptor,
        metavar="N",
        help="write the port and a newline to this descriptor, and close it",
    )
    parser.add_argument(
        "--linger", type=float, default=0.0, metavar="S", help="wait so long for clients to leave at the end"
    )
    parser.add_argument(
        "--no-spin", action="store_true", help="sleep even for 50 us between the requests of a few busy clients"
    )
    limits = parser.add_argument_group("limits, in bytes, keys, clients and seconds")
    for field in fields(Limits):
        option = _option_of(field.name)
        limits.add_argument(option, type=type(field.default), default=field.default, metavar="N", help="[%(default)s]")
    parser.set_defaults(run=_serve)


def _option_of(limit: str) -> str:
    return f"--{limit.replace('_', '-')}"


def _descriptor(text: str) -> int:
    number = int(text)
    if not 0 <= number < 1 << 31:  # more than that no system has
        raise ValueError
    return number


def _serve(arguments: argparse.Namespace) -> int:
    from rdzv.hosting import SECONDS_MAX
    from rdzv.store.host import serve

    try:
        default_port = DEFAULT_PORT if arguments.listen_fd is None else 0  # of a socket that is bound, any
        endpoint = Endpoint.parse(arguments.endpoint, default_port)
        asked = {field.name: getattr(arguments, field.name) for field in fields(Limits)}
        for name, number in asked.items():
            if not number > 0:
                raise ValueError(f"{_option_of(name)} must be more than 0, not {number}")
        limits = Limits(**asked)
        if not 0 <= arguments.linger <= SECONDS_MAX:
            raise ValueError(f"--linger takes 0 to {SECONDS_MAX} seconds, not {arguments.linger}")
    except ValueError as error:
        print(f"rdzv serve: {error}", file=sys.stderr)
        if getattr(error, "code", "") == "unspecified-address":
            print("  hint: or, to listen on all addresses, write localhost and add --bind 0.0.0.0", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:

        def on_ready(port: int) -> None:
            stack.callback(_withdraw, port, arguments.port_file)
            _announce(endpoint.host, port, arguments)

        try:
            serve(
                arguments.bind or endpoint.host,
                endpoint.port,
                listen_fd=arguments.listen_fd,
                limits=limits,
                spin=not arguments.no_spin,
                linger_s=arguments.linger,
                on_ready=on_ready,
            )
        except (ValueError, OSError) as error:
            print(f"rdzv serve: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:  # while its name was looked up: there was nothing to stop yet
            return 0
    return 0


def _announce(host: str, port: int, arguments: argparse.Namespace) -> None:
    """Say that the store is served; whoever waits for a file or a descriptor never sees half a number."""
    if file := arguments.port_file:
        partial = file.parent / f"{file.name}.{os.getpid()}"
        try:
            if _is_more_than_a_file(file):
                _write_at_once(file, f"{port}\n")
            else:
                partial.write_text(f"{port}\n")
                partial.replace(file)
        except OSError as error:
            with contextlib.suppress(OSError):  # it may be why
                partial.unlink()
            raise OSError(error.errno, f"cannot write the port file {file}: {error.strerror}") from error
    if arguments.ready_fd is not None:
        try:
            with open(arguments.ready_fd, "w", closefd=False) as ready:
                ready.write(f"{port}\n")
            with Path(os.devnull).open("w") as nothing:  # a standard stream's number must not be a client's next
                os.dup2(nothing.fileno(), arguments.ready_fd)
        except OSError as error:
            problem = f"cannot write the port to descriptor {arguments.ready_fd}: {error.strerror}"
            raise OSError(error.errno, problem) from error
    if sys.stderr:  # else it would go to standard output
        try:
            print(f"serving a store at {Endpoint(host, port)}", file=sys.stderr, flush=True)
        except OSError:  # nobody has to read it; and Python shall not try again as it ends, which would be a failure
            sys.stderr = None


def _withdraw(port: int, port_file: Path | None) -> None:
    """Remove the port file, unless another server has written its own port there since."""
    with contextlib.suppress(OSError):
        if port_file and not _is_more_than_a_file(port_file) and port_file.read_text() == f"{port}\n":
            port_file.unlink()


def _write_at_once(path: Path, text: str) -> None:
    """Write to what may be a pipe, without waiting for somebody to read it: that might be for ever."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)
    except OSError as error:
        why = "nobody reads from it" if error.errno == errno.ENXIO else error.strerror
        raise OSError(error.errno, why) from error
    with os.fdopen(fd, "w") as file:
        file.write(text)


def _is_more_than_a_file(path: Path) -> bool:
    """Whether a path leads to what may be written, and must not be replaced: a pipe, a device, or ``/dev/stdout``."""
    return path.is_symlink() or (path.exists() and not path.is_file())
