"""Transfer, Average, Last of an accuracy matrix A[j, i]: accuracy on task i after task j (ZSCL, ICCV 2023)."""

import numpy as np
from numpy.typing import NDArray


def transfer(matrix: NDArray[np.float64]) -> float | None:
    """Mean over tasks i >= 1 of the mean over j < i of A[j, i]: zero-shot ability kept. None for a single task."""
    count = len(matrix)
    if count < 2:
        return None
    return float(np.mean([matrix[:i, i].mean() for i in range(1, count)]))


def average(matrix: NDArray[np.float64]) -> float:
    """Mean over all entries."""
    return float(matrix.mean())


def last(matrix: NDArray[np.float64]) -> float:
    """Mean over the last row."""
    return float(matrix[-1].mean())


def summary(matrix: NDArray[np.float64]) -> dict[str, float | None]:
    """`transfer`, `average` and `last` of one matrix, in the matrix's unit."""
    return {"transfer": transfer(matrix), "average": average(matrix), "last": last(matrix)}
