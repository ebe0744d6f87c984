"""Hugging Face data sets and tables of images as sources of a task."""

import io
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.data import canonical_source, load_task_data, open_image, read_eval_images
from igsp_deploy.errors import UserError
from igsp_train.data.views import TrainViews

SPEC = PreprocessSpec(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables made from Parquet stay out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((10, 12, 3), shade, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def table(shades: list[int], names: tuple[str, ...] = ("dog", "cat")) -> datasets.Dataset:
    """Images whose shade is 10 times their number plus their label."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    rows = {"image": [{"bytes": picture(s), "path": None} for s in shades], "label": [s % 10 for s in shades]}
    return datasets.Dataset.from_dict(rows, features=features)


TRAIN, TEST = [10 * n + n % 2 for n in range(12)], [200, 211]


def shades(items: object, source: str) -> list[int]:
    data = load_task_data("t", source, val_share=0)
    chosen = getattr(data, str(items))
    return [int(np.asarray(open_image(image))[0, 0, 0]) for image in chosen.images]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    datasets.DatasetDict({"train": table(TRAIN), "test": table(TEST)}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_data_set_keeps_its_order_labels_and_splits(saved: Path) -> None:
    data = load_task_data("t", str(saved), val_share=0)
    assert data.classes == ["dog", "cat"]
    assert data.train.labels.tolist() == [0, 1] * 6
    assert shades("train", str(saved)) == TRAIN
    assert shades("test", str(saved)) == TEST


def test_its_images_are_read_like_files_and_named_in_messages(saved: Path) -> None:
    data = load_task_data("t", str(saved), val_share=0)
    views = TrainViews(data.train, SPEC, cache_bytes=0)
    assert views.view(3, 0)[0, 0, 0] == TRAIN[3]
    pixels, labels, _ = read_eval_images(data.test, SPEC)
    assert pixels[:, 0, 0, 0].tolist() == TEST
    assert labels.tolist() == [0, 1]
    assert str(data.test.images[1]) == f"{saved} test[1]"


def test_a_row_that_is_no_image_is_left_out_with_its_place(tmp_path: Path) -> None:
    broken = table(TRAIN).cast_column("image", datasets.Image(decode=False)).to_list()
    broken[4]["image"] = {"bytes": b"no image", "path": None}
    datasets.Dataset.from_list(broken, features=table(TRAIN).features).save_to_disk(tmp_path / "saved")
    data = load_task_data("t", str(tmp_path / "saved"), val_share=0, test_share=0)
    said: list[str] = []
    views = TrainViews(data.train, SPEC, on_skip=said.append)
    assert len(views) == 11
    assert "1 of 12 images" in said[0]
    assert "train[4]" in said[0]


def test_parquet_files_are_split_by_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    table(TRAIN).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    table(TEST).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    assert shades("train", str(folder)) == TRAIN
    assert shades("test", str(folder)) == TEST
    assert shades("train", f"hf:{folder}") == TRAIN


def test_one_parquet_file_of_images_is_split_automatically(tmp_path: Path) -> None:
    table(TRAIN).to_parquet(tmp_path / "all.parquet")
    data = load_task_data("t", str(tmp_path / "all.parquet"), val_share=0)
    assert len(data.train) + len(data.test) == 12
    assert len(data.test) == 2


def test_a_parquet_manifest_lists_files(tmp_path: Path) -> None:
    rows = []
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
        rows.append({"path": f"{number}.png", "label": "ab"[number % 2], "split": "train" if number < 2 else "test"})
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "list.parquet")
    data = load_task_data("t", str(tmp_path / "list.parquet"))
    assert data.classes == ["a", "b"]
    assert [path.name for path in data.test.paths] == ["2.png", "3.png"]


def test_columns_and_splits_can_be_named(tmp_path: Path) -> None:
    other = table(TRAIN).rename_columns({"image": "photo", "label": "kind"})
    datasets.DatasetDict({"first": other, "second": other.select([0, 1])}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="no split train; it has first, second"):
        load_task_data("t", f"hf:{tmp_path / 'saved'}")
    source = f"hf:{tmp_path / 'saved'}?train=first&test=second&image=photo&label=kind"
    assert shades("test", source) == TRAIN[:2]
    assert canonical_source(source).startswith(f"hf:{tmp_path / 'saved'}?")
    assert shades("test", canonical_source(source)) == TRAIN[:2]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("image=photo", "no column 'photo'; it has image, label"),
        ("train=first", "no split 'first'; it has test, train"),
        ("shots=5", "no option 'shots'"),
        ("words=/nowhere.json", "nowhere.json does not exist"),
        ("image", "must be KEY=VALUE"),
    ],
)
def test_wrong_options_are_refused(saved: Path, option: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_task_data("t", f"hf:{saved}?{option}")


def test_rows_without_a_label_are_counted(tmp_path: Path) -> None:
    rows = {"image": [{"bytes": picture(1), "path": None}] * 3, "label": ["a", None, "b"]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="1 of 3 rows have no label in label"):
        load_task_data("t", str(tmp_path / "saved"))


def test_a_damaged_or_absent_data_set_is_named(saved: Path, tmp_path: Path) -> None:
    for file in saved.rglob("*.arrow"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=f"cannot open {saved}"):
        load_task_data("t", str(saved))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(UserError, match=r"bad.parquet is not a Parquet file"):
        load_task_data("t", str(tmp_path / "bad.parquet"))
    with pytest.raises(UserError, match="cannot open the Hugging Face data set nobody/nothing"):
        load_task_data("t", "hf:nobody/nothing")


def _columns(tmp_path: Path, **columns: str) -> str:
    """A saved data set with columns of images (`I`), of classes (`C`) and of plain labels (`L`)."""
    shapes = {"I": datasets.Image(), "C": datasets.ClassLabel(names=["dog", "cat"]), "L": datasets.Value("string")}
    features = datasets.Features({name: shapes[kind] for name, kind in columns.items()})
    rows: dict[str, list[object]] = {}
    for place, (name, kind) in enumerate(columns.items()):
        shown = [{"bytes": picture(20 * place + n), "path": None} for n in range(12)]
        values: dict[str, list[object]] = {
            "I": [*shown],
            "C": [(n + place) % 2 for n in range(12)],
            "L": [f"{name}{n % 2}" for n in range(12)],
        }
        rows[name] = values[kind]
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


@pytest.mark.parametrize(
    ("columns", "shade"),
    [
        ({"mask": "I", "image": "I", "label": "C"}, 20),
        ({"image": "I", "mask": "I", "label": "C"}, 0),
        ({"depth": "I", "mask": "I", "img": "I", "label": "C"}, 40),
        ({"picture": "I", "label": "C"}, 0),
    ],
)
def test_of_several_columns_of_images_the_one_of_the_usual_name_is_taken(
    tmp_path: Path, columns: dict[str, str], shade: int
) -> None:
    data = load_task_data("t", _columns(tmp_path, **columns), val_share=0, test_share=0)
    assert int(np.asarray(open_image(data.train.images[0]))[0, 0, 0]) == shade


@pytest.mark.parametrize(
    ("columns", "classes"),
    [
        ({"image": "I", "breed": "C", "label": "C"}, ["dog", "cat"]),
        ({"image": "I", "coarse_label": "C", "fine_label": "C"}, ["dog", "cat"]),
        ({"image": "I", "source": "L", "class": "L"}, ["class0", "class1"]),
    ],
)
def test_of_several_columns_of_labels_the_one_of_the_usual_name_is_taken(
    tmp_path: Path, columns: dict[str, str], classes: list[str]
) -> None:
    data = load_task_data("t", _columns(tmp_path, **columns), val_share=0, test_share=0)
    assert data.classes == classes
    places = list(columns)
    if columns["image"] == "I" and "C" in columns.values():
        assert data.train.labels[0] == places.index("label" if "label" in places else "fine_label") % 2


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"front": "I", "back": "I", "label": "C"}, r"holds the images, front or back\? Say hf:.*\?image=front"),
        ({"image": "I", "make": "C", "model": "C"}, r"holds the labels, make or model\? Say hf:.*\?label=make"),
        ({"image": "I", "text": "L"}, r"holds the labels, it has image, text\? Say hf:"),
    ],
)
def test_columns_that_cannot_be_told_are_refused_with_the_candidates(
    tmp_path: Path, columns: dict[str, str], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        load_task_data("t", _columns(tmp_path, **columns))


@pytest.mark.parametrize(
    "name", ["test_00", "testing", "test", "Test-00000-of-00001", "validation_0", "test/0", "TEST.01"]
)
def test_parquet_files_go_into_the_split_they_are_named_after(tmp_path: Path, name: str) -> None:
    root = tmp_path / "tables"
    for file, numbers in (("train-00000-of-00001", TRAIN), (name, TEST)):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        table(numbers).to_parquet(root / f"{file}.parquet")
    data = load_task_data("t", str(root), val_share=0)
    part = data.val if "val" in name else data.test
    assert len(part) == len(TEST) if "val" not in name else len(part) == 2
    assert len(data.train) == (len(TRAIN) if "val" not in name else len(TRAIN) - len(data.test))


@pytest.mark.parametrize("column", ["split", "Split", "SPLIT"])
def test_a_column_split_beside_images_is_heeded(tmp_path: Path, column: str) -> None:
    rows = table([*TRAIN, *TEST]).add_column(column, ["Training"] * len(TRAIN) + ["test"] * len(TEST))
    rows.to_parquet(tmp_path / "all.parquet")
    assert shades("train", str(tmp_path / "all.parquet")) == TRAIN
    assert shades("test", str(tmp_path / "all.parquet")) == TEST


@pytest.mark.parametrize(
    "labels", [[1.5] * 12, [float("nan")] * 12, [["a"]] * 12, [[1, 2]] * 12, [{"a": 1}] * 12, [None] * 12]
)
def test_labels_that_are_not_one_plain_value_are_refused(tmp_path: Path, labels: list[object]) -> None:
    shown = [{"bytes": picture(n), "path": None} for n in range(12)]
    parquet.write_table(pyarrow.table({"image": shown, "label": labels}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"label"):
        load_task_data("t", str(tmp_path / "t.parquet"))
    parquet.write_table(pyarrow.table({"path": ["a.png"] * 12, "label": labels}), tmp_path / "m.parquet")
    with pytest.raises(UserError, match=r"label"):
        load_task_data("t", str(tmp_path / "m.parquet"))
