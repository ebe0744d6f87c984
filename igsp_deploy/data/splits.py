"""Deterministic stratified splits: every class gives its share, whatever the other classes are."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.data.items import Items


def split_off(
    items: Items,
    classes: list[str],
    *,
    share: float,
    least: int,
    seed: int,
    purpose: str,
    groups: NDArray[np.int64] | None = None,
) -> tuple[Items, Items]:
    """Split `items` into what stays and what is held out.

    The order within a class depends on the seed, the purpose, the class's name and the number of its images alone, so a
    new class does not move the images of the others. Copies of one image go together; the shares are then kept as far
    as they can be.

    Args:
        items: files sorted within each class.
        classes: name of each label.
        share: share of each class to hold out, in [0, 1).
        least: a class with at least this many images (2 or more) holds out at least one; a smaller one its rounded
            share. No class gives its last image away.
        seed: seed of the split.
        purpose: word that keeps two splits of one seed apart.
        groups: int64 `[N]`, the same number for copies of one image (see `copies`); none are looked for by default.

    Returns:
        The items that stay and those held out, both in the order of `items`.
    """
    sizes = np.bincount(items.labels, minlength=len(classes))
    quotas = [_quota(int(size), share, least) for size in sizes]
    members_of: dict[int, list[int]] = {}
    for index, group in enumerate(range(len(items)) if groups is None else groups.tolist()):
        members_of.setdefault(group, []).append(index)
    group_of = np.arange(len(items)) if groups is None else groups
    held = np.zeros(len(items), dtype=bool)
    counts = np.zeros(len(classes), dtype=np.int64)

    def take(label: int, order: list[int], most: list[int]) -> None:
        """Hold out whole groups in that order, as long as no class gives more than its most."""
        for index in order:
            if counts[label] >= quotas[label]:
                return
            group = members_of[int(group_of[index])]
            more = np.bincount(items.labels[group], minlength=len(classes)) if len(group) > 1 else None
            if held[index] or (more is None and counts[label] + 1 > most[label]):
                continue
            if more is not None and (counts + more > most)[more > 0].any():
                continue
            held[group] = True
            counts[:] += more if more is not None else np.arange(len(classes)) == label

    # Small classes first: where copies stand in two classes, they have the least choice.
    for label in sorted(range(len(classes)), key=lambda label: int(sizes[label])):
        members = np.flatnonzero(items.labels == label)
        order = members[class_generator(seed, purpose, classes[label]).permutation(len(members))].tolist()
        take(label, order, quotas)
        if not counts[label]:  # no group fits: the first that leaves every class an image
            quotas[label] = min(quotas[label], 1)
            take(label, order, [int(size) - 1 for size in sizes])
    return items.subset(np.flatnonzero(~held)), items.subset(np.flatnonzero(held))


def _quota(size: int, share: float, least: int) -> int:
    count = round(share * size)
    if share > 0 and size >= least:
        count = max(1, count)
    return max(0, min(count, size - 1))


def class_generator(seed: int, purpose: str, name: str) -> np.random.Generator:
    """Random generator determined by seed, purpose and the class's name."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
