"""Transformer blocks as they stand in the exported graph: explicit attention, and experts gathered by task."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.config import RouterInput
from igsp_deploy.model.router import router_features
from igsp_deploy.names import PLAIN


def attention(block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    """Multi-head self-attention of an open_clip block, `[B, n, d]` -> `[B, n, d]`.

    The same numbers as `nn.MultiheadAttention`, written with one scaled-dot-product call, which opset 23 turns into one
    `Attention` node.
    """
    attn = block.attn
    batch, tokens, width = x.shape
    qkv = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = qkv.reshape(batch, tokens, 3, attn.num_heads, width // attn.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.out_proj(y.transpose(1, 2).reshape(batch, tokens, width))


def plain_block(block: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The frozen block."""
    x = x + block.ls_1(attention(block, block.ln_1(x), mask))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


class StackedExperts(nn.Module):
    """Experts and routers of all tasks in one block; every sample takes its own task's slice.

    Buffers `down` `[T+1, R, d]`, `up` `[T+1, d, R]` and, where the router reads the image, `router_weight`
    `[T+1, K, d]` and `router_bias` `[T+1, K]`, with R = K r.
    """

    down: Tensor
    up: Tensor
    router_weight: Tensor | None
    router_bias: Tensor | None

    def __init__(self, arrays: Stacks, rank: int, router_input: RouterInput) -> None:
        """Hold a block's stacks, by buffer name; `router_input` is what the router reads."""
        super().__init__()
        self.rank = rank
        self.router_input = router_input
        for name in ("down", "up", "router_weight", "router_bias"):
            self.register_buffer(name, torch.from_numpy(arrays[name]) if name in arrays else None)

    def forward(self, hidden: Tensor, index: Tensor) -> Tensor:
        """What the experts of task `index` `[B]` add for `hidden` `[B, n, d]`."""
        inner = torch.bmm(hidden, self.down.index_select(0, index).transpose(1, 2))
        if self.router_weight is not None and self.router_bias is not None:
            features = router_features(hidden, self.router_input).unsqueeze(1)
            weight, bias = self.router_weight.index_select(0, index), self.router_bias.index_select(0, index)
            gates = (torch.bmm(features, weight.transpose(1, 2)).squeeze(1) + bias).softmax(-1)
            inner = (inner.unflatten(2, (gates.shape[1], self.rank)) * gates[:, None, :, None]).flatten(2)
        return torch.bmm(inner, self.up.index_select(0, index).transpose(1, 2))


def stacked_experts(stacks: Stacks, rank: int, router_input: RouterInput) -> nn.ModuleDict:
    """The blocks of a tower's stacks, by the block's number."""
    blocks: dict[str, Stacks] = {}
    for name, value in stacks.items():
        _, block, kind = name.split(".")
        blocks.setdefault(block, {})[kind] = value
    return nn.ModuleDict({block: StackedExperts(arrays, rank, router_input) for block, arrays in blocks.items()})


def slots(task: Tensor, num_slots: int) -> Tensor:
    """Which slice of the stacks each sample takes: its task's, or the last one (plain CLIP) where there is no such."""
    return torch.where(_is_task(task, num_slots), task, torch.full_like(task, num_slots - 1))


def answered(features: Tensor, task: Tensor, num_slots: int) -> Tensor:
    """Embeddings `[B, D]`, not a number where `task` `[B]` is none: nobody shall take those for plain CLIP's."""
    asked = _is_task(task, num_slots) | (task == PLAIN)
    return torch.where(asked.unsqueeze(1), features, torch.full_like(features, torch.nan))


def _is_task(task: Tensor, num_slots: int) -> Tensor:
    return (task >= 0) & (task < num_slots - 1)


def stacked_block(block: Any, experts: StackedExperts, x: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
    """The block with the experts of each sample's task beside its MLP."""
    x = x + block.ls_1(attention(block, block.ln_1(x), mask))
    hidden = block.ln_2(x)
    return x + block.ls_2(block.mlp(hidden) + experts(hidden, index))
