"""What the losses count and what they leave out."""

import pytest
import torch
from torch.nn.functional import normalize

from igsp_train.research.pretrain.anchors import distillation
from igsp_train.research.pretrain.losses import alignment, caption_contrast, name_loss


def unit(rows: int, dims: int = 16, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(rows, dims, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_a_caption_that_is_true_of_another_picture_is_no_negative() -> None:
    images, texts = unit(3), unit(3).flip(0)
    strict = caption_contrast(images, texts, torch.zeros(3, 3, dtype=torch.bool), 10.0)
    lenient = caption_contrast(images, texts, torch.ones(3, 3, dtype=torch.bool), 10.0)
    assert strict > 1
    assert lenient == pytest.approx(0.0)


def test_captions_of_no_picture_are_negatives() -> None:
    images = unit(3)
    alone = caption_contrast(images, images, torch.zeros(3, 3, dtype=torch.bool), 10.0)
    beside = caption_contrast(images, torch.cat([images, images]), torch.zeros(3, 6, dtype=torch.bool), 10.0)
    assert beside > alone + 0.3


def test_names_at_their_anchors_cost_little() -> None:
    anchors = unit(8)
    target = torch.tensor([2, 5])
    assert (
        name_loss(anchors[target], anchors, target, 30.0) < 0.1 < name_loss(anchors[target + 1], anchors, target, 30.0)
    )
    assert float(alignment(anchors, anchors)) == pytest.approx(0.0, abs=1e-6)


def test_distillation_is_zero_for_equal_logits_up_to_a_constant() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(1)) * 5
    assert float(distillation(logits + 3, logits)) == pytest.approx(0.0, abs=1e-4)
    assert float(distillation(logits.roll(1, 1), logits)) > 0.5
