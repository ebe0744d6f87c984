"""A benchmark as tasks to learn: names, order and sources."""

from pathlib import Path

from igsp_deploy.data.source_text import SourceText
from igsp_deploy.errors import UsageError
from igsp_train.research.mtil.facts import ORDERS

BENCHMARKS = ("mtil",)


def check_benchmark(name: str) -> str:
    """Return `name` if it is a benchmark.

    Raises:
        UsageError: it is not.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"--benchmark must be {' or '.join(BENCHMARKS)}, got {name!r}.")
    return name


def benchmark_tasks(name: str, root: Path, *, order: int = 1, any_counts: bool = False) -> dict[str, str]:
    """Task name -> source, in the order to learn them.

    Args:
        name: `mtil`.
        root: folder with the data sets.
        order: 1 or 2, as published.
        any_counts: take sets whose images or classes are not the published ones.

    Raises:
        UsageError: no such benchmark or order.
    """
    check_benchmark(name)
    if order not in ORDERS:
        raise UsageError(f"--order must be {' or '.join(map(str, ORDERS))}, got {order}.")
    options = {"root": str(root.expanduser().resolve()), **({"counts": "any"} if any_counts else {})}
    return {one: str(SourceText("mtil", one, options)) for one in ORDERS[order]}


def benchmark_preset(name: str, shots: int) -> str:
    """Name of the preset with the settings of a benchmark."""
    return f"{name}-few-shot" if shots else name
