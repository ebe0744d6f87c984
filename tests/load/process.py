"""`igsp serve` as a process of its own."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

START_S = 120.0
"""Longest wait for a server on a busy machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """A running server.

    Attributes:
        process: it.
        log: file of its stderr and stdout.
        url: where it listens.
        begun: lines of its log when it became ready; before, it answered probes with 503.
    """

    process: "subprocess.Popen[bytes]"
    log: Path
    url: str
    begun: int = 0

    @property
    def port(self) -> int:
        """Port of `url`."""
        return int(self.url.rpartition(":")[2])

    def lines(self) -> list[dict[str, Any]]:
        """Lines of its log that are whole."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]

    def requests(self) -> list[dict[str, Any]]:
        """Its lines about requests since it was ready."""
        return [line for line in self.lines()[self.begun :] if line["message"] == "request"]

    def status(self, path: str = "/health/ready") -> int:
        """Status of a GET; 0 when nobody answers."""
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(self.url + path, timeout=10).status_code
        return 0

    def wait_status(self, status: int, path: str = "/health/ready", seconds: float = START_S) -> None:
        """Wait until a GET has this status."""
        end = time.monotonic() + seconds
        while (found := self.status(path)) != status:
            assert time.monotonic() < end, f"{path} is {found}, not {status}\n{self._tail()}"
            assert self.process.poll() is None or status == 0, self._tail()
            time.sleep(0.05)

    def rss_bytes(self) -> int:
        """Memory it holds."""
        return _status_bytes(self.process.pid, "VmRSS")

    def peak_rss_bytes(self) -> int:
        """The most memory it has held."""
        return _status_bytes(self.process.pid, "VmHWM")

    def metrics(self) -> str:
        """Prometheus' text."""
        return httpx2.get(f"{self.url}/metrics", timeout=30).text

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def _tail(self) -> str:
        return self.log.read_text()[-3000:] if self.log.is_file() else "(no log)"


def serve_command(bundle: Path, *options: object) -> list[str]:
    """The command line of a server."""
    return [sys.executable, "-m", "igsp_deploy.cli.main", "serve", str(bundle), *map(str, options)]


def free_port() -> int:
    """A port nobody listens on now, and that the system gives to nobody who asks for any."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def launch(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, stderr: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start a process whose output goes to `log`; its stderr to `stderr` instead when given."""
    with contextlib.ExitStack() as files:
        out = files.enter_context(log.open("ab"))
        err = out if stderr is None else files.enter_context(stderr.open("wb"))
        return subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **(environment or {})})


@contextlib.contextmanager
def serving(
    bundle: Path,
    folder: Path,
    *options: object,
    environment: Mapping[str, str] | None = None,
    stderr: Path | None = None,
    command: Sequence[str] | None = None,
) -> Iterator[ServerProcess]:
    """A server on a free port that is ready; killed at the end if it still runs.

    Args:
        bundle: what it serves.
        folder: for its log.
        options: of the command line.
        environment: more variables.
        stderr: where its log goes instead.
        command: what to run instead of `igsp serve`, before bundle and options.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "log"
    given = serve_command(bundle, "--port", port, *options)
    if command is not None:
        given = [*command, *given[4:]]
    process = launch(given, log, environment, stderr)
    try:
        server = ServerProcess(process=process, log=log, url=f"http://127.0.0.1:{port}")
        server.wait_status(200)
        yield dataclasses.replace(server, begun=len(server.lines()))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
