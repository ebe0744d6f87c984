"""A running `igsp demo`, and a page that watches what the browser does."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Page, Request

START_S = 120
"""A busy machine takes long to import Gradio."""


@contextmanager
def running_demo(
    arguments: Sequence[object],
    command: Sequence[str] = ("-m", "igsp_deploy.cli.main"),
    files: Path | None = None,
) -> Iterator[str]:
    """Run `igsp ARGUMENTS`, or another program, which prints where it listens; yields that address, ends it after.

    Args:
        arguments: of the program.
        command: the program.
        files: folder below which the page keeps its files; a new one by default.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, *command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # No proxy between the test and its own machine.
            env={**os.environ, "NO_PROXY": "*", "GRADIO_TEMP_DIR": str(files or tempfile.mkdtemp(prefix="igsp-test-"))},
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line.startswith("http"):
                process.wait(10)
                errors.seek(0)
                raise AssertionError(f"the demo did not start: {errors.read()}")
            yield line.replace("0.0.0.0", "127.0.0.1")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


class Watched:
    """What a browser page asked for and complained about."""

    def __init__(self, page: Page, url: str) -> None:
        """Watch `page`, which may ask the server of `url` alone."""
        self.host = urlsplit(url).netloc
        self.foreign: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._request)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != self.host:
            self.foreign.append(request.url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def check(self) -> None:
        """No request to another host, no error in the console."""
        assert self.foreign == []
        assert self.complaints == []


def choose(page: Page, element: str, option: str) -> None:
    """Choose an option of one of Gradio's lists."""
    page.locator(f"#{element} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def open_tab(page: Page, name: str) -> None:
    """Show a tab of the page."""
    page.get_by_role("tab", name=name, exact=True).click()


def wait_until_gone(path: Path, timeout_s: float = 60) -> None:
    """Wait for a file or folder to be removed."""
    end = time.monotonic() + timeout_s
    while path.exists():
        assert time.monotonic() < end, f"{path} is still there"
        time.sleep(0.2)
