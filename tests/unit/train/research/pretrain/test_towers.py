"""Training of the towers: what a step trains, and that a seed fixes the result."""

import random
import time

import pytest
import torch
from torch import nn

from igsp_deploy.backbones.nano.model import NANO_CONFIG
from igsp_deploy.backbones.nano.trunk import NUM_CELL, NUM_HEAD, Lite0
from igsp_train.research.pretrain import start
from igsp_train.research.pretrain.anchors import Anchors
from igsp_train.research.pretrain.cache import Cache
from igsp_train.research.pretrain.rendered import sample_scene
from igsp_train.research.pretrain.run import Material, Settings, Targets, train_towers
from igsp_train.research.pretrain.towers import NUM_REBUILT, Whitening

DIMS = NANO_CONFIG["embed_dim"]


def material() -> Material:
    generator, rng = torch.Generator().manual_seed(0), random.Random(0)
    scenes = [sample_scene(rng) for _ in range(800)]
    draws = [torch.rand(800, NUM_CELL, 4, 4, generator=generator).half() for _ in range(2)]
    real = Cache(cells=draws[0], labels=torch.randint(-1, 3, (800,), generator=generator), scenes=[])
    rendered = Cache(cells=draws[1], labels=torch.full((800,), -1), scenes=scenes)
    torch.manual_seed(0)
    classifier = nn.Linear(1280, 1000)
    return Material(
        trunk=Lite0(), classifier=classifier, real=real, held_out=real, rendered=rendered, class_names=["a", "b", "c"]
    )


def targets() -> Targets:
    generator = torch.Generator().manual_seed(1)
    tables = [nn.functional.normalize(torch.randn(n, DIMS, generator=generator), dim=1) for n in (1000, 3)]
    torch.manual_seed(1)
    anchors = Anchors(project=nn.Linear(1280, DIMS).requires_grad_(False), imagenet=tables[0], folder=tables[1])
    start = torch.randn(49408, NANO_CONFIG["text_cfg"]["width"], generator=generator) * 0.04
    names = [[f"thing {i}" for i in range(1000)], ["a", "b", "c"]]
    return Targets(anchors=anchors, names=names, tables=tables, token_start=start)


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the principal axes, which are not the subject here, cheap."""
    axes = torch.randn(NUM_REBUILT, NUM_CELL, generator=torch.Generator().manual_seed(2)) / NUM_CELL**0.5
    whitening = Whitening(mean=torch.zeros(NUM_CELL), std=torch.ones(NUM_CELL), axes=axes)
    monkeypatch.setattr(Whitening, "fit", staticmethod(lambda caches, seed: whitening))
    monkeypatch.setattr(start, "SAMPLE", 300)


def test_a_seed_fixes_the_result_and_the_logit_scale_stays() -> None:
    source, aims = material(), targets()
    settings = Settings(num_steps=2, batch=(4, 4, 4))
    first, second = (train_towers(source, aims, settings, time.monotonic() + 600) for _ in range(2))
    weights = first.state_dict()
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in weights.items())
    assert all(torch.isfinite(value).all() for name, value in weights.items() if name != "attn_mask")
    assert abs(float(first.logit_scale.detach().exp()) - NANO_CONFIG["logit_scale"]) < 1e-3


def test_the_vision_tower_starts_at_the_teachers_embedding() -> None:
    source, aims = material(), targets()
    torch.manual_seed(0)
    model = start.start_towers(aims.anchors, source.real, source.rendered, aims.token_start, 0)
    cells = source.real.cells[:64].float()
    with torch.no_grad():
        expected = aims.anchors.project(cells[:, :NUM_HEAD].mean((2, 3)))
        likeness = torch.cosine_similarity(model.visual(cells), expected)
        other = torch.cosine_similarity(model.visual(cells.flip(0)), expected)
    assert likeness.mean() > other.mean()
    assert likeness.mean() > 0.9
