"""What a task's head is compared with: random Fourier features of the trunk's summary.

Cosine and sine of the summary's products with F fixed directions: "Random Features for Large-Scale Kernel Machines"
(Rahimi and Recht, NeurIPS 2007), so a linear head is near a Gaussian kernel's. The directions are orthogonal
(arXiv 1610.09072) and the same in every model: an orthonormal cosine transform behind random signs, which the bits of
a hash give, so nothing is stored. Their number and `BANDWIDTH` were chosen on held-out images (train/RESULTS.md).

Shapes: B images, F numbers of a summary.
"""

import hashlib
import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

CPU = torch.device("cpu")
BANDWIDTH = 0.7
"""Factor on the angles; a summary has a mean square of 1."""


@lru_cache(maxsize=4)
def directions(width: int, device: torch.device = CPU) -> Tensor:
    """The directions times `BANDWIDTH`, one a column: `[F, F]` float32, for summaries of `width` numbers."""
    at = torch.arange(width, dtype=torch.float64)
    transform = torch.cos(math.pi * (at[:, None] + 0.5) * at / width) * math.sqrt(2 / width)
    transform[:, 0] /= math.sqrt(2)
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"igsp").digest(-(-width // 8)), np.uint8))[:width]
    signs = 1.0 - 2.0 * torch.from_numpy(bits).double()
    return (BANDWIDTH * signs[:, None] * transform).float().to(device)


def fourier(summary: Tensor, columns: Tensor) -> Tensor:
    """Features `[B, 2F]` of summaries `[B, F]`; `columns` are the `directions` of that width, on its device."""
    angles = summary @ columns
    return torch.cat([angles.cos(), angles.sin()], dim=1)
