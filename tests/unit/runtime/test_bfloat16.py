"""bfloat16 arrays reach a graph as what PyTorch would make of them."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from igsp_deploy.runtime.bfloat16 import to_bits
from igsp_deploy.runtime.graph import Graph, SessionSettings


def test_rounding_is_pytorchs() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate(
        [
            random.normal(size=2000).astype(np.float32) * 10.0 ** random.integers(-30, 30, 2000).astype(np.float32),
            np.array([0.0, -0.0, 1.0, 1.00390625, 1.01171875, np.inf, -np.inf, 3.3e38], np.float32),
        ]
    )
    expected = torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
    np.testing.assert_array_equal(to_bits(values), expected)
    nan = torch.from_numpy(to_bits(np.array([np.nan], np.float32))).view(torch.bfloat16)
    assert bool(nan.isnan().all())


def test_a_graph_with_bfloat16_stacks_gets_them_rounded(tmp_path: Path) -> None:
    """onnxruntime's CPU provider has hardly a bf16 kernel, but it can cast."""
    stack = helper.make_tensor_value_info("experts.0.down", TensorProto.BFLOAT16, ["n"])
    default = helper.make_tensor("experts.0.down", TensorProto.BFLOAT16, [1], [0.0])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    nodes = [
        helper.make_node("Cast", ["experts.0.down"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["wide", "x"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x, stack], [y], [default])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "g.onnx")
    opened = Graph(tmp_path / "g.onnx", SessionSettings())
    values = np.array([1.0, 1.003, -2.7182], np.float32)
    (result,) = opened.run({"x": np.zeros(1, np.float32)}, opened.bind({"experts.0.down": values}))
    np.testing.assert_array_equal(result, torch.from_numpy(values).bfloat16().float().numpy())
