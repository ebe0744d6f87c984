"""Routers: which experts a task uses, and how much, for each sample.

Shapes: B samples, n tokens, d width, K experts.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from igsp_deploy.config import RouterInput


def router_features(hidden_BnD: Tensor, router_input: RouterInput) -> Tensor:
    """The vector of each sample that its router reads, `[B, d]`: the class token, or the mean of the other tokens."""
    if router_input == "mean_token":
        return hidden_BnD[:, 1:].mean(dim=1)
    return hidden_BnD[:, 0]


def vision_gates(
    hidden_BnD: Tensor, weight_KD: Tensor | None, bias_K: Tensor, router_input: RouterInput = "class_token"
) -> Tensor:
    """`p = softmax(W h_cls + b)`, one gate vector a sample; `softmax(b)` where the router has no weight.

    Returns:
        `[B, K]`, or `[1, K]` for a static gate.
    """
    if weight_KD is None:
        return static_gates(bias_K)
    return F.linear(router_features(hidden_BnD, router_input), weight_KD, bias_K).softmax(dim=-1)


def static_gates(bias_K: Tensor) -> Tensor:
    """`p = softmax(b)`, the same for every sample: `[1, K]`."""
    return bias_K.softmax(dim=-1).unsqueeze(0)


def largest_gates(gates_BK: Tensor, k: int) -> Tensor:
    """The k largest gates of each sample, made to sum to 1 again; the others 0: `[B, K]`."""
    values, places = gates_BK.topk(min(k, gates_BK.shape[-1]), dim=-1)
    return torch.zeros_like(gates_BK).scatter(-1, places, values / values.sum(-1, keepdim=True))
