"""Low-rank experts of one block, computed as two matrix products whatever their number.

Shapes in this file: B samples, n tokens, d width, K experts of rank r, R = K r.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def expert_output(hidden_BnD: Tensor, gates_BK: Tensor, down_RD: Tensor, up_DR: Tensor, scale: float) -> Tensor:
    """Gated sum of the experts, `s * sum_k p_k B_k A_k h`, without a loop over experts.

    Equation (adapted block) in docs/paper_to_code.md; the experts are linear, so the sum over k is one product with
    the concatenated `A` and one with the concatenated `B`, the gates scaling the R numbers between them.

    Args:
        hidden_BnD: input of the block's MLP, `[B, n, d]`.
        gates_BK: routing probabilities, `[B, K]` (vision) or `[1, K]` (text, the same for every sample).
        down_RD: all `A_k` stacked, `[K r, d]`.
        up_DR: all `B_k` side by side, `[d, K r]`.
        scale: factor s.

    Returns:
        `[B, n, d]`, to be added to the MLP's output.
    """
    rank = down_RD.shape[0] // gates_BK.shape[-1]
    weights_B1R = (gates_BK * scale).repeat_interleave(rank, dim=-1).unsqueeze(1)
    return F.linear(F.linear(hidden_BnD, down_RD) * weights_B1R, up_DR)


def folded_delta(gates_K: Tensor, down_RD: Tensor, up_DR: Tensor, scale: float) -> Tensor:
    """The `[d, d]` matrix that static gates make of the experts: `s * sum_k p_k B_k A_k`."""
    rank = down_RD.shape[0] // gates_K.shape[0]
    return (up_DR * (gates_K * scale).repeat_interleave(rank)) @ down_RD


def concatenate_down(down_KrD: Tensor) -> Tensor:
    """`[K, r, d]` -> `[K r, d]`."""
    return down_KrD.reshape(-1, down_KrD.shape[-1])


def concatenate_up(up_KDr: Tensor) -> Tensor:
    """`[K, d, r]` -> `[d, K r]`."""
    return up_KDr.permute(1, 0, 2).reshape(up_KDr.shape[1], -1)


def new_experts(count: int, rank: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Fresh experts: `A` random with unit-variance outputs on normalised input, `B` zero, so they change nothing yet.

    Returns:
        `down` `[count, rank, width]` and `up` `[count, width, rank]`.
    """
    down = torch.randn(count, rank, width, generator=generator) * width**-0.5
    return down, torch.zeros(count, width, rank)
