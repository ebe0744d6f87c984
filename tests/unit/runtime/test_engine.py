"""The engine: what it takes, what it refuses, and where it runs."""

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from igsp_deploy.bundle.manifest import CLASSES, Variant, list_files, read_manifest
from igsp_deploy.bundle.preprocess import normalize
from igsp_deploy.errors import UserError
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.names import AUTO, PLAIN
from igsp_deploy.runtime.engine import Engine
from igsp_deploy.runtime.providers import CPU, CUDA, choose_variant

if TYPE_CHECKING:
    from tests.conftest import Bundled


@pytest.fixture(scope="module")
def engine(bundled: "Bundled") -> Engine:
    return Engine.open(bundled.bundle, "cpu", num_threads=1)


def test_rows_of_a_mixed_batch_equal_the_same_rows_alone(
    engine: Engine, images: np.ndarray[Any, np.dtype[np.uint8]]
) -> None:
    task = np.arange(len(images)) % 4 - 2
    together = engine.run_images(images, task)
    for row in range(len(images)):
        alone = engine.run_images(images[row : row + 1], task[row : row + 1])
        np.testing.assert_allclose(together.features[row], alone.features[0], atol=1e-5)
        np.testing.assert_allclose(together.task_scores[row], alone.task_scores[0], atol=1e-2, rtol=1e-4)
        assert together.task[row] == alone.task[0]
    assert (together.task[task != AUTO] == task[task != AUTO]).all()


def test_the_selector_tells_the_tasks_apart(engine: Engine, images: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    output = engine.run_images(images, np.full(len(images), AUTO))
    assert output.task.tolist() == [0] * 8 + [1] * 8
    assert (output.task_scores.argmax(1) == output.task).all()


def test_a_plain_row_equals_open_clip(engine: Engine, images: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    clip = load_backbone("debug").clip
    with torch.no_grad():
        pixels = torch.from_numpy(normalize(images, engine.manifest.preprocess))
        expected = clip.encode_image(pixels, normalize=True).numpy()
    output = engine.run_images(images, np.full(len(images), PLAIN))
    np.testing.assert_allclose(output.features, expected, atol=1e-5)
    assert (output.task == PLAIN).all()


def test_an_image_far_from_every_task_is_left_to_plain_clip(engine: Engine) -> None:
    checker = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)[None, :, :, None].repeat(3, 3)
    output = engine.run_images(checker, np.array([AUTO]))
    assert output.task[0] == PLAIN
    assert (output.task_scores < 0).all()


def test_no_rows_give_no_rows(engine: Engine) -> None:
    output = engine.run_images(np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, np.int64))
    assert (output.features.shape, output.task.shape, output.task_scores.shape) == ((0, 24), (0,), (0, 2))
    assert engine.embed_text(np.zeros((0, 24), np.int64), np.zeros(0, np.int64)).shape == (0, 24)


def test_threads_share_one_engine(engine: Engine, images: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    task = np.full(len(images), AUTO)
    expected = engine.run_images(images, task).features
    with ThreadPoolExecutor(8) as pool:
        for output in pool.map(lambda _: engine.run_images(images, task), range(24)):
            np.testing.assert_array_equal(output.features, expected)


@pytest.mark.parametrize(
    ("images", "task", "message"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), [0], r"uint8 \[B, 32, 32, 3\], got float32"),
        (np.zeros((1, 3, 32, 32), np.uint8), [0], r"got uint8 \[1, 3, 32, 32\]"),
        (np.zeros((32, 32, 3), np.uint8), [0], r"got uint8 \[32, 32, 3\]"),
        (np.zeros((1, 32, 32, 3), np.uint8), [2], "no task 2: the bundle has tasks 0 to 1"),
        (np.zeros((1, 32, 32, 3), np.uint8), [-3], "no task -3"),
        (np.zeros((1, 32, 32, 3), np.uint8), [0, 0], r"int64 \[1\], one a row, got int64 \[2\]"),
    ],
)
def test_a_wrong_batch_is_refused(engine: Engine, images: Any, task: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine.run_images(images, np.array(task))


def test_texts_cannot_choose_a_task(engine: Engine) -> None:
    with pytest.raises(UserError, match="no task -1"):
        engine.embed_text(np.ones((1, 24), np.int64), np.array([AUTO]))
    with pytest.raises(UserError, match=r"int64 \[N, 24\]"):
        engine.embed_text(np.ones((1, 10), np.int64), np.array([0]))


def test_a_graph_of_another_backbone_is_refused(bundled: "Bundled", tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    manifest = read_manifest(copy)
    foreign = dataclasses.replace(manifest, preprocess=dataclasses.replace(manifest.preprocess, size=64))
    foreign.write(copy)
    with pytest.raises(UserError, match=r"image\.fp32\.onnx is a graph for another backbone"):
        Engine.open(copy, "cpu")


def test_what_onnxruntime_cannot_load_is_named(bundled: "Bundled", tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    (copy / "image.fp32.onnx").write_bytes(b"no graph")
    manifest = read_manifest(copy)
    dataclasses.replace(manifest, files=list_files(copy)).write(copy)
    with pytest.raises(UserError, match=r"cannot load .*image\.fp32\.onnx"):
        Engine.open(copy, "cpu")


def test_half_precision_never_reaches_the_cpu() -> None:
    full = Variant(precision="fp32", image="a", text="b", providers=(CPU, CUDA))
    half = Variant(precision="fp16", image="c", text="d", providers=(CUDA,))
    assert choose_variant([full, half], CPU) == full
    assert choose_variant([full, half], CUDA) == half
    assert choose_variant([full, half], CUDA, "fp32") == full
    for precision in ("fp16", None):
        with pytest.raises(UserError, match="may run on CPUExecutionProvider"):
            choose_variant([half], CPU, precision)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("task.0", lambda value: (100 * value).astype(np.int64), "must be an array of float32, is int64"),
        ("plain.1", lambda value: value.astype(np.float16), "must be an array of float32, is float16"),
        ("head.1", lambda value: np.full_like(value, np.nan), "holds what is no number"),
    ],
)
def test_class_vectors_that_are_no_numbers_are_refused(
    bundled: "Bundled", tmp_path: Path, name: str, change: Any, message: str
) -> None:
    """Their checksum is right: they answered at random, or with the first class always."""
    copy = tmp_path / "bundle"
    shutil.copytree(bundled.bundle, copy)
    vectors = load_file(copy / CLASSES)
    save_file({**vectors, name: change(vectors[name])}, copy / CLASSES)
    dataclasses.replace(read_manifest(copy), files=list_files(copy)).write(copy)
    with pytest.raises(UserError, match=rf"classes\.safetensors: {name} {message}"):
        Engine.open(copy, "cpu")
