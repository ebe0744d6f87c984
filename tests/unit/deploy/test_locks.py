"""One lock, whatever the file system has: flock, none at all, or something in between."""

import errno
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from igsp_deploy.errors import UserError
from igsp_deploy.locks import try_lock

# Runs in a process whose flock answers as NFS, Lustre, CIFS and FUSE do; "die" ends it while it holds the lock.
PROGRAM = """
import fcntl, os, pathlib, sys

path, code, how = sys.argv[1:]

def flock(descriptor, operation):
    raise OSError(int(code), os.strerror(int(code)))

if int(code):
    fcntl.flock = flock

from igsp_deploy.locks import try_lock

with try_lock(pathlib.Path(path)) as ours:
    print(ours, flush=True)
    if how == "die":
        os._exit(9)
    if how == "hold":
        sys.stdin.readline()
"""
FILE_SYSTEMS = [0, errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP]


def _start(path: Path, code: int, how: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, str(path), str(code), how]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(path: Path, code: int, how: str = "") -> str:
    return _start(path, code, how).communicate()[0].strip()


@pytest.mark.parametrize("code", FILE_SYSTEMS)
def test_one_process_at_a_time_whatever_the_file_system(tmp_path: Path, code: int) -> None:
    path = tmp_path / ".lock"
    holder = _start(path, code, "hold")
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "True"
    assert _ask(path, code) == "False"
    holder.communicate("\n")
    assert _ask(path, code) == "True"


@pytest.mark.parametrize("code", FILE_SYSTEMS)
def test_the_lock_of_a_process_that_was_killed_is_taken_over(tmp_path: Path, code: int) -> None:
    path = tmp_path / ".lock"
    assert _ask(path, code, "die") == "True"
    assert _ask(path, code) == "True"


def test_who_holds_it_may_take_it_again_and_others_may_not(tmp_path: Path) -> None:
    path = tmp_path / ".lock"

    def take() -> bool:
        with try_lock(path) as ours:
            return ours

    with ThreadPoolExecutor(1) as pool, try_lock(path) as ours:
        assert ours
        assert take()
        assert not pool.submit(take).result()
    assert take()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), try_lock(tmp_path / "file" / ".lock"):
        pass


def test_the_lock_of_a_link_is_the_lock_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    with try_lock(tmp_path / "model" / ".lock") as ours:
        assert ours
        assert _ask(tmp_path / "link" / ".lock", 0) == "False"
