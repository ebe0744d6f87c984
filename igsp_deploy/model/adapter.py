"""What one learned task adds to the frozen towers: plain tensors, a block at a time."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from igsp_deploy.config import RouterInput
from igsp_deploy.model.experts import expert_output
from igsp_deploy.model.router import largest_gates, static_gates, vision_gates


@dataclass(frozen=True, kw_only=True)
class BlockAdapter:
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
    scale: float
    router_input: RouterInput = "class_token"
    top_k: int | None = None

    def gates(self, hidden: Tensor) -> Tensor:
        """Routing probabilities for `hidden` `[B, n, d]`: `[B, K]`, or `[1, K]` for a static gate."""
        if self.router_weight is None or self.router_input == "static":
            gates = static_gates(self.router_bias)
        else:
            gates = vision_gates(hidden, self.router_weight, self.router_bias, self.router_input)
        return gates if self.top_k is None else largest_gates(gates, self.top_k)

    def delta(self, hidden: Tensor, gates: Tensor) -> Tensor:
        """What the experts add to the MLP's output: `[B, n, d]`."""
        return expert_output(hidden, gates, self.down, self.up, self.scale)

    def detach_to(self, device: torch.device | str) -> "BlockAdapter":
        """The same numbers, outside of any autograd graph, on `device`."""
        weight = None if self.router_weight is None else self.router_weight.detach().to(device)
        return BlockAdapter(
            down=self.down.detach().to(device),
            up=self.up.detach().to(device),
            router_weight=weight,
            router_bias=self.router_bias.detach().to(device),
            scale=self.scale,
            router_input=self.router_input,
            top_k=self.top_k,
        )


@dataclass(frozen=True, kw_only=True)
class TaskAdapter:
    """All blocks of one task: block index -> `BlockAdapter`. A block that is absent stays plain CLIP."""

    vision: dict[int, BlockAdapter] = field(default_factory=dict)
    text: dict[int, BlockAdapter] = field(default_factory=dict)

    def detach_to(self, device: torch.device | str) -> "TaskAdapter":
        """The same numbers, outside of any autograd graph, on `device`."""
        return TaskAdapter(
            vision={block: adapter.detach_to(device) for block, adapter in self.vision.items()},
            text={block: adapter.detach_to(device) for block, adapter in self.text.items()},
        )
