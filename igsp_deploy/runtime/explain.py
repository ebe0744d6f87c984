"""Which parts of an image speak for a label: how its odds change when a part is covered.

Occlusion, as in "Visualizing and Understanding Convolutional Networks" (arXiv 1311.2901, section 4.2): a square of the
image's mean colour moves over it, and each time the model is asked again. So it shows what this model's answer hangs
on. A bundle's graph gives no patch tokens, and CLIP's are no better a witness: nothing trains them to agree with texts.

What it is not: a reason; an outline of the object; a word on parts that count only together, or of which one would do.

Shapes: S image side, G parts a side.
"""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from igsp_deploy.errors import UserError
from igsp_deploy.runtime.classifier import Classifier, Prediction

PARTS = 8
"""Parts a side, G."""
COVERED = 2
"""Side of the square that covers, in parts."""
SIDE = 448
"""Side of the drawn picture, in pixels, at least."""
STRONGEST = 0.6
"""Opacity of the colour of the part that matters most."""
LITTLE = 0.05
"""Largest change of the log-odds under which no part is said to matter."""
FOR, AGAINST = (214, 40, 40), (30, 90, 200)
_CORNERS = tuple(itertools.product(range(PARTS - COVERED + 1), repeat=2))


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What covering parts of an image does to its first label.

    Attributes:
        label: the first label of the image as it is.
        score: its probability.
        lowest: its lowest probability with a part covered.
        odds: mean fall of the label's log-odds with each part covered, `[G, G]`; negative where it rises.
    """

    label: str
    score: float
    lowest: float
    odds: NDArray[np.float64]

    def __str__(self) -> str:
        """For people, in one line."""
        if np.abs(self.odds).max() < LITTLE:
            return f"no single part matters for {self.label}: covering any of them hardly changes its probability"
        return (
            f"red speaks for {self.label}, blue against it; with the part that matters most covered, it gets "
            f"{100 * self.lowest:.1f} % instead of {100 * self.score:.1f} %. It shows what the answer hangs on, not why"
        )


def explain(
    classifier: Classifier,
    pixels: NDArray[np.uint8],
    found: Prediction,
    *,
    prompts: Sequence[str] | None = None,
    template: str | None = None,
) -> Explanation:
    """Cover part after part of an image, ask again under the task that was used for it, and weigh the answers.

    Args:
        classifier: an open bundle.
        pixels: of the image, uint8 `[S, S, 3]`, as of `Classifier.load`.
        found: what it answered.
        prompts: what it chose among, if not learned classes.
        template: around the prompts.

    Raises:
        UserError: there is one label only, which is right whatever is covered.
    """
    # Every label, for what is left of the probability by rounding would say nothing of odds.
    return weigh(classifier.classify(cover(pixels), found.task or "none", prompts, 2**31, template), found)


def cover(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """An image as it is, then once for each place of the square that covers a part of it, row by row.

    Args:
        pixels: uint8 `[S, S, 3]`.

    Returns:
        1 + `(G - 1)^2` images of the same shape.
    """
    edges = np.linspace(0, len(pixels), PARTS + 1).round().astype(int)
    colour = pixels.reshape(-1, 3).mean(0).round().astype(np.uint8)
    images = [pixels]
    for row, column in _CORNERS:
        image = pixels.copy()
        image[edges[row] : edges[row + COVERED], edges[column] : edges[column + COVERED]] = colour
        images.append(image)
    return images


def weigh(answers: Sequence[Prediction], found: Prediction) -> Explanation:
    """From the answers to what each part does to the first label's odds.

    Args:
        answers: to the images of `cover`, each with every label.
        found: what was answered before; its first label is explained.

    Raises:
        UserError: there is one label only.
    """
    check_choice(answers[0])
    first = (found.labels[0], found.label_tasks[0])
    scores, odds = np.array([_of(answer, first) for answer in answers]).T
    falls, times = np.zeros((PARTS, PARTS)), np.zeros((PARTS, PARTS))
    for (row, column), value in zip(_CORNERS, odds[1:], strict=True):
        covered = np.s_[row : row + COVERED, column : column + COVERED]
        falls[covered] += odds[0] - value
        times[covered] += 1
    return Explanation(label=found.labels[0], score=scores[0], lowest=scores[1:].min(), odds=falls / times)


def check_choice(answer: Prediction) -> None:
    """See that there was something to choose.

    Args:
        answer: with two labels at least, where there are two.

    Raises:
        UserError: there is one label only.
    """
    if len(answer.labels) < 2:
        raise UserError("there is one label only, which is certain whatever the image shows. Give at least two.")


def _of(answer: Prediction, wanted: tuple[str, str | None]) -> tuple[float, float]:
    """Probability and log-odds of a label."""
    pairs = list(zip(answer.labels, answer.label_tasks, strict=True))
    own = pairs.index(wanted)
    rest = sum(score for index, score in enumerate(answer.scores) if index != own)
    tiny = np.finfo(float).tiny
    return answer.scores[own], float(np.log(max(answer.scores[own], tiny)) - np.log(max(rest, tiny)))


def draw(pixels: NDArray[np.uint8], explanation: Explanation) -> bytes:
    """The image as it is cut, grey, with its parts coloured, as PNG; what that means is its text `Description`."""
    side = max(SIDE, len(pixels))
    grey = Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.BICUBIC)
    picture = np.asarray(grey, np.float64)[..., None]
    strength = explanation.odds / max(np.abs(explanation.odds).max(), LITTLE)
    # Bilinear between the middles of the parts.
    smooth = Image.fromarray(strength.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    value = np.asarray(smooth)[..., None].astype(np.float64)
    opacity = STRONGEST * np.abs(value)
    mixed = picture * (1 - opacity) + np.where(value > 0, np.array(FOR), np.array(AGAINST)) * opacity
    about = PngImagePlugin.PngInfo()
    about.add_itxt("Description", str(explanation))
    buffer = io.BytesIO()
    Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8)).save(buffer, "PNG", pnginfo=about)
    return buffer.getvalue()
