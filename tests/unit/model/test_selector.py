"""The selector: choice by Gaussians, thresholds, independence of the batch."""

import dataclasses

import pytest
import torch
from torch import Tensor

from igsp_deploy.model.selector import HELD_OUT, Selector, TaskStatistics, left_out_scores, task_statistics
from igsp_deploy.names import PLAIN


def cloud(center: float, seed: int, count: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    return torch.randn(count, 6, generator=generator) + center + labels[:, None] * 2.0, labels


def make(false_alarm: float = 0.05, background: float = 0.4) -> Selector:
    statistics = []
    for task, center in enumerate((0.0, 8.0, 16.0)):
        train, labels = cloud(center, task)
        statistics.append(task_statistics(train, labels, 2, cloud(center, 10 + task)[0]))
    return Selector.fit(statistics, shrinkage=0.1, false_alarm=false_alarm, background=background)


def test_it_chooses_the_task_an_image_came_from() -> None:
    selector = make(false_alarm=0.0)
    for task, center in enumerate((0.0, 8.0, 16.0)):
        chosen = selector.choose(cloud(center, 20 + task)[0])
        assert (chosen == task).float().mean() > 0.95


def test_far_images_are_left_to_plain_clip() -> None:
    assert (make().choose(torch.full((5, 6), -30.0)) == PLAIN).all()


def test_the_false_alarm_rate_is_about_the_one_asked_for() -> None:
    chosen = make(false_alarm=0.2).choose(cloud(8.0, 99, 2000)[0])
    assert 0.12 < (chosen == PLAIN).float().mean() < 0.28


def test_scores_are_log_likelihoods_of_the_nearest_class_less_those_of_a_wide_background() -> None:
    train, labels = cloud(0.0, 0)
    statistics = task_statistics(train, labels, 2, train[:10])
    selector = Selector.fit([statistics], shrinkage=0.25, false_alarm=0.1, background=0.3)
    covariance = statistics.scatter / statistics.count
    covariance = 0.75 * covariance + 0.25 * covariance.diagonal().mean() * torch.eye(6)
    x = cloud(1.0, 5)[0][:7]

    def log_density(mean: Tensor, covariance: Tensor) -> Tensor:
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)

    own = torch.stack([log_density(mean, covariance) for mean in statistics.means]).max(0).values
    wide = log_density(statistics.means.mean(0), covariance / 0.3)
    score = selector.scores(x)[:, 0]
    spread = torch.linalg.slogdet(covariance)[1] + 6 * torch.log(torch.tensor(2 * torch.pi))
    distance, away = -own - 0.5 * spread, -wide - 0.5 * spread - 3 * torch.log(torch.tensor(1 / 0.3))
    torch.testing.assert_close(selector.distances(x)[:, 0], distance, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(score, away - distance, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(selector.sizes(x)[:, 0], away + distance, atol=1e-3, rtol=1e-3)


def test_a_background_leaves_more_unseen_images_to_plain_clip_at_equal_false_alarms() -> None:
    """Two classes far apart; unseen images lie between them, as near to a class as its own outermost images."""
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 2
        return torch.randn(count, 40, generator=generator) + (8.0 * labels - 4.0)[:, None] * torch.eye(40)[0], labels

    train, own = images(600), images(600)[0]
    statistics = task_statistics(*train, 2, images(600)[0])
    unseen = torch.randn(600, 40, generator=generator) * 1.05
    left = []
    for background in (0.0, 0.4):
        selector = Selector.fit([statistics], shrinkage=0.1, false_alarm=0.05, background=background)
        assert 0.02 < (selector.choose(own) == PLAIN).float().mean() < 0.09
        left.append(float((selector.choose(unseen) == PLAIN).float().mean()))
    assert left[1] > left[0] + 0.05


def test_a_background_does_not_change_which_task_is_best() -> None:
    x = torch.cat([cloud(c, 5)[0] for c in (0.0, 4.0, 8.0, 12.0, 16.0)])
    ours, theirs = make(background=0.4).scores(x), make(background=0.0).scores(x)
    assert torch.equal(ours.argmax(1), theirs.argmax(1))
    torch.testing.assert_close(theirs, -make().distances(x))
    assert (ours > theirs).all()


def test_the_choice_does_not_depend_on_the_batch() -> None:
    selector = make()
    x = torch.cat([cloud(c, 3)[0][:20] for c in (0.0, 8.0, 16.0)])
    assert torch.equal(selector.choose(x), torch.cat([selector.choose(row[None]) for row in x]))


def test_features_that_hardly_vary_do_not_blow_rounding_up() -> None:
    train, labels = cloud(0.0, 0)
    statistics = task_statistics(train * 1e-5, labels, 2, train[:10] * 1e-5)
    x = cloud(0.0, 1)[0] * 1e-5
    selector = Selector.fit([statistics], shrinkage=0.1, false_alarm=0.1, background=0.4)
    assert (selector.scores(x + 1e-6) - selector.scores(x)).abs().max() < 1e-3


def left_out(tasks: list[TaskStatistics], index: int, shrinkage: float = 0.1, background: float = 0.4) -> Tensor:
    """What `Selector.fit` makes of task `index`."""
    selector = Selector.fit(tasks, shrinkage=shrinkage, false_alarm=0.05, background=background)
    total = sum(task.count for task in tasks)
    return left_out_scores(
        tasks[index],
        selector.center.double(),
        selector.whitening.double(),
        background,
        share=1 / len(selector.means),
        weight=(1 - shrinkage) / total,
    )


@pytest.mark.parametrize("background", [0.0, 0.4])
def test_leaving_an_image_out_equals_fitting_anew_without_it(background: float) -> None:
    other = task_statistics(*cloud(9.0, 1, 60), 2)
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(45) % 3  # three classes near each other: the nearest is often not an image's own
    x = 1.5 * torch.randn(45, 6, generator=generator) + labels[:, None]
    ours = left_out([other, task_statistics(x, labels, 3)], 1, background=background)
    anew, nearer = [], 0
    for i in range(45):
        rest = torch.arange(45) != i
        without = task_statistics(x[rest], labels[rest], 3, x[i : i + 1])
        selector = Selector.fit([other, without], shrinkage=0.1, false_alarm=0.05, background=background)
        anew.append(selector.scores(x[i : i + 1])[0, 1])
        u = (x[i] - selector.center) @ selector.whitening
        nearer += int((selector.means[2:] - u).square().sum(1).argmin() != labels[i])
    assert nearer > 5
    # One image less in 105 changes the covariance's divisor and its mean variance by about a percent each.
    torch.testing.assert_close(ours, torch.stack(anew), rtol=0.03, atol=0.05)
    trained = Selector.fit([other, task_statistics(x, labels, 3)], shrinkage=0.1, false_alarm=0.05, background=0.0)
    if not background:
        assert (trained.scores(x)[:, 1] / ours).mean() < 0.9  # what an image says of itself is too good


def test_training_images_set_a_threshold_that_holds_for_new_images() -> None:
    """Many features and few images a class, where scores of the images that were learned from are far too good."""
    generator = torch.Generator().manual_seed(0)
    centers = 3 * torch.randn(10, 40, generator=generator)
    labels = torch.arange(200) % 10

    def images(seed: int, count: int) -> Tensor:
        drawn = torch.randn(count, 40, generator=torch.Generator().manual_seed(seed))
        return drawn + centers[torch.arange(count) % 10]

    train = images(1, 200)
    new = images(2, 20_000)
    tasks = [task_statistics(train, labels, 10)]
    for asked in (0.02, 0.05, 0.2):
        chosen = Selector.fit(tasks, shrinkage=0.1, false_alarm=asked, background=0.4).choose(new)
        assert asked / 2 - 0.01 < (chosen == PLAIN).float().mean() < asked * 1.5 + 0.01
    # As if they were not among those of the means: what a program without leave-one-out makes of them.
    naive = [dataclasses.replace(tasks[0], labels=torch.full((200,), HELD_OUT))]
    chosen = Selector.fit(naive, shrinkage=0.1, false_alarm=0.05, background=0.4).choose(new)
    assert (chosen == PLAIN).float().mean() > 0.12


def test_a_sample_of_the_training_images_is_kept_with_its_labels() -> None:
    train, labels = cloud(0.0, 0, 1000)
    kept = task_statistics(train, labels, 2, keep=64)
    assert kept.calibration.shape == (64, 6)
    assert kept.sizes.tolist() == [500, 500]
    for feature, label in zip(kept.calibration, kept.labels, strict=True):
        assert label == labels[(train == feature).all(1).nonzero()[0, 0]]
    assert len(task_statistics(train[:5], labels[:5], 2, keep=64).labels) == 5


def test_a_class_of_one_image_says_nothing_of_how_far_images_lie() -> None:
    train, labels = cloud(0.0, 0, 40)
    lone = torch.cat([train, torch.full((1, 6), 30.0)])
    mixed = task_statistics(lone, torch.cat([labels, torch.tensor([2])]), 3)
    assert 2 not in mixed.labels
    few = task_statistics(train[:2], labels[:2], 2)  # all of them are: scored by each other's class
    selector = Selector.fit([few], shrinkage=0.1, false_alarm=0.05, background=0.0)
    assert (selector.choose(train[:2]) == 0).all()
    assert torch.isfinite(selector.thresholds).all()
    only = task_statistics(train[:1], labels[:1], 1)  # nothing at all is known: it takes what no other task does
    selector = Selector.fit([only], shrinkage=0.1, false_alarm=0.05, background=0.4)
    assert (selector.choose(train) == 0).all()


def test_a_label_set_speaks_for_its_task() -> None:
    selector = make(false_alarm=0.3)
    own = cloud(8.0, 77)[0]
    told = selector.choose(own, among=[1])
    assert set(told.tolist()) <= {1, PLAIN}
    assert (told == 1).sum() > (selector.choose(own) == 1).sum()
    assert (selector.choose(cloud(16.0, 4)[0], among=[0, 1]) != 2).all()
    assert (selector.choose(torch.full((5, 6), -30.0), among=[1]) == PLAIN).all()


def test_a_label_set_that_no_task_has_is_left_to_plain_clip() -> None:
    assert (make().choose(cloud(8.0, 77)[0], among=[]) == PLAIN).all()
