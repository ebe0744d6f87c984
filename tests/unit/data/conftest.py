"""Small image folders."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


def write_image(path: Path, value: int = 0, size: tuple[int, int] = (12, 10)) -> Path:
    """Write a picture whose content depends on `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Make `tmp_path/data/[split/]CLASS/N.png`, as many a class as said."""

    def make(counts: dict[str, int], split: str = "") -> Path:
        for name, count in counts.items():
            (tmp_path / "data" / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                write_image(tmp_path / "data" / split / name / f"{number:03d}.png", number)
        return tmp_path / "data"

    return make
