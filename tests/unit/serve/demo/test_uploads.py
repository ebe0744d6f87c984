import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from igsp_deploy.errors import UserError
from igsp_serve.demo import uploads
from igsp_serve.demo.uploads import Full, Limits, Store, find_file, new_file, page_folder, read_upload

HASH = "ab" * 32
BLOCK = 4096


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own for every test."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    page_folder.cache_clear()
    yield page_folder()
    page_folder.cache_clear()


def put(folder: Path, name: str, size: int, age_s: float = 0, whole: bool = True) -> Path:
    """A file that takes `size` blocks, `age_s` old."""
    path = folder / f"{name * 64}"[:64] / "x.png" if whole else folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * (size - 1) * BLOCK)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def left(folder: Path) -> set[str]:
    """First letters of the files that are there."""
    return {
        path.parent.name[0] if path.parent != folder else path.name for path in folder.rglob("*") if path.is_file()
    } - {".lock"}


def test_the_folder_is_for_nobody_else(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert Path(os.environ["GRADIO_TEMP_DIR"]) == folder


def test_a_file_is_found_by_the_name_it_has_outside(folder: Path) -> None:
    path = put(folder, "a", 2)
    assert find_file(f"files/{'a' * 64}/x.png") == path
    assert read_upload({"path": str(path)}) == path.read_bytes()
    table = new_file("labels.csv")
    table.write_text("a,b")
    assert find_file(f"files/{table.relative_to(folder)}") == table


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "files",
        "files/",
        f"files/{HASH}",
        f"files/{HASH}/",
        f"files/{HASH}/.",
        f"files/{HASH}/..",
        f"files/{HASH}/../../x",
        f"files/{HASH}/./x.png",
        f"files//{HASH}/x.png",
        f"files/{HASH.upper()}/x.png",
        f"files/{HASH}/x.png/y",
        f"files/{HASH}/x\0.png",
        f"file/{HASH}/x.png",
        "files/.lock",
        f"files/{HASH}/missing.png",
        f"files/{HASH}/link.png",
        f"files/{HASH}/pipe.png",
        f"files/{HASH}/folder",
        f"files/{'cd' * 32}/x.png",
    ],
)
def test_nothing_else_has_a_name(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").write_text("secret")
    place = folder / HASH
    place.mkdir()
    (place / "link.png").symlink_to(tmp_path / "secret")
    os.mkfifo(place / "pipe.png")
    (place / "folder").mkdir()
    (folder / ("cd" * 32)).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"was not uploaded here|not a file that was uploaded|not here any more"):
        find_file(name)


@pytest.mark.parametrize("name", ["link.png", "pipe.png", "folder"])
def test_what_took_the_place_of_a_file_is_not_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Between the look and the reading."""
    (tmp_path / "secret").write_text("secret")
    place = folder / HASH
    place.mkdir()
    (place / "link.png").symlink_to(tmp_path / "secret")
    os.mkfifo(place / "pipe.png")
    (place / "folder").mkdir()
    monkeypatch.setattr(uploads, "check_file", lambda path: path)
    with pytest.raises(UserError, match="not here any more"):
        read_upload({"path": str(place / name)})


@pytest.mark.parametrize("payload", [None, {}, {"path": None}, {"path": 3}, "", 7])
def test_no_file_is_told(payload: object) -> None:
    with pytest.raises(UserError, match="Choose a file first"):
        read_upload(payload)


def test_a_path_of_the_machine_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("secret")
    with pytest.raises(UserError, match="not a file that was uploaded") as caught:
        read_upload({"path": str(tmp_path / "x.png")})
    assert str(tmp_path) not in str(caught.value)


def test_old_files_go_and_examples_stay(folder: Path) -> None:
    put(folder, "e", 2, age_s=1000)
    store = Store(Limits(age_s=100))
    put(folder, "a", 2, age_s=101)
    put(folder, "b", 2, age_s=50)
    store.sweep()
    assert left(folder) == {"e", "b"}
    store.sweep(time.time() + 60)
    assert left(folder) == {"e"}
    assert not (folder / ("a" * 64)).exists()


def test_the_oldest_go_when_there_is_too_much(folder: Path) -> None:
    store = Store(Limits(total_bytes=10 * BLOCK))
    for name, age in (("a", 10), ("b", 30), ("c", 20)):
        put(folder, name, 3, age)
    store.sweep()
    assert left(folder) == {"a", "b", "c"}
    store.reserve(2 * BLOCK)
    assert left(folder) == {"a", "c"}
    store.reserve(5 * BLOCK)
    assert left(folder) == {"a"}
    with pytest.raises(Full):
        store.reserve(4 * BLOCK)
    store.release(5 * BLOCK)
    store.reserve(4 * BLOCK)


def test_many_small_files_count_for_the_room_they_take(folder: Path) -> None:
    store = Store(Limits(total_bytes=10 * BLOCK))
    for number, name in enumerate("abcdefgh"):
        put(folder, name, 1, age_s=number)
    store.sweep()
    assert left(folder) == {"a", "b", "c", "d", "e"}


def test_what_a_client_left_half_written_goes(folder: Path) -> None:
    store = Store(Limits(time_s=100))
    put(folder, "tmp1", 3, whole=False)
    store.reserve(BLOCK)
    assert left(folder) == {"tmp1"}
    put(folder, "tmp2", 3, age_s=101, whole=False)
    store.sweep()
    assert left(folder) == {"tmp1"}
    store.release(BLOCK)
    assert left(folder) == set()


def test_the_folder_of_a_killed_process_goes_and_that_of_a_living_one_stays(folder: Path) -> None:
    code = (
        "import os, sys, signal; from igsp_serve.demo.uploads import page_folder\n"
        "print(page_folder(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = folder.parent
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(parent)}
    killed = Path(
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout.strip()
    )
    assert killed.parent == parent
    assert killed.exists()
    foreign = parent / "igsp-demo-link"
    foreign.symlink_to(parent.parent)
    new = Path(
        subprocess.run(
            [sys.executable, "-c", code.replace("os.kill", "print")], env=environment, capture_output=True, text=True
        ).stdout.split()[0]
    )
    assert not killed.exists()
    assert not new.exists(), "it is removed at the end"
    assert folder.exists()
    assert parent.parent.exists()
