"""Deterministic stratified splits: every class gives its share, whatever the other classes are."""

import hashlib

import numpy as np

from igsp_deploy.data.items import Items


def split_off(
    items: Items, classes: list[str], *, share: float, least: int, seed: int, purpose: str
) -> tuple[Items, Items]:
    """Split `items` into what stays and what is held out.

    The order within a class depends on the seed, the purpose, the class's name and the number of its images alone, so a
    new class does not move the images of the others.

    Args:
        items: files sorted within each class.
        classes: name of each label.
        share: share of each class to hold out, in [0, 1).
        least: a class with at least this many images (2 or more) holds out at least one; a smaller one its rounded
            share. No class gives its last image away.
        seed: seed of the split.
        purpose: word that keeps two splits of one seed apart.

    Returns:
        The items that stay and those held out, both in the order of `items`.
    """
    held_out = np.zeros(len(items), dtype=bool)
    for label, name in enumerate(classes):
        members = np.flatnonzero(items.labels == label)
        count = round(share * len(members))
        if share > 0 and len(members) >= least:
            count = max(1, count)
        count = max(0, min(count, len(members) - 1))
        order = class_generator(seed, purpose, name).permutation(len(members))
        held_out[members[order[:count]]] = True
    return items.subset(np.flatnonzero(~held_out)), items.subset(np.flatnonzero(held_out))


def class_generator(seed: int, purpose: str, name: str) -> np.random.Generator:
    """Random generator determined by seed, purpose and the class's name."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
