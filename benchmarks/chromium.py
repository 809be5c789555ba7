"""Drives a headless Chromium over its DevTools pipe, with the standard library alone.

The protocol is at https://chromedevtools.github.io/devtools-protocol: JSON messages that end in a zero byte, which the
browser reads from file descriptor 3 and writes to 4.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "google-chrome-stable", "google-chrome", "chrome")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--force-color-profile=srgb", "--font-render-hinting=none", "--remote-debugging-pipe",
)  # fmt: skip
_TIMEOUT_S = 60.0
_FIRST_FREE = 10


class BrowserError(RuntimeError):
    """The browser did not start, went away, did not answer in time, or refused a command."""


def find_chromium() -> str | None:
    """The path of a Chromium, or None."""
    found = [path for path in map(shutil.which, NAMES) if path]
    # A snap has a /tmp of its own, in which our pages are not.
    return next((path for path in found if Path(path).resolve().name != "snap"), None)


class Browser:
    """One page of a headless browser.

    Attributes:
        problems: Errors and warnings of the console, exceptions, and refusals by the page's policy.
        requested: Addresses that the page asked for, itself included.
    """

    def __init__(self, executable: str) -> None:
        self.problems, self.requested = list[str](), list[str]()
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._buffer, self._count, self._session = b"", 0, ""
        self._seen = list[str]()
        from_us, self._write = _pipe()
        self._read, to_us = _pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, from_us, 3),
            (os.POSIX_SPAWN_DUP2, to_us, 4),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        command = [executable, *_FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"]
        # A process group of its own: the browser's children end with it.
        self._pid = os.posix_spawn(executable, command, os.environ, file_actions=actions, setpgroup=0)
        os.close(from_us)
        os.close(to_us)

    def __enter__(self) -> Self:
        try:
            self._attach()
        except BaseException:
            self.close()
            raise
        return self

    def _attach(self) -> None:
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the browser and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._write)
        os.close(self._read)
        self._folder.cleanup()

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result.

        Raises:
            BrowserError: The browser refused, went away, or said nothing for a minute.
        """
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._write, json.dumps(message).encode() + b"\0")
        except BrokenPipeError as exc:
            raise BrowserError(f"the browser went away before {method}") from exc
        while True:
            answer = self._next(method)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])
            self._note(answer)

    def open(self, page: Path | str) -> None:
        """Loads a file, or an address, as a page and waits until it has been drawn."""
        self.problems.clear()
        self.requested.clear()
        self._seen.clear()
        self.command("Page.navigate", url=page.resolve().as_uri() if isinstance(page, Path) else page)
        while "Page.loadEventFired" not in self._seen:
            self._note(self._next("Page.loadEventFired"))
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript in the page; promises are awaited."""
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise BrowserError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def look(self, width: int, height: int, *, scheme: str = "light", scale: float = 1.0, media: str = "") -> None:
        """Sets the size of the window, and what the system prefers."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", media=media, features=features)
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def press(self, key: str, *, code: int) -> None:
        """Presses and lets go of a key, such as Tab with code 9."""
        # A key that types something, as Enter does, acts by what it types.
        typed = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown" if typed else "rawKeyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)

    def screenshot(self, top: float = 0, height: float | None = None) -> bytes:
        """A PNG of the page's width from `top` on; of the whole rest where no height is given."""
        width, whole = self.evaluate("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": top, "width": width, "height": height or whole - top, "scale": 1}
        shot = self.command("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _next(self, awaited: str) -> dict[str, Any]:
        end = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]:
                raise BrowserError(f"the browser said nothing for {_TIMEOUT_S:g} seconds, expected {awaited}")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise BrowserError(f"the browser went away, expected {awaited}")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        method, values = event.get("method", ""), event.get("params", {})
        self._seen.append(method)
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(values["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.problems.append(str(values["args"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.problems.append(str(values["entry"]["text"]))
        elif method == "Network.requestWillBeSent":
            self.requested.append(str(values["request"]["url"]))


def _pipe() -> tuple[int, int]:
    # Above 4: the browser's ends are put at 3 and 4, which must not be one of these.
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
