"""Pruning rules on hand-made gates."""

import pytest
import torch

from igsp_deploy.config import PruneRule
from igsp_train.prune import experts_to_keep

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


def test_the_random_control_keeps_as_many_as_the_cumulative_rule_plus_the_strongest() -> None:
    mask = experts_to_keep(GATES, "random", 0.81, seed=3)
    assert mask[0]
    assert 3 <= int(mask.sum()) <= 4
    assert torch.equal(mask, experts_to_keep(GATES, "random", 0.81, seed=3))
