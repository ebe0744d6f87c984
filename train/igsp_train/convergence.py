"""When phase 1 may end: the routers have stopped moving."""

from collections import deque

import torch
from torch import Tensor

from igsp_deploy.sites import Site

DECAY = 0.9
"""Of the moving average of the gates, a step."""

WINDOW = 10
"""Steps over which the routers' movement is measured."""

THRESHOLD = 0.01
"""Routers stand still when the mean gate moves less than this (total variation) over one window."""


class GateTracker:
    """Moving average of every block's mean gates, and how far it moved over the last window of steps."""

    def __init__(self, decay: float = DECAY, window: int = WINDOW) -> None:
        """Track with an exponential moving average of `decay` and compare over `window` steps."""
        self.decay = decay
        self.mean: dict[Site, Tensor] = {}
        self._past: deque[dict[Site, Tensor]] = deque(maxlen=window + 1)
        self.curve: list[float] = []

    def update(self, gates: dict[Site, Tensor]) -> float:
        """Take in one step's gates (`[B, K]` a block); returns the total variation over the window, mean over blocks.

        Until the window is full it is 1, the largest value there is.
        """
        for site, gate in gates.items():
            now = gate.detach().mean(0).float().cpu()
            self.mean[site] = self.decay * self.mean[site] + (1 - self.decay) * now if site in self.mean else now
        self._past.append(dict(self.mean))
        moved = 1.0
        if len(self._past) == self._past.maxlen:
            old = self._past[0]
            # In an order that does not depend on how the averages came in: a resumed run has to end in the same bits.
            moved = float(torch.stack([0.5 * (self.mean[s] - old[s]).abs().sum() for s in sorted(self.mean)]).mean())
        self.curve.append(moved)
        return moved

    def state(self) -> list[dict[Site, Tensor]]:
        """The averages inside the window, oldest first, for a checkpoint."""
        return list(self._past)

    def load(self, past: list[dict[Site, Tensor]], curve: list[float]) -> None:
        """Continue from what `state` gave."""
        self._past.extend(past)
        self.mean = dict(past[-1]) if past else {}
        self.curve = list(curve)
