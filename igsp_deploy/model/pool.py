"""The shared pool of frozen experts, a block at a time, in the order the tasks added them."""

import torch
from torch import Tensor

from igsp_deploy.sites import Site


class Pool:
    """Frozen experts of all blocks. An expert's id is its position in its block's list and never changes."""

    def __init__(self, rank: int) -> None:
        """An empty pool of experts of rank `rank`."""
        self.rank = rank
        self._down: dict[Site, list[Tensor]] = {}
        self._up: dict[Site, list[Tensor]] = {}

    def size(self, site: Site) -> int:
        """Number of experts in one block."""
        return len(self._down.get(site, []))

    def add(self, site: Site, down: Tensor, up: Tensor) -> list[int]:
        """Append experts `down` `[k, r, d]`, `up` `[k, d, r]` to a block; returns their ids."""
        start = self.size(site)
        self._down.setdefault(site, []).extend(down.detach().cpu().unbind(0))
        self._up.setdefault(site, []).extend(up.detach().cpu().unbind(0))
        return list(range(start, self.size(site)))

    def gather(self, site: Site, ids: list[int], width: int) -> tuple[Tensor, Tensor]:
        """Experts `ids` of a block: `down` `[K, r, d]`, `up` `[K, d, r]`; K may be 0."""
        if not ids:
            return torch.zeros(0, self.rank, width), torch.zeros(0, width, self.rank)
        return torch.stack([self._down[site][i] for i in ids]), torch.stack([self._up[site][i] for i in ids])

    def num_parameters(self) -> int:
        """Numbers held by all experts together."""
        return sum(t.numel() for table in (self._down, self._up) for tensors in table.values() for t in tensors)
