"""The closed-form head: what ridge gives, how it is weighed, and what must not break it."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.names import PLAIN
from igsp_train import head as head_module
from igsp_train.head import (
    FOLDS,
    STRENGTH,
    TEMPERATURES,
    WEIGHT_OF_FEW,
    WEIGHTS,
    RidgeSums,
    best_weight,
    predicted,
    spread_of,
    task_head,
    temperature,
    weight_of,
)


def drawn(count: int, classes: int, noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Features `[N, 12]` around a center a class, and labels."""
    random = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % classes
    centers = torch.randn(classes, 12, generator=random)
    return centers[labels] + noise * torch.randn(count, 12, generator=random), labels


def test_it_is_ridge_without_intercept_on_one_hot_less_class_shares() -> None:
    x, labels = drawn(30, 4)
    labels[labels == 3] = 0  # unequal classes, one of them empty
    sums = RidgeSums(4, 12)
    sums.add(x[:13], labels[:13])
    other = RidgeSums(4, 12)
    other.add(x[13:], labels[13:])
    target = F.one_hot(labels, 4).double()
    target -= target.mean(0)
    gram = x.double().T @ x.double()
    gram += STRENGTH * gram.diagonal().mean() * torch.eye(12)
    expected = torch.linalg.solve(gram, x.double().T @ target).T
    torch.testing.assert_close(sums.plus([other]).solve(), expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 2, 3000])
@pytest.mark.parametrize("images", ["drawn", "constant", "zero"])
def test_any_images_give_finite_numbers(classes: int, images: str) -> None:
    x, labels = drawn(max(7, classes), classes)
    x = {"drawn": x, "constant": torch.full_like(x, 3.0), "zero": torch.zeros_like(x)}[images]
    sums = RidgeSums(classes, 12)
    assert sums.solve().isfinite().all()  # no image at all
    sums.add(x, labels)
    assert sums.solve().isfinite().all()
    assert sums.solve().shape == (classes, 12)


def test_the_weight_is_that_of_the_least_loss_and_zero_where_the_ridge_does_not_help() -> None:
    labels = torch.arange(40) % 4
    right = F.one_hot(labels, 4).double() * 5.0
    noise = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert best_weight(right, noise, labels, WEIGHTS) == 0.0
    assert best_weight(noise, right, labels, WEIGHTS) == WEIGHTS[-1]
    assert best_weight(noise, right, labels, WEIGHTS[:3]) == WEIGHTS[2]
    assert best_weight(right, torch.ones(40, 4), labels, WEIGHTS) == 0.0


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.0])
def test_the_temperature_is_the_planted_one_and_near_one_where_few_images_say_so(planted: float) -> None:
    random = torch.Generator().manual_seed(0)
    sure = 2.0 * torch.randn(4000, 5, generator=random)
    labels = torch.multinomial(sure.softmax(1), 1, generator=random)[:, 0]
    assert temperature(planted * sure, labels) == pytest.approx(planted, rel=0.08)
    few = temperature(planted * sure[:20], labels[:20])
    assert min(planted, 1.0) / 1.1 < few < max(planted, 1.0) * 1.1
    assert few == 1.0 or abs(few - 1.0) < abs(
        temperature(planted * sure[:20].repeat(50, 1), labels[:20].repeat(50)) - 1
    )


def test_no_images_and_only_right_ones_give_a_temperature_within_bounds() -> None:
    assert temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) == pytest.approx(1.0)
    right = F.one_hot(torch.arange(3000) % 3, 3) * 0.1
    assert temperature(right, torch.arange(3000) % 3) == float(TEMPERATURES[0])
    assert temperature(right, torch.arange(1, 3001) % 3) == float(TEMPERATURES[-1])


@pytest.fixture(scope="module")
def task() -> tuple[LearnedClip, torch.Tensor, torch.Tensor]:
    """A CLIP with one task of two classes that differ in brightness; tokens and labels of 40 images."""
    own = Learned(experts={}, display_names=["cat", "dog"], templates=["a {}."])
    learned = LearnedClip(load_backbone("debug"), [("vision", 1)], [own])
    labels = torch.arange(40) // 2 % 2
    random = torch.Generator().manual_seed(5)
    noise = torch.randint(0, 60, (40, 32, 32, 3), generator=random)
    images = (noise + labels[:, None, None, None] * torch.tensor([150, 0, 60])).to(torch.uint8)
    return learned, learned.trunk(images), labels


def test_a_head_tells_apart_what_words_cannot(task: tuple[LearnedClip, torch.Tensor, torch.Tensor]) -> None:
    learned, tokens, labels = task
    seen = (learned.clip.summary(tokens[:30]), labels[:30])
    head = task_head(learned, seen, [], (tokens[10:], labels[10:]))
    assert head is not None
    assert head.vectors is not None
    assert head.vectors.shape == (2, 2 * seen[0].shape[1])
    assert head.num_parameters() == head.vectors.numel() + 1
    both = LearnedClip(learned.backbone, [("vision", 1)], [dataclasses.replace(learned.tasks[0], head=head)])
    assert (both.predict(tokens, 0).argmax(1) == labels).float().mean() > 0.95
    assert (learned.predict(tokens, 0).argmax(1) == labels).float().mean() < 0.8
    # Scores spread as those of the words do: the head's part is its weight of them.
    words = learned.cosines(tokens[10:], 0)
    part = both.cosines(tokens[10:], 0) - head.text_share * words
    assert spread_of(part) == pytest.approx((1 - head.text_share) * spread_of(words), rel=1e-3)


def test_a_head_of_older_models_is_compared_with_the_summary_itself(
    task: tuple[LearnedClip, torch.Tensor, torch.Tensor],
) -> None:
    learned, tokens, labels = task
    bare = LearnedClip(learned.backbone, [("vision", 1)], learned.tasks, head_features="summary")
    read = learned.clip.summary(tokens)
    assert torch.equal(bare.read(tokens), read)
    head = task_head(bare, (read, labels), [], (tokens, labels))
    assert head is not None
    assert head.vectors is not None
    assert head.vectors.shape == (2, read.shape[1])
    own = dataclasses.replace(learned.tasks[0], head=head)
    both = LearnedClip(learned.backbone, [("vision", 1)], [own], head_features="summary")
    expected = head.text_share * learned.cosines(tokens, 0) + read @ head.vectors.T
    torch.testing.assert_close(both.cosines(tokens, 0), expected, rtol=1e-4, atol=1e-5)


def test_a_temperature_divides_scores_and_is_found_in_them(
    task: tuple[LearnedClip, torch.Tensor, torch.Tensor],
) -> None:
    learned, tokens, labels = task
    head = task_head(learned, (learned.clip.summary(tokens), labels), [], (tokens, labels))
    assert head is not None
    cool, warm = (
        LearnedClip(learned.backbone, [("vision", 1)], [dataclasses.replace(learned.tasks[0], head=one)])
        for one in (head, head.tempered(0.5))
    )
    torch.testing.assert_close(predicted(warm, tokens), 2 * cool.predict(tokens, 0), rtol=1e-4, atol=1e-4)
    assert weight_of(head.tempered(0.5), 0.5) == pytest.approx(weight_of(head, 1.0)) == pytest.approx(WEIGHTS[-1])
    assert weight_of(None, 1.0) == 0.0


def test_views_count_as_more_images(task: tuple[LearnedClip, torch.Tensor, torch.Tensor]) -> None:
    learned, tokens, labels = task
    seen, held = (learned.clip.summary(tokens[:12]), labels[:12]), (tokens[12:], labels[12:])
    alone, more = (task_head(learned, seen, views, held) for views in ([], [learned.clip.summary(tokens[:12]) + 0.3]))
    assert alone is not None
    assert alone.vectors is not None
    assert more is not None
    assert more.vectors is not None
    assert not torch.allclose(alone.vectors, more.vectors)


def test_few_held_out_images_are_replaced_by_folds_of_the_training_images(
    task: tuple[LearnedClip, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned, tokens, labels = task
    folds, read = torch.arange(40) % FOLDS, learned.clip.summary(tokens)
    head = task_head(learned, (read, labels), [], (tokens, labels), folds=folds)
    assert head is not None
    assert head.text_share == 1.0 - WEIGHT_OF_FEW
    # A trunk that says nothing of these labels, beside words that do: a ridge that has seen them would be right, too.
    drawn_labels = torch.randint(0, 2, (40,), generator=torch.Generator().manual_seed(1))
    words = F.one_hot(drawn_labels, 2) * 0.05
    monkeypatch.setattr(head_module, "measure", lambda *_: (words, words, learned.for_heads(read)))
    assert task_head(learned, (read, drawn_labels), [], (tokens, drawn_labels), folds=folds) is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_task_of_one_class_or_of_hardly_an_image_has_finite_scores(
    task: tuple[LearnedClip, torch.Tensor, torch.Tensor], count: int
) -> None:
    learned, tokens, labels = task
    few, own = tokens[:count], labels[:count]
    folds, read = torch.arange(count) % FOLDS, learned.clip.summary(few)
    head = task_head(learned, (read, own), [], (few, own), folds=folds)
    assert head is None or (head.vectors is not None and head.vectors.isfinite().all())
    single = LearnedClip(learned.backbone, [], [dataclasses.replace(learned.tasks[0], display_names=["cat"])])
    assert task_head(single, (read, own * 0), [], (few, own * 0), folds=folds) is None
    assert task_head(learned, (read[:0], own[:0]), [], (few, own)) is None
    assert task_head(learned, (read, own), [], None) is None


def test_plain_clip_and_other_words_have_no_head(task: tuple[LearnedClip, torch.Tensor, torch.Tensor]) -> None:
    learned, tokens, labels = task
    head = task_head(learned, (learned.clip.summary(tokens), labels), [], (tokens, labels))
    both = LearnedClip(learned.backbone, [("vision", 1)], [dataclasses.replace(learned.tasks[0], head=head)])
    assert torch.equal(both.predict(tokens, PLAIN), learned.predict(tokens, PLAIN))
    assert not torch.equal(both.predict(tokens, 0), learned.predict(tokens, 0))
    read, features = learned.read(tokens), learned.embed(tokens, PLAIN)
    assert torch.equal(both.compare(features, read, 0, under=PLAIN), learned.compare(features, read, 0, under=PLAIN))
    assert torch.equal(both.class_vectors(0, PLAIN), learned.class_vectors(0, PLAIN))
    assert both.head_vectors(PLAIN) is None
