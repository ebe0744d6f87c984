"""The face of the learned model: each answer against the parts it is made of."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F

from igsp_deploy.config import ModelConfig, SelectorConfig
from igsp_deploy.errors import UserError
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.names import PLAIN

if TYPE_CHECKING:
    from tests.conftest import Bundled


@pytest.fixture(scope="module")
def learned(bundled: "Bundled") -> LearnedClip:
    return LearnedClip.open(ModelFolder.open(bundled.model))


@pytest.fixture(scope="module")
def tokens(learned: LearnedClip) -> torch.Tensor:
    size = learned.backbone.preprocess.size
    images = torch.randint(0, 256, (6, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return learned.trunk(images)


def test_plain_is_open_clip_to_the_bit(learned: LearnedClip) -> None:
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    pixels, ids = learned.clip.pixels(images), learned.backbone.tokenize(["a red wall"])
    with torch.no_grad():
        own = learned.backbone.clip.encode_image(pixels, normalize=True)
        assert torch.equal(learned.embed(learned.trunk(images), PLAIN), own)
        assert torch.equal(learned.embed_text(ids, PLAIN), learned.backbone.clip.encode_text(ids, normalize=True))


def test_each_image_is_embedded_under_its_own_task(learned: LearnedClip, tokens: torch.Tensor) -> None:
    task = torch.tensor([1, PLAIN, 0, 0, PLAIN, 1])
    together = learned.embed(tokens, task)
    for row, one in enumerate(task.tolist()):
        torch.testing.assert_close(together[row], learned.embed(tokens[row : row + 1], one)[0], atol=1e-6, rtol=1e-6)
    assert (learned.embed(tokens, 0) - learned.embed(tokens, 1)).abs().max() > 0.05


def test_a_factor_of_zero_is_plain_clip_for_that_image(learned: LearnedClip, tokens: torch.Tensor) -> None:
    task = torch.tensor([1, 1, 0, 0, PLAIN, 1])
    found = learned.embed(tokens, task, w=torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 1.0]))
    plain, own = learned.embed(tokens, PLAIN), learned.embed(tokens, task)
    torch.testing.assert_close(found[[0, 2]], plain[[0, 2]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[[1, 3, 4, 5]], own[[1, 3, 4, 5]], atol=1e-6, rtol=1e-6)


def test_class_vectors_average_normalised_templates_under_the_tasks_own_experts(learned: LearnedClip) -> None:
    words = learned.tasks[1]
    parts = []
    for template in words.templates:
        ids = learned.backbone.tokenize([template.format(name) for name in words.display_names])
        parts.append(learned.embed_text(ids, 1))
    expected = F.normalize(sum(parts[1:], start=parts[0]), dim=-1)
    assert words.head is not None
    torch.testing.assert_close(learned.class_vectors(1), expected * words.head.text_share)
    assert (learned.class_vectors(1) - learned.class_vectors(1, under=PLAIN)).abs().max() > 0.01


def test_plain_clip_is_told_the_classes_of_all_tasks(learned: LearnedClip, tokens: torch.Tensor) -> None:
    both = torch.cat([learned.class_vectors(t, under=PLAIN) for t in (0, 1)])
    assert torch.equal(learned.class_vectors(PLAIN), both)
    expected = learned.backbone.logit_scale * learned.embed(tokens, PLAIN) @ both.T
    torch.testing.assert_close(learned.predict(tokens, PLAIN), expected)


def test_scores_are_scaled_cosines_with_the_tasks_classes(learned: LearnedClip, tokens: torch.Tensor) -> None:
    expected = learned.backbone.logit_scale * learned.embed(tokens, 0) @ learned.class_vectors(0).T
    torch.testing.assert_close(learned.predict(tokens, 0), expected)


def test_the_task_is_chosen_by_the_selector_from_the_trunk(learned: LearnedClip, tokens: torch.Tensor) -> None:
    assert learned.selector is not None
    read = learned.clip.summary(tokens)
    assert torch.equal(learned.choose(tokens), learned.selector.choose(read))
    assert set(learned.choose(tokens, among=[1]).tolist()) <= {1, PLAIN}


def test_experts_and_selector_are_parts_of_the_module(bundled: "Bundled") -> None:
    double = LearnedClip.open(ModelFolder.open(bundled.model)).double()
    assert {buffer.dtype for buffer in double.tasks[0].experts["vision", 2].buffers()} == {torch.float64}
    assert double.selector is not None
    assert double.selector.center.dtype == torch.float64


def test_a_task_without_experts_is_plain_clip_with_its_words() -> None:
    backbone = load_backbone("debug")
    task = Learned(experts={}, display_names=["a cat", "a dog"], templates=["{}."])
    learned = LearnedClip(backbone, [("vision", 1)], [task])
    tokens = learned.trunk(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    assert torch.equal(learned.predict(tokens, 0), learned.predict(tokens, PLAIN))


def test_a_model_without_a_task_says_how_to_get_one(tmp_path: Path) -> None:
    config = ModelConfig(backbone="debug")
    folder = ModelFolder.create(tmp_path / "model", load_backbone("debug"), config, SelectorConfig())
    with pytest.raises(UserError, match="no learned task yet; `igsp train"):
        LearnedClip.open(folder)
