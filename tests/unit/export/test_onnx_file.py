"""The ONNX files: what onnxruntime computes from them, and what they hold."""

from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from igsp_deploy.model.experts import StackedExperts
from igsp_export.onnx_file import Signature, write_onnx

WIDTH, RANK, TASKS = 8, 2, 2


class Tiny(nn.Module):
    """Two rows of experts on a frozen projection."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.frozen = nn.Linear(WIDTH, WIDTH)
        stack = {
            "down": draw(TASKS + 1, 2 * RANK, WIDTH).numpy(),
            "up": draw(TASKS + 1, WIDTH, 2 * RANK).numpy(),
            "router_weight": draw(TASKS + 1, 2, WIDTH).numpy(),
            "router_bias": draw(TASKS + 1, 2).numpy(),
        }
        self.experts = nn.ModuleDict({"0": StackedExperts(stack, RANK, "class_token")})

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        experts = cast(StackedExperts, self.experts["0"]).of(task)
        return torch.tanh(self.frozen(x)) + experts.delta(x, experts.gates(x[:, 0]))


SIGNATURE = Signature(
    inputs={"x": torch.zeros(3, 5, WIDTH), "task": torch.zeros(3, dtype=torch.int64)},
    outputs=["y"],
    lengths={"x": ("length", 16)},
)


@pytest.fixture(scope="module", params=[18, 23])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, Path, list[str]]:
    torch.manual_seed(0)
    module, path = Tiny().eval(), tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    return module, path, write_onnx(module, SIGNATURE, path, opset=request.param)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("batch", "length"), [(1, 2), (3, 5), (7, 16)])
def test_any_batch_and_length_give_pytorchs_numbers(
    exported: tuple[Tiny, Path, list[str]], batch: int, length: int
) -> None:
    module, path, _ = exported
    x, task = torch.randn(batch, length, WIDTH), torch.arange(batch) % (TASKS + 1)
    stacks = {name: value.numpy() for name, value in module.named_buffers() if name.startswith("experts.")}
    (y,) = session(path).run(None, {"x": x.numpy(), "task": task.numpy(), **stacks})
    with torch.no_grad():
        np.testing.assert_allclose(y, module(x, task).numpy(), atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_stack_of_more_tasks_and_of_other_numbers_of_experts_can_be_put_in_at_run_time(
    exported: tuple[Tiny, Path, list[str]], count: int
) -> None:
    module, path, names = exported
    assert sorted(names) == [
        "experts.0.down",
        "experts.0.router_bias",
        "experts.0.router_weight",
        "experts.0.up",
    ]
    grown = {
        "experts.0.down": torch.randn(6, count * RANK, WIDTH),
        "experts.0.up": torch.randn(6, WIDTH, count * RANK),
        "experts.0.router_weight": torch.randn(6, count, WIDTH),
        "experts.0.router_bias": torch.randn(6, count),
    }
    x, task = torch.randn(6, 4, WIDTH), torch.arange(6)
    feeds = {"x": x.numpy(), "task": task.numpy(), **{name: value.numpy() for name, value in grown.items()}}
    (y,) = session(path).run(None, feeds)
    with torch.no_grad():
        expected = torch.func.functional_call(module, grown, (x, task))
    np.testing.assert_allclose(y, expected.numpy(), atol=1e-5)


def test_the_file_is_valid_and_says_nothing_of_the_machine_it_was_made_on(
    exported: tuple[Tiny, Path, list[str]],
) -> None:
    _, path, _ = exported
    onnx.checker.check_model(onnx.load(path), full_check=True)
    content = path.read_bytes()
    assert str(Path(__file__).parents[3]).encode() not in content
    assert b"site-packages" not in content
    assert b"stack_trace" not in content
