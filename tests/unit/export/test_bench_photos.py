"""Photos prepared with plain Pillow and scaled, side by side."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from igsp_deploy.bundle.preprocess import read_pixels
from igsp_deploy.errors import UserError
from igsp_export.bench import photos
from igsp_export.bench.photos import measure_photos


def _photo(path: Path, size: tuple[int, int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = [(40 * seed % 256, 90, 200), (220, 40 * seed % 256, 30), (10, 200, 60), (240, 240, 20)]
    small = Image.new("RGB", (2, 2))
    small.putdata(colors)
    small.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)


def test_photos_are_measured_by_size_and_both_ways_agree(bundled: Any, tmp_path: Path) -> None:
    for number in range(3):
        _photo(tmp_path / "large" / f"{number}.jpg", (800, 600), number)
        _photo(tmp_path / "small" / f"{number}.jpg", (60, 40), number)
    (tmp_path / "large" / "cut.jpg").write_bytes((tmp_path / "large" / "0.jpg").read_bytes()[:3000])
    said: list[str] = []
    rows = measure_photos(bundled.bundle, [tmp_path], "cpu", said.append)
    assert sorted((row.size, row.photos) for row in rows) == [("60 x 40", 3), ("800 x 600", 3)]
    for row in rows:
        assert row.plain_ms > 0
        assert row.scaled_ms > 0
        assert row.same_top1 == 3
        assert row.smallest_cosine > (0.999 if row.size == "800 x 600" else 0.999999)
    assert len(said) == 1
    assert "cut.jpg" in said[0]


def test_a_difference_between_the_two_ways_shows(bundled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _photo(tmp_path / "0.jpg", (800, 600), 1)

    def wrong(path: Path, spec: Any) -> Any:
        pixels = read_pixels(path, spec)
        return 255 - pixels if spec.decoding == "scaled" else pixels

    monkeypatch.setattr(photos, "read_pixels", wrong)
    (row,) = measure_photos(bundled.bundle, [tmp_path], "cpu")
    assert row.smallest_cosine < 0.999


def test_a_folder_without_photos_is_refused(bundled: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(UserError, match="no image that can be read"):
        measure_photos(bundled.bundle, [tmp_path], "cpu")
