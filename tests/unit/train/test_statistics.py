"""What the selector reads of images, whole and in chunks."""

import numpy as np
import torch

from igsp_deploy.model.clip import Clip
from igsp_deploy.model.loading import load_backbone
from igsp_train.statistics import chunked_summaries, image_summaries

LABELS = np.arange(40) % 2


def test_chunks_are_read_as_the_whole() -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    clip = Clip(load_backbone("debug"), [("vision", 1)])
    features = image_summaries(clip, images)
    again, labels = chunked_summaries(clip, [(images[:30], LABELS[:30]), (images[30:], LABELS[30:])])
    torch.testing.assert_close(again, features, atol=1e-5, rtol=1e-5)
    assert labels.tolist() == LABELS.tolist()
