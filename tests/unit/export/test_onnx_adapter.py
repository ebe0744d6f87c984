"""Stacks as adapters that onnxruntime loads itself."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest

from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.errors import UserError
from igsp_deploy.names import AUTO, PLAIN
from igsp_export.onnx_adapter import only_task, write_adapter, write_adapters

if TYPE_CHECKING:
    from tests.unit.export.conftest import Opened

MIXED = np.arange(16) % 4 - 2
NAMES = ["colors", "stripes"]


def test_the_image_graph_with_the_adapter_gives_what_the_engine_gives(trunk: "Opened", tmp_path: Path) -> None:
    write_adapters(tmp_path, trunk.stacks, NAMES)
    feeds = {"images": trunk.images, "task": MIXED}
    found = trunk.run(trunk.graph("image"), feeds, tmp_path / "image.onnx_adapter")
    expected = trunk.engine.run_images(trunk.images, MIXED)
    np.testing.assert_allclose(found["features"], expected.features, atol=1e-5)
    np.testing.assert_array_equal(found["used_task"], expected.task)
    np.testing.assert_allclose(found["task_scores"], expected.task_scores, rtol=1e-4, atol=1e-2)
    plain = trunk.engine.run_images(trunk.images, np.full(16, PLAIN)).features
    assert np.abs(found["features"] - plain)[MIXED >= 0].max(1).min() > 1e-3


def test_the_text_graph_with_the_adapter_gives_what_the_engine_gives(trunk: "Opened", tmp_path: Path) -> None:
    write_adapters(tmp_path, trunk.stacks, NAMES)
    task = np.array([1, 0, PLAIN])
    found = trunk.run(trunk.graph("text"), {"ids": trunk.ids, "task": task}, tmp_path / "text.onnx_adapter")
    np.testing.assert_allclose(found["embeddings"], trunk.engine.embed_text(trunk.ids, task), atol=1e-5)


@pytest.mark.parametrize("index", [0, 1])
def test_an_adapter_of_one_task_gives_that_tasks_features_under_index_0(
    trunk: "Opened", tmp_path: Path, index: int
) -> None:
    write_adapters(tmp_path, trunk.stacks, NAMES)
    folder = tmp_path / f"{index:02d}-{NAMES[index]}"
    slot = np.where(np.arange(16) % 2 == 0, 0, PLAIN)
    named = np.where(slot == 0, index, PLAIN)
    found = trunk.run(trunk.graph("image"), {"images": trunk.images, "task": slot}, folder / "image.onnx_adapter")
    np.testing.assert_allclose(found["features"], trunk.engine.run_images(trunk.images, named).features, atol=1e-5)
    texts = trunk.run(trunk.graph("text"), {"ids": trunk.ids, "task": slot[:3]}, folder / "text.onnx_adapter")
    np.testing.assert_allclose(texts["embeddings"], trunk.engine.embed_text(trunk.ids, named[:3]), atol=1e-5)


@pytest.mark.parametrize("index", [0, 1])
def test_an_adapter_of_one_task_chooses_between_it_and_plain_clip(trunk: "Opened", tmp_path: Path, index: int) -> None:
    write_adapters(tmp_path, trunk.stacks, NAMES)
    choose = np.full(16, AUTO)
    path = tmp_path / f"{index:02d}-{NAMES[index]}" / "image.onnx_adapter"
    found = trunk.run(trunk.graph("image"), {"images": trunk.images, "task": choose}, path)
    scores = trunk.engine.run_images(trunk.images, choose).task_scores[:, index]
    np.testing.assert_allclose(found["task_scores"][:, 0], scores, rtol=1e-4, atol=1e-2)
    assert found["task_scores"].shape == (16, 1)
    assert found["used_task"].tolist() == [0 if score >= 0 else PLAIN for score in scores]
    assert set(found["used_task"].tolist()) == {0, PLAIN}


def test_an_adapter_keeps_every_number_and_its_type(tmp_path: Path) -> None:
    stacks: Stacks = {
        "experts.0.down": np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float16),
        "selector.class_task": np.array([0, 0, 2**40], np.int64),
        "selector.thresholds": np.array([-np.inf, 1.5], np.float32),
        "experts.0.up": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
    }
    write_adapter(stacks, tmp_path / "a.onnx_adapter")
    read = onnxruntime.AdapterFormat.read_adapter(str(tmp_path / "a.onnx_adapter")).get_parameters()
    assert set(read) == set(stacks)
    for name, stack in stacks.items():
        found = read[name].numpy()
        assert found.dtype == stack.dtype
        np.testing.assert_array_equal(found, stack)


def test_one_task_alone_keeps_plain_clip_as_its_last_slice(trunk: "Opened") -> None:
    stacks = trunk.stacks["image"]
    alone = only_task(stacks, 1)
    assert set(alone) == set(stacks)
    np.testing.assert_array_equal(alone["experts.1.down"], stacks["experts.1.down"][[1, 2]])
    assert not alone["experts.1.up"][-1].any()
    assert alone["selector.class_task"].tolist() == [0, 0]
    assert alone["selector.thresholds"].shape == (1,)
    np.testing.assert_array_equal(alone["selector.means"], stacks["selector.means"][2:])


def test_a_folder_that_is_not_there_is_named(trunk: "Opened", tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*image\.onnx_adapter"):
        write_adapters(tmp_path / "nowhere", trunk.stacks, NAMES)


def test_onnxruntime_ignores_an_adapter_under_iobinding(trunk: "Opened", tmp_path: Path) -> None:
    """What the documents warn of: then stacks are missing. If this fails, onnxruntime has learned it: change them."""
    write_adapter(trunk.stacks["text"], tmp_path / "text.onnx_adapter")
    options, run_options = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
    options.log_severity_level, run_options.log_severity_level = 3, 3
    session = onnxruntime.InferenceSession(str(trunk.graph("text")), options, providers=["CPUExecutionProvider"])
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(tmp_path / "text.onnx_adapter"))
    run_options.add_active_adapter(adapter)
    binding = session.io_binding()
    binding.bind_cpu_input("ids", trunk.ids)
    binding.bind_cpu_input("task", np.zeros(3, np.int64))
    binding.bind_output("embeddings", "cpu")
    with pytest.raises(Exception, match=r"(?i)input.*experts"):
        session.run_with_iobinding(binding, run_options)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_graph_without_its_stacks_gives_no_answer(trunk: "Opened", kind: str) -> None:
    feeds = {"ids": trunk.ids} if kind == "text" else {"images": trunk.images[:3]}
    feeds["task"] = np.full(3, PLAIN)
    with pytest.raises(ValueError, match=r"experts\.\d\.down"):
        trunk.run(trunk.graph(kind), feeds)
