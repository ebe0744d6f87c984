"""Few-shot training sets: K images a class, the same ones from the same seed."""

import numpy as np

from igsp_deploy.data.items import Items
from igsp_deploy.data.splits import class_generator


def take_shots(items: Items, classes: list[str], *, shots: int, seed: int) -> Items:
    """`shots` images of every class, or all of a class that has fewer.

    Which ones depends on the seed, the class's name and the number of its images alone; the first images of a larger
    number of shots are those of a smaller one.

    Args:
        items: images sorted within each class.
        classes: name of each label.
        shots: images a class, at least 1.
        seed: seed of the choice.
    """
    kept = np.zeros(len(items), dtype=bool)
    for label, name in enumerate(classes):
        members = np.flatnonzero(items.labels == label)
        kept[members[class_generator(seed, "shots", name).permutation(len(members))[:shots]]] = True
    return items.subset(np.flatnonzero(kept))
