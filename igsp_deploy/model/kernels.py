"""Attention and MLP of a frozen block on plain weights, in fewer operations than the usual modules take.

Shapes: B samples, n tokens, d width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

_SLOPE = 1.702
"""Quick GELU is `x sigmoid(1.702 x)`, which is `silu(1.702 x) / 1.702`."""
_ATTENTION_NODES: ContextVar[bool] = ContextVar("attention as one node", default=False)


@contextmanager
def attention_nodes(wanted: bool) -> Iterator[None]:
    """Write self-attention as opset 23's `Attention`, heads and all, while a module is traced.

    The node takes `[B, n, d]` and splits the heads itself: six nodes a block less than an explicit layout, and the one
    that flash attention on CUDA wants.
    """
    token = _ATTENTION_NODES.set(wanted)
    try:
        yield
    finally:
        _ATTENTION_NODES.reset(token)


def self_attention(
    normed: Tensor,
    weight: Tensor,
    bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    heads: int,
    mask: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Multi-head self-attention: one product for query, key and value, one scaled-dot-product call, no copies.

    Args:
        normed: its input, `[B, n, d]`.
        weight: of query, key and value, `[3 d, d]`.
        bias: the same, `[3 d]`.
        out_weight: of the projection behind it, `[d, d]`.
        out_bias: the same, `[d]`.
        heads: number of heads.
        mask: float `[n, n]`, added to the logits.
        rows: int64 `[B]`, the one token of each sample to compute; all by default.

    Returns:
        `[B, n, d]`; n is 1 with `rows`.
    """
    batch, tokens, width = normed.shape
    if rows is None:
        query, key, value = F.linear(normed, weight, bias).chunk(3, dim=-1)
    else:
        query = F.linear(pick(normed, rows), weight[:width], bias[:width])
        key, value = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
        mask = None if mask is None else mask[rows].view(batch, 1, 1, tokens)
    mask = None if mask is None else mask.to(query.dtype)
    if _ATTENTION_NODES.get():
        mixed = torch.onnx.ops.attention(query, key, value, mask, q_num_heads=heads, kv_num_heads=heads)[0]
    else:
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
    return F.linear(mixed, out_weight, out_bias)


def quick_gelu_mlp(hidden: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
    """`W2 quick_gelu(W1 h + b1) + b2` with frozen weights."""
    return cast(Tensor, _FrozenQuickGeluMlp.apply(hidden, w1, b1, w2, b2))


class _FrozenQuickGeluMlp(torch.autograd.Function):
    """`W2 quick_gelu(W1 h + b1) + b2` with frozen weights; keeps one tensor of the hidden layer for the way back."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
        scaled = F.linear(hidden, w1, b1).mul_(_SLOPE)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(scaled, w1, w2)
            ctx.dtype = hidden.dtype
            return F.linear(F.silu(scaled).mul_(1 / _SLOPE), w2, b2)
        return F.linear(F.silu(scaled, inplace=True).mul_(1 / _SLOPE), w2, b2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        scaled, w1, w2 = ctx.saved_tensors
        # The slope of the inner product and its inverse of the outer one cancel.
        inner = torch.ops.aten.silu_backward(grads[0].to(scaled.dtype) @ w2.to(scaled.dtype), scaled)
        return (inner @ w1.to(scaled.dtype)).to(ctx.dtype), None, None, None, None


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """Token `rows[b]` of each sample b of `x` `[B, n, d]`: `[B, 1, d]`."""
    return x[torch.arange(len(x), device=x.device), rows].unsqueeze(1)
