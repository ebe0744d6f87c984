"""Files that visitors gave the page: where they lie, which are taken, how many are kept and how long.

All lie in one folder of this process, each as HASH/NAME. Outside they are called `files/HASH/NAME`: no visitor learns
or names a path of this machine, and nothing but a file of that folder is ever opened for one.
"""

import atexit
import contextlib
import errno
import fcntl
import functools
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igsp_deploy.errors import UserError

MAX_BYTES = 32 << 20
"""One image file."""
PUBLIC = "files"
"""First part of the name that a file has outside."""

_PREFIX = "igsp-demo-"
_LOCK = ".lock"
_STARTING_S = 60.0
_BLOCK = 4096
"""Bytes a file takes on disk at least, and its folder as much again."""
_NAME = re.compile(r"([0-9a-f]{64})/([^/\0]{1,255})")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is taken from visitors, and kept.

    Attributes:
        body_bytes: one upload.
        total_bytes: all files kept, with those on their way.
        time_s: time for one upload to come.
        age_s: time a file is kept.
    """

    body_bytes: int = 512 << 20
    total_bytes: int = 2 << 30
    time_s: float = 600.0
    age_s: float = 3600.0


@functools.cache
def page_folder() -> Path:
    """This process's folder, made at the first call and removed at the end; those of killed processes go as well.

    Gradio keeps its files in it too: it reads `GRADIO_TEMP_DIR`, below which the folder is made if it was set before.
    """
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()).resolve()
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(f"{_PREFIX}*"):
        _remove_if_left(old)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    # Held as long as this process lives: a descriptor that nobody closes.
    fcntl.flock(os.open(folder / _LOCK, os.O_CREAT | os.O_WRONLY), fcntl.LOCK_EX)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def _remove_if_left(folder: Path) -> None:
    """Remove the folder of a process that is gone: nobody holds its lock."""
    with contextlib.suppress(OSError):
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
            return
        if time.time() - about.st_mtime < _STARTING_S and not (folder / _LOCK).exists():
            return  # it is being made
        with (folder / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def new_file(name: str) -> Path:
    """Place for a file that the page makes itself and a visitor may fetch."""
    folder = page_folder() / secrets.token_hex(32)
    folder.mkdir()
    return folder / name


def find_file(public: str) -> Path:
    """The file that is called `public` outside.

    Raises:
        UserError: it is no file of the page, or not there any more.
    """
    prefix, _, name = public.partition("/")
    found = _NAME.fullmatch(name)
    if prefix != PUBLIC or found is None or found[2] in (".", ".."):
        raise UserError("That is not a file that was uploaded here. Upload it first.")
    return check_file(page_folder() / name)


def check_file(path: Path) -> Path:
    """Return `path` if it is a regular file of the page, not reached through a link.

    Raises:
        UserError: it is something else, or not there any more.
    """
    try:
        inside = path.relative_to(page_folder())
        if not _NAME.fullmatch(str(inside)) or not stat.S_ISDIR(path.parent.lstat().st_mode):
            raise UserError("That is not a file that was uploaded here. Upload it first.")
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UserError("That is not a file that was uploaded here. Upload it first.")
    except ValueError:
        raise UserError("That is not a file that was uploaded here. Upload it first.") from None
    except OSError:
        raise UserError("That file is not here any more. Upload it again.") from None
    return path


def upload_path(payload: Any) -> tuple[Path, str]:
    """File of an upload, and the name the user knows it by.

    Args:
        payload: as Gradio hands it over, before it makes sense of it: a bad file then gets our words, not its own.

    Raises:
        UserError: there is none, or it was not uploaded here.
    """
    path = payload.get("path") if isinstance(payload, dict) else payload
    if not isinstance(path, str) or not path:
        raise UserError("Choose a file first.")
    name = payload.get("orig_name") if isinstance(payload, dict) else None
    return check_file(Path(path)), name or Path(path).name


def read_upload(payload: Any) -> bytes:
    """Bytes of an uploaded image. Blocks: not for an event loop.

    Raises:
        UserError: it is missing or too large.
    """
    path, name = upload_path(payload)
    try:
        # Neither a link nor a pipe, whatever took its place since it was looked at.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            if about.st_size > MAX_BYTES:
                mib = about.st_size >> 20
                raise UserError(f"{name} has {mib:,} MiB; at most {MAX_BYTES >> 20} are taken. Scale it down.")
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{name} is not here any more. Upload it again.") from error


class Full(Exception):
    """There is no room for another upload."""


class Store:
    """Keeps the folder within its limits: the oldest files go first. Any thread may call it."""

    def __init__(self, limits: Limits) -> None:
        """Whatever lies in the folder now, such as examples, stays."""
        self.limits = limits
        self._stays = {path for path, _, _ in _files()}
        self._lock = threading.Lock()
        self._coming = 0

    def reserve(self, count: int) -> None:
        """Make room for `count` bytes that will come; `release` them afterwards.

        Raises:
            Full: too much is on its way already.
        """
        with self._lock:
            if self._coming + count > self.limits.total_bytes:
                raise Full
            self._coming += count
            self._sweep(time.time())

    def release(self, count: int) -> None:
        """What was reserved has come, or will not."""
        with self._lock:
            self._coming -= count
            self._sweep(time.time())

    def sweep(self, now: float | None = None) -> None:
        """Remove what is too old, and the oldest of what is too much."""
        with self._lock:
            self._sweep(time.time() if now is None else now)

    def _sweep(self, now: float) -> None:
        kept = []
        for path, size, changed in sorted(_files(), key=lambda file: file[2]):
            whole = path.parent != page_folder()
            if path in self._stays:
                continue
            # What is half written belongs to an upload; without one it was left by a client that went away.
            if now - changed > (self.limits.age_s if whole else self.limits.time_s) or not (whole or self._coming):
                _remove(path)
            elif whole:
                kept.append((path, size))
        total = self._coming + sum(size for _, size in kept)
        for path, size in kept:
            if total <= self.limits.total_bytes:
                break
            _remove(path)
            total -= size


def _files() -> Iterator[tuple[Path, int, float]]:
    """Each file of the folder with the bytes it takes and when it was written."""
    for folder, _, names in os.walk(page_folder()):
        for name in names:
            path = Path(folder) / name
            with contextlib.suppress(OSError):
                about = path.lstat()
                if name != _LOCK:
                    yield path, max(about.st_size, _BLOCK) + _BLOCK, about.st_mtime


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
        if path.parent != page_folder():
            path.parent.rmdir()
