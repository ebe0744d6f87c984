"""docs/formats.md is enough: `tests/consumer.py`, written from it alone, gives what `igsp predict` gives."""

import ast
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from igsp_deploy.bundle.manifest import REFERENCE, read_manifest
from igsp_deploy.bundle.preprocess import load_image, read_pixels
from igsp_deploy.bundle.reference import Reference
from igsp_deploy.config import ModelConfig
from igsp_export.export import export_bundle

if TYPE_CHECKING:
    from tests.conftest import Bundled, MakeModel

CONSUMER = Path(__file__).parents[1] / "consumer.py"


def test_the_consumer_is_short_and_needs_three_libraries() -> None:
    text = CONSUMER.read_text()
    assert sum(bool(line.strip()) for line in text.splitlines()) <= 40
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}


@pytest.fixture(scope="module")
def half(make_model: "MakeModel", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Static gates, experts in half precision, tasks of different numbers of experts."""
    root = tmp_path_factory.mktemp("half")
    config = ModelConfig(backbone="debug", rank=2, vision_blocks=2, router_input="static", text_blocks=1)
    export_bundle(make_model(root / "model", config), root / "bundle", experts="fp16", check_limit=4)
    return root / "bundle"


@pytest.fixture(scope="module")
def pictures(bundled: "Bundled", tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The bundle's reference images, images of its tasks, and ones that are easily read in another way."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, pixels in enumerate(Reference.read(bundled.bundle / REFERENCE).images):
        Image.fromarray(pixels).save(folder / f"reference-{number}.png")
    stripes = [load_image(path) for path in bundled.images("stripes")]
    turned = Image.Exif()
    turned[0x0112] = 6
    stripes[0].resize((90, 41)).save(folder / "turned.jpg", quality=95, exif=turned)
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, 37, dtype=np.uint8), (53, 1)))
    clear = stripes[1].resize((37, 53))
    clear.putalpha(alpha)
    clear.save(folder / "alpha.png")
    clear.quantize(8).save(folder / "palette.png")
    stripes[2].convert("LA").save(folder / "grey.png")
    deep = np.asarray(stripes[2].convert("L"), np.uint16) * 200 + np.arange(stripes[2].height, dtype=np.uint16)[:, None]
    Image.fromarray(deep).save(folder / "sixteen-bits.png")
    # Photos so large that only a half, a quarter and an eighth of them are decoded, and just not.
    random = np.random.default_rng(0)
    for sides in ((192, 240), (1000, 400), (800, 900), (191, 500)):
        noise = random.integers(0, 256, (*sides, 3), dtype=np.uint8)
        photo = Image.blend(stripes[0].resize(sides[::-1]), Image.fromarray(noise), 0.5)
        photo.save(folder / f"photo-{sides[0]}.jpg", quality=95, exif=turned)
    for size in ((33, 47), (47, 33), (200, 71), (35, 32), (31, 97), (500, 29)):  # sides that do not divide
        stripes[3].resize(size).save(folder / f"{size[0]}x{size[1]}.png")
    return [*sorted(folder.iterdir()), *bundled.images("colors")[:2], *bundled.images("stripes")[:2]]


def test_the_photos_are_among_those_that_are_decoded_to_a_part(bundled: "Bundled", pictures: list[Path]) -> None:
    spec = read_manifest(bundled.bundle).preprocess
    assert spec.decoding == "scaled"
    whole = dataclasses.replace(spec, decoding="plain")
    photos = {path.stem: path for path in pictures if path.stem.startswith("photo")}
    other = {name for name, path in photos.items() if (read_pixels(path, spec) != read_pixels(path, whole)).any()}
    assert other == {"photo-192", "photo-1000", "photo-800"}


@pytest.mark.parametrize("task", ["auto", "colors", "stripes", "none"])
@pytest.mark.parametrize("kind", ["trunk", "half"])
def test_a_strangers_consumer_gives_what_predict_gives(
    kind: str,
    task: str,
    bundled: "Bundled",
    pictures: list[Path],
    igsp: Callable[..., Any],
    request: pytest.FixtureRequest,
) -> None:
    bundle: Path = bundled.bundle if kind == "trunk" else request.getfixturevalue("half")
    found = subprocess.run(
        [sys.executable, CONSUMER, bundle, task, *pictures], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    ours = [json.loads(line) for line in found.stdout.splitlines()]
    told = igsp("predict", bundle, *pictures, "--task", task, "--top-k", 100, "--provider", "cpu", "--json")
    names = ["colors", "stripes"]
    for row, answer in zip(ours, json.loads(told.stdout), strict=True):
        used, labels, shares = row
        assert (names[used] if used >= 0 else None) == answer["task"], answer["image"]
        expected = {entry["label"]: entry["score"] for entry in answer["predictions"]}
        assert dict(zip(labels, shares, strict=True)) == pytest.approx(expected, abs=1e-4), answer["image"]
