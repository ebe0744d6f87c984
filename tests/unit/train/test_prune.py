"""Pruning rules on hand-made gates."""

from typing import cast

import pytest
import torch

from igsp_deploy.config import LearnConfig, PruneRule
from igsp_deploy.sites import Site
from igsp_train.importance import HeldOutLoss, Masks
from igsp_train.prune import at_most, experts_to_keep, level_by_loss, masks_to_keep, most_worth

GATES = torch.tensor([0.5, 0.02, 0.3, 0.08, 0.1])


@pytest.mark.parametrize(
    ("rule", "level", "kept"),
    [
        ("cumulative", 0.75, [0, 2]),
        ("cumulative", 0.81, [0, 2, 4]),
        ("cumulative", 1.0, [0, 1, 2, 3, 4]),
        ("cumulative", 0.0, [0]),
        ("relative", 0.45, [0, 2, 4]),
        ("absolute", 0.25, [0, 2]),
        ("absolute", 0.9, [0]),
    ],
)
def test_a_rule_keeps_what_it_says(rule: PruneRule, level: float, kept: list[int]) -> None:
    assert experts_to_keep(GATES, rule, level).nonzero().flatten().tolist() == kept


def test_a_rule_that_does_not_go_by_gates_is_refused_and_not_taken_for_another() -> None:
    for rule in ("held_out", "leave_one_out", "cumulativ"):
        with pytest.raises(ValueError, match=rule):
            experts_to_keep(GATES, rule, 0.5)  # type: ignore[arg-type]


def test_the_random_control_keeps_as_many_as_the_cumulative_rule_plus_the_strongest() -> None:
    mask = experts_to_keep(GATES, "random", 0.81, seed=3)
    assert mask[0]
    assert 3 <= int(mask.sum()) <= 4
    assert torch.equal(mask, experts_to_keep(GATES, "random", 0.81, seed=3))


WORTH: dict[Site, torch.Tensor] = {
    ("vision", 0): torch.tensor([0.5, -0.1, 0.0]),
    ("vision", 1): torch.tensor([0.05, 0.3]),
    ("text", 0): torch.tensor([float("inf")]),
}


@pytest.mark.parametrize(("share", "kept"), [(0.9, [[0], [1]]), (0.99, [[0], [0, 1]]), (0.1, [[0], [1]])])
def test_experts_are_kept_by_what_leaving_them_out_costs(share: float, kept: list[list[int]]) -> None:
    masks = most_worth(WORTH, share)
    assert [masks["vision", b].nonzero().flatten().tolist() for b in (0, 1)] == kept
    assert masks["text", 0].tolist() == [True]


def test_one_more_than_the_bound_goes() -> None:
    kept = at_most({("text", 0): torch.ones(3, dtype=torch.bool)}, 2, lambda masks: float(masks["text", 0][0]))
    assert kept["text", 0].tolist() == [False, True, True]


def test_a_block_keeps_no_more_than_the_bound_and_loses_what_is_missed_least() -> None:
    worth = torch.tensor([0.1, 3.0, 0.5, 9.0, 2.0])
    masks: dict[Site, torch.Tensor] = {
        ("vision", 0): torch.tensor([True, True, True, False, True]),
        ("text", 0): torch.tensor([True, True]),
    }

    def loss(masks: Masks) -> float:
        return -float(worth[masks["vision", 0]].sum())

    bounded = at_most(masks, 2, loss)
    assert bounded["vision", 0].tolist() == [False, True, False, False, True]  # 3 was out already, whatever its worth
    assert bounded["text", 0].tolist() == [True, True]
    assert masks["vision", 0].sum() == 4


def test_the_level_is_as_low_as_the_held_out_loss_allows() -> None:
    gates: dict[Site, torch.Tensor] = {("vision", 0): GATES}
    asked: list[int] = []

    def loss(masks: Masks) -> float:
        if not masks:
            return 1.0
        asked.append(int(masks["vision", 0].sum()))
        return 1.0 + (0.0 if asked[-1] >= 3 else 0.5)

    level = level_by_loss(gates, loss, tolerance=0.1)
    assert experts_to_keep(GATES, "cumulative", level).sum() == 3
    assert experts_to_keep(GATES, "cumulative", level - 1 / 64).sum() == 2
    assert experts_to_keep(GATES, "cumulative", level_by_loss(gates, loss, tolerance=0.6)).sum() == 1
    assert level_by_loss(gates, lambda masks: float(bool(masks)), tolerance=0.1) == 1.0


@pytest.mark.parametrize(("few", "kept"), [(False, 1), (True, 3)])
def test_training_images_in_place_of_held_out_ones_are_allowed_a_quarter_of_the_loss(few: bool, kept: int) -> None:
    def loss(masks: Masks) -> float:
        return 1.0 if not masks or int(masks["vision", 0].sum()) >= 3 else 1.1

    config = LearnConfig(prune_tolerance=0.2)
    masks = masks_to_keep({("vision", 0): GATES}, config, 0, lambda count: cast(HeldOutLoss, loss), 0, few_held_out=few)
    assert int(masks["vision", 0].sum()) == kept
