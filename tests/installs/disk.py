"""What each install line of docs/install.md takes on the disk: `python -m tests.installs.disk [WORD ...]`.

uv resolves a line for its machine at the versions of constraints.txt, and every wheel's own table of contents, a few
kilobytes at its end, says how large its files are: exact, and nothing is downloaded or installed. pip compiles what it
installs, which adds 1.3 bytes for each of Python source (measured over a whole environment). Needs the registry, and
for the lines with PyTorch's CPU wheels PyTorch's index. Words pick lines: `serve gpu` those that have both.
"""

import io
import os
import ssl
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("igsp_deploy", "train/igsp_train", "export/igsp_export", "serve/igsp_serve")
BYTECODE = 1.3
"""Bytes of bytecode a byte of Python source, CPython 3.11."""
TAIL = 1 << 16
"""Bytes asked for at once: most tables of contents fit."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of that page's table: `machine` and `extras` as it names them.

    Attributes:
        platform: uv's name of the machine.
        torch: uv's options on torch's wheels.
    """

    machine: str
    extras: str
    platform: str
    torch: tuple[str, ...] = ()


CPU_TORCH = ("--torch-backend", "cpu")
NO_TORCH = ("--override", str(Path(__file__).with_name("no_torch.txt")))
X86, ARM, MAC = "x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin"
LINES = (
    Line(machine="Linux x86-64, NVIDIA GPU", extras="all,gpu", platform=X86),
    Line(machine="Linux without a GPU (x86-64)", extras="all,cpu", platform=X86, torch=CPU_TORCH),
    Line(machine="Linux without a GPU (aarch64)", extras="all,cpu", platform=ARM, torch=CPU_TORCH),
    Line(machine="macOS 14 or newer (Apple)", extras="all,cpu", platform=MAC),
    Line(machine="any, without a GPU", extras="serve,cpu", platform=X86),
    Line(machine="Linux x86-64, NVIDIA GPU", extras="serve,gpu", platform=X86),
)


@dataclass(frozen=True)
class Sizes:
    """Of a line, in bytes: what is downloaded, its files unpacked, and these with the bytecode pip makes of them."""

    download: int
    unpacked: int
    compiled: int


class _Remote(io.RawIOBase):
    """A file behind an address, read by ranges.

    Args:
        url: address of a server that answers ranges.
        size: bytes of the file.
    """

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._at = url, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        asked = urllib.request.Request(self._url, headers={"Range": f"bytes={self._at}-{end - 1}"})
        with urllib.request.urlopen(asked, timeout=60, context=_trust()) as answer:
            if answer.status != 206:
                raise OSError(f"{self._url}: the server does not answer ranges")
            data = answer.read()
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@cache
def _trust() -> ssl.SSLContext:
    """Certificates, read once: reading them takes longer than a wheel's table of contents."""
    return ssl.create_default_context()


def contents(wheel: IO[bytes]) -> tuple[int, int]:
    """Bytes of all files in a wheel, and of its Python sources among them."""
    with zipfile.ZipFile(wheel) as opened:
        files = [(file.filename, file.file_size) for file in opened.infolist()]
    return sum(size for _, size in files), sum(size for name, size in files if name.endswith(".py"))


@cache
def _measured(place: str, size: int) -> tuple[int, int, int]:
    """Download, files and sources of a wheel, by its address or path."""
    local = Path(place)
    if local.is_file():
        return local.stat().st_size, *contents(io.BytesIO(local.read_bytes()))
    return size, *contents(io.BufferedReader(_Remote(place, size), TAIL))


def wheels(line: Line) -> list[dict[str, Any]]:
    """One wheel a package that a line installs: `size`, and `url` or `path`.

    Raises:
        RuntimeError: uv finds no solution, or does not reach an index; with its reason.
    """
    extras = [word for extra in line.extras.split(",") for word in ("--extra", extra)]
    uv = str(Path(sys.executable).with_name("uv"))
    done = subprocess.run(
        [
            *(uv, "pip", "compile", "--quiet", "--format", "pylock.toml", "--python-version", "3.11"),
            *("--only-binary", ":all:", "--constraint", str(ROOT / "constraints.txt")),
            *("--python-platform", line.platform, *line.torch),
            *(str(ROOT / "pyproject.toml"), *extras),
        ],
        # onnxruntime's wheels are for macOS 14 and newer.
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or "uv found no solution")
    packages = tomllib.loads(done.stdout)["packages"]
    # Where several fit, one of them is for any machine: the others are as large or larger.
    return [max(package["wheels"], key=lambda wheel: wheel.get("size", 0)) for package in packages]


def measure(line: Line) -> Sizes:
    """What a line takes, this project included.

    Raises:
        RuntimeError: as `wheels`.
    """
    found = wheels(line)
    with ThreadPoolExecutor(4) as threads:
        sizes = list(threads.map(lambda w: _measured(w.get("url") or w["path"], w.get("size", 0)), found))
    own = [path for part in PARTS for path in (ROOT / part).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files = sum(path.stat().st_size for path in own)
    sources = sum(path.stat().st_size for path in own if path.suffix == ".py")
    download, unpacked, python = (sum(column) for column in zip(*sizes, (files, files, sources), strict=True))
    return Sizes(download, unpacked, round(unpacked + BYTECODE * python))


def described(line: Line) -> str:
    """A line as the table shows it; without torch where PyTorch's index cannot be reached."""
    remark = ""
    try:
        found = measure(line)
    except RuntimeError as error:
        if line.torch != CPU_TORCH:
            raise
        found = measure(replace(line, torch=NO_TORCH))
        remark = f"  and torch's, unknown here ({str(error).splitlines()[-1].strip()})"
    sizes = " ".join(f"{size / 1e9:9.2f}" for size in (found.download, found.unpacked, found.compiled))
    return f"{line.machine:<30} {line.extras:<12} {sizes}{remark}"


def main(words: list[str]) -> None:
    """Print the lines as a table."""
    print(f"{'machine':<30} {'line':<12} {'download':>9} {'files':>9} {'on disk':>9}  GB (10^9 bytes)")
    for line in LINES:
        if all(word in f"{line.machine} {line.extras}".lower() for word in words):
            print(described(line), flush=True)


if __name__ == "__main__":
    main([word.lower() for word in sys.argv[1:]])
