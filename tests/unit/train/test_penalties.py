"""The other penalty forms against what they promise."""

import pytest
import torch
from torch import Tensor

from igsp_train.learner import SiteLearner, TaskLearner
from igsp_train.penalties import GradientProjection, function_residual, principal_subspace, weight_overlap

WIDTH, RANK = 12, 2


def make_learner(frozen: int, candidates: int, seed: int = 0) -> TaskLearner:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    block = SiteLearner(
        list(range(frozen)),
        (draw(frozen, RANK, WIDTH), draw(frozen, WIDTH, RANK)),
        (draw(candidates, RANK, WIDTH), draw(candidates, WIDTH, RANK)),
        router_input="class_token",
        scale=1.0,
    )
    return TaskLearner({("vision", 0): block})


def the_block(learner: TaskLearner) -> SiteLearner:
    return dict(learner.items())[("vision", 0)]


def residual(learner: TaskLearner) -> Tensor:
    block = the_block(learner)
    hidden = torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(9))
    gates = torch.full((5, block.num_frozen + block.num_candidates), 1.0)
    gates /= gates.shape[1]
    return function_residual(learner, {("vision", 0): gates}, {("vision", 0): hidden})


def test_a_candidate_that_frozen_experts_can_express_has_no_residual() -> None:
    learner = make_learner(3, 1)
    block = the_block(learner)
    before = residual(learner).item()
    with torch.no_grad():  # the candidate is a frozen expert again, three times as large
        block.down[0] = block.frozen_down[1]
        block.up[0] = 3 * block.frozen_up[1]
    assert 0.05 < before < 1
    assert residual(learner).item() < 1e-3


def test_the_residual_is_the_share_a_least_squares_fit_leaves() -> None:
    learner = make_learner(2, 1)
    block = the_block(learner)
    hidden = torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(9))
    shares = []
    with torch.no_grad():
        for sample in hidden:
            frozen = torch.stack(
                [(sample @ a.T @ b.T).flatten() for a, b in zip(block.frozen_down, block.frozen_up, strict=True)]
            )
            new = (sample @ block.down[0].T @ block.up[0].T).flatten() / 3
            fit = torch.linalg.lstsq(frozen.T.double(), new.double()).solution.float()
            left = (new - fit @ frozen).square().sum()
            shares.append(left / (new.square().sum() + (frozen.sum(0) / 3).square().sum()))
        torch.testing.assert_close(residual(learner), torch.stack(shares).mean(), atol=1e-3, rtol=1e-3)


def test_the_residual_gives_gradient_to_candidates_and_none_to_frozen_experts() -> None:
    learner = make_learner(2, 2)
    block = the_block(learner)
    residual(learner).backward()
    assert block.down.grad is not None
    assert block.down.grad.abs().sum() > 0
    assert not block.frozen_down.requires_grad


@pytest.mark.parametrize("penalty", [residual, weight_overlap])
def test_without_frozen_experts_there_is_nothing_to_be_penalised(penalty: object) -> None:
    assert callable(penalty)
    assert float(penalty(make_learner(0, 2))) == 0.0


def test_descent_on_the_overlap_turns_candidates_away_from_what_frozen_experts_read() -> None:
    learner = make_learner(2, 2)
    before = weight_overlap(learner).item()
    optimiser = torch.optim.SGD(learner.parameters(), lr=5.0)
    for _ in range(300):
        optimiser.zero_grad()
        weight_overlap(learner).backward()
        optimiser.step()
    assert weight_overlap(learner).item() < 0.02 * before


def test_projected_gradients_have_no_part_in_the_historical_subspace() -> None:
    learner = make_learner(2, 2)
    block = the_block(learner)
    gradients = torch.randn_like(block.down), torch.randn_like(block.up)
    block.down.grad, block.up.grad = gradients[0].clone(), gradients[1].clone()
    GradientProjection(learner).apply(learner)
    read = principal_subspace(block.frozen_down.flatten(0, 1))
    write = principal_subspace(block.frozen_up.permute(0, 2, 1).flatten(0, 1))
    assert (block.down.grad @ read).abs().max() < 1e-5
    assert torch.einsum("dq,kdr->kqr", write, block.up.grad).abs().max() < 1e-5
    # What is outside stays as it was.
    torch.testing.assert_close(block.down.grad, gradients[0] - gradients[0] @ read @ read.T)
    assert block.up.grad.abs().sum() > 0.1 * gradients[1].abs().sum()


def test_a_subspace_holds_its_share_of_the_energy_and_leaves_half_of_the_width() -> None:
    rows = torch.diag(torch.tensor([10.0, 3.0, 1.0, 0.1, 0.1, 0.1]))
    assert principal_subspace(rows, energy=0.9).shape == (6, 1)
    assert principal_subspace(rows, energy=0.95).shape == (6, 2)
    assert principal_subspace(torch.eye(6), energy=1.0).shape == (6, 3)
