"""What is said of a task that was just learned."""

import pytest

from igsp_deploy.data.counts import ClassCount
from igsp_train.task_warnings import LAST_STEPS, task_warnings


def counts(**learned: int) -> dict[str, ClassCount]:
    return {name: ClassCount(learned=number) for name, number in learned.items()}


@pytest.mark.parametrize(
    ("classes", "training", "held_out", "plain", "words"),
    [
        ({"a": 20, "b": 19}, [1.0] * 30, 90.0, 50.0, []),
        ({"a": 20, "b": 4}, [], None, None, ["fewer than 5 training images in b"]),
        ({"a": 50, "b": 5}, [], None, None, ["a has 50 training images and b 5"]),
        ({"a": 49, "b": 5}, [], None, None, []),
        ({"a": 40, "b": 0}, [], None, None, ["fewer than 5 training images in b", "a has 40 training images and b 0"]),
        ({}, [], 49.9, 50.0, ["ends below plain CLIP on the held-out images: 49.9 % against 50.0 %"]),
        ({}, [], 50.0, 50.0, []),
        ({}, [1.0] * 30, 85.0, 10.0, []),
        (
            {},
            [0.0] * 9 + [1.0] * LAST_STEPS,
            84.9,
            10.0,
            ["100.0 % of its last training batches were right, by words alone, and 84.9 %"],
        ),
        ({}, [1.0], None, None, []),
    ],
)
def test_what_stands_out_is_said_and_nothing_else(
    classes: dict[str, int], training: list[float], held_out: float | None, plain: float | None, words: list[str]
) -> None:
    found = task_warnings(counts(**classes), held_out, plain, training)
    assert len(found) == len(words), found
    for sentence, word in zip(found, words, strict=True):
        assert word in sentence


def test_many_small_classes_are_counted() -> None:
    (first, *_) = task_warnings(counts(**{f"c{number}": 2 for number in range(9)}), None, None)
    assert first.endswith("in c0, c1, c2, c3, c4 and 4 more")
