"""Parts of a frozen transformer block in fewer operations, for learning: the same function up to float round-off.

What is saved beside open_clip's own modules: the backward pass of a frozen layer needs no input, quick GELU needs one
tensor of the MLP's width instead of four, attention needs no copies of its inputs, and the last block only has to be
computed at the token that is pooled.

Shapes: B samples, n tokens, d width.
"""

from typing import Any

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 1.702
"""Quick GELU is `x sigmoid(1.702 x)`, which is `silu(1.702 x) / 1.702`."""


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


def lean_mlp(mlp: Any, hidden: Tensor) -> Tensor:
    """The MLP of a block (`c_fc`, `gelu`, `c_proj`, frozen) of `hidden` `[B, n, d]`."""
    if isinstance(mlp.gelu, QuickGELU):
        up, down = mlp.c_fc, mlp.c_proj
        result: Tensor = _FrozenQuickGeluMlp.apply(hidden, up.weight, up.bias, down.weight, down.bias)
        return result
    output: Tensor = mlp(hidden)
    return output


def lean_attention(
    attention: nn.MultiheadAttention, normed: Tensor, attn_mask: Tensor | None = None, rows: Tensor | None = None
) -> Tensor:
    """Self-attention of `normed` `[B, n, d]`.

    Args:
        attention: frozen, batch first.
        normed: its input, after the LayerNorm.
        attn_mask: float `[n, n]`, added to the attention's logits.
        rows: int64 `[B]`, the one token of each sample to compute; all by default.

    Returns:
        `[B, n, d]`, or `[B, 1, d]` with `rows`.
    """
    batch, tokens, width = normed.shape
    heads = attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    assert weight is not None, "open_clip's attention projects query, key and value with one matrix"
    if rows is None:
        query, key, value = F.linear(normed, weight, bias).chunk(3, dim=-1)
    else:
        query = F.linear(pick(normed, rows), weight[:width], bias[:width])
        key, value = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
        attn_mask = None if attn_mask is None else attn_mask[rows].view(batch, 1, 1, tokens)

    def split(x: Tensor) -> Tensor:
        return x.view(batch, -1, heads, width // heads).transpose(1, 2)

    mask = None if attn_mask is None else attn_mask.to(query.dtype)
    mixed = F.scaled_dot_product_attention(split(query), split(key), split(value), attn_mask=mask)
    return F.linear(mixed.transpose(1, 2).reshape(batch, -1, width), attention.out_proj.weight, attention.out_proj.bias)


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """Token `rows[b]` of each sample b of `x` `[B, n, d]`: `[B, 1, d]`."""
    return x[torch.arange(len(x), device=x.device), rows].unsqueeze(1)
