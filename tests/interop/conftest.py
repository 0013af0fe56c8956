"""torch in processes of its own: some of its calls hold the interpreter's lock while they wait for an answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# torch looks up the name of whomever it connects to, and serves nobody while a name server is silent.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

_WORKER = """
import json, os, sys, traceback
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever torch prints must not be taken for a reply
import torch.distributed
print("ready", file=replies, flush=True)
for line in sys.stdin:
    names = {}
    try:
        exec(json.loads(line), names)
        reply = {"result": names.get("result")}
    except BaseException as error:
        reply = {"error": type(error).__name__, "text": str(error), "traceback": traceback.format_exc()}
    print(json.dumps(reply), file=replies, flush=True)
"""


class TorchProcess:
    """A process that has imported torch, and runs programs one after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def start(self, program: str, **values: object) -> None:
        """Begin a program, in which the values have these names; its ``result`` must be fit for JSON."""
        lines = [f"{name} = {value!r}" for name, value in values.items()]
        self._write(json.dumps("\n".join([*lines, textwrap.dedent(program)])))

    def result(self) -> Any:
        """The result of the program, or the error that it ended with, as an AssertionError."""
        assert self._process.stdout is not None
        reply = json.loads(self._process.stdout.readline())
        assert "error" not in reply, reply["traceback"]
        return reply["result"]

    def run(self, program: str, **values: object) -> Any:
        """Begin a program, and wait for its result."""
        self.start(program, **values)
        return self.result()

    def wait_until_ready(self) -> None:
        """It has imported torch."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def close(self) -> None:
        """End the process; it may be stuck."""
        self._process.kill()
        self._process.communicate()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


@pytest.fixture(scope="session")
def torch_processes() -> Iterator[list[TorchProcess]]:
    """Three of them; none is left busy, or the next test would hear the answer to the last."""
    processes = [TorchProcess() for _ in range(3)]
    for process in processes:
        process.wait_until_ready()
    yield processes
    for process in processes:
        process.close()
