"""Which frozen experts a task looks at in phase 1: a bounded number, however large the pool is.

One batch of plain CLIP gives every block's gradient g at the output of its MLP for the MLP's input h. What an expert
would do for the loss at first order is <-g, E_k(h)>, the second identity of docs/paper_to_code.md without its gates;
summed over tokens it needs the one matrix `sum g h^T` of a block, so the pool is never run.

Shapes: B images, n tokens, d width, r rank.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import Experts
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.sites import Site

PER_EXPERT = 2
"""Frozen experts a block's router may choose from, for each one that a task may keep there (`model.max_experts`)."""
CHUNK = 256
"""Experts that are ranked at once."""


def block_gradients(
    clip: Clip, folder: ModelFolder, tokens: Tensor, labels: Tensor, prompts: tuple[Tensor, Tensor]
) -> dict[Site, Tensor]:
    """`sum over tokens of g h^T`, `[d, d]`, of every adapted block, for the cross-entropy of plain CLIP.

    Args:
        clip: the frozen CLIP.
        folder: the model so far.
        tokens: trunk tokens `[B, n, d]`.
        labels: classes `[B]`.
        prompts: token ids, one row a class, and what the text tower's trunk makes of them.
    """
    probes = {}
    for site in folder.sites:
        width = folder.width(site)
        # An expert that passes its input on and gives nothing: the gradient of its `up` is the matrix wanted.
        probes[site] = Experts(
            down=torch.eye(width, device=clip.device),
            up=torch.zeros(width, width, device=clip.device, requires_grad=True),
            router_weight=None,
            router_bias=torch.zeros(1, device=clip.device),
            scale=1.0,
        )
    images = clip.embed(tokens, probes)
    classes = clip.embed_text(prompts[0], probes, trunk=prompts[1])
    loss = F.cross_entropy(clip.logit_scale * images @ classes.T, labels)
    found = torch.autograd.grad(loss, [block.up for block in probes.values()])
    return {site: gradient.cpu() for site, gradient in zip(probes, found, strict=True)}


def shortlist(folder: ModelFolder, gradients: dict[Site, Tensor]) -> dict[Site, list[int]]:
    """Pool ids of every block that would lower the loss most, as many as a router may choose from, in the pool's order.

    Args:
        folder: the model so far.
        gradients: of `block_gradients`.
    """
    count, chosen = PER_EXPERT * folder.config.max_experts, {}
    for site, gradient in gradients.items():
        size = folder.pool.size(site)
        promise = []
        for start in range(0, size, CHUNK):
            ids = list(range(start, min(start + CHUNK, size)))
            down, up = folder.pool.gather(site, ids, folder.width(site))
            promise.append(-((gradient @ down.transpose(1, 2)) * up).sum((1, 2)))
        order = torch.cat(promise).argsort(descending=True, stable=True) if promise else torch.zeros(0)
        chosen[site] = sorted(int(i) for i in order[:count])
    return chosen


def needs_shortlist(folder: ModelFolder) -> bool:
    """Whether the pool of some block holds more than a router may choose from."""
    limit = PER_EXPERT * folder.config.max_experts
    return limit > 0 and any(folder.pool.size(site) > limit for site in folder.sites)
