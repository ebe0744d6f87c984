"""Which parts of an image speak for a label, on a model whose answer is known to hang on one corner."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from igsp_deploy.errors import UserError
from igsp_deploy.runtime.classifier import Prediction
from igsp_deploy.runtime.explain import AGAINST, FOR, PARTS, SIDE, Explanation, cover, draw, explain, weigh

SIZE = 45
"""No multiple of the number of parts."""


class Corner:
    """Says `cat` the surer, the brighter the upper left quarter is, and the darker the lower right one."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def classify(
        self, images: Sequence[NDArray[np.uint8]], task: str, prompts: Any, top_k: int, template: Any
    ) -> list[Prediction]:
        """As of `Classifier`."""
        self.asked.append((len(images), task, prompts, template))
        return [self._answer(image.astype(float) / 255) for image in images]

    def _answer(self, image: NDArray[np.float64]) -> Prediction:
        half = SIZE // 2
        odds = 8 * (image[:half, :half].mean() - image[half:, half:].mean())
        cat = 1 / (1 + np.exp(-odds))
        pairs = sorted([(cat, "cat"), (1 - cat, "dog")], reverse=True)
        scores, labels = zip(*pairs, strict=True)
        return Prediction(
            labels=labels, scores=scores, label_tasks=("pets",) * 2, task="pets", task_scores={}, zero_shot=False
        )


def picture() -> NDArray[np.uint8]:
    pixels = np.full((SIZE, SIZE, 3), 128, np.uint8)
    pixels[:22, :22], pixels[22:, 22:] = 220, 160
    return pixels


def test_each_part_is_covered_by_the_mean_colour_and_the_rest_is_left() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    before = pixels.copy()
    images = cover(pixels)
    assert len(images) == 1 + (PARTS - 1) ** 2
    assert (images[0] == before).all()
    assert (pixels == before).all()
    covered = [(image != before).any(-1) for image in images[1:]]
    assert np.logical_or.reduce(covered).mean() > 0.99
    for image, mask in zip(images[1:], covered, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert 10 <= np.ptp(rows) + 1 <= 12
        assert 10 <= np.ptp(columns) + 1 <= 12
        square = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (square == before.mean((0, 1)).round()).all()


def test_the_three_steps_by_themselves_are_an_explanation() -> None:
    model: Any = Corner()
    (found,) = model.classify([picture()], "pets", None, 1, None)
    answers = [one for image in cover(picture()) for one in model.classify([image], "pets", None, 9, None)]
    whole, steps = explain(model, picture(), found), weigh(answers, found)
    assert (whole.odds == steps.odds).all()
    assert draw(picture(), whole) == draw(picture(), steps)


def test_the_parts_that_the_answer_hangs_on_are_found_with_their_sign() -> None:
    model: Any = Corner()
    (found,) = model.classify([picture()], "pets", None, 5, None)
    explanation = explain(model, picture(), found)
    assert model.asked[1] == (1 + (PARTS - 1) ** 2, "pets", None, None)
    odds, half = explanation.odds, PARTS // 2
    assert explanation.label == "cat"
    assert odds[:half, :half].min() > 0.02
    assert odds[half + 1 :, half + 1 :].max() < -0.005
    assert np.abs(odds[: half - 1, half + 1 :]).max() < 1e-9
    assert explanation.lowest < explanation.score == found.scores[0]
    assert "red speaks for cat" in str(explanation)
    assert f"instead of {100 * found.scores[0]:.1f} %" in str(explanation)


def test_the_picture_is_red_where_it_speaks_for_the_label_and_says_what_it_shows() -> None:
    odds = np.zeros((PARTS, PARTS))
    odds[0, 0], odds[-1, -1] = 2.0, -2.0
    explanation = Explanation(label="Stiefel für Größe 40", score=0.9, lowest=0.4, odds=odds)
    image = Image.open(io.BytesIO(draw(np.full((32, 32, 3), 100, np.uint8), explanation)))
    assert image.size == (SIDE, SIDE)
    corner, other, middle = image.getpixel((2, 2)), image.getpixel((SIDE - 3, SIDE - 3)), image.getpixel((224, 224))
    assert corner == tuple(round(0.4 * 100 + 0.6 * value) for value in FOR)
    assert other == tuple(round(0.4 * 100 + 0.6 * value) for value in AGAINST)
    assert middle == (100, 100, 100)
    assert image.info["Description"] == str(explanation)


def test_where_nothing_matters_nothing_is_made_of_it() -> None:
    explanation = Explanation(label="cat", score=0.9, lowest=0.899, odds=np.full((PARTS, PARTS), 0.001))
    assert "no single part matters for cat" in str(explanation)
    image = Image.open(io.BytesIO(draw(np.full((32, 32, 3), 100, np.uint8), explanation)))
    assert max(abs(value - 100) for extrema in image.getextrema() for value in extrema) <= 2  # type: ignore[union-attr]


def test_one_label_alone_is_refused() -> None:
    class One:
        def classify(self, images: Sequence[Any], *_: Any) -> list[Prediction]:
            return [alone] * len(images)

    alone = Prediction(labels=("cat",), scores=(1.0,), label_tasks=(None,), task=None, task_scores={}, zero_shot=True)
    model: Any = One()
    with pytest.raises(UserError, match="one label only"):
        explain(model, picture(), alone)
