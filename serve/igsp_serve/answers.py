"""What the service answers: plain values, whoever asked.

Shapes: n images or texts, D embedding width, T tasks.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.runtime.classifier import Prediction
from igsp_serve.batcher import Rows
from igsp_serve.client_answers import Model, Timings
from igsp_serve.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Answer of `Service.classify`: a prediction for each image, in order."""

    model: Model
    results: tuple[Prediction, ...]
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Answer of `Service.embed_images` and `Service.embed_texts`.

    Attributes:
        model: what answered.
        embeddings: L2-normalised, float32 `[n, D]`.
        tasks: task whose experts were used for each; None for plain CLIP.
        timings: where the time went.
    """

    model: Model
    embeddings: NDArray[np.float32]
    tasks: tuple[str | None, ...]
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class Ran:
    """Answer of `Service.run`: the model's own outputs, and their labels.

    Attributes:
        snapshot: what answered; task indices refer to it.
        rows: the outputs.
        results: a prediction for each image, in order; empty where no labels were wanted.
        timings: where the time went.
    """

    snapshot: Snapshot
    rows: Rows
    results: tuple[Prediction, ...]
    timings: Timings


def timings(start: float, rows: Rows, decode_s: float) -> Timings:
    """Of a request that began at `start` (on the clock of `time.monotonic`) and whose decoding took `decode_s`."""
    return Timings(
        queue_ms=ms(rows.queue_s),
        decode_ms=ms(decode_s),
        inference_ms=ms(rows.inference_s),
        total_ms=ms(time.monotonic() - start),
    )


def ms(seconds: float) -> float:
    """Seconds in ms, to the microsecond."""
    return round(1000 * seconds, 3)
