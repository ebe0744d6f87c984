"""Graphs with the tasks inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest

from igsp_deploy.errors import UserError
from igsp_deploy.runtime.tasks import TaskSet
from igsp_export import standalone
from igsp_export.standalone import bake

if TYPE_CHECKING:
    from tests.unit.export.conftest import Opened

MIXED = np.arange(16) % 4 - 2


@pytest.mark.parametrize("fixed", [False, True])
def test_a_baked_image_graph_needs_images_and_task_alone(trunk: "Opened", tmp_path: Path, fixed: bool) -> None:
    bake(trunk.graph("image"), trunk.stacks["image"], tmp_path / "image.onnx", fixed=fixed)
    expected = trunk.engine.run_images(trunk.images, MIXED)
    found = trunk.run(tmp_path / "image.onnx", {"images": trunk.images, "task": MIXED})
    np.testing.assert_allclose(found["features"], expected.features, atol=1e-5)
    np.testing.assert_array_equal(found["used_task"], expected.task)
    np.testing.assert_allclose(found["task_scores"], expected.task_scores, rtol=1e-4, atol=1e-2)
    assert set(expected.task.tolist()) == {-2, 0, 1}
    plain = trunk.engine.run_images(trunk.images, np.full(16, -2)).features
    assert np.abs(found["features"] - plain)[MIXED >= 0].max(1).min() > 1e-3


@pytest.mark.parametrize("fixed", [False, True])
def test_a_baked_text_graph_needs_ids_and_task_alone(trunk: "Opened", tmp_path: Path, fixed: bool) -> None:
    bake(trunk.graph("text"), trunk.stacks["text"], tmp_path / "text.onnx", fixed=fixed)
    task = np.array([0, 1, -2])
    found = trunk.run(tmp_path / "text.onnx", {"ids": trunk.ids, "task": task})
    np.testing.assert_allclose(found["embeddings"], trunk.engine.embed_text(trunk.ids, task), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_tasks_can_be_baked(trunk: "Opened", tmp_path: Path, count: int) -> None:
    tasks = TaskSet.read(trunk.bundle, trunk.engine.manifest, ["stripes", "colors", "stripes"][:count])
    bake(trunk.graph("image"), tasks.image | tasks.selector.stacks(), tmp_path / "image.onnx", fixed=True)
    found = trunk.run(tmp_path / "image.onnx", {"images": trunk.images, "task": np.full(16, count - 1)})
    expected = trunk.engine.run_images(trunk.images, np.full(16, 1)).features
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)
    assert found["task_scores"].shape == (16, count)


def test_a_graph_that_chooses_by_the_embedding_is_baked_as_well(embedding: "Opened", tmp_path: Path) -> None:
    for kind in ("select", "image"):
        bake(embedding.graph(kind), embedding.stacks[kind], tmp_path / f"{kind}.onnx", fixed=True)
    expected = embedding.engine.run_images(embedding.images, np.full(16, -1))
    chosen = embedding.run(tmp_path / "select.onnx", {"images": embedding.images})
    np.testing.assert_array_equal(chosen["used_task"], expected.task)
    assert len(set(expected.task.tolist())) > 1
    found = embedding.run(tmp_path / "image.onnx", {"images": embedding.images, "task": chosen["used_task"]})
    np.testing.assert_allclose(found["features"], expected.features, atol=1e-5)


def test_fixed_stacks_are_no_inputs_and_others_still_are(trunk: "Opened", tmp_path: Path) -> None:
    for fixed in (True, False):
        bake(trunk.graph("image"), trunk.stacks["image"], tmp_path / "image.onnx", fixed=fixed)
        model = onnx.load(tmp_path / "image.onnx")
        onnx.checker.check_model(model, full_check=True)
        names = [value.name for value in model.graph.input]
        assert names == ["images", "task", *([] if fixed else trunk.stacks["image"])]
    session = _quiet_session(tmp_path / "image.onnx")
    defaults = session.get_overridable_initializers()
    assert {value.name for value in defaults} == set(trunk.stacks["image"])
    feeds = {"images": trunk.images, "task": MIXED}
    swapped = {name: stack[[1, 0, 2]] for name, stack in trunk.stacks["image"].items() if name.startswith("experts.")}
    one, two = (session.run(["features"], feeds | more)[0] for more in ({}, swapped))
    assert np.abs(one - two)[MIXED >= 0].max() > 1e-3


def test_sizes_that_follow_from_fixed_stacks_are_numbers(trunk: "Opened", tmp_path: Path) -> None:
    bake(trunk.graph("image"), trunk.stacks["image"], tmp_path / "fixed.onnx", fixed=True)
    bake(trunk.graph("image"), trunk.stacks["image"], tmp_path / "free.onnx", fixed=False)
    shapes = []
    for name in ("fixed.onnx", "free.onnx"):
        outputs = onnx.load(tmp_path / name).graph.output
        shapes.append({v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in outputs})
    assert shapes[0]["task_scores"] == ["batch", 2]
    assert shapes[0]["features"] == ["batch", 24]
    assert shapes[1]["task_scores"] == ["batch", "tasks"]


def test_weights_too_large_for_one_file_go_beside_it(
    trunk: "Opened", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "LARGEST_FILE", 1000)
    bake(trunk.graph("image"), trunk.stacks["image"], tmp_path / "large.onnx", fixed=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    # A graph whose weights lie beside it can be baked again, into another folder.
    (tmp_path / "again").mkdir()
    bake(tmp_path / "large.onnx", {}, tmp_path / "again" / "copy.onnx", fixed=True)
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
        bake(trunk.graph("image"), stacks, tmp_path / "image.onnx", fixed=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(trunk: "Opened", tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*nowhere"):
        bake(trunk.graph("image"), trunk.stacks["image"], tmp_path / "nowhere" / "image.onnx", fixed=True)


def _quiet_session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
