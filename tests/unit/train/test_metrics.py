"""Figures of a matrix computed by hand."""

import numpy as np

from igsp_train.metrics import summary


def test_the_figures_of_a_small_matrix() -> None:
    matrix = np.array([[80.0, 10.0, 20.0], [70.0, 90.0, 30.0], [60.0, 85.0, 95.0]])
    result = summary(matrix)
    assert result["transfer"] == (10.0 + 25.0) / 2
    assert result["average"] == matrix.sum() / 9
    assert result["last"] == 80.0
    assert result["backward_transfer"] == ((60.0 - 80.0) + (85.0 - 90.0)) / 2
    assert result["forgetting"] == ((80.0 - 60.0) + (90.0 - 85.0)) / 2


def test_forgetting_is_from_the_best_there_was_and_may_be_a_gain() -> None:
    matrix = np.array([[50.0, 0.0, 0.0], [70.0, 40.0, 0.0], [60.0, 45.0, 90.0]])
    assert summary(matrix)["forgetting"] == ((70.0 - 60.0) + (40.0 - 45.0)) / 2
    assert summary(matrix)["backward_transfer"] == ((60.0 - 50.0) + (45.0 - 40.0)) / 2


def test_one_task_has_no_transfer() -> None:
    none = dict.fromkeys(("transfer", "backward_transfer", "forgetting"))
    assert summary(np.array([[50.0]])) == {**none, "average": 50.0, "last": 50.0}
