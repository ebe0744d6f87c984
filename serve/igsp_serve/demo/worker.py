"""A process of its own for what needs torch: `igsp train --json`, `igsp export`, `igsp evaluate --json`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

from igsp_deploy.errors import UserError

PATIENCE_S = 10.0
"""How long a process may take to end after it was asked to, before it is killed."""

_BOUND = """
import ctypes, os, signal, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)  # of Linux alone
if prctl is not None:
    prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG; it stays over execv
if os.getppid() != int(sys.argv[1]):
    sys.exit("the server is gone")
os.execv(sys.executable, [sys.executable, "-m", "igsp_deploy.cli.main", *sys.argv[2:]])
"""
"""Runs `igsp` so that it ends when the server does, even if that was killed: nobody would use what it makes."""


class Stopped(Exception):
    """The process was ended because somebody asked for it."""


class Worker:
    """Runs one process at a time and can end it at any moment."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def run(self, arguments: Sequence[str], on_line: Callable[[dict[str, Any]], None] | None = None) -> str:
        """Run `igsp` with `arguments` to its end.

        Args:
            arguments: command and what it takes.
            on_line: gets every line of stdout that is JSON.

        Returns:
            All of stdout.

        Raises:
            UserError: what the process said on stderr, where it failed.
            Stopped: `stop` was called.
        """
        lines: list[str] = []
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
            with self._lock:
                if self._stopped:
                    raise Stopped
                self._process = process = subprocess.Popen(
                    [sys.executable, "-c", _BOUND, str(os.getpid()), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    encoding="utf-8",
                    # Away from the terminal's Ctrl-C: the server decides when it ends. And not before its answers.
                    start_new_session=True,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
                )
                _be_nice(process.pid)
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    lines.append(line)
                    if on_line is not None:
                        with contextlib.suppress(json.JSONDecodeError):
                            on_line(json.loads(line))
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                if process.stdout is not None:
                    process.stdout.close()
                with self._lock:
                    self._process = None
            if self._stopped:
                raise Stopped
            if code != 0:
                errors.seek(0)
                raise UserError(_reason(errors.read(), code))
        return "".join(lines)

    def stop(self) -> None:
        """End the process; one that is started later ends before it begins, until `reset`."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        threading.Thread(target=_kill_later, args=(process,), daemon=True).start()

    def reset(self) -> None:
        """Forget that `stop` was called."""
        with self._lock:
            self._stopped = False


def _be_nice(process: int) -> None:
    """Answering questions comes before learning."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process, 5)


def _kill_later(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE_S)
        return
    process.kill()


def _reason(text: str, code: int) -> str:
    """What a person can use of a process's stderr."""
    said = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
    if said:
        return said[-1]
    last = [line for line in text.splitlines() if line.strip()][-1:] or [f"exit code {code}"]
    killed = " It was killed; perhaps the machine has too little memory." if code == -signal.SIGKILL else ""
    return f"The worker process failed: {last[0][:300]}.{killed}"
