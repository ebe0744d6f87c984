"""Which images a step sees: a pure function, so that a resumed run sees what an uninterrupted one would."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_UINT64 = (1 << 64) - 1


def seeded(*numbers: int) -> np.random.Generator:
    """Random generator determined by `numbers` (negative ones allowed)."""
    return np.random.default_rng([number & _UINT64 for number in numbers])


def batch_indices(num_items: int, batch_size: int, step: int, seed: int) -> NDArray[np.int64]:
    """Indices of the images of one step.

    Every epoch is a new permutation of all images; epochs follow each other without a gap, so that every step has
    `batch_size` images, also where there are fewer images than that.

    Args:
        num_items: images there are, at least 1.
        batch_size: images a step.
        step: number of the step, from 0.
        seed: seed of the order.

    Returns:
        int64 `[batch_size]`, each in `[0, num_items)`. The k-th is of epoch `(step * batch_size + k) // num_items`.
    """
    assert num_items >= 1
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epochs, places = np.divmod(positions, num_items)
    chosen = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        chosen[here] = _permutation(num_items, int(epoch), seed)[places[here]]
    return chosen


def step_pairs(num_items: int, batch_size: int, seed: int, step: int) -> list[tuple[int, int]]:
    """Index and epoch of every image of one step (see `batch_indices`)."""
    indices = batch_indices(num_items, batch_size, step, seed)
    epochs = (step * batch_size + np.arange(batch_size)) // num_items
    return list(zip(indices.tolist(), epochs.tolist(), strict=True))


@lru_cache(maxsize=4)
def _permutation(num_items: int, epoch: int, seed: int) -> NDArray[np.int64]:
    permutation = seeded(seed, epoch).permutation(num_items).astype(np.int64)
    permutation.setflags(write=False)
    return permutation
