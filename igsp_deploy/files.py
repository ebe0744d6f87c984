"""Files that are either whole or absent: atomic writes, folder commits, checksums."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from igsp_deploy.errors import UserError

SUMS_NAME = "SHA256SUMS"


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of one file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for chunk in iter(lambda: handle.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


_CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
"""What CIFS, FUSE and others answer to fsync, of folders above all: they order their writes themselves."""


def _fsync(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return  # a folder cannot be opened there, and needs no flush
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def explain_os_error(error: OSError, path: Path) -> UserError:
    """Turn an operating-system error met while writing `path` into one that says what to do."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}. Check that the folder exists, that you may write to it, "
        "and that the disk is not full; nothing was changed."
    )


def absolute(path: str | Path) -> Path:
    """The same from any folder: `~` and links resolved. What does not exist is no error.

    Raises:
        UserError: `~NAME` of nobody, links in a circle, or what no file can be called.
    """
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{str(path)!r} names no place ({error}). Correct the path.") from error


def check_places(*outs: Path | None) -> None:
    """See that a file can be written at each of `outs`, before anything long is done; None is one not asked for.

    Raises:
        UserError: one is a folder, or lies in something that is none; or two are the same.
    """
    taken: set[Path] = set()
    for out in filter(None, outs):
        if out.is_dir():
            raise UserError(f"{out} is a folder. Give the name of a file, for example {out / 'result'}.")
        above = next((path for path in out.absolute().parents if path.exists()), None)
        if above is not None and not above.is_dir():
            raise UserError(f"cannot write {out}: {above} is a file, not a folder. Choose another place.")
        place = absolute(out)
        if place in taken:
            raise UserError(f"{out} is given for two outputs, and one would replace the other. Give each its own file.")
        taken.add(place)


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a crash leaves the old file or the new one, never a part.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # where even its folder is none
            temporary.unlink(missing_ok=True)
        raise explain_os_error(error, path) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. A path that is no text (not UTF-8) is kept by escapes."""
    try:
        data = json.dumps(value, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        data = json.dumps(value, indent=2).encode()
    write_bytes_atomic(path, data + b"\n")


def read_json(path: Path, what: str) -> Any:
    """Read JSON, naming `what` the file is when it is missing or damaged.

    Raises:
        UserError: the file is missing, not UTF-8 or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a mark
    except FileNotFoundError as error:
        raise UserError(f"{what}: {path} does not exist. Check the path.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{what}: {path} is damaged ({error}). Restore it from a copy or make it again.") from error
    except OSError as error:
        raise UserError(f"{what}: cannot read {path}: {error.strerror}.") from error


def write_sums(folder: Path) -> None:
    """Record the SHA-256 of every file of `folder` (recursively) in its `SHA256SUMS`."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != SUMS_NAME)
    lines = "".join(f"{sha256_file(folder / name)}  {name}\n" for name in names)
    write_bytes_atomic(folder / SUMS_NAME, lines.encode())


def check_sums(folder: Path, remedy: str) -> None:
    """Compare every file of `folder` with its `SHA256SUMS`.

    Raises:
        UserError: a file is missing or differs; names it, and says `remedy`.
    """
    sums = folder / SUMS_NAME
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{sums} is missing or unreadable. {remedy}") from error
    for line in lines:
        expected, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing. {remedy}")
        if sha256_file(path) != expected:
            raise UserError(f"{path} is damaged or was changed (its SHA-256 is not the recorded one). {remedy}")


def _remove_left_behind(final: Path) -> None:
    """Remove the scratch folders of `new_folder` for `final` whose process on this machine is gone."""
    if sys.platform == "win32":
        return  # there, signal 0 would end the process that is asked after
    for scratch in final.parent.glob(f".{glob.escape(final.name)}.*.tmp"):
        process = scratch.name.split(".")[-2]
        if not process.isdecimal():
            continue
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            shutil.rmtree(scratch, ignore_errors=True)
        except OSError:
            continue  # it is there, and somebody else's


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `final`; on success it becomes `final` by one rename, else it is removed.

    Every file is flushed to disk before the rename, and the parent folder after it, so `final` is whole or absent
    whatever happens to the process. Scratch folders for `final` that killed processes left behind are removed.

    Raises:
        UserError: `final` exists already, appears meanwhile, or cannot be written.
    """
    if final.exists() or final.is_symlink():  # a link to nothing, too: no folder can take its place
        raise UserError(f"{final} exists already. Choose another name or remove it first.")
    scratch = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        _remove_left_behind(final)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
        for path in scratch.rglob("*"):
            if path.is_file():
                _fsync(path)
        _fsync(scratch)
        scratch.rename(final)
        _fsync(final.parent)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and final.exists():
            raise UserError(
                f"{final} was made by something else meanwhile and stays as it is. Choose another name or remove it."
            ) from error
        raise explain_os_error(error, final) from error
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def remove_folder(folder: Path) -> None:
    """Remove a folder by one rename: it is there whole or gone, whatever happens to the process.

    Raises:
        UserError: it cannot be renamed.
    """
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        _remove_left_behind(folder)
        shutil.rmtree(scratch, ignore_errors=True)
        folder.rename(scratch)
        _fsync(folder.parent)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    shutil.rmtree(scratch, ignore_errors=True)
