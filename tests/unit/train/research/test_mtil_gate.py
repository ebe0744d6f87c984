"""The zero-shot gate names the sets whose figures are off."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from igsp_deploy.data import read_eval_images
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.model.loading import load_backbone
from igsp_train.research.mtil import SETS
from igsp_train.research.mtil.check import check_set
from igsp_train.research.mtil.gate import run_gate
from tests.mtil_replicas import build_replicas

QUIET = Console(quiet=True)


def test_only_the_set_that_is_off_is_named(tmp_path: Path) -> None:
    backbone = load_backbone("debug")
    build_replicas(tmp_path, ("dtd", "mnist"))
    checks = [check_set(SETS[name], tmp_path) for name in ("dtd", "mnist", "sun397")]
    first = run_gate(backbone, checks, console=QUIET)
    assert [result.name for result in first] == ["dtd", "mnist"], "a set that is not there has no figure"
    assert [result.images for result in first] == [9, 9]
    expected = {"dtd": first[0].measured + 0.9, "mnist": first[1].measured - 1.1}
    checks = [
        dataclasses.replace(check, one=dataclasses.replace(check.one, zero_shot=expected.get(check.one.name, 0)))
        for check in checks
    ]
    assert [(result.name, result.off) for result in run_gate(backbone, checks, console=QUIET)] == [
        ("dtd", False),
        ("mnist", True),
    ]
    assert not any(result.off for result in run_gate(backbone, checks, tolerance=1.2, console=QUIET))


def test_the_measured_figure_is_plain_clip_with_the_whole_ensemble(tmp_path: Path) -> None:
    backbone = load_backbone("debug")
    build_replicas(tmp_path, ("dtd",))
    check = check_set(SETS["dtd"], tmp_path)
    assert check.found is not None
    images, labels, _ = read_eval_images(check.found.splits["test"], backbone.preprocess)
    names, templates = ["banded", "polka-dotted", "zigzagged"], list(SETS["dtd"].templates)
    plain = LearnedClip(backbone, [], [Learned(experts={}, display_names=names, templates=templates)])
    pixels = plain.clip.pixels(torch.from_numpy(images))
    with torch.no_grad():
        answers = (backbone.clip.encode_image(pixels) @ plain.class_vectors(0).T).argmax(1).numpy()
    measured = run_gate(backbone, [check], console=QUIET)[0].measured
    assert measured == pytest.approx(100 * np.mean(answers == labels))
