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


class Order:
    """The images of every step, and the view of each: the e-th time that an image comes it is seen as in epoch e."""

    def __init__(self, labels: NDArray[np.int64], batch_size: int, seed: int, *, balanced: bool = False) -> None:
        """Nothing is drawn before it is asked for.

        Args:
            labels: classes of the images, `[N]`, N at least 1.
            batch_size: images a step, B.
            seed: of the order.
            balanced: whether every class comes equally often, in place of every image.
        """
        self.num_items = len(labels)
        self.batch_size = batch_size
        self.seed = seed
        self._classes = [np.flatnonzero(labels == label) for label in np.unique(labels)] if balanced else []

    def batch(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Images of one step and the epoch of each, int64 `[B]`, over all processes."""
        positions = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        if not self._classes:
            return batch_indices(self.num_items, self.batch_size, step, self.seed), positions // self.num_items
        drawn = [self._draw(position) for position in positions.tolist()]
        indices, epochs = np.array(drawn, dtype=np.int64).T
        return indices, epochs

    def pairs(self, step: int) -> list[tuple[int, int]]:
        """Index and epoch of every image of one step."""
        indices, epochs = self.batch(step)
        return list(zip(indices.tolist(), epochs.tolist(), strict=True))

    def _draw(self, position: int) -> tuple[int, int]:
        """Every round holds each class once; a class goes through its own images again and again."""
        draw, place = divmod(position, len(self._classes))
        number = int(_permutation(len(self._classes), draw, self.seed)[place])
        images = self._classes[number]
        epoch, place = divmod(draw, len(images))
        return int(images[seeded(self.seed, epoch, number + 1).permutation(len(images))[place]]), epoch


@lru_cache(maxsize=4)
def _permutation(num_items: int, epoch: int, seed: int) -> NDArray[np.int64]:
    permutation = seeded(seed, epoch).permutation(num_items).astype(np.int64)
    permutation.setflags(write=False)
    return permutation
