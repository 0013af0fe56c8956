"""What the tests of reports share: a run put together by hand, and a headless Chromium on a pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from sim.check.history import Ending
from sim.check.invariants import Check
from sim.plan import Plan, RankResult, RunResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
TIMEOUT_S = 60.0
OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync"),
    "--disable-dev-shm-usage",
)


def made_result(plan: Plan, **changes: Any) -> RunResult:
    """A result whose rank k is process 100 + k and ends well at 10 s, but for what ``changes`` says."""
    ranks = tuple(
        RankResult(rank=rank, pid=100 + rank, meetings=(), ending=Ending(rank, 0, True, "the end", 10.0), error="")
        for rank in range(plan.world_size)
    )
    checks = (Check("ranks", True, "all of them"),)
    values = {"plan": plan, "duration_s": 10.0, "ranks": ranks, "checks": checks, "interruption": ""}
    return RunResult(**{**values, **changes})


@pytest.fixture(name="made_result")
def _made_result() -> Callable[..., RunResult]:
    return made_result


class Browser:
    """One browser with one page open at a time, and the few of its DevTools commands that a test needs."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # The browser reads from 3 and writes to 4; the shell puts them there, wherever they are now.
        moved = f'exec 8<&{theirs_in} 9>&{theirs_out} 3<&8 4>&9 8<&- 9>&-; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", moved, "bash", PROGRAM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=[theirs_in, theirs_out],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._unread = b""
        self._count = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End it."""
        try:
            self._session = None
            self.ask("Browser.close")
            self._process.wait(TIMEOUT_S)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._in)
            os.close(self._out)

    def open(self, page: Path, scheme: str = "light") -> None:
        """Open a file, and wait until it is loaded and drawn."""
        self._session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Emulation.setDeviceMetricsOverride", width=1400, height=1000, deviceScaleFactor=1, mobile=False)
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()
        self.frame()

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise's if it is one."""
        done = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def frame(self) -> None:
        """Wait until the page has drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")

    def press(self, key: str) -> None:
        """Press a key."""
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, **({"text": key} if len(key) == 1 else {}))
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.frame()

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Do something with the mouse."""
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
        self.frame()

    def click(self, x: float, y: float) -> None:
        """Click."""
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def complaints(self) -> list[dict[str, Any]]:
        """Exceptions, and what is on the console."""
        methods = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event["method"] in methods]

    def requests(self) -> list[str]:
        """What the page has asked for."""
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def ask(self, method: str, **parameters: Any) -> Any:
        """Carry out a command; its result."""
        self._count += 1
        command = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        rest = memoryview(json.dumps(command).encode() + b"\0")
        while rest:
            rest = rest[os.write(self._out, rest) :]
        while True:
            message = self._receive()
            if message.get("id") == self._count:
                assert "error" not in message, (method, message["error"])
                return message["result"]

    def _receive(self) -> dict[str, Any]:
        deadline_at = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._unread:
            left_s = max(0.0, deadline_at - time.monotonic())
            assert select.select([self._in], [], [], left_s)[0], f"the browser said nothing for {TIMEOUT_S:g} s"
            read = os.read(self._in, 1 << 20)
            assert read, "the browser has ended"
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests of this process; without one they are skipped."""
    if PROGRAM is None:
        pytest.skip(f"no Chromium on the path (looked for {', '.join(NAMES)})")
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()
