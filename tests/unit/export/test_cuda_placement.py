"""Every exported graph stays on the GPU: asked of onnxruntime's CUDA provider, without a GPU."""

from collections.abc import Callable
from pathlib import Path

import pytest

from igsp_deploy.config import ModelConfig
from igsp_deploy.model.folder import ModelFolder
from igsp_export.graphs import write_graphs, write_plain_graph
from igsp_export.towers import Towers
from tests.cuda.placement import missing, place

REASON = missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"cannot ask the CUDA provider: {REASON}")

SIZES = {"Concat", "Squeeze", "Unsqueeze", "Mul", "Sub", "Add", "Div", "Gather", "Slice", "Reshape", "Cast"}
"""Operators that put together sizes of tensors, which onnxruntime keeps on the CPU."""


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Towers:
    config = ModelConfig(backbone="debug", rank=2, vision_blocks=2)
    return Towers(ModelFolder.open(make_model(tmp_path_factory.mktemp("placed") / "model", config)))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_no_copies_and_cuda_graphs_are_accepted(towers: Towers, tmp_path: Path, precision: str) -> None:
    variant = write_graphs(towers, tmp_path, precision, 23)
    for name in (variant.image, variant.text):
        placement = place(tmp_path / name, capture=True)
        assert placement.copies == [], name
        assert placement.capture_refused is None, name
        assert set(placement.cpu) <= SIZES, name
        assert sum(placement.cuda.values()) > 30, name


def test_the_probe_sees_a_copy(tmp_path: Path) -> None:
    """A graph whose ArgMax reads whole numbers, for which the provider has no kernel."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("ArgMax", ["ids"], ["end"], axis=1, keepdims=0),
        helper.make_node("Gather", ["table", "end"], ["rows"]),
    ]
    graph = helper.make_graph(
        nodes,
        "copies",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [2, 3])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor("table", TensorProto.FLOAT, [3, 4], [0.0] * 12)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "g.onnx")
    placement = place(tmp_path / "g.onnx", capture=True)
    assert placement.cpu == {"ArgMax": 1}
    assert placement.copies
    assert placement.capture_refused is not None


def test_half_precision_graphs_hold_no_casts_but_at_their_ends(towers: Towers, tmp_path: Path) -> None:
    """A cast between two nodes is a kernel that the provider lacks in that type."""
    write_plain_graph(towers, tmp_path / "plain.fp16.onnx", "fp16", 23)
    variant = write_graphs(towers, tmp_path, "fp16", 23)
    plain, image = (place(tmp_path / name).cuda for name in ("plain.fp16.onnx", variant.image))
    # Pixels in and out, the embedding out; with tasks also the selector's features.
    assert plain["Cast"] <= 3
    assert image["Cast"] <= plain["Cast"] + 1
