"""Figures of an accuracy matrix A[j, i]: accuracy on task i after task j, of T tasks.

Transfer, Average and Last: ZSCL (arXiv 2303.06628, section 4). Backward transfer: GEM (arXiv 1706.08840, section 3).
Forgetting: Riemannian Walk (arXiv 1801.10112, section 4).
"""

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


def backward_transfer(matrix: NDArray[np.float64]) -> float | None:
    """Mean over tasks i < T - 1 of A[T - 1, i] - A[i, i]: below 0 where something was lost. None for a single task."""
    return float((matrix[-1] - matrix.diagonal())[:-1].mean()) if len(matrix) > 1 else None


def forgetting(matrix: NDArray[np.float64]) -> float | None:
    """Mean over tasks i < T - 1 of the best A[j, i], i <= j < T - 1, less A[T - 1, i]. None for a single task."""
    count = len(matrix)
    if count < 2:
        return None
    return float(np.mean([matrix[i : count - 1, i].max() - matrix[-1, i] for i in range(count - 1)]))


def summary(matrix: NDArray[np.float64]) -> dict[str, float | None]:
    """All five of one matrix, in the matrix's unit."""
    return {
        "transfer": transfer(matrix),
        "average": average(matrix),
        "last": last(matrix),
        "backward_transfer": backward_transfer(matrix),
        "forgetting": forgetting(matrix),
    }
