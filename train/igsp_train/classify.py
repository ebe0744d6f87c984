"""Accuracy of one adapter (or plain CLIP) on images of one task."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from igsp_deploy.model.adapter import TaskAdapter
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.towers import class_embeddings, encode_from_trunk
from igsp_train.features import trunk_chunks


def accuracy(
    backbone: Backbone,
    adapter: TaskAdapter | None,
    first_block: int,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    display_names: list[str],
    templates: list[str],
) -> float:
    """Share of the uint8 images `[N, S, S, 3]` whose best class is their label, in percent."""
    found = accuracies(backbone, [adapter], first_block, [(images, labels)], display_names, templates)
    return 0.0 if found is None else found[0]


def accuracies(
    backbone: Backbone,
    adapters: Sequence[TaskAdapter | None],
    first_block: int,
    chunks: Iterable[tuple[NDArray[np.uint8], NDArray[np.int64]]],
    display_names: list[str],
    templates: list[str],
) -> list[float] | None:
    """The same for several adapters, over images that come in chunks; None where there are no images."""
    classes = [class_embeddings(backbone, adapter, display_names, templates) for adapter in adapters]
    right, total = [0] * len(adapters), 0
    with torch.no_grad():
        for images, labels in chunks:
            total += len(labels)
            for rows, tokens in trunk_chunks(backbone, images, first_block):
                for number, adapter in enumerate(adapters):
                    features = encode_from_trunk(backbone, tokens, adapter, first_block)
                    hits = (features @ classes[number].T).argmax(1).cpu().numpy() == labels[rows]
                    right[number] += int(hits.sum())
    return [100.0 * count / total for count in right] if total else None
