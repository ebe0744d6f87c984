"""A benchmark as tasks to learn: names, order and sources."""

from dataclasses import dataclass
from pathlib import Path

from igsp_deploy.data.source_text import SourceText
from igsp_deploy.errors import UsageError
from igsp_deploy.files import absolute
from igsp_train.research.mtil.facts import ORDERS


@dataclass(frozen=True, kw_only=True)
class ClassIncremental:
    """A data set whose classes are learned part after part.

    Attributes:
        classes: published number of classes.
        torchvision: its class in `torchvision.datasets`; None for a folder.
        folders: names of its folder under the data root, the first that is there counts.
    """

    classes: int
    torchvision: str | None = None
    folders: tuple[str, ...] = ()


CLASS_INCREMENTAL = {
    "cifar100": ClassIncremental(classes=100, torchvision="CIFAR100"),
    "imagenet-r": ClassIncremental(classes=200, folders=("imagenet-r", "imagenetr")),
    "cub200": ClassIncremental(classes=200, folders=("CUB_200_2011", "cub200", "cub")),
}
"""Name -> data set; in the order and splits of `igsp_deploy.data.class_parts`."""
BENCHMARKS = ("mtil", *CLASS_INCREMENTAL)


def check_benchmark(name: str) -> str:
    """Return `name` if it is a benchmark.

    Raises:
        UsageError: it is not.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"--benchmark must be {' or '.join(BENCHMARKS)}, got {name!r}.")
    return name


def benchmark_tasks(
    name: str, root: Path, *, order: int = 1, splits: int = 10, any_counts: bool = False
) -> dict[str, str]:
    """Task name -> source, in the order to learn them.

    Args:
        name: one of `BENCHMARKS`.
        root: folder with the data sets.
        order: of MTIL: 1 or 2, as published.
        splits: of the others: equal parts of the classes.
        any_counts: take sets whose images or classes are not the published ones.

    Raises:
        UsageError: no such benchmark or order.
    """
    check_benchmark(name)
    if name in CLASS_INCREMENTAL:
        return _parts(CLASS_INCREMENTAL[name], absolute(root), splits, any_counts)
    if order not in ORDERS:
        raise UsageError(f"--order must be {' or '.join(map(str, ORDERS))}, got {order}.")
    options = {"root": str(absolute(root)), **({"counts": "any"} if any_counts else {})}
    return {one: str(SourceText("mtil", one, options)) for one in ORDERS[order]}


def _parts(one: ClassIncremental, root: Path, splits: int, any_counts: bool) -> dict[str, str]:
    folder = next((root / name for name in one.folders if (root / name).is_dir()), root / (*one.folders, "")[0])
    options = {"root": str(folder), **({"set": one.torchvision} if one.torchvision else {})}
    options |= {} if any_counts else {"classes": str(one.classes)}
    digits = len(str(splits))
    return {f"part{k:0{digits}d}": str(SourceText("part", f"{k}/{splits}", options)) for k in range(1, splits + 1)}


def benchmark_preset(shots: int) -> str:
    """Name of the preset with the settings of all benchmarks: MTIL's, whole or few-shot."""
    return "mtil-few-shot" if shots else "mtil"
