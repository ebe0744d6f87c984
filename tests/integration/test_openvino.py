"""Standalone graphs in OpenVINO, in float32."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from igsp_deploy.runtime.engine import Engine
from igsp_export.shapes import write_standalone
from tests.bench.openvino_error import FLOAT32, run

if TYPE_CHECKING:
    from tests.conftest import Bundled


@pytest.fixture(scope="module")
def standalone(bundled: "Bundled", tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("openvino") / "out"
    write_standalone(bundled.bundle, out)
    return out


def test_openvino_gives_in_float32_what_the_engine_gives(bundled: "Bundled", standalone: Path) -> None:
    engine = Engine.open(bundled.bundle, "cpu", num_threads=1)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    task = np.array([0, 1, -2, -1, -1, -1, 5, -3])
    found = run(standalone / "image.fp32.onnx", {"images": images, "task": task}, **FLOAT32)
    expected = engine.run_images(images[:6], task[:6])
    np.testing.assert_allclose(found["features"][:6], expected.features, atol=1e-5)
    np.testing.assert_array_equal(found["used_task"][:6], expected.task)
    np.testing.assert_allclose(found["task_scores"][:6], expected.task_scores, rtol=1e-4, atol=1e-2)
    assert np.isnan(found["features"][6:]).all()
    ids = np.zeros((3, engine.manifest.backbone.context_length), np.int64)
    ids[:, :3] = [510, 20, 511]
    texts = run(standalone / "text.fp32.onnx", {"ids": ids, "task": task[:3]}, **FLOAT32)
    np.testing.assert_allclose(texts["embeddings"], engine.embed_text(ids, task[:3]), atol=1e-5)


def test_the_error_of_its_default_is_measured_beside_that_of_float32(bundled: "Bundled") -> None:
    command = [
        sys.executable,
        "-m",
        "tests.bench.openvino_error",
        str(bundled.bundle),
        *map(str, bundled.images("stripes")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["images"] == 8
    assert found["f32"]["features"] < 1e-5
    assert found["f32"]["probabilities"] < 1e-4
    assert found["f32"]["other task"] == 0
    # As large as float32's, or larger where the processor has bf16.
    assert found["default"]["features"] >= found["f32"]["features"] / 10
