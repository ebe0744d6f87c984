"""Folders that appear whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from igsp_deploy.data import canonical_source
from igsp_deploy.errors import UserError
from igsp_deploy.files import check_places, new_folder, read_json, write_bytes_atomic, write_json

DIES = """
import os, pathlib, sys
import pytest

from igsp_deploy.errors import UserError
from igsp_deploy.files import new_folder, read_json, write_bytes_atomic, write_json
with new_folder(pathlib.Path(sys.argv[1])) as scratch:
    (scratch / "half").write_text("x")
    os._exit(9)
"""


def test_what_a_killed_process_left_behind_is_removed_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "model[1]"
    child = subprocess.Popen([sys.executable, "-c", DIES, str(final)])
    assert child.wait() == 9
    left = tmp_path / f".{final.name}.{child.pid}.tmp"
    assert (left / "half").exists()
    alive = tmp_path / f".{final.name}.{os.getppid()}.tmp"
    other = tmp_path / f".other.{child.pid}.tmp"
    for folder in (alive, other):
        folder.mkdir()
    with new_folder(final) as scratch:
        (scratch / "whole").write_text("x")
    assert [path.name for path in final.iterdir()] == ["whole"]
    assert not left.exists()
    assert alive.exists()
    assert other.exists()


def test_a_link_to_nothing_is_said_before_the_work_and_stays(tmp_path: Path) -> None:
    final = tmp_path / "bundle"
    final.symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="exists already"), new_folder(final):
        pytest.fail("the work began")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_flush_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    write_bytes_atomic(tmp_path / "a", b"x")
    with new_folder(tmp_path / "folder") as scratch:
        (scratch / "b").write_text("y")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "folder"]


def test_a_full_disk_on_flushing_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is not full"):
        write_bytes_atomic(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_json_keeps_a_path_that_is_no_text_and_reads_a_file_with_a_mark(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"source": "caf\udce9", "name": "caf\u00e9"})
    assert read_json(tmp_path / "a.json", "test") == {"source": "caf\udce9", "name": "caf\u00e9"}
    (tmp_path / "b.json").write_bytes(b"\xef\xbb\xbf" + '{"a": "\u00e9"}'.encode())
    assert read_json(tmp_path / "b.json", "test") == {"a": "\u00e9"}


@pytest.mark.parametrize("text", ["~nobody-is-called-so/data", "a\0b", "circle"])
@pytest.mark.parametrize("kind", ["", "hf:./", "torchvision:MNIST?root=", "part:1/2?root="])
def test_a_source_that_names_no_place_is_said(
    kind: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circle").symlink_to("round")
    (tmp_path / "round").symlink_to("circle")
    if kind == "hf:./" and text[0] == "~":
        kind = "hf:"
    if sys.version_info >= (3, 13) and text == "circle":  # there it is a place that does not exist
        assert canonical_source(kind + text)
        return
    with pytest.raises(UserError, match=r"names no place .*Correct the path"):
        canonical_source(kind + text)


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    check_places(tmp_path / "a", None, tmp_path / "b", None)
    with pytest.raises(UserError, match="is given for two outputs"):
        check_places(tmp_path / "a", tmp_path / "b", tmp_path / "link" / "a")


@pytest.mark.parametrize("folder", [True, False])
def test_what_something_else_made_meanwhile_stays_and_is_said(tmp_path: Path, folder: bool) -> None:
    """Two exports to one place: the second to end found "Directory not empty", and was to check the disk."""
    final = tmp_path / "bundle"
    theirs = final / "theirs" if folder else final

    def make() -> None:
        with new_folder(final) as scratch:
            (scratch / "mine").write_text("mine")
            theirs.parent.mkdir(exist_ok=True)
            theirs.write_text("theirs")

    with pytest.raises(UserError, match=r"bundle was made by something else meanwhile and stays as it is"):
        make()
    assert theirs.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [final]
