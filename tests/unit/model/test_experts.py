"""Experts as two matrix products are the sum over experts; stacked ones are each sample's own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from igsp_deploy.model.experts import Experts, StackedExperts, frozen


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def make(experts: int = 3, rank: int = 2, width: int = 8, seed: int = 0, *, static: bool = False) -> Experts:
    return Experts(
        down=draw(experts * rank, width, seed=seed),
        up=draw(width, experts * rank, seed=seed),
        router_weight=None if static else draw(experts, width, seed=seed),
        router_bias=draw(experts, seed=seed),
        scale=0.5,
    )


def test_their_output_is_the_gated_sum_over_experts() -> None:
    experts, hidden, gates = make(), torch.randn(4, 5, 8), torch.rand(4, 3)
    down, up = experts.down.view(3, 2, 8), experts.up.view(8, 3, 2)
    naive = sum(gates[:, k, None, None] * (hidden @ down[k].T @ up[:, k].T) for k in range(3)) * 0.5
    torch.testing.assert_close(experts.delta(hidden, gates), naive)


@pytest.mark.parametrize("static", [False, True])
def test_gates_are_a_softmax_of_what_the_router_reads(static: bool) -> None:
    experts, read = make(static=static), torch.randn(4, 8)
    logits = (
        experts.router_bias if experts.router_weight is None else read @ experts.router_weight.T + experts.router_bias
    )
    torch.testing.assert_close(experts.gates(None if static else read), logits.view(-1, 3).softmax(1))
    assert experts.router_input == ("static" if static else "class_token")


def test_a_router_that_shall_read_nothing_is_static_whatever_weight_it_was_given() -> None:
    experts = Experts(
        down=draw(4, 8), up=draw(8, 4), router_weight=draw(2, 8), router_bias=draw(2), scale=1.0, router_input="static"
    )
    assert experts.router_weight is None
    assert experts.gates(None).shape == (1, 2)


def test_masked_experts_get_no_gate_and_the_others_share_theirs() -> None:
    experts, read = make(), torch.randn(4, 8)
    whole, masked = experts.gates(read), experts.masked(torch.tensor([True, False, True])).gates(read)
    assert not masked[:, 1].any()
    torch.testing.assert_close(masked[:, 0], whole[:, 0] / (whole[:, 0] + whole[:, 2]))
    assert experts.gates(read)[:, 1].all()


def test_frozen_experts_hold_the_same_numbers_outside_the_graph() -> None:
    weight = nn.Parameter(draw(3, 8))
    attached = Experts(down=weight * 2, up=draw(8, 3), router_weight=None, router_bias=draw(1), scale=1.0)
    held = frozen({("vision", 0): attached}, "cpu")["vision", 0]
    assert attached.down.requires_grad
    assert not held.down.requires_grad
    assert torch.equal(held.down, attached.down)


@pytest.mark.parametrize("static", [False, True])
def test_stacked_experts_give_each_sample_its_own(static: bool) -> None:
    tasks = [make(seed=seed, static=static) for seed in (0, 50)]
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    ups = [task.up * task.scale * (task.gates(None)[0].repeat_interleave(2) if static else 1.0) for task in tasks]
    for name, values in (("down", [t.down for t in tasks]), ("up", ups)):
        arrays[name] = torch.stack([*values, torch.zeros_like(values[0])]).numpy()
    if not static:
        for name in ("router_weight", "router_bias"):
            held = [getattr(task, name) for task in tasks]
            arrays[name] = torch.stack([*held, torch.zeros_like(held[0])]).numpy()
    hidden, index = torch.randn(3, 5, 8), torch.tensor([1, 2, 0])
    ours = StackedExperts(arrays, 2, "class_token").of(index)
    assert ours.router_input == ("static" if static else "class_token")
    read = None if static else hidden[:, 0]
    delta = ours.delta(hidden, ours.gates(read))
    for row, task in ((0, tasks[1]), (2, tasks[0])):
        own = None if read is None else read[row : row + 1]
        torch.testing.assert_close(
            delta[row], task.delta(hidden[row : row + 1], task.gates(own))[0], atol=1e-5, rtol=1e-5
        )
    assert not delta[1].any()
