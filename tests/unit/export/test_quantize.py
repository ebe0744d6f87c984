"""int8 graphs: what may be rounded is, what decides is not, and any number of tasks can still be bound."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from igsp_deploy.bundle.manifest import read_manifest
from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.tasks import TaskSet
from igsp_export.images import synthetic_images
from igsp_export.quantize import COSINE_FLOOR, Quantized, quantize_int8, weight_products
from tests.conftest import Bundled

OUTPUTS = ["features", "used_task", "task_scores", "summary"]


def quantized(bundled: Bundled, name: str, out: Path, **options: bool) -> Quantized:
    """`quantize_int8` of a copy: onnxruntime writes beside what it reads, and other processes list the bundle."""
    copy = out.with_name(f"copy of {name}")
    shutil.copyfile(bundled.bundle / name, copy)
    done = quantize_int8(copy, out, **options)
    copy.unlink()
    return done


@pytest.fixture(scope="module")
def int8(bundled: Bundled, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quantized]:
    """The image graph of the bundle in int8, and what was done to it."""
    path = tmp_path_factory.mktemp("int8") / "image.int8.onnx"
    return path, quantized(bundled, "image.fp32.onnx", path)


def stacks_of(bundle: Path, names: list[str] | None = None) -> Stacks:
    tasks = TaskSet.read(bundle, read_manifest(bundle), names)
    return tasks.image | tasks.selector.stacks()


def run(path: Path, images: NDArray[np.uint8], task: list[int], stacks: Stacks) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result: list[NDArray[Any]] = session.run(OUTPUTS, {"images": images, "task": np.array(task), **stacks})
    return result


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return (a * b).sum(1)


def ops(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in onnx.load(path).graph.node:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def test_every_large_weight_after_the_choice_is_int8_and_nothing_else(
    bundled: Bundled, int8: tuple[Path, Quantized]
) -> None:
    path, done = int8
    # Four products a block: qkv, out, c_fc, c_proj. Blocks 1 and 2 come after the choice, block 0 before it.
    assert len(done.quantized) == 8
    assert len(done.kept) == 4 + 1 + 1  # the last projection, and the directions of what heads read
    before, after = ops(bundled.bundle / "image.fp32.onnx"), ops(path)
    assert after["MatMulInteger"] == 8
    assert after["MatMul"] == before["MatMul"] - sum(1 for n in _nodes(bundled) if n in done.quantized)
    assert after["Attention"] == before["Attention"] == 3
    assert after["Conv"] == before["Conv"]
    graph = onnx.load(path).graph
    scales = [tuple(t.dims) for t in graph.initializer if t.name.startswith("val_") and t.name.endswith("_scale")]
    assert sorted(scales) == sorted([(96,), (32,), (128,), (32,)] * 2)  # one an output channel
    weights = {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
    types = {t.data_type for t in graph.initializer if t.name in weights}
    assert types == {onnx.TensorProto.UINT8}  # int8 overflows on processors without VNNI


def _nodes(bundled: Bundled) -> set[str]:
    graph = onnx.load(bundled.bundle / "image.fp32.onnx").graph
    return {node.name for node in graph.node if node.op_type == "MatMul"}


def test_inputs_outputs_and_stacks_stay_what_they_were(bundled: Bundled, int8: tuple[Path, Quantized]) -> None:
    sessions = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for path in (bundled.bundle / "image.fp32.onnx", int8[0])
    ]
    for part in ("get_inputs", "get_outputs", "get_overridable_initializers"):
        old, new = (sorted((v.name, v.type, tuple(v.shape)) for v in getattr(s, part)()) for s in sessions)
        assert old == new
    model = onnx.load(int8[0])
    onnx.checker.check_model(model)
    assert model.producer_name == "igsp-deploy"


def test_the_same_task_is_chosen_to_the_bit(bundled: Bundled, int8: tuple[Path, Quantized]) -> None:
    images = synthetic_images(24, 32, seed=4)
    stacks = stacks_of(bundled.bundle)
    old = run(bundled.bundle / "image.fp32.onnx", images, [-1] * 24, stacks)
    new = run(int8[0], images, [-1] * 24, stacks)
    np.testing.assert_array_equal(old[1], new[1])
    np.testing.assert_array_equal(old[2], new[2])
    np.testing.assert_array_equal(old[3], new[3])
    assert (old[0] != new[0]).any()
    everything = int8[0].with_name("everything.onnx")
    assert len(quantized(bundled, "image.fp32.onnx", everything, exact_choice=False).quantized) == 12
    assert (run(everything, images, [-1] * 24, stacks)[2] != old[2]).any()


@pytest.mark.parametrize("names", [["stripes"], ["colors", "stripes"], ["stripes", "colors", "stripes", "colors"]])
def test_other_numbers_of_tasks_can_be_bound(bundled: Bundled, int8: tuple[Path, Quantized], names: list[str]) -> None:
    images, stacks = synthetic_images(8, 32, seed=2), stacks_of(bundled.bundle, names)
    task = [(row % (len(names) + 1)) - 1 if row % (len(names) + 1) else -2 for row in range(8)]
    old = run(bundled.bundle / "image.fp32.onnx", images, task, stacks)
    new = run(int8[0], images, task, stacks)
    assert new[2].shape == (8, len(names))
    assert cosines(old[0], new[0]).min() > COSINE_FLOOR


def test_the_experts_still_count(bundled: Bundled, int8: tuple[Path, Quantized]) -> None:
    images, stacks = synthetic_images(4, 32, seed=2), stacks_of(bundled.bundle)
    named, plain = (run(int8[0], images, [task] * 4, stacks)[0] for task in (0, -2))
    assert cosines(named, plain).max() < 0.96
    assert cosines(named, plain).mean() < 0.9


def test_a_text_graph_is_quantized_but_for_its_projection(bundled: Bundled, tmp_path: Path) -> None:
    done = quantized(bundled, "text.fp32.onnx", tmp_path / "text.onnx")
    assert (len(done.quantized), len(done.kept)) == (8, 1)
    tasks = TaskSet.read(bundled.bundle, read_manifest(bundled.bundle))
    ids = np.array([[49406, 320, 736, 49407], [49406, 1929, 49407, 0]])
    old, new = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
            None, {"ids": ids, "task": np.array([0, 1]), **tasks.text}
        )[0]
        for path in (bundled.bundle / "text.fp32.onnx", tmp_path / "text.onnx")
    )
    assert cosines(old, new).min() > COSINE_FLOOR


def small_graph() -> onnx.ModelProto:
    """`features = task_scores = (x stack) weight_a weight_b`: a product with a stack, then two with weights."""
    float32 = onnx.TensorProto.FLOAT
    values = {name: np.full(4, 0.5, np.float32) for name in ("stack", "weight_a", "weight_b")}
    weights = [onnx.helper.make_tensor(name, float32, [2, 2], value) for name, value in values.items()]
    infos = [onnx.helper.make_tensor_value_info(n, float32, [2, 2]) for n in ("x", "stack", "task_scores")]
    steps = [("x", "stack", "h"), ("h", "weight_a", "g"), ("g", "weight_b", "task_scores")]
    nodes = [onnx.helper.make_node("MatMul", [a, b], [y], name=f"by_{b}") for a, b, y in steps]
    graph = onnx.helper.make_graph(nodes, "g", infos[:2], infos[2:], initializer=weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


def test_a_graph_that_only_chooses_is_copied(tmp_path: Path) -> None:
    onnx.save(small_graph(), str(tmp_path / "select.onnx"))
    done = quantize_int8(tmp_path / "select.onnx", tmp_path / "out.onnx")
    assert done == Quantized(quantized=(), kept=("by_weight_a", "by_weight_b"))
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "select.onnx").read_bytes()


def test_a_stack_is_never_taken_for_a_weight(tmp_path: Path) -> None:
    assert weight_products(small_graph().graph) == ["by_weight_a", "by_weight_b"]
    onnx.save(small_graph(), str(tmp_path / "image.onnx"))
    done = quantize_int8(tmp_path / "image.onnx", tmp_path / "out.onnx", exact_choice=False)
    assert done == Quantized(quantized=("by_weight_a",), kept=("by_weight_b",))


def test_a_weight_that_onnxruntime_turns_over_may_have_its_shape_said(tmp_path: Path) -> None:
    """As in the graphs of towers that end in two layers with a bias (convnext_large_d)."""
    float32, dims = onnx.TensorProto.FLOAT, {"wide": [8, 4], "bias": [8], "last": [8, 2]}
    random = np.random.default_rng(0)
    tensors = [onnx.helper.make_tensor(n, float32, d, random.normal(size=d).ravel()) for n, d in dims.items()]
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "wide", "bias"], ["h"], name="by_wide", transB=1),
        onnx.helper.make_node("MatMul", ["h", "last"], ["features"], name="by_last"),
    ]
    infos: dict[str, list[str | int | None]] = {"x": ["B", 4], "features": ["B", 2], "wide": [8, 4]}
    x, features, shape = (onnx.helper.make_tensor_value_info(n, float32, d) for n, d in infos.items())
    graph = onnx.helper.make_graph(nodes, "g", [x], [features], initializer=tensors, value_info=[shape])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "image.onnx"))
    done = quantize_int8(tmp_path / "image.onnx", tmp_path / "out.onnx")
    assert done == Quantized(quantized=("by_wide",), kept=("by_last",))
    rows = random.normal(size=(5, 4)).astype(np.float32)
    old, new = (
        onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0]
        for name in ("image.onnx", "out.onnx")
    )
    np.testing.assert_allclose(old, new, atol=0.02 * np.abs(old).max())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.onnx", "out.onnx"]


def test_a_graph_that_is_not_fp32_is_refused(int8: tuple[Path, Quantized], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a graph of fp32"):
        quantize_int8(int8[0], tmp_path / "again.onnx")
    assert not list(tmp_path.iterdir())
    half = onnx.load(int8[0])
    del half.graph.node[:]
    half.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT16, [1], [1.0]))
    onnx.save(half, str(tmp_path / "half.onnx"))
    with pytest.raises(UserError, match=r"Give it the fp32 graph"):
        quantize_int8(tmp_path / "half.onnx", tmp_path / "out.onnx")


def test_quantizing_says_nothing_and_leaves_logging_alone(
    bundled: Bundled, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import logging

    before = (logging.getLogger().level, list(logging.getLogger().handlers))
    shutil.copyfile(bundled.bundle / "image.fp32.onnx", tmp_path / "image.onnx")
    quantize_int8(tmp_path / "image.onnx", tmp_path / "image.int8.onnx")
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger().level, list(logging.getLogger().handlers)) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.int8.onnx", "image.onnx"]
