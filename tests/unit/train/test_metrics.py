"""Transfer, Average and Last on a matrix computed by hand."""

import numpy as np

from igsp_train.metrics import summary


def test_the_three_numbers_of_a_small_matrix() -> None:
    matrix = np.array([[80.0, 10.0, 20.0], [70.0, 90.0, 30.0], [60.0, 85.0, 95.0]])
    result = summary(matrix)
    assert result["transfer"] == (10.0 + 25.0) / 2
    assert result["average"] == matrix.sum() / 9
    assert result["last"] == 80.0


def test_one_task_has_no_transfer() -> None:
    assert summary(np.array([[50.0]])) == {"transfer": None, "average": 50.0, "last": 50.0}
