"""Phase-1 regularisation: make the task reuse the frozen experts before it grows its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from igsp_deploy.config import LearnConfig
from igsp_deploy.sites import Site

DUAL_STEP = 0.3
"""Step of the dual ascent on log lambda."""


def candidate_mass(gates: dict[Site, Tensor], num_frozen: dict[Site, int]) -> Tensor:
    """Mean over blocks and samples of the probability that goes to candidates, in [0, 1].

    Blocks without a frozen expert have nothing to reuse and do not count. By identity 2 of docs/paper_to_code.md the
    gradient of this term on the router takes gradient flow from the candidates and gives it to the historical subspace.

    Args:
        gates: `[B, K]` or `[1, K]` for each block, frozen experts first.
        num_frozen: F for each block.
    """
    parts = [gate[:, num_frozen[site] :].sum(dim=1).mean() for site, gate in gates.items() if num_frozen[site]]
    return torch.stack(parts).mean() if parts else torch.zeros(())


def new_expert_share(gates: dict[Site, Tensor], num_frozen: dict[Site, int]) -> Tensor:
    """Mean over all blocks and samples of the probability that goes to new experts, in [0, 1]; for people to look at.

    Args:
        gates: `[B, K]` or `[1, K]` for each block, frozen experts first.
        num_frozen: F for each block.
    """
    return torch.stack([gate[:, num_frozen[site] :].sum(dim=1).mean() for site, gate in gates.items()]).mean()


@dataclass
class ReuseStrength:
    """Lambda over the steps of phase 1.

    It is zero until the learning rate has warmed up and then ramps up over as many steps again: B starts at zero, so a
    full penalty at once would end every candidate before it could show what it is worth. Under `target_mass` lambda
    follows dual ascent, `log lambda += DUAL_STEP * (mass - target)`.
    """

    config: LearnConfig
    value: float

    def weight(self, step: int, has_frozen: bool) -> float:
        """Lambda at one step; 0 without frozen experts or without a penalty."""
        if not has_frozen or self.config.penalty in ("none", "gradient_projection"):
            return 0.0
        ramp = max(self.config.warmup_steps, 1)
        return self.value * min(1.0, max(0.0, (step - self.config.warmup_steps) / ramp))

    def update(self, step: int, penalty: float) -> None:
        """Dual ascent on lambda after a step in which the penalty's value (the candidates' mass) was `penalty`."""
        if self.config.reuse_schedule == "target_mass" and step >= self.config.warmup_steps:
            change = DUAL_STEP * (penalty - self.config.target_mass)
            self.value = float(min(max(self.value * 2.718281828459045**change, 1e-3), 1e3))
