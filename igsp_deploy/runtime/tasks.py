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

from igsp_deploy.bundle.arrays import check_numbers, read_arrays
from igsp_deploy.bundle.experts import ExpertTable
from igsp_deploy.bundle.manifest import CLASSES, EXPERTS, REMEDY, SELECTOR, BundleTask, Manifest
from igsp_deploy.bundle.stacks import SelectorTable, Stacks, expert_stacks
from igsp_deploy.errors import UserError
from igsp_deploy.names import SPECIAL
from igsp_deploy.runtime.slots import Slots, spare_slices
from igsp_deploy.sites import Tower

TASK_FILES = (CLASSES, EXPERTS, SELECTOR)
"""Files of a bundle from which a `TaskSet` is read."""


@dataclass(frozen=True, kw_only=True)
class TaskSet:
    """Some tasks of one bundle; a task's index is its position.

    Attributes:
        entries: what the manifest says of each.
        image_slots: stacks of the image graph, with room for more tasks.
        text_slots: stacks of the text graph, with room for more tasks.
        selector: the selector over these tasks.
        class_embeddings: of each task's classes under its own experts, `[C, D]` each.
        plain_embeddings: of each task's classes under plain CLIP, `[C, D]` each.
        heads: of each task that has one, compared with what the graph gives as `summary`, `[C, P]`; None of the others.
    """

    entries: tuple[BundleTask, ...]
    image_slots: Slots
    text_slots: Slots
    selector: SelectorTable
    class_embeddings: tuple[NDArray[np.float32], ...]
    plain_embeddings: tuple[NDArray[np.float32], ...]
    heads: tuple[NDArray[np.float32] | None, ...]

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
        spare = spare_slices(len(picked))
        image = expert_stacks(table, manifest.experts, "vision", picked, dtype, spare=spare)
        text = expert_stacks(table, manifest.experts, "text", picked, dtype, spare=spare)
        return cls(
            image_slots=Slots.of(image, len(picked), spare),
            text_slots=Slots.of(text, len(picked), spare),
            **_shared(folder, manifest, picked),
        )

    @property
    def image(self) -> Stacks:
        """Stacks of the image graph, a slice a slot."""
        return self.image_slots.stacks()

    @property
    def text(self) -> Stacks:
        """Stacks of the text graph, a slice a slot."""
        return self.text_slots.stacks()

    def selector_stacks(self) -> Stacks:
        """Inputs of the graph that chooses, with the slots of the image graph for tasks."""
        slots = self.image_slots
        return self.selector.in_slots(slots.slots, slots.used - 1).stacks()

    def names(self) -> list[str]:
        """Names of the tasks, in order."""
        return [task.name for task in self.entries]

    def index(self, name: str) -> int:
        """Index of the task called `name`; `auto` gives `AUTO`, `none` gives `PLAIN`.

        Raises:
            UserError: unknown; suggests the nearest.
        """
        return SPECIAL[name] if name in SPECIAL else find_task(name, self.names(), also=list(SPECIAL))

    def is_part_of(self, manifest: Manifest) -> bool:
        """Whether a bundle has these tasks with the same experts, stored with the same digits.

        Then its stacks would be those that are here. Bundles of earlier versions do not say.
        """
        theirs = {task.name: task.experts_sha256 for task in manifest.tasks}
        return all(task.experts_sha256 and theirs.get(task.name) == task.experts_sha256 for task in self.entries)

    def plus(self, folder: Path, manifest: Manifest, name: str) -> "TaskSet":
        """These tasks and another one, as the bundle has them, reading of its experts only that task's.

        Args:
            folder: the bundle.
            manifest: its manifest; `is_part_of` holds, and it says what the experts of `name` are.
            name: the task to add.

        Raises:
            UserError: what was read is damaged, or does not fit the manifest.
        """
        present, known = self.names(), manifest.task_names()
        new = find_task(name, known)
        table = ExpertTable.read_task(folder / EXPERTS, manifest.experts, new)
        if table.sha256(0) != manifest.tasks[new].experts_sha256:
            raise UserError(
                f"{folder / EXPERTS} is damaged or was changed (the SHA-256 of what task {name!r} uses is not the "
                f"recorded one). {REMEDY}"
            )
        picked = [t for t, other in enumerate(known) if other in present or t == new]
        shared, added = _shared(folder, manifest, picked), []
        towers: tuple[tuple[Tower, Slots], ...] = (("vision", self.image_slots), ("text", self.text_slots))
        for tower, slots in towers:
            dtype = next((array.dtype for array in slots.arrays.values()), np.float32)
            one = expert_stacks(table, manifest.experts, tower, [0], dtype)
            # In the order of the bundle, which is that of learning.
            ordered = dataclasses.replace(
                slots, slots=tuple(slots.slots[present.index(known[t])] for t in picked if t != new)
            )
            added.append(ordered.add(one, picked.index(new)))
        return TaskSet(image_slots=added[0], text_slots=added[1], **shared)

    def without(self, name: str) -> "TaskSet":
        """The same tasks but one.

        Raises:
            UserError: unknown, or the only one.
        """
        gone = find_task(name, self.names())
        if len(self.entries) == 1:
            raise UserError(f"{name!r} is the only task: it cannot be removed. Add another one first.")
        kept = [t for t in range(len(self.entries)) if t != gone]
        return dataclasses.replace(
            self,
            entries=tuple(self.entries[t] for t in kept),
            image_slots=self.image_slots.without(gone),
            text_slots=self.text_slots.without(gone),
            selector=self.selector.only(kept),
            class_embeddings=tuple(self.class_embeddings[t] for t in kept),
            plain_embeddings=tuple(self.plain_embeddings[t] for t in kept),
            heads=tuple(self.heads[t] for t in kept),
        )

    def num_bytes(self) -> int:
        """Memory of the stacks."""
        return sum(
            stack.nbytes for stacks in (self.image, self.text, self.selector_stacks()) for stack in stacks.values()
        )


def find_task(name: str, names: Sequence[str], also: Sequence[str] = (), of: str = "the bundle") -> int:
    """Position of `name` in `names`.

    Raises:
        UserError: it is not there; suggests the nearest of `names` and `also`.
    """
    if name in names:
        return list(names).index(name)
    near = difflib.get_close_matches(name, [*names, *also], n=1)
    others = f", and {' and '.join(also)}" if also else ""
    hint = f"Did you mean {near[0]!r}?" if near else f"It knows {', '.join(names)}{others}."
    raise UserError(f"{of} has no task {name!r}. {hint}")


def _shared(folder: Path, manifest: Manifest, picked: Sequence[int]) -> dict[str, Any]:
    """All of a `TaskSet` but its stacks: small, and read as a whole, for a new task changes the selector of all."""
    selector = SelectorTable.read(folder / SELECTOR, len(manifest.tasks))
    own, plain, heads = _class_vectors(folder / CLASSES, manifest, manifest.head_width(len(selector.center)))
    return {
        "entries": tuple(manifest.tasks[t] for t in picked),
        "selector": selector if list(picked) == list(range(len(manifest.tasks))) else selector.only(picked),
        "class_embeddings": tuple(own[t] for t in picked),
        "plain_embeddings": tuple(plain[t] for t in picked),
        "heads": tuple(heads[t] for t in picked),
    }


Vectors = list[NDArray[np.float32]]


def _class_vectors(
    path: Path, manifest: Manifest, head_width: int
) -> tuple[Vectors, Vectors, list[NDArray[np.float32] | None]]:
    """Of every task: the classes' embeddings under it and under plain CLIP, and its head where it has one."""
    tensors = read_arrays(path)
    widths = {"task": manifest.backbone.embed_dim, "plain": manifest.backbone.embed_dim, "head": head_width}
    found: dict[str, list[Any]] = {kind: [] for kind in widths}
    for t, task in enumerate(manifest.tasks):
        for kind, width in widths.items():
            expected = (len(task.classes), width)
            value = tensors.get(f"{kind}.{t}")
            if (value is None and kind != "head") or (value is not None and value.shape != expected):
                shape = "nothing" if value is None else list(value.shape)
                raise UserError(
                    f"{path} must hold {list(expected)} numbers for task {task.name!r}, has {shape}. {REMEDY}"
                )
            if value is not None:
                check_numbers(path, f"{kind}.{t}", value, np.float32)
            found[kind].append(value)
    return found["task"], found["plain"], found["head"]
