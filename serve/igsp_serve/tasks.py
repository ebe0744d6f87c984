"""The tasks an engine knows at one moment: their names, classes, and all arrays that belong to them.

A `TaskSet` never changes; adding or removing a task makes another one. So whoever classifies with one sees the same
tasks from the first step to the last, whatever happens meanwhile.

Shapes: C classes of one task, D embedding width.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from igsp_deploy.bundle.experts import ExpertTable
from igsp_deploy.bundle.manifest import CLASSES, EXPERTS, REMEDY, SELECTOR, BundleTask, Manifest
from igsp_deploy.bundle.stacks import SelectorTable, Stacks, expert_stacks
from igsp_deploy.errors import UserError

CHOOSE = -1
"""Task index that means: let the selector choose."""
PLAIN = -2
"""Task index that means: plain CLIP."""
TASK_FILES = (CLASSES, EXPERTS, SELECTOR)
"""Files of a bundle from which a `TaskSet` is read."""
SPECIAL = {"auto": CHOOSE, "none": PLAIN}
"""Names with a meaning of their own."""


@dataclass(frozen=True, kw_only=True)
class TaskSet:
    """Some tasks of one bundle; a task's index is its position.

    Attributes:
        tasks: what the manifest says of each.
        image: stacks of the image graph.
        text: stacks of the text graph.
        selector: the selector over these tasks.
        class_embeddings: of each task's classes under its own experts, `[C, D]` each.
        plain_embeddings: of each task's classes under plain CLIP, `[C, D]` each.
    """

    tasks: tuple[BundleTask, ...]
    image: Stacks
    text: Stacks
    selector: SelectorTable
    class_embeddings: tuple[NDArray[np.float32], ...]
    plain_embeddings: tuple[NDArray[np.float32], ...]

    @classmethod
    def read(
        cls, folder: Path, manifest: Manifest, names: Sequence[str] | None = None, dtype: Any = np.float32
    ) -> "TaskSet":
        """Read tasks of a bundle.

        Args:
            folder: the bundle.
            manifest: its manifest.
            names: tasks to take, in this order; all by default.
            dtype: of the experts' stacks.

        Raises:
            UserError: a file is damaged or does not fit the manifest, or there is no such task.
        """
        known = manifest.task_names()
        picked = [find_task(name, known) for name in (names if names is not None else known)]
        table = ExpertTable.read(folder / EXPERTS, manifest.experts, len(known))
        selector = SelectorTable.read(folder / SELECTOR, len(known))
        own, plain = _class_embeddings(folder / CLASSES, manifest)
        return cls(
            tasks=tuple(manifest.tasks[t] for t in picked),
            image=expert_stacks(table, manifest.experts, "vision", picked, dtype),
            text=expert_stacks(table, manifest.experts, "text", picked, dtype),
            selector=selector if picked == list(range(len(known))) else selector.only(picked),
            class_embeddings=tuple(own[t] for t in picked),
            plain_embeddings=tuple(plain[t] for t in picked),
        )

    def names(self) -> list[str]:
        """Names of the tasks, in order."""
        return [task.name for task in self.tasks]

    def index(self, name: str) -> int:
        """Index of the task called `name`; `auto` gives `CHOOSE`, `none` gives `PLAIN`.

        Raises:
            UserError: unknown; suggests the nearest.
        """
        return SPECIAL[name] if name in SPECIAL else find_task(name, self.names(), also=list(SPECIAL))

    def without(self, name: str) -> "TaskSet":
        """The same tasks but one.

        Raises:
            UserError: unknown, or the only one.
        """
        gone = find_task(name, self.names())
        if len(self.tasks) == 1:
            raise UserError(f"{name!r} is the only task: it cannot be removed. Add another one first.")
        kept = [t for t in range(len(self.tasks)) if t != gone]
        return dataclasses.replace(
            self,
            tasks=tuple(self.tasks[t] for t in kept),
            image={key: np.delete(stack, gone, axis=0) for key, stack in self.image.items()},
            text={key: np.delete(stack, gone, axis=0) for key, stack in self.text.items()},
            selector=self.selector.only(kept),
            class_embeddings=tuple(self.class_embeddings[t] for t in kept),
            plain_embeddings=tuple(self.plain_embeddings[t] for t in kept),
        )

    def num_bytes(self) -> int:
        """Memory of the stacks."""
        return sum(
            stack.nbytes for stacks in (self.image, self.text, self.selector.stacks()) for stack in stacks.values()
        )


def find_task(name: str, names: Sequence[str], also: Sequence[str] = ()) -> int:
    """Position of `name` in `names`.

    Raises:
        UserError: it is not there; suggests the nearest of `names` and `also`.
    """
    if name in names:
        return list(names).index(name)
    near = difflib.get_close_matches(name, [*names, *also], n=1)
    others = f", and {' and '.join(also)}" if also else ""
    hint = f"Did you mean {near[0]!r}?" if near else f"It knows {', '.join(names)}{others}."
    raise UserError(f"the bundle has no task {name!r}. {hint}")


def _class_embeddings(path: Path, manifest: Manifest) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({error}). {REMEDY}") from error
    found: dict[str, list[NDArray[np.float32]]] = {"task": [], "plain": []}
    for t, task in enumerate(manifest.tasks):
        expected = (len(task.classes), manifest.backbone.embed_dim)
        for kind, embeddings in found.items():
            value = tensors.get(f"{kind}.{t}")
            if value is None or value.shape != expected:
                shape = "nothing" if value is None else list(value.shape)
                raise UserError(
                    f"{path} must hold {list(expected)} numbers for task {task.name!r}, has {shape}. {REMEDY}"
                )
            embeddings.append(value)
    return found["task"], found["plain"]
