"""Stacks that a task is added to without copying the others.

A graph takes the last slice of its stacks for plain CLIP. So a new task cannot go where that slice is: calls under way
still read it. It goes into the slice behind, and the one behind that is plain CLIP for calls that know the new task:

    before   task 0 | task 1 | plain | (spare) | (spare) | ...
    after    task 0 | task 1 | -     | task 2  | plain   | ...

A task's slice, its slot, is therefore not its index. Slices are written once, before anybody reads them. When no spare
one is left, or most are of no use any more, the tasks move to arrays of their own.

Shapes: B samples, T tasks.
"""

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.bundle.stacks import Stacks, blank_stack

MIN_SPARE = 8
"""Slices kept free, at least."""


def spare_slices(num_tasks: int) -> int:
    """Slices to keep free for tasks to come. They take address space, but no memory before they are used."""
    return max(MIN_SPARE, num_tasks // 2)


@dataclass
class _Taken:
    """How many slices of some arrays are taken, by whichever `Slots` share them."""

    count: int
    lock: Any = field(default_factory=threading.Lock)


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The stacks of one graph. It never changes; adding or removing a task makes another one, which may share arrays.

    Attributes:
        arrays: name of a graph's input -> its slices, spare ones behind.
        slots: slice of each task.
        used: slices that the graph is given. The last one is plain CLIP.
        capacity: slices of each array.
    """

    arrays: Stacks
    slots: tuple[int, ...]
    used: int
    capacity: int
    taken: _Taken

    @classmethod
    def of(cls, arrays: Stacks, num_tasks: int, spare: int) -> "Slots":
        """Stacks of `num_tasks` tasks in order, plain CLIP, and `spare` blank slices."""
        used = num_tasks + 1
        return cls(
            arrays=arrays, slots=tuple(range(num_tasks)), used=used, capacity=used + spare, taken=_Taken(count=used)
        )

    def stacks(self) -> Stacks:
        """What the graph is given: views, not copies."""
        return {name: array[: self.used] for name, array in self.arrays.items()}

    def add(self, one: Stacks, position: int) -> "Slots":
        """With another task.

        Args:
            one: stacks of that task alone, as `expert_stacks` makes them.
            position: its index; the tasks from there on move up by one.
        """
        with self.taken.lock:
            # Another set that grew from the same one may have taken what is behind this one.
            free = self.taken.count == self.used and self.used + 2 <= self.capacity
            if free:
                self.taken.count += 2
        if not free:
            return self.packed().add(one, position)
        slot = self.used
        return Slots(
            arrays={name: _put(array, slot, one[name][0], name) for name, array in self.arrays.items()},
            slots=(*self.slots[:position], slot, *self.slots[position:]),
            used=slot + 2,
            capacity=self.capacity,
            taken=self.taken,
        )

    def without(self, index: int) -> "Slots":
        """With one task less, whose slice stays as it is for those who still read it."""
        kept = Slots(
            arrays=self.arrays,
            slots=(*self.slots[:index], *self.slots[index + 1 :]),
            used=self.used,
            capacity=self.capacity,
            taken=self.taken,
        )
        return kept.packed() if kept.used > 2 * (len(kept.slots) + 1) else kept

    def packed(self) -> "Slots":
        """The same tasks in arrays of their own, in order, with spare slices."""
        total, spare = len(self.slots), spare_slices(len(self.slots))
        arrays = {}
        for name, array in self.arrays.items():
            arrays[name] = blank_stack(name, (total + 1 + spare, *array.shape[1:]), array.dtype)
            for t, slot in enumerate(self.slots):
                arrays[name][t] = array[slot]
        return Slots.of(arrays, total, spare)

    @cached_property
    def _task_at(self) -> NDArray[np.int64]:
        tasks = np.zeros(self.used, np.int64)
        tasks[list(self.slots)] = np.arange(len(self.slots))
        return tasks

    def slot(self, task: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of tasks given as indices `[B]`; what is negative stays."""
        return np.where(task < 0, task, np.array(self.slots, np.int64)[np.maximum(task, 0)])

    def task(self, slot: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of tasks given as slots `[B]`; what is negative stays."""
        return np.where(slot < 0, slot, self._task_at[np.maximum(slot, 0)])

    def columns(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores of tasks `[B, T]` from scores of slots."""
        return scores[:, list(self.slots)]


def _put(array: NDArray[Any], slot: int, value: NDArray[Any], name: str) -> NDArray[Any]:
    """`array` with `value` in a blank slice; a wider copy where a task has more experts than any before it."""
    shape = tuple(max(a, b) for a, b in zip(array.shape[1:], value.shape, strict=True))
    if shape != array.shape[1:]:
        wider = blank_stack(name, (len(array), *shape), array.dtype)
        wider[:slot][_corner(array[:slot])] = array[:slot]
        array = wider
    array[slot][_corner(value)] = value
    return array


def _corner(value: NDArray[Any]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in value.shape)
