"""Other readings of "subspace-constrained regularisation" than the candidates' mass, for comparison.

The paper's exact form is not public (docs/paper_to_code.md). All of these act in phase 1 only and on candidates only.

Shapes: B samples, n tokens, d width, F frozen experts, m candidates, r rank, q dimensions of a subspace.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from igsp_deploy.sites import Site
from igsp_train.learner import TaskLearner

ENERGY = 0.9
"""Share of the squared singular values that a historical subspace holds, as in GPM (arXiv 2103.09762)."""
_RIDGE = 1e-4


def function_residual(learner: TaskLearner, gates: dict[Site, Tensor], hidden: dict[Site, Tensor]) -> Tensor:
    """Share of the adapter's output that routing over the frozen experts alone could not express, in [0, 1].

    `|(I - P_F) y_C|^2 / (|y_C|^2 + |y_F|^2)` for each sample, mean over samples and blocks: y_C and y_F are the
    weighted outputs of candidates and frozen experts over all tokens of the sample, and P_F projects onto the span of
    the frozen experts' outputs E_k(h) on that sample. Gradient reaches candidates and gates, not what stands under the
    block.

    Args:
        learner: candidates and frozen experts.
        gates: `[B, K]` or `[1, K]` for each block, frozen experts first.
        hidden: input of each block's MLP, `[B, n, d]`.
    """
    parts = []
    for site, block in learner.items():
        if not block.num_frozen or not block.num_candidates:
            continue
        weights = gates[site].float().expand(len(hidden[site]), -1)
        frozen = _outputs(hidden[site].detach().float(), block.frozen_down, block.frozen_up, block.scale)
        new = _outputs(hidden[site].detach().float(), block.down, block.up, block.scale)
        y_frozen = torch.einsum("bk,bkx->bx", weights[:, : block.num_frozen], frozen)
        y_new = torch.einsum("bk,bkx->bx", weights[:, block.num_frozen :], new)
        gram = frozen @ frozen.transpose(1, 2)
        floor = _RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
        gram = gram + floor[:, None, None] * torch.eye(block.num_frozen, device=gram.device)
        along = torch.einsum("bkx,bx->bk", frozen, y_new)
        inside = (along * torch.linalg.solve(gram, along)).sum(1)
        total = y_new.square().sum(1)
        parts.append(((total - inside).clamp_min(0) / (total + y_frozen.square().sum(1) + 1e-12)).mean())
    return torch.stack(parts).mean() if parts else torch.zeros(())


def _outputs(hidden_BnD: Tensor, down_KrD: Tensor, up_KDr: Tensor, scale: float) -> Tensor:
    """`E_k(h)` of all tokens of a sample in one row: `[B, K, n d]`."""
    inner = torch.einsum("bnd,krd->bknr", hidden_BnD, down_KrD)
    return scale * torch.einsum("bknr,kdr->bknd", inner, up_KDr).flatten(2)


def weight_overlap(learner: TaskLearner) -> Tensor:
    """Mean squared cosine between the rows of the candidates' A and those of the frozen experts' A, in [0, 1].

    As in O-LoRA (arXiv 2310.14152), which keeps new low-rank weights orthogonal to earlier ones: here what a candidate
    reads is pushed out of what frozen experts read, so that it is left the residual.
    """
    parts = []
    for _, block in learner.items():
        if block.num_frozen and block.num_candidates:
            old = F.normalize(block.frozen_down.flatten(0, 1), dim=1)
            new = F.normalize(block.down.flatten(0, 1), dim=1)
            parts.append((new @ old.T).square().mean())
    return torch.stack(parts).mean() if parts else torch.zeros(())


class GradientProjection:
    """Explicit projection of the candidates' gradients out of the historical subspace, as in GPM and TRGP.

    What the frozen experts read (rows of their A) and write (columns of their B) spans a subspace of each block. The
    part of a candidate's gradient inside it is removed, so that only routing can serve it, and the candidate learns the
    rest. GPM (arXiv 2103.09762) projects so that earlier tasks are not disturbed; here they cannot be, and it is the
    division of labour that is enforced.
    """

    def __init__(self, learner: TaskLearner) -> None:
        """Find the subspaces of all blocks that have frozen experts."""
        self._bases: dict[Site, tuple[Tensor, Tensor]] = {}
        for site, block in learner.items():
            if block.num_frozen:
                read = block.frozen_down.flatten(0, 1)
                write = block.frozen_up.permute(0, 2, 1).flatten(0, 1)
                self._bases[site] = (principal_subspace(read), principal_subspace(write))

    def apply(self, learner: TaskLearner) -> None:
        """Project the gradients that are there, in place."""
        for site, block in learner.items():
            if site in self._bases:
                read, write = self._bases[site]
                if block.down.grad is not None:
                    block.down.grad -= block.down.grad @ read @ read.T
                if block.up.grad is not None:
                    block.up.grad -= torch.einsum("dq,eq,ker->kdr", write, write, block.up.grad)


def principal_subspace(rows: Tensor, energy: float = ENERGY) -> Tensor:
    """Orthonormal basis `[d, q]` of the fewest directions that hold `energy` of the rows' `[N, d]` squared norm.

    At most half of the width is taken, or nothing would be left to learn in.
    """
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    held = values.cpu().double().square().cumsum(0)
    count = int((held < energy * held[-1]).sum()) + 1
    return directions[: min(count, rows.shape[1] // 2)].T.contiguous()
