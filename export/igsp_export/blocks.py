"""Transformer blocks as they stand in the exported graph: explicit attention, and experts gathered by task."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.config import RouterInput
from igsp_deploy.errors import UserError
from igsp_deploy.model.router import router_features
from igsp_deploy.names import PLAIN

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


def attention(block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    """Multi-head self-attention of an open_clip block, `[B, n, d]` -> `[B, n, d]`; as `nn.MultiheadAttention`'s."""
    attn = block.attn
    heads: int = attn.num_heads
    q, k, v = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
    if _ATTENTION_NODES.get():
        y = torch.onnx.ops.attention(q, k, v, mask, q_num_heads=heads, kv_num_heads=heads)[0]
    else:
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    output: Tensor = attn.out_proj(y)
    return output


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
        """What the experts of the slices `index` `[B]` add for `hidden` `[B, n, d]`."""
        inner = hidden @ self.down.index_select(0, index).transpose(1, 2)
        if self.router_weight is not None and self.router_bias is not None:
            features = router_features(hidden, self.router_input).unsqueeze(1)
            logits = features @ self.router_weight.index_select(0, index).transpose(1, 2)
            gates = (logits + self.router_bias.index_select(0, index).unsqueeze(1)).softmax(-1)
            inner = (inner.unflatten(2, (-1, self.rank)) * gates.unsqueeze(-1)).flatten(2)
        return inner @ self.up.index_select(0, index).transpose(1, 2)


def stacked_experts(stacks: Stacks, rank: int, router_input: RouterInput) -> nn.ModuleDict:
    """The blocks of a tower's stacks, by the block's number."""
    blocks: dict[str, Stacks] = {}
    for name, value in stacks.items():
        _, block, kind = name.split(".")
        blocks.setdefault(block, {})[kind] = value
    return nn.ModuleDict({block: StackedExperts(arrays, rank, router_input) for block, arrays in blocks.items()})


def count_slots(stack: Tensor | None) -> Tensor:
    """Slices of a stack, plain CLIP's included, as a number on the GPU; 1 where there is no stack.

    Summed up there: a number made from a shape stays on the CPU, and is copied to the GPU at each run.
    """
    return torch.ones(1 if stack is None else stack.shape[0]).sum().long()


def slots(task: Tensor, num_slots: Tensor) -> Tensor:
    """Which slice of the stacks each sample takes: its task's, or the last one (plain CLIP) where there is no such."""
    return torch.where(_is_task(task, num_slots), task, num_slots - 1)


def answered(features: Tensor, task: Tensor, num_slots: Tensor) -> Tensor:
    """Embeddings `[B, D]`, not a number where `task` `[B]` is none: nobody shall take those for plain CLIP's."""
    asked = _is_task(task, num_slots) | (task == PLAIN)
    return torch.where(asked.unsqueeze(1), features, torch.full_like(features, torch.nan))


def _is_task(task: Tensor, num_slots: Tensor) -> Tensor:
    return (task >= 0) & (task < num_slots - 1)


def stacked_block(block: Any, experts: StackedExperts, x: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
    """The block with the experts of each sample's task beside its MLP."""
    x = x + block.ls_1(attention(block, block.ln_1(x), mask))
    hidden = block.ln_2(x)
    return x + block.ls_2(block.mlp(hidden) + experts(hidden, index))


def text_head(text: Any, x: Tensor, ids: Tensor) -> Tensor:
    """Normalised embeddings `[N, D]` of a text tower's last block's output `[N, n, d]`, for token ids `[N, n]`."""
    kind = getattr(text, "text_pool_type", None) or text.pool_type
    x = text.ln_final(x)
    if kind in ("argmax", "eos"):
        # As floats, exact below 2^24: onnxruntime's ArgMax for whole numbers runs on the CPU alone.
        end = (ids if kind == "argmax" else ids == _eos_id(text)).float().argmax(dim=1)
        x = x.gather(1, end[:, None, None].expand(-1, 1, x.shape[2])).squeeze(1)
    else:
        x = text_global_pool(x, ids, kind)
    projection = text.text_projection
    if projection is not None:
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return F.normalize(x.float(), dim=-1)


def _eos_id(text: Any) -> int:
    for name in ("text_eos_id", "eos_id"):
        if getattr(text, name, None) is not None:
            return int(getattr(text, name))
    raise UserError("the text tower pools at its end token but does not say which that is.")
