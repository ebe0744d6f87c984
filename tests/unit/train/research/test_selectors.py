"""Kinds of selectors, and how they are compared."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from igsp_deploy.config import SelectorConfig
from igsp_deploy.model.selector import Selector, task_statistics
from igsp_train.research.study import selectors
from igsp_train.research.study.selectors import (
    DIRECTIONS,
    KINDS,
    OWN_WEIGHT,
    Read,
    measure_selector,
    score_stages,
    whitening,
)

FEATURES = 24
CONFIG = SelectorConfig(shrinkage=0.2, background=0.3)


def figures(*places: dict[str, Read], orders: list[tuple[str, ...]], kind: str) -> dict[str, Any]:
    return measure_selector([score_stages(reads, orders, kind, CONFIG) for reads in places], CONFIG)


def read_at(place: float, seed: int, *, held_out: float = 1.0, count: int = 300) -> Read:
    """A task of two classes around `place`; `held_out` is the spread of its held-out images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2

    def draw(spread: float) -> Tensor:
        noise = torch.randn(count, FEATURES, generator=generator) * torch.linspace(0.5, 1.5, FEATURES)
        return place + labels[:, None] + spread * noise

    return Read(train=draw(1.0), labels=labels, val=draw(held_out), test=draw(1.0))


@pytest.fixture
def known() -> list[Read]:
    return [read_at(0.0, 0), read_at(3.0, 1)]


def test_the_products_selector_is_among_the_kinds(known: list[Read]) -> None:
    statistics = [task_statistics(read.train, read.labels, 2, read.val) for read in known]
    product = Selector.fit(statistics, shrinkage=0.2, false_alarm=0.05, background=0.3)
    x = read_at(1.0, 2).test
    assert torch.equal(KINDS["background"](known, CONFIG)(x), product.scores(x))
    assert torch.equal(KINDS["shared"](known, CONFIG)(x), -product.distances(x))


def test_directions_are_gaussians_with_a_covariance_of_their_own(known: list[Read]) -> None:
    statistics = [task_statistics(read.train, read.labels, 2, read.val) for read in known]
    shared = torch.stack([s.scatter.double() for s in statistics]).sum(0) / sum(s.count for s in statistics)
    w = whitening(shared, 0.2)
    center = torch.cat([s.means for s in statistics]).mean(0)
    x = read_at(1.0, 2).test[:40]
    u = (x - center) @ w
    columns = []
    for own in statistics:
        covariance = (w.double().T @ own.scatter.double() @ w.double() + OWN_WEIGHT * torch.eye(FEATURES)) / (
            own.count + OWN_WEIGHT
        )
        values, axes = torch.linalg.eigh(covariance)
        values[:-DIRECTIONS] = values[:-DIRECTIONS].mean()
        dense = (axes * values @ axes.T).float()
        means = (own.means - center) @ w
        columns.append(
            torch.stack([torch.distributions.MultivariateNormal(m, dense).log_prob(u) for m in means]).max(0).values
        )
    expected = torch.stack(columns, 1) + 0.5 * FEATURES * math.log(2 * math.pi) + 0.15 * u.square().sum(1, keepdim=True)
    torch.testing.assert_close(KINDS["directions"](known, CONFIG)(x), expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_tells_tasks_apart_and_leaves_what_is_far_from_all(kind: str) -> None:
    reads = {"a": read_at(0.0, 0), "b": read_at(6.0, 1), "c": read_at(-8.0, 2)}
    found = figures(reads, orders=[("a", "b", "c"), ("c", "b", "a")], kind=kind)
    assert found["right_task"] > 85
    assert found["false_alarm"] < 12
    assert found["unseen_left_to_plain"] > 95
    assert found["unseen_at_equal_alarm"] > 95


def test_kinds_are_compared_at_equal_false_alarms_whatever_their_held_out_images_say() -> None:
    found = []
    for spread in (1.0, 0.9):
        places = {"a": 0.0, "b": 9.0, "c": 0.7}
        reads = {name: read_at(at, seed, held_out=spread) for seed, (name, at) in enumerate(places.items())}
        found.append(figures(reads, orders=[("a", "b", "c")], kind="shared"))
    fair, strict = found
    assert strict["false_alarm"] > fair["false_alarm"] + 3
    apart = strict["unseen_left_to_plain"] - fair["unseen_left_to_plain"]
    assert apart > 5
    assert abs(strict["unseen_at_equal_alarm"] - fair["unseen_at_equal_alarm"]) < apart / 2


def test_shares_are_counted_after_the_last_task_and_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a task takes features above -1; of b's images half are, and of a's all but one in four."""

    def score(known: list[Read], config: SelectorConfig) -> selectors.Score:
        return lambda x: torch.stack([x[:, t] for t in range(len(known))], 1)

    monkeypatch.setitem(KINDS, "by hand", score)
    val = torch.tensor([[-1.0, -1.0]] * 4)
    labels = torch.zeros(4, dtype=torch.int64)
    a = Read(train=val, labels=labels, val=val, test=torch.tensor([[0.0, -5], [0, -5], [-2, 3], [-2, -3]]))
    b = dataclasses.replace(a, test=torch.tensor([[0.0, 1], [-3, 1], [0, 1], [-3, 1]]))
    found = figures({"a": a, "b": b}, orders=[("a", "b")], kind="by hand")
    assert found["right_task"] == (50 + 100) / 2
    assert found["false_alarm"] == (25 + 0) / 2
    assert found["unseen_left_to_plain"] == 50
    # The known ones have 1, 1, -1 and -1 beside the line, the unseen 1, -2, 1 and -2.
    assert found["auroc"] == 100 * (2 * (2 + 1) + 2 * 2) / 16
    assert found["fpr_at_95"] == 50


def test_scores_of_two_places_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: each place is wrong about half of the images of each task, and by less than it is right elsewhere."""

    def score(known: list[Read], config: SelectorConfig) -> selectors.Score:
        return lambda x: x[:, : len(known)]

    monkeypatch.setitem(KINDS, "by hand", score)
    labels, margins = torch.zeros(2, dtype=torch.int64), torch.tensor([3.0, -1.0])

    def place(margins: Tensor) -> dict[str, Read]:
        tests = [torch.stack([margins, -margins], 1), torch.stack([-margins, margins], 1)]
        return {n: Read(train=t, labels=labels, val=t - 9, test=t) for n, t in zip("ab", tests, strict=True)}

    one, other = place(margins), place(margins.flip(0))
    assert figures(one, orders=[("a", "b")], kind="by hand")["right_task"] == 50
    assert figures(other, orders=[("a", "b")], kind="by hand")["right_task"] == 50
    assert figures(one, other, orders=[("a", "b")], kind="by hand")["right_task"] == 100


def test_detection_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    def score(known: list[Read], config: SelectorConfig) -> selectors.Score:
        return lambda x: x[:, : len(known)]

    monkeypatch.setitem(KINDS, "by hand", score)
    random = torch.Generator().manual_seed(0)
    # Few values, so that many are equal.
    tests = [torch.randint(0, 9, (200, 2), generator=random).float() + 2 * (1 - later) for later in (0, 1)]
    reads = {
        name: Read(train=test, labels=torch.zeros(200, dtype=torch.int64), val=test, test=test)
        for name, test in zip("ab", tests, strict=True)
    }
    found = figures(reads, orders=[("a", "b")], kind="by hand")
    truth, scores = [1] * 200 + [0] * 200, torch.cat(tests)[:, 0].numpy()
    assert found["auroc"] == round(100 * roc_auc_score(truth, scores), 1)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found["fpr_at_95"] == round(100 * float(false[(true >= 0.95).argmax()]), 1)
