"""Fourier features of summaries: what kernel they stand for, and that every machine has the same."""

import hashlib

import pytest
import torch
from torch.nn import functional as F

from igsp_deploy.model.fourier import BANDWIDTH, directions, fourier


@pytest.mark.parametrize("width", [1, 63, 64, 300])
def test_directions_are_orthogonal_and_of_one_length(width: int) -> None:
    columns = directions(width)
    torch.testing.assert_close(columns.T @ columns, BANDWIDTH**2 * torch.eye(width), atol=1e-5, rtol=0)


def test_directions_are_the_same_everywhere() -> None:
    """Heads on disk hang on them: another value here means that every model learned so far answers otherwise."""
    rounded = (directions(64) * 1000).round().to(torch.int16).numpy().astype("<i2")
    assert hashlib.sha256(rounded.tobytes()).hexdigest()[:16] == "2243dddccc1741ef"


def test_products_are_near_a_gaussian_kernel() -> None:
    x = F.layer_norm(torch.randn(40, 512, generator=torch.Generator().manual_seed(0)), (512,))
    x = F.layer_norm(x + 2 * x[:1], (512,))
    features = fourier(x, directions(512))
    assert features.shape == (40, 1024)
    kernel = torch.exp(-0.5 * BANDWIDTH**2 * torch.cdist(x, x).square() / 512)
    torch.testing.assert_close(features @ features.T / 512, kernel, atol=0.12, rtol=0)
    assert float((features @ features.T / 512 - kernel).abs().mean()) < 0.03
