"""Images and classes that came to a learned task: sums that are those of all images, and nothing else that moves."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import igsp_deploy
from igsp_deploy.config import DataConfig, LearnConfig, ModelConfig, RunConfig
from igsp_deploy.errors import UserError
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.fourier import directions, fourier
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.model.selector import task_statistics
from igsp_deploy.model_path import current_folder
from igsp_train import extend
from igsp_train.extend import extend_task, merged_statistics
from igsp_train.head import RidgeSums
from igsp_train.remembered import remembered
from igsp_train.sequence import train_sequence
from tests.cli import igsp

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 200, 30)}


def _draw(folder: Path, label: str, numbers: range) -> None:
    """Noisy pictures of one colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        noise = np.random.default_rng((number, len(label))).normal(0, 40, (40, 40, 3))
        Image.fromarray(np.clip(noise + COLOURS[label], 0, 255).astype(np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def start(task_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a task whose data may grow, and one after it."""
    place = tmp_path_factory.mktemp("extend")
    for label in ("red", "blue"):
        _draw(place / "data" / "train" / label, label, range(10))
        _draw(place / "data" / "test" / label, label, range(50, 54))
    config = RunConfig(
        model=ModelConfig(backbone="nano", rank=2, vision_blocks=1, text_blocks=1),
        learn=LearnConfig(steps=10, batch_size=8, num_candidates=2, warmup_steps=1, phase1_max_share=0.5),
        data=DataConfig(num_workers=0),
        tasks={"hues": str(place / "data"), "stripes": str(task_data / "stripes")},
    )
    train_sequence(place / "model", config)
    return place


@pytest.fixture
def place(start: Path, tmp_path: Path) -> Path:
    shutil.copytree(start, tmp_path, dirs_exist_ok=True)
    return tmp_path


def _grow(data: Path, labels: tuple[str, ...] = ("red", "green")) -> None:
    for label in labels:
        _draw(data / "train" / label, label, range(100, 110))
        _draw(data / "test" / label, label, range(150, 154))


def _with_metrics(metrics: dict[str, Any]) -> Callable[[ModelFolder, int], Any]:
    """What extends a task, with other figures in its record."""
    before = extend._extendable

    def changed(folder: ModelFolder, index: int) -> Any:
        record, split, statistics = before(folder, index)
        return dataclasses.replace(record, metrics=metrics), split, statistics

    return changed


def _files(model: Path) -> dict[str, bytes]:
    return {str(p.relative_to(model)): p.read_bytes() for p in model.rglob("*") if p.is_file() and p.name != ".lock"}


def sums_of(features: torch.Tensor, labels: torch.Tensor) -> RidgeSums:
    sums = RidgeSums(int(labels.max()) + 1, features.shape[1])
    sums.add(features, labels)
    return sums


def test_sums_of_old_and_new_images_are_those_of_all_images() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(60, 7, generator=random) + 3
    labels = torch.arange(60) % 3
    labels[40:] = torch.arange(20) % 4  # a class that came, and one that did not grow
    labels[labels == 1] = torch.where(torch.arange(60)[labels == 1] < 40, 1, 2)
    old = task_statistics(features[:40], labels[:40], 3, keep=16)
    merged = merged_statistics(old, task_statistics(features[40:], labels[40:], 4, keep=16), 16)
    whole = task_statistics(features, labels, 4, keep=16)
    for name in ("means", "scatter", "sizes"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name), rtol=1e-5, atol=1e-4)
    assert (merged.count, len(merged.labels), len(merged.calibration)) == (60, 16, 16)
    assert 8 <= sum(bool((features[:40] == row).all(1).any()) for row in merged.calibration) <= 12
    sums = sums_of(features, labels)
    remember = remembered(old, "summary", None).widened(4).plus([sums_of(features[40:], labels[40:])])
    torch.testing.assert_close(remember.solve(), sums.solve(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(remembered(merged, "summary", None).solve(), sums.solve(), rtol=1e-4, atol=1e-5)
    part, rest = sums_of(features[:10], labels[:10]).widened(4), sums_of(features[10:], labels[10:])
    torch.testing.assert_close(sums.without(part).solve(), rest.solve(), rtol=1e-4, atol=1e-5)


def gaussians() -> tuple[torch.Tensor, torch.Tensor]:
    """Many images of three classes, each a Gaussian of one covariance in 8 numbers."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(60_000) % 3
    shape = 0.5 * torch.randn(8, 8, generator=random, dtype=torch.float64)
    means = torch.randn(3, 8, generator=random, dtype=torch.float64)
    return means[labels] + torch.randn(60_000, 8, generator=random, dtype=torch.float64) @ shape, labels


def test_expected_sums_of_fourier_features_are_those_of_gaussian_images() -> None:
    features, labels = gaussians()
    found = remembered(task_statistics(features, labels, 3), "fourier", None)
    sums = sums_of(fourier(features.float(), directions(8)), labels)
    assert torch.equal(found.counts, sums.counts)
    torch.testing.assert_close(found.gram / 60_000, sums.gram / 60_000, rtol=0, atol=0.01)
    torch.testing.assert_close(found.sums / 20_000, sums.sums / 20_000, rtol=0, atol=0.02)


def test_a_head_whose_images_are_gone_is_found_again_whatever_its_scale() -> None:
    features, labels = gaussians()
    few = features[:90] + 0.1 * (labels[:90, None] == 1) * features[:90].square()  # no Gaussians
    real = sums_of(fourier(few.float(), directions(8)), labels[:90]).solve()
    found = remembered(task_statistics(few, labels[:90], 3), "fourier", 7.0 * real).solve()
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), real.flatten(), dim=0)
    assert float(cosine) > 1 - 1e-5
    assert 0.8 < float(found.norm() / real.norm()) < 1.25
    without = remembered(task_statistics(few, labels[:90], 3), "fourier", None).solve()
    assert torch.equal(remembered(task_statistics(few, labels[:90], 3), "fourier", -real).solve(), without)
    assert float(torch.nn.functional.cosine_similarity(without.flatten(), real.flatten(), dim=0)) < 0.99


def test_new_classes_are_told_apart_and_nothing_else_moves(place: Path) -> None:
    model = place / "model"
    before, files = ModelFolder.open(model), _files(model)
    backbone = before.load_backbone()
    images = torch.randint(0, 256, (4, 128, 128, 3), dtype=torch.uint8)
    old = LearnedClip.open(before, backbone)
    tokens = old.trunk(images)
    _grow(place / "data")
    record = extend_task(model, "hues", str(place / "data"))
    folder = ModelFolder.open(model)
    assert folder.tasks[0] == record
    assert record.classes == ["blue", "red", "green"]  # what was learned keeps its number
    assert record.images["red"]["learned"] == 9 + 9
    assert record.images["green"]["tested"] == 4
    assert {name: content for name, content in _files(model).items() if name in files} == files
    new = LearnedClip.open(folder, backbone)
    assert torch.equal(new.embed(tokens, 0), old.embed(tokens, 0))
    assert torch.equal(new.class_vectors(0)[:2], old.class_vectors(0))
    assert torch.equal(new.predict(tokens, 1), old.predict(tokens, 1))
    assert folder.fingerprint(1) == before.fingerprint(1)
    assert folder.fingerprint(0) != before.fingerprint(0)
    assert folder.head(0) is not None
    measured = json.loads(igsp("evaluate", model, "--json").stdout)
    assert measured["test_images"][0] == 8 + 8
    assert measured["given"][-1][0] > 85
    once = folder.statistics(0)
    _draw(place / "data" / "train" / "green", "green", range(200, 205))
    again = extend_task(model, "hues", str(place / "data"))
    assert again.metrics["extended_by"] == 18 + 4
    assert ModelFolder.open(model).statistics(0).count == once.count + 4


def test_an_extended_task_is_exported_like_any_other(place: Path, tmp_path: Path) -> None:
    model = igsp_deploy.Model.create(tmp_path / "small", backbone="debug", rank=2, vision_blocks=1, text_blocks=-1)
    model.learn("hues", place / "data", steps=2, batch_size=4, warmup_steps=1, num_candidates=1)
    _grow(place / "data")
    assert model.extend("hues", place / "data").classes[-1] == "green"
    classifier = model.export(tmp_path / "bundle")  # refused if it does not give what PyTorch gives
    assert list(classifier.manifest.tasks[0].classes) == ["blue", "red", "green"]
    assert classifier.manifest.tasks[0].fingerprint == ModelFolder.open(tmp_path / "small").fingerprint(0)


def test_words_alone_stay_alone_where_the_ridge_is_no_better(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _grow(place / "data")
    monkeypatch.setattr(ModelFolder, "head", lambda self, index: None)
    monkeypatch.setattr("igsp_train.extend.best_weight", lambda *_: 0.0)
    record = extend_task(place / "model", "hues", str(place / "data"))
    monkeypatch.undo()
    assert ModelFolder.open(place / "model").head(0) is None
    assert record.classes == ["blue", "red", "green"]


def test_a_ridge_without_its_own_images_weighs_words_that_were_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _grow(place / "data")
    monkeypatch.setattr(ModelFolder, "head", lambda self, index: None)
    seen: list[Any] = []

    def watch(words: torch.Tensor, ridge: torch.Tensor, labels: torch.Tensor, weights: list[float]) -> float:
        seen.append((ridge, labels, max(weights)))
        return 0.4

    monkeypatch.setattr("igsp_train.extend.best_weight", watch)
    extend_task(place / "model", "hues", str(place / "data"))
    monkeypatch.undo()
    ((ridge, labels, most),) = seen
    assert most == 0.5
    assert float((ridge.argmax(1) == labels).float().mean()) > 0.8
    head = ModelFolder.open(place / "model").head(0)
    assert head is not None
    assert head.text_share == pytest.approx(0.6)


def test_an_extended_task_keeps_its_weight_and_its_temperature(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, head = ModelFolder.open(place / "model"), ModelFolder.open(place / "model").head(0)
    assert head is not None
    assert folder.tasks[0].metrics["temperature"] == 1.0  # too few are held out
    weight = folder.tasks[0].metrics["head_weight"]
    assert weight == pytest.approx(1.0 - head.text_share)
    _grow(place / "data")
    tempered = shutil.copytree(place, place.parent / "tempered")
    anew = shutil.copytree(place, place.parent / "anew")
    extend_task(place / "model", "hues", str(place / "data"))
    with monkeypatch.context() as patch:
        patch.setattr(ModelFolder, "head", lambda self, index: head.tempered(2.0))
        metrics = {**folder.tasks[0].metrics, "temperature": 2.0, "head_weight": 0.0}
        patch.setattr("igsp_train.extend._extendable", _with_metrics(metrics))
        record = extend_task(tempered / "model", "hues", str(tempered / "data"))
    cool, warm = (ModelFolder.open(one / "model").head(0) for one in (place, tempered))
    assert cool is not None
    assert cool.vectors is not None
    assert warm is not None
    assert warm.vectors is not None
    assert cool.text_share == pytest.approx(head.text_share)
    assert warm.text_share == pytest.approx(cool.text_share / 2)
    torch.testing.assert_close(warm.vectors, cool.vectors / 2)
    # It moves from where it was: by statistics alone it would be another.
    with monkeypatch.context() as patch:
        patch.setattr("igsp_train.extend.remembered", lambda known, kind, vectors: remembered(known, kind, None))
        extend_task(anew / "model", "hues", str(anew / "data"))
    other = ModelFolder.open(anew / "model").head(0)
    assert other is not None
    assert other.vectors is not None
    assert not torch.allclose(other.vectors, cool.vectors, rtol=1e-3)
    assert record.metrics["head_weight"] == pytest.approx(weight)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("nothing", "has no training image that it was not learned from"),
        ("copies", "has no training image that it was not learned from"),
        ("elsewhere", "has no red"),
        ("task", "Did you mean 'hues'"),
        ("probe", "was imported"),
        ("old", "kept too little"),
    ],
)
def test_what_cannot_be_added_is_said_and_nothing_changes(
    place: Path, monkeypatch: pytest.MonkeyPatch, what: str, match: str
) -> None:
    model, data, name = place / "model", place / "data", "hues"
    if what == "copies":
        for path in list((data / "train" / "red").iterdir()):
            Image.open(path).save(path.with_name(f"copy-{path.stem}.bmp"))
    elif what == "elsewhere":
        for label in ("blue", "green"):
            _draw(place / "other" / label, label, range(300, 310))
        data = place / "other"
    elif what == "task":
        name = "hue"
    else:
        _grow(data)
    if what == "nothing":
        data = Path(shutil.copytree(place / "data", place / "moved"))
        for label in ("red", "green"):
            for path in data.rglob(f"{label}/1*.png"):
                if path.stem.isdecimal() and int(path.stem) >= 100:
                    path.unlink()
        for path in data.rglob("green"):
            path.rmdir()
    if what == "probe":
        from igsp_deploy.model.head import Head

        monkeypatch.setattr(ModelFolder, "head", lambda self, index: Head(probe=torch.zeros(2, 8)))
    if what == "old":
        monkeypatch.setattr(ModelFolder, "split", lambda self, index: None)
    before = _files(model)
    with pytest.raises(UserError, match=match):
        extend_task(model, name, str(data))
    assert _files(model) == before


@pytest.mark.parametrize("why", ["damaged", "copied"])
def test_a_new_class_without_an_image_of_its_own_is_refused(place: Path, why: str) -> None:
    _draw(place / "data" / "train" / "red", "red", range(100, 104))
    _draw(place / "data" / "test" / "lime", "green", range(2))
    lime = place / "data" / "train" / "lime" / "0.png"
    lime.parent.mkdir()
    lime.write_bytes(b"no image" if why == "damaged" else (place / "data" / "train" / "red" / "0.png").read_bytes())
    before = _files(place / "model")
    with pytest.raises(UserError, match="of the new class lime no training image can be read that was not there"):
        extend_task(place / "model", "hues", str(place / "data"))
    assert _files(place / "model") == before


def test_it_is_whole_or_absent(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _grow(place / "data")
    before = _files(place / "model")

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("igsp_deploy.model.task_files.write_sums", full)
    with pytest.raises(UserError, match="No space left on device"):
        extend_task(place / "model", "hues", str(place / "data"))
    assert _files(place / "model") == before
    assert ModelFolder.open(place / "model").tasks[0].classes == ["blue", "red"]


def test_a_damaged_extension_is_found(place: Path) -> None:
    _grow(place / "data")
    extend_task(place / "model", "hues", str(place / "data"))
    head = place / "model" / "tasks" / "00-hues" / "extended-001" / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"extended-001/head.safetensors is damaged"):
        ModelFolder.open(place / "model")


def test_the_command(place: Path) -> None:
    _grow(place / "data")
    told = igsp("train", place / "model", "--extend", f"hues={place / 'data'}")
    assert (told.returncode, told.stdout) == (0, f"{place / 'model'}\n")
    assert "hues: 18 images and 1 classes (green) added in" in told.stderr


@pytest.mark.parametrize("option", ["--task a=b", "--shots 3", "--json", "--num-processes 2", "--discard", "--order 1"])
def test_options_that_would_be_passed_over_are_refused(tmp_path: Path, option: str) -> None:
    told = igsp("train", tmp_path / "model", "--extend", f"hues={tmp_path}", *option.split())
    assert told.returncode == 2
    assert f"goes by what the task was learned with. Leave out {option.split()[0]}." in told.stderr


def test_the_last_extension_counts_whatever_their_number(tmp_path: Path) -> None:
    assert current_folder(tmp_path) == tmp_path
    for number in (2, 999, 1000):
        (tmp_path / f"extended-{number:03d}").mkdir()
    assert current_folder(tmp_path).name == "extended-1000"
