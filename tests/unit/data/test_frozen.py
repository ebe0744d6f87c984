"""The split frozen with a task: evaluation tests on exactly its test images, and says what went, came or changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from igsp_deploy.data import TaskData, load_task_data
from igsp_deploy.data.frozen import FrozenSplit
from igsp_deploy.data.test_items import find_test_items
from igsp_deploy.errors import UserError
from igsp_deploy.model.record import TaskRecord

from .conftest import write_image

MakeFolder = Callable[..., Path]
Change = Callable[[Path, TaskData], None]


def _fill(root: Path, first: int, count: int) -> None:
    for label, name in enumerate(("a", "b")):
        for number in range(first, first + count):
            write_image(root / name / f"{number:03d}.png", 1000 * label + number)


def _record(source: Path) -> TaskRecord:
    return TaskRecord(
        index=0,
        name="t",
        classes=["a", "b"],
        display_names=["a", "b"],
        templates=["{}"],
        ids={},
        trained_parameters=0,
        kept_parameters=0,
        selector_parameters=0,
        source=str(source),
        data={"val_share": 0.1, "test_share": 0.2, "seed": 0},
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    _fill(tmp_path / "data", 0, 20)
    return tmp_path / "data"


@pytest.fixture
def learned(source: Path) -> TaskData:
    return load_task_data("t", str(source))


def _split(learned: TaskData) -> FrozenSplit:
    assert learned.split is not None
    return FrozenSplit.from_json(json.loads(json.dumps(learned.split.to_json())), "split.json")


def _find(source: Path, learned: TaskData, place: str | None = None) -> tuple[set[bytes], list[str]]:
    said: list[str] = []
    items = find_test_items(_record(source), place, _split(learned), said.append)
    for path, label in zip(items.paths, items.labels, strict=True):
        assert path.parent.name == ("a", "b")[label] or path.parent.parent.name == ("a", "b")[label]
    return {path.read_bytes() for path in items.paths}, said


def _contents(items: TaskData, part: str) -> set[bytes]:
    return {path.read_bytes() for path in getattr(items, part).paths}


def _add(root: Path, _: TaskData) -> None:
    _fill(root, 20, 15)


def _remove_learned(root: Path, data: TaskData) -> None:
    data.train.paths[0].unlink()
    data.train.paths[-1].unlink()


def _rename(root: Path, data: TaskData) -> None:
    for number, path in enumerate(sorted(root.rglob("*.png"), reverse=True)):
        path.rename(path.with_name(f"z{number:04d}.png"))


def _nest(root: Path, data: TaskData) -> None:
    for path in data.test.paths:
        (path.parent / "deep").mkdir(exist_ok=True)
        path.rename(path.parent / "deep" / path.name)


def _give_splits(root: Path, data: TaskData) -> None:
    for name in ("a", "b"):
        (root / "train").mkdir(exist_ok=True)
        (root / name).rename(root / "train" / name)
        write_image(root / "test" / name / "new.png", 5000 + ord(name))


def _copy_tests_away(root: Path, data: TaskData) -> None:
    for path in data.test.paths:
        shutil.copy(path, path.with_name(f"0 copy of {path.name}"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root, data: None, ""),
        (_add, "t: 30 images came since it was learned"),
        (_remove_learned, ""),
        (_rename, ""),
        (_nest, ""),
        (_give_splits, "t: 2 images came"),
        (_copy_tests_away, ""),
    ],
)
def test_the_test_images_are_the_frozen_ones(source: Path, learned: TaskData, change: Change, text: str) -> None:
    expected, seen = _contents(learned, "test"), _contents(learned, "train") | _contents(learned, "val")
    change(source, learned)
    found, said = _find(source, learned)
    assert found == expected
    assert not found & seen
    assert (any(text in line for line in said) and said) or (not text and not said)


def test_images_that_went_or_changed_are_counted(source: Path, learned: TaskData) -> None:
    gone, changed = learned.test.paths[0], learned.test.paths[1]
    expected = _contents(learned, "test") - {gone.read_bytes(), changed.read_bytes()}
    gone.unlink()
    write_image(changed, 7777)
    found, said = _find(source, learned)
    assert found == expected
    assert said == [f"t: 1 are gone and 1 were changed of the 8 test images; the other {len(expected)} are used"]


def test_an_image_learned_from_that_moves_into_the_test_folder_is_not_tested_on(tmp_path: Path) -> None:
    _fill(tmp_path / "train", 0, 6)
    _fill(tmp_path / "test", 100, 3)
    data = load_task_data("t", str(tmp_path))
    moved = data.train.paths[0]
    content = moved.read_bytes()
    moved.rename(tmp_path / "test" / "a" / "moved.png")
    found, _ = _find(tmp_path, data)
    assert content not in found
    assert found == _contents(data, "test")


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_image_that_cannot_be_read_leaves_the_others_where_they_are(
    source: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = getattr(load_task_data("t", str(source)), part).paths[0]
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == unread:
            raise PermissionError(13, "Permission denied")
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        data = load_task_data("t", str(source))
        assert _split(data) == data.split
        assert unread in getattr(data, part).paths
        items = find_test_items(_record(source), None, _split(data))
        assert items.paths == data.test.paths
    found, _ = _find(source, data)
    assert found == _contents(data, "test") - {unread.read_bytes()}


def test_a_folder_that_moved_is_the_same_task(source: Path, learned: TaskData, tmp_path: Path) -> None:
    expected = _contents(learned, "test")
    source.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"does not exist.*take --task t=FOLDER"):
        _find(source, learned)
    found, said = _find(source, learned, str(tmp_path / "moved"))
    assert found == expected
    assert said == []


def test_other_images_are_tested_on_but_never_those_learned_from(
    source: Path, learned: TaskData, tmp_path: Path
) -> None:
    _fill(tmp_path / "new" / "test", 300, 4)
    _fill(tmp_path / "new" / "train", 400, 4)
    old = learned.train.paths[0]
    shutil.copy(old, tmp_path / "new" / "test" / "a" / "old.png")
    found, said = _find(source, learned, str(tmp_path / "new"))
    assert len(found) == 8
    assert old.read_bytes() not in found
    assert any("1 of 9 images were learned from and are left out" in line for line in said)


def test_without_any_test_image_left_evaluation_is_refused(source: Path, learned: TaskData) -> None:
    for path in learned.test.paths:
        path.unlink()
    with pytest.raises(UserError, match="none of its test images is in"):
        _find(source, learned)


def test_a_task_that_had_no_test_images_says_so_until_it_is_given_some(tmp_path: Path) -> None:
    _fill(tmp_path / "data", 0, 1)
    data = load_task_data("t", str(tmp_path / "data"))
    assert not len(data.test)
    with pytest.raises(UserError, match=r"'t' was learned without test images: .* --task t=FOLDER"):
        _find(tmp_path / "data", data)
    _fill(tmp_path / "more" / "train", 50, 2)
    _fill(tmp_path / "more" / "test", 100, 3)
    found, _ = _find(tmp_path / "data", data, str(tmp_path / "more"))
    assert len(found) == 6


def test_images_held_out_by_people_are_known_again_where_few_shots_had_no_use_for_them(tmp_path: Path) -> None:
    _fill(tmp_path / "train", 0, 6)
    _fill(tmp_path / "val", 100, 4)
    data = load_task_data("t", str(tmp_path), shots=2)
    assert not len(data.val)
    assert data.split is not None
    assert sum(map(len, data.split.parts.values())) == 20
    found, said = _find(tmp_path, data)
    assert found == _contents(data, "test")
    assert not said


def test_a_task_from_before_splits_were_kept_is_evaluated_as_before_and_said(source: Path, learned: TaskData) -> None:
    said: list[str] = []
    items = find_test_items(_record(source), None, None, said.append)
    assert items.paths == learned.test.paths
    assert len(said) == 1
    assert "chosen anew" in said[0]


@pytest.mark.parametrize("content", [{}, [], {"format": 1}, {"format": 1, "parts": {"train": "?"}}, {"format": "x"}])
def test_a_damaged_split_is_said(content: object) -> None:
    with pytest.raises(UserError, match=r"split.json is damaged"):
        FrozenSplit.from_json(content, "split.json")


def test_it_is_small(learned: TaskData) -> None:
    assert learned.split is not None
    assert len(json.dumps(learned.split.to_json())) < 17 * 40 + 200
