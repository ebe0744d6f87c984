"""Zips from strangers."""

import io
import stat
import zipfile
from pathlib import Path

import pytest

from igsp_deploy.errors import UserError
from igsp_serve.demo.archive import Limits, check_classes, read_archive, unpack


def make_zip(path: Path, names: list[str], content: bytes = b"picture") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return path


def classes(*labels: str, before: str = "", count: int = 3) -> list[str]:
    return [f"{before}{label}/{k}.jpg" for label in labels for k in range(count)]


@pytest.mark.parametrize("before", ["", "pets/", "a/b/"])
def test_class_folders_are_found_below_folders_around_them(tmp_path: Path, before: str) -> None:
    names = [*classes("cat", "dog", before=before), f"{before}notes.txt", "__MACOSX/cat/._0.jpg", f"{before}cat/.x.png"]
    path = make_zip(tmp_path / "z.zip", names)
    members = read_archive(path)
    assert [(m.split, m.label) for m in members] == [("", "cat")] * 3 + [("", "dog")] * 3
    unpack(path, members, tmp_path / "out")
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.jpg")) == [
        f"{label}/{number:05d}.jpg" for label, start in (("cat", 0), ("dog", 3)) for number in range(start, start + 3)
    ]


def test_splits_are_kept(tmp_path: Path) -> None:
    names = [*classes("cat", "dog", before="pets/train/"), *classes("cat", "dog", before="pets/test/")]
    path = make_zip(tmp_path / "z.zip", names)
    members = read_archive(path)
    assert {(m.split, m.label) for m in members} == {(s, c) for s in ("train", "test") for c in ("cat", "dog")}
    unpack(path, members, tmp_path / "out")
    assert len(list((tmp_path / "out" / "test" / "dog").iterdir())) == 3


def test_a_task_about_trains_is_not_taken_for_a_split(tmp_path: Path) -> None:
    members = read_archive(make_zip(tmp_path / "z.zip", classes("train", "bus")))
    assert {(m.split, m.label) for m in members} == {("", "train"), ("", "bus")}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../cat/1.jpg"], "a place outside itself"),
        (["a/../../1.jpg"], "a place outside itself"),
        (["/etc/1.jpg"], "a place outside itself"),
        (["C:\\cat\\1.jpg"], "a place outside itself"),
        (["cat/1.jpg", "cat/more.zip"], r"another archive, 'more\.zip'"),
        (["cat/a.txt"], "no images"),
        ([], "no images"),
        (["1.jpg", "cat/1.jpg"], "outside a class folder"),
        (classes("cat"), "at least two classes"),
        (classes("cat", "dog", count=2), "needs at least 3"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_archive(make_zip(tmp_path / "z.zip", names))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "z.zip", classes("cat", "dog"), bytes(3 << 20))
    with pytest.raises(UserError, match="packed too tightly"):
        read_archive(path)


def test_limits_are_told_with_what_came(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "z.zip", classes("cat", "dog"))
    with pytest.raises(UserError, match="holds 6 files; at most 5"):
        read_archive(path, Limits(files=5))
    with pytest.raises(UserError, match="Unpacked"):
        read_archive(path, Limits(unpacked_bytes=10))
    with pytest.raises(UserError, match="an image"):
        read_archive(path, Limits(file_bytes=3))
    with pytest.raises(UserError, match="2 classes; at most 1"):
        read_archive(path, Limits(classes=1))


def test_links_passwords_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("cat/1.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="holds a link"):
        read_archive(path)
    path.write_bytes(b"PK but no more")
    with pytest.raises(UserError, match="not a zip archive"):
        read_archive(path)


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "z.zip", classes("cat", "dog"), bytes(range(256)) * 20)
    members = read_archive(path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = archive.infolist()[4].header_offset
    content[start + 60 : start + 90] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(path, members, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_class_is_named() -> None:
    with pytest.raises(UserError, match="only one, 'cat'"):
        check_classes({"cat": 10})


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("Training", "Testing"), ("train", "valid"), ("seg_train/seg_train", "seg_test/seg_test")],
)
def test_splits_in_the_words_people_use_are_told_as_in_folders(tmp_path: Path, train: str, test: str) -> None:
    names = [*classes("cat", "dog", before=f"data/{train}/"), *classes("cat", "dog", before=f"data/{test}/")]
    members = read_archive(make_zip(tmp_path / "z.zip", [*names, "data/@eaDir/x/1.jpg", "__MACOSX/data/._1.jpg"]))
    expected = {"train", "val" if test == "valid" else "test"}
    assert {(m.split, m.label) for m in members} == {(s, c) for s in expected for c in ("cat", "dog")}


def test_splits_without_class_folders_are_refused_by_name(tmp_path: Path) -> None:
    names = [f"{split}/{number}.jpg" for split in ("train", "test") for number in range(4)]
    with pytest.raises(UserError, match="The zip: test and train hold images and no class folders"):
        read_archive(make_zip(tmp_path / "z.zip", names))
