"""What ``--report DIR`` does: prepares a folder and listens, and writes the run there when it is over.

Knows all writers and the names of their files. Must not know how a run is carried out.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rdzv import events
from sim.report.chrome import chrome_trace
from sim.report.document import document
from sim.report.junit import junit
from sim.report.page import page
from sim.report.recorder import Recorder
from sim.report.tales import read_tales
from sim.report.timeline import timeline

if TYPE_CHECKING:
    from typing_extensions import Self

    from sim.plan import RunResult


class Folder(Recorder):
    """A recorder that writes down what it has heard.

    ======================  =============================================================
    ``report.html``         the page, for people
    ``report.json``         the same, for programs; see `sim.report.document`
    ``trace.json``          the same as Chrome trace events, for Perfetto
    ``junit.xml``           the checks, for continuous integration
    ``events.jsonl``        what the nodes told, one line each; see `rdzv.events`
    ======================  =============================================================

    Entered as long as something may still be heard. Left without a report, as by who presses Ctrl-C before there is
    anything to tell, it leaves nothing: events alone would be taken for one.
    """

    def __init__(self, directory: Path, world_size: int, command: str, began_at: float | None = None) -> None:
        """Make the folder if it is not there, and begin. Ranks that are started from now on tell their events.

        Args:
            directory: Where to write; files of these names are overwritten.
            world_size: How many ranks there will be.
            command: The command that runs it again.
            began_at: As `Recorder` says.

        Raises:
            OSError: The folder cannot be made or written to.
        """
        self._is_new = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._command = directory, command
        self._is_written = False
        told = directory.resolve() / "events.jsonl"
        told.write_bytes(b"")
        self._sets_variable = events.VARIABLE not in os.environ  # or somebody else listens, and we read that file too
        self._told = Path(os.environ.setdefault(events.VARIABLE, str(told)))
        self._told_before = 0
        with suppress(OSError):
            self._told_before = self._told.stat().st_size
        super().__init__(world_size, began_at)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._sets_variable:
            os.environ.pop(events.VARIABLE, None)
        if self._is_written:
            return
        with suppress(OSError):
            (self._directory / "events.jsonl").unlink()
            if self._is_new:
                self._directory.rmdir()

    @property
    def page(self) -> Path:
        """The page's file."""
        return self._directory / "report.html"

    def write(self, result: RunResult) -> None:
        """Write all files.

        Raises:
            OSError: They cannot be written.
        """
        self._is_written = True
        lines: list[bytes] = []
        with suppress(OSError), self._told.open("rb") as file:
            file.seek(self._told_before)
            lines = file.readlines()
        here = ""
        with suppress(FileNotFoundError):  # it was removed under us
            here = str(Path.cwd())
        run = timeline(result, self, list(read_tales(lines, self.began)), self._command, here)
        data = document(run)
        self._put("report.html", page(data).encode())
        self._put("report.json", json.dumps(data).encode() + b"\n")
        self._put("trace.json", json.dumps(chrome_trace(run)).encode() + b"\n")
        self._put("junit.xml", junit(run))

    def _put(self, name: str, content: bytes) -> None:
        path = self._directory / name
        try:
            path.write_bytes(content)
        except OSError as error:
            with suppress(OSError):
                path.unlink()  # half of it would be taken for the whole
            raise OSError(error.errno, f"{error.strerror}: {path}") from error
