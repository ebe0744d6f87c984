"""When two computations agree, and when not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from igsp_deploy.bundle.reference import (
    Reference,
    largest_difference,
    score_difference,
    smallest_cosine,
    wrong_choices,
)
from igsp_deploy.errors import UserError
from igsp_deploy.names import PLAIN

THRESHOLDS = np.array([-10.0, -20.0], np.float32)


def choices(ours: int, theirs: int, scores: list[float]) -> tuple[int, int]:
    margins = np.array([scores], np.float32) - THRESHOLDS
    sizes = np.abs(np.array([scores], np.float32))
    return wrong_choices(np.array([ours]), np.array([theirs]), margins, THRESHOLDS, sizes, 1e-3)


@pytest.mark.parametrize(
    ("ours", "theirs", "scores", "expected"),
    [
        (0, 0, [-5.0, -30.0], (0, 0)),
        (1, 0, [-5.0, -30.0], (1, 0)),
        (1, 0, [-5.0, -5.001], (0, 1)),
        (PLAIN, 0, [-5.0, -30.0], (1, 0)),
        (PLAIN, 0, [-9.995, -30.0], (0, 1)),
        (0, PLAIN, [-10.005, -30.0], (0, 1)),
        (1, PLAIN, [-10.005, -30.0], (1, 0)),
        # Two tasks of the same images: equal scores, of which one lies under its own threshold.
        (1, PLAIN, [-15.0, -15.0], (0, 1)),
        (PLAIN, 1, [-15.0, -15.001], (0, 1)),
        (0, 1, [-15.0, -15.0], (1, 0)),
        (1, PLAIN, [-15.1, -15.0], (1, 0)),
        (1, PLAIN, [-5.0, -5.0], (1, 0)),
    ],
)
def test_another_choice_is_wrong_unless_it_was_a_tie(
    ours: int, theirs: int, scores: list[float], expected: tuple[int, int]
) -> None:
    assert choices(ours, theirs, scores) == expected


def test_not_a_number_is_an_infinite_difference() -> None:
    assert largest_difference(np.array([np.nan], np.float32), np.zeros(1, np.float32)) == np.inf
    damaged = np.array([0x7F800001], np.uint32).view(np.float32)  # a bit pattern whose conversion numpy warns of
    assert largest_difference(damaged, np.zeros(1, np.float32)) == np.inf
    assert largest_difference(np.array([np.inf], np.float32), np.array([np.inf], np.float32)) == np.inf
    assert smallest_cosine(damaged[None], np.ones((1, 1), np.float32)) == -1.0


def test_scores_are_compared_by_their_size() -> None:
    sizes = np.array([[1000.0, 0.5]], np.float32)
    a, b = np.array([[-1.0, 0.5]], np.float32), np.array([[0.0, 0.5]], np.float32)
    assert score_difference(a, b, sizes) == pytest.approx(1 / 1000)
    infinite = np.array([[np.inf, 0.5]], np.float32)
    assert score_difference(infinite, infinite, sizes) == 0.0
    assert score_difference(a, infinite, sizes) == np.inf


def arrays(**other: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Of two images, each under two tasks and plain CLIP, and one text."""
    shapes = {
        "features": (6, 2),
        "embeddings": (1, 2),
        "task_scores": (2, 2),
        "score_sizes": (2, 2),
        "thresholds": (2,),
    }
    values: dict[str, NDArray[Any]] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    values |= {name: np.zeros(6, np.int64) for name in ("task", "used_task")}
    values |= {"ids": np.zeros((1, 4), np.int64), "text_task": np.zeros(1, np.int64)}
    return values | {"images": np.zeros((2, 2, 2, 3), np.uint8), "image_index": np.array([0, 1] * 3)} | other


def test_a_reference_of_format_2_measures_scores_by_themselves(tmp_path: Path) -> None:
    scores, thresholds = np.array([[5.0, np.inf]] * 2, np.float32), np.array([-9.0, -np.inf], np.float32)
    values = arrays(task_scores=scores, thresholds=thresholds)
    del values["score_sizes"]
    save_file(values, tmp_path / "reference.safetensors")
    assert Reference.read(tmp_path / "reference.safetensors").score_sizes[0, 0] == 4.0


def test_a_reference_of_format_5_has_the_scores_of_each_image_once_for_every_task(tmp_path: Path) -> None:
    of_image = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    values = arrays(**{name: np.tile(of_image, (3, 1)) for name in ("task_scores", "score_sizes")})
    save_file(values, tmp_path / "reference.safetensors")
    reference = Reference.read(tmp_path / "reference.safetensors")
    np.testing.assert_array_equal(reference.task_scores, of_image)
    np.testing.assert_array_equal(reference.score_sizes, of_image)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_index", np.zeros(6, np.float32), r"image_index is float32 \[6\], which does not fit"),
        ("image_index", np.full(6, 2), "image_index names what is not there"),
        ("used_task", np.zeros(5, np.int64), r"used_task is int64 \[5\]"),
        ("used_task", np.full(6, -3), "used_task names"),
        ("text_task", np.array([2]), "text_task names"),
        ("features", np.zeros(12, np.float32), r"features is float32 \[12\]"),
        ("embeddings", np.zeros((2, 2), np.float32), r"embeddings is float32 \[2, 2\]"),
        ("images", np.zeros((1, 2, 2, 3), np.uint8), "which does not fit the rest"),
        ("task_scores", np.zeros((1, 2), np.float32), "which does not fit the rest"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    tmp_path: Path, name: str, value: NDArray[Any], message: str
) -> None:
    save_file(arrays(**{name: value}), tmp_path / "reference.safetensors")
    with pytest.raises(UserError, match=rf"reference\.safetensors: .*{message}"):
        Reference.read(tmp_path / "reference.safetensors")


@pytest.mark.parametrize("content", [b"", b"\0" * 20])
def test_a_damaged_reference_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "reference.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"reference\.safetensors"):
        Reference.read(tmp_path / "reference.safetensors")
