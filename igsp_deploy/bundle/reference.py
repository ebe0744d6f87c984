"""Inputs with the outputs PyTorch gave for them, kept in a bundle so that it can be checked anywhere.

Shapes: N images, S image side, R rows (an image under a task), M text rows, D embedding width, T tasks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.bundle.arrays import pack_arrays, read_arrays
from igsp_deploy.bundle.manifest import REMEDY
from igsp_deploy.errors import UserError
from igsp_deploy.names import PLAIN

FEATURE_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-2, "int8": 5e-2}
"""Largest difference of one number of a normalised embedding from fp32 PyTorch, by precision."""
ROUNDED_TOLERANCE = 1e-3
"""The same where experts are stored in half precision, whose 11 bits leave errors of up to 5e-4 of what they add."""
SCORE_TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 2e-1, "int8": 1e-3}
"""Largest difference of a selector score, relative to its size."""
_ARRAYS: dict[str, tuple[Any, str]] = {
    "images": (np.uint8, "NSS3"),
    "image_index": (np.int64, "R"),
    "task": (np.int64, "R"),
    "features": (np.float32, "RD"),
    "used_task": (np.int64, "R"),
    "task_scores": (np.float32, "NT"),
    "thresholds": (np.float32, "T"),
    "score_sizes": (np.float32, "NT"),
    "ids": (np.int64, "ML"),
    "text_task": (np.int64, "M"),
    "embeddings": (np.float32, "MD"),
}
"""Array of a reference -> its type and the sizes of its shape; the same letter is the same size."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Reference inputs and outputs.

    Attributes:
        images: uint8 `[N, S, S, 3]`.
        image_index: image of each row, `[R]`.
        task: what is asked for in each row: a task, -1 or -2, `[R]`.
        features: embeddings, `[R, D]`.
        used_task: `[R]`.
        task_scores: scores minus thresholds, `[N, T]`: of an image, whatever is asked for.
        thresholds: of each task, `[T]`.
        score_sizes: what errors of the scores are measured by, `[N, T]`.
        ids: token ids, `[M, ctx]`.
        text_task: `[M]`.
        embeddings: of the texts, `[M, D]`.
    """

    images: NDArray[np.uint8]
    image_index: NDArray[np.int64]
    task: NDArray[np.int64]
    features: NDArray[np.float32]
    used_task: NDArray[np.int64]
    task_scores: NDArray[np.float32]
    thresholds: NDArray[np.float32]
    score_sizes: NDArray[np.float32]
    ids: NDArray[np.int64]
    text_task: NDArray[np.int64]
    embeddings: NDArray[np.float32]

    def write(self, path: Path) -> None:
        """Write all arrays as safetensors."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack_arrays(vars(self)))

    @classmethod
    def read(cls, path: Path) -> "Reference":
        """Read what `write` wrote.

        Raises:
            UserError: missing or damaged, or its arrays do not belong together.
        """
        arrays = read_arrays(path)
        try:
            if "score_sizes" not in arrays:  # of format 2, where the scores themselves were the distances
                with np.errstate(invalid="ignore"):  # infinite where a task has no threshold
                    arrays["score_sizes"] = np.abs(arrays["task_scores"] + arrays["thresholds"])
            if len(arrays["task_scores"]) == len(arrays["image_index"]):  # until format 5: of each row
                _, first = np.unique(arrays["image_index"], return_index=True)
                arrays |= {name: arrays[name][first] for name in ("task_scores", "score_sizes")}
            reference = cls(**arrays)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise UserError(f"{path} is missing or damaged ({error}). {REMEDY}") from error
        reference._check(path)
        return reference

    def _check(self, path: Path) -> None:
        """See that all arrays are of the same images, texts and tasks.

        Raises:
            UserError: one is not; names it.
        """
        sizes: dict[str, int] = {}
        for name, (dtype, letters) in _ARRAYS.items():
            value: NDArray[Any] = getattr(self, name)
            fits = value.dtype == dtype and value.ndim == len(letters)
            if not fits or any(
                sizes.setdefault(letter, n) != n for letter, n in zip(letters, value.shape, strict=True)
            ):
                raise UserError(
                    f"{path}: {name} is {value.dtype} {list(value.shape)}, which does not fit the rest. {REMEDY}"
                )
        for name, count in {"image_index": "N", "task": "T", "used_task": "T", "text_task": "T"}.items():
            value, least = getattr(self, name), 0 if count == "N" else PLAIN
            if value.size and not least <= value.min() <= value.max() < sizes[count]:
                raise UserError(f"{path}: {name} names what is not there. {REMEDY}")


def feature_tolerance(precision: str, experts_precision: str) -> float:
    """Largest difference of a number of an embedding from fp32 PyTorch that is allowed.

    Args:
        precision: of the graphs; one that is not known is held to fp32's.
        experts_precision: what experts are stored in.
    """
    graphs = FEATURE_TOLERANCE.get(precision, FEATURE_TOLERANCE["fp32"])
    return max(graphs, ROUNDED_TOLERANCE) if experts_precision == "fp16" else graphs


def largest_difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Largest absolute difference of two arrays; infinite where one is not a number."""
    if not ours.size:
        return 0.0
    with np.errstate(invalid="ignore"):  # what is no number counts as infinite
        return float(np.nan_to_num(np.abs(ours.astype(np.float64) - theirs), nan=np.inf).max())


def smallest_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Smallest cosine of two normalised embeddings of a row; 1 where there is no row, -1 where one is not a number."""
    if not ours.size:
        return 1.0
    with np.errstate(invalid="ignore"):
        a, b = ours.astype(np.float64), theirs.astype(np.float64)
        cosines = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    return float(np.nan_to_num(cosines, nan=-1.0).min())


def score_difference(ours: NDArray[np.float32], theirs: NDArray[np.float32], sizes: NDArray[np.float32]) -> float:
    """Largest difference of selector scores, relative to their size where that is above 1.

    Args:
        ours: scores minus thresholds, `[B, T]`.
        theirs: the same of PyTorch.
        sizes: of what the scores are made of, `[B, T]`: a score itself, the difference of two distances, may be near 0.
    """
    if not ours.size:
        return 0.0
    finite = np.isfinite(theirs)
    if not np.array_equal(finite, np.isfinite(ours)):
        return float("inf")
    a, b = ours[finite].astype(np.float64), theirs[finite].astype(np.float64)
    return float((np.abs(a - b) / np.maximum(1.0, sizes[finite])).max(initial=0.0))


def wrong_choices(
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    margins: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    sizes: NDArray[np.float32],
    tolerance: float,
) -> tuple[int, int]:
    """Compare which tasks were chosen.

    Args:
        ours: chosen by the graph, `[B]`.
        theirs: chosen by PyTorch, `[B]`.
        margins: PyTorch's scores minus thresholds, `[B, T]`.
        thresholds: `[T]`; infinite where a task has none.
        sizes: of the scores, `[B, T]`; see `score_difference`.
        tolerance: relative difference of scores that rounding explains.

    Returns:
        Number of rows that differ although the decision was clear, and of rows that differ on a tie.
    """
    wrong = ties = 0
    # A task without a threshold has an infinite margin; its score cannot be told from it.
    known = np.isfinite(thresholds)
    for row in np.flatnonzero(ours != theirs):
        scores = np.where(known, margins[row], 0.0).astype(np.float64) + np.where(known, thresholds, -np.inf)
        allowed = tolerance * max(1.0, float(sizes[row, scores.argmax()]))
        # Tasks of the same images have the same score, and each its own threshold.
        best = known & (scores >= scores.max() - allowed)
        plain = bool((best & (margins[row] <= allowed)).any())
        taken = best & (margins[row] >= -allowed)
        if all(plain if choice == PLAIN else taken[choice] for choice in (int(ours[row]), int(theirs[row]))):
            ties += 1
        else:
            wrong += 1
    return wrong, ties
