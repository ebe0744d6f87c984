"""CSV manifests as a source."""

from collections.abc import Callable
from pathlib import Path

import pytest

from igsp_deploy.data.sources import load_task_data
from igsp_deploy.errors import UserError

MakeFolder = Callable[..., Path]


def _write(source: Path, text: str | bytes, name: str = "list.csv") -> str:
    path = source / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_paths_are_relative_to_the_manifest_and_splits_are_kept(make_folder: MakeFolder) -> None:
    source = make_folder({"cat": 3, "dog": 3})
    rows = [
        "label,split,path,author",
        "Katze,train,cat/000.png,me",
        "Hund,Train,dog/000.png,me",
        "Katze,test,cat/001.png,me",
        "Hund,test,dog/001.png,me",
        "Katze,valid,cat/002.png,me",
        "Hund,val,dog/002.png,me",
    ]
    data = load_task_data("pets", _write(source, "\ufeff" + "\r\n".join(rows)))
    assert data.classes == ["Hund", "Katze"]
    assert [path.name for path in data.test.paths] == ["001.png", "001.png"]
    assert [path.name for path in data.val.paths] == ["002.png", "002.png"]
    assert data.train.paths == [source / "dog" / "000.png", source / "cat" / "000.png"]


def test_without_a_split_column_the_split_is_automatic(make_folder: MakeFolder) -> None:
    source = make_folder({"cat": 10, "dog": 10})
    rows = [f"{name}/{number:03d}.png,{name}" for name in ("cat", "dog") for number in range(10)]
    data = load_task_data("pets", _write(source, "path,label\n" + "\n".join(rows)))
    assert (len(data.train), len(data.val), len(data.test)) == (14, 2, 4)


def test_words_come_from_the_file_beside(make_folder: MakeFolder) -> None:
    source = make_folder({"cat": 2, "dog": 2})
    (source / "list.classes.json").write_text('{"template": "a drawing of a {}"}')
    rows = "path,label\ncat/000.png,cat\ndog/000.png,dog\n"
    assert load_task_data("pets", _write(source, rows)).templates == ["a drawing of a {}"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "path and label missing in its first line: empty"),
        ("path,label\n", "lists no images"),
        ("file,label\ncat/000.png,cat\n", "path missing in its first line: file, label"),
        ("path;label\ncat/000.png;cat\n", "separated by commas"),
        ("path,label\ncat/000.png,\n", "line 2: path and label must not be empty"),
        ("path,label\ncat/000.png\n", "line 2: path and label must not be empty"),
        (
            "path,label\ncat/000.png,cat\ndog/9.png,dog\n",
            r"1 of 2 images do not exist, the first is dog/9.png \(line 3\)",
        ),
        ("path,label,split\ncat/000.png,cat,exam\n", "split must be train, val or test, got 'exam'"),
        ("path,label\ncat/000.png,cat\ncat/000.png,dog\n", "listed twice, in lines 2 and 3"),
        ("path,label,split\ncat/000.png,cat,test\ndog/000.png,dog,test\n", "no training images, only test"),
        ("path,label\ncat/000.png,cat\n", "one class only"),
        (b"path,label\n\xff\xfe\x00,cat\n", "not CSV in UTF-8"),
    ],
)
def test_a_manifest_that_is_no_task_is_refused(make_folder: MakeFolder, content: str | bytes, text: str) -> None:
    source = make_folder({"cat": 1, "dog": 1})
    with pytest.raises(UserError, match=text):
        load_task_data("pets", _write(source, content))


def _rows(header: str, split: tuple[str, str] = ("train", "test")) -> str:
    lines = [f"{name}/{n:03d}.png,{name},{split[n % 2]}" for name in ("cat", "dog") for n in range(4)]
    return "\n".join([header, *lines])


@pytest.mark.parametrize("header", ["path,label,split", "Path,Label,Split", "PATH,LABEL,SPLIT", " path , label,Split "])
@pytest.mark.parametrize("split", [("train", "test"), ("Training", "Testing"), ("TRAIN", "test_set")])
def test_columns_and_splits_in_any_case(make_folder: MakeFolder, header: str, split: tuple[str, str]) -> None:
    data = load_task_data("pets", _write(make_folder({"cat": 4, "dog": 4}), _rows(header, split)), val_share=0)
    assert (len(data.train), len(data.test)) == (4, 4)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (_rows("path,label,label"), "2 columns label: 'label', 'label'"),
        (_rows("Path,PATH,label"), "2 columns path: 'Path', 'PATH'"),
        ("path,label\ncat/000.png,a, b\n", "3 values for 2 columns"),
        (_rows("path,label,split", ("train", "holdout")), "split must be train, val or test, got 'holdout'"),
    ],
)
def test_what_can_be_meant_in_two_ways_is_refused(make_folder: MakeFolder, content: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        load_task_data("pets", _write(make_folder({"cat": 4, "dog": 4}), content))


def test_an_exact_column_is_taken_before_one_of_another_case(make_folder: MakeFolder) -> None:
    source = make_folder({"cat": 4, "dog": 4})
    rows = [f"{name}/{n:03d}.png,{name},x{n}" for name in ("cat", "dog") for n in range(4)]
    data = load_task_data("pets", _write(source, "path,label,Label\n" + "\n".join(rows)))
    assert data.classes == ["cat", "dog"]


def test_accents_are_the_same_letter_however_they_were_written(make_folder: MakeFolder) -> None:
    source = make_folder({"cafe\u0301": 4, "bar": 4})
    rows = [f"caf\u00e9/{n:03d}.png,{'cafe' + chr(0x301) if n % 2 else 'caf' + chr(0xE9)}" for n in range(4)]
    rows += [f"bar/{n:03d}.png,bar" for n in range(4)]
    data = load_task_data("pets", _write(source, "path,label\n" + "\n".join(rows)))
    assert data.classes == ["bar", "caf\u00e9"]
