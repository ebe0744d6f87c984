"""Stacks: the experts, routers and selector of all tasks as the arrays that the graphs take as inputs. No torch.

Shapes: T tasks, d width, r rank of one expert, K experts of a task in a block (the largest task's), R = K r,
S classes of all tasks, F selector features. The last slice of an expert stack is zero: plain CLIP.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.bundle.arrays import check_numbers, pack_arrays, read_arrays
from igsp_deploy.bundle.experts import BlockUse, ExpertTable, Floats
from igsp_deploy.bundle.manifest import REMEDY, ExpertLayout
from igsp_deploy.errors import UserError
from igsp_deploy.sites import Tower

MASKED = -1e4
"""Bias of a padded router row: its gate is zero. Finite in half precision: a row of nothing else must not be NaN."""

Stacks = dict[str, NDArray[Any]]
"""Name of a graph's input -> its value."""


def is_stack(name: str) -> bool:
    """Whether a graph's input is one of its stacks; the others are what it is asked."""
    return name.startswith(("experts.", "selector."))


def expert_stacks(
    table: ExpertTable,
    layout: ExpertLayout,
    tower: Tower,
    tasks: Sequence[int],
    dtype: Any = np.float32,
    *,
    spare: int = 0,
) -> Stacks:
    """Stacks of one tower's graph for `tasks`, in that order, with `spare` more slices behind the last one.

    Returns:
        For every adapted block b: `experts.b.down` `[T + 1, R, d]`, `experts.b.up` `[T + 1, d, R]` and, where the
        router reads the image, `experts.b.router_weight` `[T + 1, K, d]` and `experts.b.router_bias` `[T + 1, K]`.
    """
    blocks = layout.vision_blocks if tower == "vision" else layout.text_blocks
    stacks: Stacks = {}
    for block in blocks:
        site: tuple[Tower, int] = (tower, block)
        uses = [table.tasks[t].get(site) for t in tasks]
        arrays = _block(
            uses,
            table.down.get(site),
            table.up.get(site),
            rank=layout.rank,
            width=layout.width(tower),
            routed=tower == "vision" and layout.routed,
            dtype=dtype,
            spare=spare,
        )
        stacks.update({f"experts.{block}.{name}": value for name, value in arrays.items()})
    return stacks


def _block(
    uses: Sequence[BlockUse | None],
    down: Floats | None,
    up: Floats | None,
    *,
    rank: int,
    width: int,
    routed: bool,
    dtype: Any,
    spare: int,
) -> Stacks:
    slices = len(uses) + 1 + spare
    largest = max((len(use.experts) for use in uses if use is not None), default=0) or 1
    shapes: dict[str, tuple[int, ...]] = {
        "down": (slices, largest * rank, width),
        "up": (slices, width, largest * rank),
    }
    if routed:
        shapes |= {"router_weight": (slices, largest, width), "router_bias": (slices, largest)}
    arrays = {name: blank_stack(name, shape, dtype) for name, shape in shapes.items()}
    for t, use in enumerate(uses):
        if use is None or not len(use.experts):
            continue
        assert down is not None
        assert up is not None
        count = len(use.experts)
        arrays["down"][t, : count * rank] = down[use.experts].reshape(count * rank, width)
        outputs = up[use.experts].transpose(1, 0, 2)  # [d, K, r]
        if use.gates is not None:
            # In float32, whatever they are stored in.
            outputs = outputs.astype(np.float32) * use.gates.astype(np.float32)[:, None]
        arrays["up"][t, :, : count * rank] = outputs.reshape(width, count * rank)
        if use.router_weight is not None and use.router_bias is not None:
            arrays["router_weight"][t, :count] = use.router_weight
            arrays["router_bias"][t, :count] = use.router_bias
    return arrays


def blank_stack(name: str, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """The stack called `name` without any expert: every slice is plain CLIP. Pages of zeros take no memory yet."""
    return np.full(shape, MASKED, dtype) if name.endswith("router_bias") else np.zeros(shape, dtype)


def blank_stacks(layout: ExpertLayout, tower: Tower, dtype: Any = np.float32) -> Stacks:
    """One task without experts: what a graph is made with."""
    return expert_stacks(ExpertTable(tasks=({},)), layout, tower, [0], dtype)


@dataclass(frozen=True, kw_only=True)
class SelectorTable:
    """The selector's numbers, always in float32.

    Attributes:
        center: `[F]`.
        whitening: `[F, F]`.
        means: whitened class means, `[S, F]`.
        class_task: task of each row of `means`, int64 `[S]`.
        thresholds: `[T]`; minus infinity for a task without held-out images.
        background: of `igsp_deploy.model.selector.Selector`, `[1]`; None in bundles of format 2 and for their graphs.
        squares: sum of squares of each row of `means`, `[S]`; None in bundles up to format 5 and for their graphs.
    """

    center: NDArray[np.float32]
    whitening: NDArray[np.float32]
    means: NDArray[np.float32]
    class_task: NDArray[np.int64]
    thresholds: NDArray[np.float32]
    background: NDArray[np.float32] | None = None
    squares: NDArray[np.float32] | None = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that there is, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def write(self, path: Path) -> None:
        """Write safetensors."""
        path.write_bytes(pack_arrays(self.arrays()))

    @classmethod
    def read(cls, path: Path, num_tasks: int) -> "SelectorTable":
        """Read what `write` wrote.

        Raises:
            UserError: missing, damaged, no numbers, or of another number of tasks.
        """
        try:
            table = cls(**read_arrays(path))
        except TypeError as error:
            raise UserError(f"{path} is missing or damaged ({error}). {REMEDY}") from error
        for name, value in table.arrays().items():
            dtype = np.int64 if name == "class_task" else np.float32
            check_numbers(path, name, value, dtype, infinite=name == "thresholds")
            if not value.ndim:
                raise UserError(f"{path}: {name} must be an array of {value.dtype}, is {value.dtype} []. {REMEDY}")
        features, classes = len(table.center), len(table.class_task)
        expected: dict[str, tuple[int, ...]] = {"center": (features,), "class_task": (classes,)}
        expected |= {"whitening": (features, features), "means": (classes, features), "thresholds": (num_tasks,)}
        if table.background is not None:
            expected["background"] = (1,)
        if table.squares is not None:
            expected["squares"] = (classes,)
        for name, shape in expected.items():
            if getattr(table, name).shape != shape:
                raise UserError(
                    f"{path}: {name} must be {list(shape)}, is {list(getattr(table, name).shape)}. {REMEDY}"
                )
        if sorted(set(table.class_task.tolist())) != list(range(num_tasks)):
            raise UserError(f"{path}: class_task must name each of the {num_tasks} tasks. {REMEDY}")
        return table

    def only(self, tasks: Sequence[int]) -> "SelectorTable":
        """The same for some tasks, numbered anew. The whitening stays that of all."""
        rows = np.concatenate([np.flatnonzero(self.class_task == t) for t in tasks])
        number = {t: new for new, t in enumerate(tasks)}
        return dataclasses.replace(
            self,
            means=self.means[rows],
            squares=None if self.squares is None else self.squares[rows],
            class_task=np.array([number[t] for t in self.class_task[rows].tolist()], np.int64),
            thresholds=self.thresholds[list(tasks)],
        )

    def fitting(self, inputs: Collection[str]) -> "SelectorTable":
        """The same for graphs with these inputs: those of older formats do not take all that there is.

        Raises:
            UserError: the selector has a background, and they take none.
        """
        if "selector.background" not in inputs and self.background is not None and np.any(self.background):
            raise UserError(
                "these tasks have a selector with a background, and the graphs are of a bundle of format 2, which know "
                "none. Open the bundle that the tasks come from instead."
            )
        known = {
            "background": np.zeros(1, np.float32) if self.background is None else self.background,
            "squares": np.square(self.means).sum(1) if self.squares is None else self.squares,
        }
        taken: dict[str, Any] = {name: value if f"selector.{name}" in inputs else None for name, value in known.items()}
        return dataclasses.replace(self, **taken)

    def in_slots(self, slots: Sequence[int], num_slots: int) -> "SelectorTable":
        """The same with task t numbered `slots[t]`; a number of no task, up to `num_slots`, is never chosen."""
        thresholds = np.full(num_slots, np.inf, np.float32)
        thresholds[list(slots)] = self.thresholds
        return dataclasses.replace(self, class_task=np.array(slots, np.int64)[self.class_task], thresholds=thresholds)

    def stacks(self) -> Stacks:
        """Inputs of the graph that chooses the task."""
        return {f"selector.{name}": value for name, value in self.arrays().items()}


def blank_selector(num_features: int) -> SelectorTable:
    """One task that takes no image: what a graph is made with."""
    return SelectorTable(
        center=np.zeros(num_features, np.float32),
        whitening=np.eye(num_features, dtype=np.float32),
        means=np.zeros((1, num_features), np.float32),
        class_task=np.zeros(1, np.int64),
        thresholds=np.full(1, np.inf, np.float32),
        background=np.zeros(1, np.float32),
        squares=np.zeros(1, np.float32),
    )
