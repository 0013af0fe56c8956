"""A process of the bench: a fresh interpreter with one object, whose methods can be called from here.

A call is one line of JSON over a socket, and so is its answer. The helper ends when the socket does, so none outlives
the bench, however that ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

ANSWER_S = 60.0  # what starts torch on a busy machine fits in; no question takes as long by itself
_END_S = 5.0
_BOOT = "import sys; sys.path[:] = sys.argv[4:]; from sim.bench.helper import main; main(*sys.argv[1:4])"


class HelperError(RuntimeError):
    """A process of the bench failed or fell silent; the message has its traceback, if there is one."""


class Helper:
    """One process, and the object in it.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, module: str, kind: str, answer_s: float = ANSWER_S) -> None:
        """Start the process.

        Args:
            module: The module of this package that has the class.
            kind: The class, made without arguments.
            answer_s: For how long to wait for an answer, in seconds.
        """
        self._name, self._answer_s = f"{module}.{kind}", answer_s
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, f"sim.bench.{module}", kind, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is for the bench, which then ends this in order
                # A pool forks, and torch warns of each client whose name it cannot look up.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
            )
        self.pid = self._process.pid
        self._answers = self._control.makefile("rb")

    def ask(self, question: str, **arguments: Any) -> Any:
        """Call a method and return what it returns, as JSON carries it.

        Raises:
            HelperError: The method raised, the process has ended, or there was no answer in time.
        """
        self.tell(question, **arguments)
        return self.answer()

    def tell(self, question: str, **arguments: Any) -> None:
        """Call a method; `answer` must be called in the end, before the next question."""
        self._control.settimeout(self._answer_s)
        try:
            self._control.sendall(json.dumps([question, arguments]).encode() + b"\n")
        except OSError as error:
            raise HelperError(f"{self._name} has ended: {error}") from error

    def answer(self) -> Any:
        """What the method called last returned; raises as `ask`."""
        line = b""
        try:
            with contextlib.suppress(ConnectionError):  # killed, with a question unread
                line = self._answers.readline()
        except TimeoutError as error:
            raise HelperError(f"{self._name} did not answer within {self._answer_s:g} s") from error
        if not line:
            raise HelperError(f"{self._name} ended with status {self._process.wait(_END_S)}")
        answer, failure = json.loads(line)
        if failure:
            raise HelperError(f"{self._name} failed:\n{failure}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._control.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_END_S)


def main(module: str, kind: str, control_fd: str) -> None:
    """The program of the process: answer until there are no more questions."""
    program = getattr(importlib.import_module(module), kind)()
    control = socket.socket(fileno=int(control_fd))
    with contextlib.closing(program):
        for line in control.makefile("rb"):
            question, arguments = json.loads(line)
            answer, failure = None, ""
            try:
                answer = getattr(program, question)(**arguments)
            except Exception:  # noqa: BLE001 -- whoever asked is told, whatever it is
                failure = traceback.format_exc()
            control.sendall(json.dumps([answer, failure]).encode() + b"\n")
