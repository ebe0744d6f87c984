"""Every exported graph stays on the GPU: asked of onnxruntime's CUDA provider, without a GPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from igsp_deploy.config import ModelConfig
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_export.fold import fold
from igsp_export.graphs import write_graphs, write_plain_graph
from tests.cuda.placement import Placement, missing, place

REASON = missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"cannot ask the CUDA provider: {REASON}")

SIZES = {"Concat", "Squeeze", "Unsqueeze", "Mul", "Sub", "Add", "Div", "Gather", "Slice", "Reshape", "Cast"}
"""Operators that put together sizes of tensors, which onnxruntime keeps on the CPU."""


GRAPHS = ["image.fp32", "text.fp32", "image.fp16", "text.fp16", "image.bf16", "text.bf16", "folded.fp16", "plain.fp16"]


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> dict[str, Placement]:
    """Where the nodes of every graph of one model would run."""
    root = tmp_path_factory.mktemp("placed")
    config = ModelConfig(backbone="debug", rank=2, vision_blocks=2)
    folder = ModelFolder.open(make_model(root / "model", config))
    learned = LearnedClip.open(folder)
    for precision in ("fp32", "fp16", "bf16"):
        write_graphs(folder, learned, root, precision, 23)
    write_plain_graph(learned.backbone, root / "plain.fp16.onnx", "fp16", 23)
    fold(folder, learned, 0, root / "fold", precision="fp16", console=Console(quiet=True))
    (root / "fold" / "image.onnx").rename(root / "folded.fp16.onnx")
    return {name: place(root / f"{name}.onnx", capture=True) for name in GRAPHS}


@pytest.mark.parametrize("name", GRAPHS)
def test_no_copies_and_cuda_graphs_are_accepted(placed: dict[str, Placement], name: str) -> None:
    placement = placed[name]
    assert placement.copies == []
    assert placement.capture_refused is None
    assert set(placement.cpu) <= SIZES
    assert sum(placement.cuda.values()) > 30


def test_an_adapted_block_adds_fourteen_nodes_and_choice_and_heads_forty_six(
    placed: dict[str, Placement],
) -> None:
    """Each is a launch or nearly one: at batch 1 that is what the experts cost on a GPU."""
    plain, image = (sum(placed[f"{name}.fp16"].cuda.values()) for name in ("plain", "image"))
    assert image - plain <= 2 * 14 + 46


def test_half_precision_graphs_hold_no_casts_but_at_their_ends(placed: dict[str, Placement]) -> None:
    """A cast between two nodes is a kernel that the provider lacks in that type."""
    for precision in ("fp16", "bf16"):
        image = placed[f"image.{precision}"].cuda
        # Pixels in and out, the embedding out; and the selector's features.
        assert placed["plain.fp16"].cuda["Cast"] <= 3
        assert image["Cast"] <= 4


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
