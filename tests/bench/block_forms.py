"""The image tower with several forms of the adapted block, to compare what each costs.

Shapes: B images, n tokens, d width, T tasks, K experts of a task, r rank of one expert, R = K r.
"""

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.model.backbone import Backbone
from igsp_export.blocks import attention, plain_block, slots, stacked_experts
from igsp_export.onnx_file import Signature, write_onnx

DELTA = 0.2
"""Root mean square of what a task's experts add to a block, where the activations they read have 1."""


class Tower(nn.Module):
    """Pixels to normalised embeddings, with `experts` beside the MLPs of the blocks they are numbered for."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, backbone: Backbone, experts: nn.ModuleDict) -> None:
        """Share the backbone's image tower."""
        super().__init__()
        self.visual = backbone.visual
        self.experts = experts
        spec = backbone.preprocess
        self.register_buffer("pixel_scale", (1.0 / (255.0 * torch.tensor(spec.std))).view(1, 3, 1, 1))
        self.register_buffer("pixel_shift", (-torch.tensor(spec.mean) / torch.tensor(spec.std)).view(1, 3, 1, 1))

    def forward(self, images: Tensor, task: Tensor | None = None) -> Tensor:
        """uint8 `[B, S, S, 3]` and, where there are experts, a task a sample, int64 `[B]` -> float32 `[B, D]`."""
        pixels = images.permute(0, 3, 1, 2).float() * self.pixel_scale + self.pixel_shift
        x = self.visual._embeds(pixels.to(self.visual.class_embedding.dtype))
        for number, block in enumerate(self.visual.transformer.resblocks):
            if str(number) in self.experts and task is not None:
                experts: Any = self.experts[str(number)]
                x = x + block.ls_1(attention(block, block.ln_1(x), None))
                hidden = block.ln_2(x)
                x = x + block.ls_2(block.mlp(hidden) + experts(hidden, slots(task, experts.router_bias.shape[0])))
            else:
                x = plain_block(block, x)
        pooled, _ = self.visual._pool(x)
        features = pooled @ self.visual.proj if self.visual.proj is not None else pooled
        return F.normalize(features.float(), dim=-1)


class CommonTask(nn.Module):
    """The experts of one task for the whole batch: the first sample's."""

    def __init__(self, experts: Any) -> None:
        """Take the stacks of the form that gathers."""
        super().__init__()
        self.rank = experts.rank
        for name, buffer in experts.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, hidden: Tensor, index: Tensor) -> Tensor:
        """What they add for `hidden` `[B, n, d]`."""
        down, up, weight, bias = (
            cast(Tensor, getattr(self, name)).index_select(0, index[:1])
            for name in ("down", "up", "router_weight", "router_bias")
        )
        gates = (torch.matmul(hidden[:, :1], weight.transpose(1, 2)).squeeze(1) + bias).softmax(-1)
        inner = torch.matmul(hidden, down.transpose(1, 2))
        inner = (inner.unflatten(2, (gates.shape[1], self.rank)) * gates[:, None, :, None]).flatten(2)
        return torch.matmul(inner, up.transpose(1, 2))


class MaskedTasks(nn.Module):
    """The experts of all tasks in one GEMM; a mask leaves those of each sample's own task.

    Buffers `a` and `b` `[T+1, K, r, d]`: `down`, and `up` with its last two dimensions exchanged, so that both are one
    matrix of `(T+1) R` rows as they lie in memory.
    """

    router_weight: Tensor
    router_bias: Tensor
    a: Tensor
    b: Tensor

    def __init__(self, arrays: Stacks) -> None:
        """Take what `masked_stacks` gives for one block."""
        super().__init__()
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array))

    def forward(self, hidden: Tensor, index: Tensor) -> Tensor:
        """What they add for `hidden` `[B, n, d]`, each sample under its task `index` `[B]`."""
        width, rank = self.a.shape[3], self.a.shape[2]
        weight, bias = self.router_weight.index_select(0, index), self.router_bias.index_select(0, index)
        gates = (torch.bmm(hidden[:, :1], weight.transpose(1, 2)).squeeze(1) + bias).softmax(-1)
        own = (torch.arange(self.a.shape[0], device=index.device) == index[:, None]).to(gates.dtype)  # [B, T+1]
        mask = (own[:, :, None] * gates[:, None, :]).flatten(1)  # [B, (T+1) K]
        inner = F.linear(hidden, self.a.reshape(-1, width))
        inner = (inner.unflatten(2, (mask.shape[1], rank)) * mask[:, None, :, None]).flatten(2)
        return torch.matmul(inner, self.b.reshape(-1, width))


class WidenedMlp(nn.Module):
    """A block's MLP with the experts of one task as further hidden units: linear ones, times their gates."""

    bias: Tensor

    def __init__(self, mlp: Any, *, down: Tensor, up: Tensor, router_weight: Tensor, router_bias: Tensor) -> None:
        """Join the matrices of the MLP and of the task, slices of its stacks."""
        super().__init__()
        self.gelu = mlp.gelu
        self.hidden = mlp.c_fc.out_features
        first = torch.cat([mlp.c_fc.weight, down])
        self.register_buffer("first", first)
        self.register_buffer("first_bias", torch.cat([mlp.c_fc.bias, torch.zeros(len(down))]))
        self.register_buffer("second", torch.cat([mlp.c_proj.weight, up], dim=1))
        self.register_buffer("second_bias", mlp.c_proj.bias)
        self.register_buffer("router_weight", router_weight)
        self.register_buffer("router_bias", router_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """What MLP and experts give together for `hidden` `[B, n, d]`."""
        buffers = cast(dict[str, Tensor], dict(self.named_buffers()))
        gates = F.linear(hidden[:, 0], buffers["router_weight"], buffers["router_bias"]).softmax(-1)
        wide = F.linear(hidden, buffers["first"], buffers["first_bias"])
        inner = wide[:, :, self.hidden :]
        rank = buffers["first"].shape[0] // gates.shape[1] - self.hidden // gates.shape[1]
        inner = (inner.unflatten(2, (gates.shape[1], rank)) * gates[:, None, :, None]).flatten(2)
        wide = torch.cat([self.gelu(wide[:, :, : self.hidden]), inner], dim=2)
        return F.linear(wide, buffers["second"], buffers["second_bias"])
