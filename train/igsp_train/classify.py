"""Accuracy of one adapter (or plain CLIP) on images of one task."""

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
    classes = class_embeddings(backbone, adapter, display_names, templates)
    right = 0
    with torch.no_grad():
        for rows, tokens in trunk_chunks(backbone, images, first_block):
            features = encode_from_trunk(backbone, tokens, adapter, first_block)
            right += int(((features @ classes.T).argmax(1).cpu().numpy() == labels[rows]).sum())
    return 100.0 * right / max(len(labels), 1)
