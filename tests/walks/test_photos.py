"""An ML engineer with product photos: from a folder as people have it to a model that learns on next month."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Igsp = Callable[..., Any]
SMALL = ["--set", "model.backbone=debug", "--set", "learn.steps=4", "--set", "data.num_workers=0"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """`Train` and `Test` inside another folder; a strange format, a broken file and a system's leftovers."""
    random = np.random.default_rng(0)
    root = tmp_path / "my photos" / "archive"
    for split, count in (("Train", 9), ("Test", 4)):
        for name, level in (("boot", 40), ("sandal", 200)):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                picture = np.clip(random.normal(level, 30, (48, 36, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(picture).save(root / split / name / f"{index}.jpg")
    boots = root / "Train" / "boot"
    (boots / "IMG_0001.HEIX").write_bytes(b"x")
    (boots / "cut.jpg").write_bytes((boots / "0.jpg").read_bytes()[:300])
    (boots / ".DS_Store").write_bytes(b"x")
    shutil.copytree(root / "Train", root / "__MACOSX")
    shutil.copy(boots / "1.jpg", root / "Test" / "boot" / "same.jpg")
    return root.parent


def test_photos_are_learned_looked_at_and_kept_while_another_task_comes(
    photos: Path, igsp: Igsp, task_data: Path, tmp_path: Path
) -> None:
    learn = ["train", "shop", "--task", f"shoes={photos}", *SMALL]
    done = igsp(*learn, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # What becomes of every file is said before learning starts.
    before = done.stderr.partition("learned;")[0]
    assert "boot 14 images, sandal 13 (2 skipped: " in before
    assert "1 of 9 test images are copies of training images" in before
    assert "Images of shoes" in before
    assert "1 HEIX, 1 damaged" in before or "1 damaged, 1 HEIX" in before

    again = igsp(*learn, cwd=tmp_path)
    assert "already learned, passed over" in again.stderr

    done = igsp("evaluate", "shop", "--per-class", "--errors", "errors.csv", "--out", "first.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Classes of shoes, task given" in done.stdout
    first = json.loads((tmp_path / "first.json").read_text())
    with (tmp_path / "errors.csv").open(newline="") as file:
        wrong = [row for row in csv.DictReader(file) if row["label"] != row["predicted"]]
    assert first["given"][0][0] == round(100 * (1 - len(wrong) / first["test_images"][0]), 2)

    # Next month: another task, and the photos have moved and grown.
    done = igsp("train", "shop", "--task", f"stripes={task_data / 'stripes'}", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    moved = tmp_path / "archive of last month"
    photos.rename(moved)
    gone = igsp("evaluate", "shop", cwd=tmp_path)
    assert gone.returncode == 1
    assert gone.stderr.count("\n") == 1
    assert "--task shoes=FOLDER" in gone.stderr
    Image.new("RGB", (40, 40)).save(moved / "archive" / "Test" / "boot" / "new.jpg")
    done = igsp("evaluate", "shop", "--task", f"shoes={moved}", "--json", cwd=tmp_path)
    assert "1 images came since it was learned; none of them is tested on" in done.stderr
    second = json.loads(done.stdout)
    assert second["given"][0][0] == second["given"][1][0] == first["given"][0][0]

    done = igsp("report", "shop", "--task", f"shoes={moved}", "--title", "Shop", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Train/boot/cut.jpg" in page
    assert str(tmp_path) not in page
