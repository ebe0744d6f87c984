"""Low-rank experts of one block under one task's router, computed as two matrix products whatever their number.

`Experts` are one task's. `StackedExperts` hold all tasks' for the exported graphs; `of` gives each sample its own
task's, with the same two functions: `gates` of what the router reads, and `delta`, what is added to the MLP's output.

Shapes in this file: B samples, n tokens, d width, K experts of rank r, R = K r, T tasks.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.config import RouterInput
from igsp_deploy.sites import Site


@dataclass(kw_only=True)
class Trace:
    """What a pass saw in the blocks that have experts, attached to the autograd graph.

    Attributes:
        gates: routing probabilities, `[B, K]`, or `[1, K]` where they are static.
        hidden: input of the MLP, `[B, n, d]`; n is 1 in a last block that is computed at one token only.
    """

    gates: dict[Site, Tensor] = field(default_factory=dict)
    hidden: dict[Site, Tensor] = field(default_factory=dict)

    def see(self, site: Site, hidden: Tensor, gates: Tensor | None) -> None:
        """Note what one block saw; `gates` is None where they are folded in already."""
        self.hidden[site] = hidden
        if gates is not None:
            self.gates[site] = gates


def route(hidden: Tensor, router_input: RouterInput, prefix: int) -> Tensor | None:
    """The vector of each sample that a router reads, `[B, d]`; None for a static gate.

    The class token, or the mean of the other tokens; where there is no class token, the mean of all.

    Args:
        hidden: input of the block's MLP, `[B, n, d]`.
        router_input: what the router reads.
        prefix: tokens in front that are no positions.
    """
    if router_input == "static":
        return None
    if router_input == "mean_token" or not prefix:
        return hidden[:, prefix:].mean(dim=1)
    return hidden[:, 0]


class BesideMlp(Protocol):
    """What can stand beside a block's MLP."""

    @property
    def router_input(self) -> RouterInput:
        """What the router reads; `static` where it reads nothing."""
        ...

    def gates(self, read: Tensor | None) -> Tensor | None:
        """Routing probabilities for what the router reads, `[B, d]`; None where they are folded in already."""
        ...

    def delta(self, hidden: Tensor, gates: Tensor | None) -> Tensor:
        """What is added to the MLP's output for its input `[B, n, d]`."""
        ...


class Experts(nn.Module):
    """Experts and router of one task in one block. The scale is not folded in.

    Attributes:
        down: concatenated `A_k`, `[K r, d]`.
        up: concatenated `B_k`, `[d, K r]`.
        router_weight: `[K, d]`; None for a static gate (text).
        router_bias: `[K]`.
        scale: factor s.
        router_input: what the router reads.
        top_k: share the gates among the k largest only; all experts by default. A baseline's way, never exported.
    """

    down: Tensor
    up: Tensor
    router_weight: Tensor | None
    router_bias: Tensor

    def __init__(
        self,
        *,
        down: Tensor,
        up: Tensor,
        router_weight: Tensor | None,
        router_bias: Tensor,
        scale: float,
        router_input: RouterInput = "class_token",
        top_k: int | None = None,
    ) -> None:
        """Hold the tensors as they are, attached to an autograd graph or not."""
        super().__init__()
        self.router_input: RouterInput = "static" if router_weight is None else router_input
        self.register_buffer("down", down)
        self.register_buffer("up", up)
        self.register_buffer("router_weight", None if self.router_input == "static" else router_weight)
        self.register_buffer("router_bias", router_bias)
        self.scale = scale
        self.top_k = top_k

    def __len__(self) -> int:
        """K."""
        return len(self.router_bias)

    @property
    def rank(self) -> int:
        """Rank r of one expert."""
        return self.down.shape[0] // max(len(self), 1)

    def gates(self, read: Tensor | None) -> Tensor:
        """`p = softmax(W h + b)` of what the router reads, `[B, d]`: `[B, K]`; `softmax(b)`, `[1, K]`, if static."""
        if self.router_weight is None or read is None:
            gates = self.router_bias.softmax(dim=-1).unsqueeze(0)
        else:
            gates = F.linear(read, self.router_weight, self.router_bias).softmax(dim=-1)
        return gates if self.top_k is None else largest_gates(gates, self.top_k)

    def delta(self, hidden: Tensor, gates: Tensor | None) -> Tensor:
        """Gated sum of the experts, `s * sum_k p_k B_k A_k h`, without a loop over experts.

        Equation (adapted block) in docs/paper_to_code.md; the experts are linear, so the sum over k is one product with
        the concatenated `A` and one with the concatenated `B`, the gates scaling the R numbers between them.

        Args:
            hidden: input of the block's MLP, `[B, n, d]`.
            gates: `[B, K]` or `[1, K]`.

        Returns:
            `[B, n, d]`, to be added to the MLP's output.
        """
        assert gates is not None, "its gates are not folded in"
        weights_B1R = (gates * self.scale).repeat_interleave(self.rank, dim=-1).unsqueeze(1)
        return F.linear(F.linear(hidden, self.down) * weights_B1R, self.up)

    def masked(self, mask: Tensor) -> "Experts":
        """The same with the gates of what `mask` `[K]` leaves out zero; the others sum to one again."""
        return self._with(self.router_bias.masked_fill(~mask.to(self.router_bias.device), float("-inf")))

    def frozen(self, device: torch.device | str) -> "Experts":
        """The same numbers, outside of any autograd graph, on `device`."""
        copy = self._with(self.router_bias)
        for name, value in list(copy.named_buffers()):
            setattr(copy, name, value.detach().to(device))
        return copy

    def _with(self, bias: Tensor) -> "Experts":
        return Experts(
            down=self.down,
            up=self.up,
            router_weight=self.router_weight,
            router_bias=bias,
            scale=self.scale,
            router_input=self.router_input,
            top_k=self.top_k,
        )


SiteExperts = dict[Site, Experts]
"""One task's experts. A block that is absent stays plain CLIP."""


def frozen(experts: SiteExperts, device: torch.device | str) -> SiteExperts:
    """The same numbers, outside of any autograd graph, on `device`."""
    return {site: block.frozen(device) for site, block in experts.items()}


def largest_gates(gates_BK: Tensor, k: int) -> Tensor:
    """The k largest gates of each sample, made to sum to 1 again; the others 0: `[B, K]`."""
    values, places = gates_BK.topk(min(k, gates_BK.shape[-1]), dim=-1)
    return torch.zeros_like(gates_BK).scatter(-1, places, values / values.sum(-1, keepdim=True))


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


class StackedExperts(nn.Module):
    """Experts and routers of all tasks in one block; every sample takes its own task's slice.

    Buffers `down` `[T+1, R, d]`, `up` `[T+1, d, R]` and, where the router reads the image, `router_weight`
    `[T+1, K, d]` and `router_bias` `[T+1, K]`. Scale and static gates are folded into `up`.
    """

    down: Tensor
    up: Tensor
    router_weight: Tensor | None
    router_bias: Tensor | None

    def __init__(self, arrays: Stacks, rank: int, router_input: RouterInput) -> None:
        """Hold a block's stacks, by buffer name; `router_input` is what the router reads."""
        super().__init__()
        self.rank = rank
        self.router_input: RouterInput = router_input if "router_weight" in arrays else "static"
        for name in ("down", "up", "router_weight", "router_bias"):
            self.register_buffer(name, torch.from_numpy(arrays[name]) if name in arrays else None)

    def of(self, index: Tensor) -> "SlicedExperts":
        """Each sample's own: those of slice `index` `[B]`."""
        return SlicedExperts(self, index)


class SlicedExperts:
    """For each sample the experts of its own task, out of stacks."""

    def __init__(self, stacks: StackedExperts, index: Tensor) -> None:
        """Take slices `index` `[B]` of the stacks."""
        self.stacks = stacks
        self.index = index
        self.router_input = stacks.router_input

    def gates(self, read: Tensor | None) -> Tensor | None:
        """As of `Experts`, but `[B, 1, K]`; None where they are static, and so folded in already."""
        weight, bias = self.stacks.router_weight, self.stacks.router_bias
        if read is None or weight is None or bias is None:
            return None
        logits = read.unsqueeze(1) @ weight.index_select(0, self.index).transpose(1, 2)
        return (logits + F.embedding(self.index.unsqueeze(1), bias)).softmax(-1)

    def delta(self, hidden: Tensor, gates: Tensor | None) -> Tensor:
        """As of `Experts`."""
        inner = hidden @ self.stacks.down.index_select(0, self.index).transpose(1, 2)
        if gates is not None:
            inner = (inner.unflatten(2, (-1, self.stacks.rank)) * gates.unsqueeze(-1)).flatten(2)
        return inner @ self.stacks.up.index_select(0, self.index).transpose(1, 2)
