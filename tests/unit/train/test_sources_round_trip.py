"""A model finds the images of its tasks again, whatever kind of source they came from."""

import shutil
from pathlib import Path

import datasets
import pytest
from PIL import Image
from rich.console import Console

from igsp_deploy.config import DataConfig, LearnConfig, ModelConfig, RunConfig
from igsp_deploy.errors import UserError
from igsp_deploy.model.folder import ModelFolder
from igsp_train.evaluate import evaluate_model
from igsp_train.sequence import train_sequence
from tests.mtil_replicas import build_replicas, pixels

LEARN = LearnConfig(steps=3, batch_size=4, warmup_steps=1, num_candidates=1)


def write_sources(root: Path) -> dict[str, str]:
    """One source of every kind, named relative to `root`."""
    build_replicas(root / "data", ("mnist", "dtd"))
    images = [Image.fromarray(pixels(label, number)) for number in range(8) for label in range(2)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["red", "green"])})
    rows = {"image": images, "label": [0, 1] * 8}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(root / "saved")
    lines = ["path,label"]
    for number, image in enumerate(images):
        image.save(root / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]}")
    (root / "list.csv").write_text("\n".join(lines))
    return {
        "saved": "saved",
        "hub": "hf:./saved?label=label",
        "digits": "torchvision:MNIST?root=data",
        "textures": "mtil:dtd?root=data&counts=any",
        "listed": "list.csv",
    }


def test_every_kind_of_source_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig(
        model=ModelConfig(backbone="debug", rank=2, vision_blocks=1, text_blocks=-1),
        learn=LEARN,
        data=DataConfig(num_workers=1),
        tasks=write_sources(tmp_path),
    )
    said = Console(record=True, quiet=True)
    train_sequence(Path("model"), config, console=said)
    first = [p.stat().st_mtime_ns for p in sorted(Path("model").rglob("*.safetensors"))]
    train_sequence(Path("model"), config, console=said)
    assert [p.stat().st_mtime_ns for p in sorted(Path("model").rglob("*.safetensors"))] == first, "learned again"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = evaluate_model(tmp_path / "model", console=said)
    # A fifth of 16 images in two classes is two a class.
    assert dict(zip(result["tasks"], result["test_images"], strict=True)) == {
        "saved": 4,
        "hub": 4,
        "digits": 9,
        "textures": 9,
        "listed": 4,
    }
    sources = {record.name: record.source for record in ModelFolder.open(tmp_path / "model").tasks}
    assert sources["hub"] == f"hf:{tmp_path / 'saved'}?label=label"
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(UserError, match=r"task 'digits': .*data does not exist"):
        evaluate_model(tmp_path / "model", console=said)
