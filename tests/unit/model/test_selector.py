"""The selector: choice by Gaussians, thresholds, independence of the batch."""

import torch
from torch import Tensor

from igsp_deploy.model.selector import Selector, task_statistics
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
