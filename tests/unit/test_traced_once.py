"""What tests share of exports is never a graph of something else."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from igsp_deploy.model.kernels import attention_nodes
from tests.traced_once import traced_once


class Scaled(nn.Module):
    """A weight, and what no parameter holds."""

    def __init__(self, weight: float = 1.0, factor: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.factor = factor


@pytest.fixture
def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Modules that were really traced; every graph tells how many there were."""
    done: list[str] = []

    def trace(module: nn.Module, *args: Any, **options: Any) -> Any:
        done.append(type(module).__name__)
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        graph = helper.make_graph([], str(len(done)), [value], [value])
        return SimpleNamespace(save=lambda path: onnx.save(helper.make_model(graph), path))

    monkeypatch.setattr("torch.onnx.export", trace)
    return done


def name(module: nn.Module, **options: Any) -> str:
    """Of the graph that a module gets."""
    program: Any = torch.onnx.export(module, (torch.zeros(1),), **options)
    return str(program.model.graph.name)


def test_the_same_is_traced_once_and_anything_else_anew(tmp_path: Path, traced: list[str]) -> None:
    with traced_once(tmp_path / "graphs"):
        assert name(Scaled(), opset_version=18) == "1"
        assert name(Scaled(), opset_version=18) == "1"
        assert name(Scaled(), opset_version=23) == "2"
        assert name(Scaled(weight=1.5), opset_version=18) == "3"
        assert name(Scaled(factor=1.5), opset_version=18) == "4"
        assert name(Scaled(), opset_version=18, dynamic_shapes=({0: torch.export.Dim("batch", min=2)},)) == "5"
        with attention_nodes(True):
            assert name(Scaled(), opset_version=18) == "6"
        assert name(Scaled(), opset_version=18) == "1"
    assert len(traced) == 6


def test_what_cannot_be_compared_is_traced_each_time(tmp_path: Path, traced: list[str]) -> None:
    module = Scaled()
    module.inside = lambda x: x  # type: ignore[assignment]
    with traced_once(tmp_path / "graphs"):
        for _ in range(2):
            torch.onnx.export(module, (torch.zeros(1),))
    assert len(traced) == 2
