"""Graphs with the tasks inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest

from igsp_deploy.errors import UserError
from igsp_deploy.runtime.tasks import TaskSet
from igsp_export import onnx_file
from igsp_export.standalone import bake

if TYPE_CHECKING:
    from tests.unit.export.conftest import Opened

MIXED = np.arange(16) % 4 - 2


def test_a_baked_image_graph_needs_images_and_task_alone(trunk: "Opened", tmp_path: Path) -> None:
    bake(trunk.graph("image"), trunk.stacks["image"], tmp_path / "image.onnx")
    expected = trunk.engine.run_images(trunk.images, MIXED)
    found = trunk.run(tmp_path / "image.onnx", {"images": trunk.images, "task": MIXED})
    np.testing.assert_allclose(found["features"], expected.features, atol=1e-5)
    np.testing.assert_array_equal(found["used_task"], expected.task)
    np.testing.assert_allclose(found["task_scores"], expected.task_scores, rtol=1e-4, atol=1e-2)
    assert set(expected.task.tolist()) == {-2, 0, 1}
    plain = trunk.engine.run_images(trunk.images, np.full(16, -2)).features
    assert np.abs(found["features"] - plain)[MIXED >= 0].max(1).min() > 1e-3


def test_a_baked_text_graph_needs_ids_and_task_alone(trunk: "Opened", tmp_path: Path) -> None:
    bake(trunk.graph("text"), trunk.stacks["text"], tmp_path / "text.onnx")
    task = np.array([0, 1, -2])
    found = trunk.run(tmp_path / "text.onnx", {"ids": trunk.ids, "task": task})
    np.testing.assert_allclose(found["embeddings"], trunk.engine.embed_text(trunk.ids, task), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_tasks_can_be_baked(trunk: "Opened", tmp_path: Path, count: int) -> None:
    tasks = TaskSet.read(trunk.bundle, trunk.engine.manifest, ["stripes", "colors", "stripes"][:count])
    bake(trunk.graph("image"), tasks.image | tasks.selector.stacks(), tmp_path / "image.onnx")
    found = trunk.run(tmp_path / "image.onnx", {"images": trunk.images, "task": np.full(16, count - 1)})
    expected = trunk.engine.run_images(trunk.images, np.full(16, 1)).features
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)
    assert found["task_scores"].shape == (16, count)


def test_stacks_inside_are_no_inputs_and_sizes_that_follow_from_them_are_numbers(
    trunk: "Opened", tmp_path: Path
) -> None:
    bake(trunk.graph("image"), trunk.stacks["image"], tmp_path / "image.onnx")
    model = onnx.load(tmp_path / "image.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["images", "task"]
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output}
    assert shapes["task_scores"] == ["batch", 2]
    assert shapes["features"] == ["batch", 24]


def test_a_stranger_who_opens_a_graph_sees_no_warning(
    trunk: "Opened", tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bake(trunk.graph("image"), trunk.stacks["image"], tmp_path / "image.onnx")
    for graph in (*(trunk.graph(kind) for kind in trunk.stacks), tmp_path / "image.onnx"):
        onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    assert capfd.readouterr() == ("", "")


def test_weights_too_large_for_one_file_go_beside_it(
    trunk: "Opened", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST_FILE", 1000)
    bake(trunk.graph("image"), trunk.stacks["image"], tmp_path / "large.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    # A graph whose weights lie beside it can be baked again, into another folder.
    (tmp_path / "again").mkdir()
    bake(tmp_path / "large.onnx", {}, tmp_path / "again" / "copy.onnx")
    (tmp_path / "large.onnx.data").unlink()
    found = trunk.run(tmp_path / "again" / "copy.onnx", {"images": trunk.images, "task": MIXED})
    np.testing.assert_allclose(found["features"], trunk.engine.run_images(trunk.images, MIXED).features, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts.1.up": lambda stack: None}, r"experts\.1\.up is on one side only"),
        ({"experts.9.up": lambda stack: np.zeros(3)}, r"experts\.9\.up is on one side only"),
        ({"experts.1.up": lambda stack: stack[:, :5]}, r"experts\.1\.up must be float32 \[slots, 32,"),
        ({"experts.2.up": lambda stack: stack[:2]}, r"experts\.2\.up must be .* is float32 \[2, 32, 4\]"),
        ({"experts.1.up": lambda stack: stack.astype(np.float16)}, r"is float16 \[3, 32, 4\]"),
        ({"selector.center": lambda stack: stack[None]}, r"selector\.center must be float32 \[64\]"),
        ({"selector.center": lambda stack: stack[:, None]}, r"is float32 \[64, 1\]"),
    ],
)
def test_stacks_of_another_graph_are_refused(trunk: "Opened", tmp_path: Path, change: Any, message: str) -> None:
    changed = {name: alter(trunk.stacks["image"].get(name)) for name, alter in change.items()}
    stacks = {name: stack for name, stack in (trunk.stacks["image"] | changed).items() if stack is not None}
    with pytest.raises(UserError, match=message):
        bake(trunk.graph("image"), stacks, tmp_path / "image.onnx")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(trunk: "Opened", tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*nowhere"):
        bake(trunk.graph("image"), trunk.stacks["image"], tmp_path / "nowhere" / "image.onnx")


@pytest.mark.parametrize("odd", [-3, 2, 3, 1000, -(2**63)])
def test_a_number_that_names_no_task_gives_no_numbers(trunk: "Opened", tmp_path: Path, odd: int) -> None:
    """The bundle's own graphs and those with the tasks inside."""
    feeds: dict[str, dict[str, Any]] = {"image": {"images": trunk.images[:3]}, "text": {"ids": trunk.ids}}
    for kind, asked in feeds.items():
        bake(trunk.graph(kind), trunk.stacks[kind], tmp_path / f"{kind}.onnx")
        asked["task"] = np.array([0, odd, -2])
        for path, stacks in ((trunk.graph(kind), trunk.stacks[kind]), (tmp_path / f"{kind}.onnx", {})):
            found = trunk.run(path, asked | stacks)
            features = found["features" if kind == "image" else "embeddings"]
            assert np.isnan(features).all(1).tolist() == [False, True, False]
            assert np.isfinite(features[[0, 2]]).all()
            assert found.get("used_task", asked["task"]).tolist() == [0, odd, -2]
