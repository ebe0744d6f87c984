"""Learning in bfloat16, on the CPU: what is kept is float32, it learns as float32 does, and it resumes to the bit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from igsp_deploy.config import Precision
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_train.features import TrunkViews
from igsp_train.learn import TaskRun
from igsp_train.steps import LearnResult
from tests.unit.train.test_learn import CLASSES, LEARN, ColourViews, backbone, finish, new_folder

__all__ = ["backbone"]


def _run(backbone: Backbone, folder: ModelFolder, precision: Precision) -> TaskRun:
    config = dataclasses.replace(LEARN, steps=40, precision=precision)
    views = ColourViews(180)
    clip = Clip(backbone, folder.sites, exact=False)
    trunk = TrunkViews(clip, views, cached_views=2, limit_bytes=1 << 30, precision=precision)
    prompts = [f"a {name} picture" for name in CLASSES]
    return TaskRun(backbone, folder, config, views=trunk, labels=views.labels, prompts=prompts, fingerprint="colours")


def _accuracy(backbone: Backbone, folder: ModelFolder, result: LearnResult) -> float:
    """Share of images of a shade that was not learned whose class is right."""
    finish(folder, result)
    learned, others = LearnedClip.open(folder, backbone), ColourViews(170)
    features = learned.embed(learned.trunk(torch.from_numpy(others.images)), 0)
    return float(np.mean((features @ learned.class_vectors(0).T).argmax(1).numpy() == others.labels))


def test_bf16_learns_as_fp32_does_keeps_float32_and_resumes_to_the_bit(tmp_path: Path, backbone: Backbone) -> None:
    results, folders = {}, {}
    for precision in ("fp32", "bf16"):
        folders[precision] = new_folder(tmp_path / precision, backbone)
        results[precision] = _run(backbone, folders[precision], precision).run()
    through = results["bf16"]
    assert through.curves["loss"] != results["fp32"].curves["loss"]
    np.testing.assert_allclose(through.curves["loss"], results["fp32"].curves["loss"], atol=0.05)

    folder = new_folder(tmp_path / "resumed", backbone)
    first = _run(backbone, folder, "bf16")
    with pytest.raises(InterruptedError):
        first.run(stop=lambda: first.progress.step == 23)
    second = _run(backbone, folder, "bf16")
    assert second.progress.step == 23
    resumed = second.run()
    assert resumed.curves == through.curves
    ours, theirs = dict(resumed.learner.named_parameters()), dict(through.learner.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == torch.float32, name
        assert value.isfinite().all(), name
        assert torch.equal(value, theirs[name]), name

    accuracies = {name: _accuracy(backbone, folders[name], results[name]) for name in results}
    assert accuracies["fp32"] > 0.9  # both were 1.0 when this was written
    assert abs(accuracies["bf16"] - accuracies["fp32"]) <= 0.05
