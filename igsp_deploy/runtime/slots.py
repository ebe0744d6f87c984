"""Stacks that a task is added to without copying the others.

A graph takes the last slice of its stacks for plain CLIP. So a new task cannot go where that slice is: calls under way
still read it. It goes into the slice behind, and the one behind that is plain CLIP for calls that know the new task:

    before   task 0 | task 1 | plain | (spare) | (spare) | ...
    after    task 0 | task 1 | -     | task 2  | plain   | ...

A task's slice, its slot, is therefore not its index. A slot that nobody reads any more is taken before new ones are.
Where none is left, the tasks move to larger arrays. (Should two tasks have the very same score, the graph prefers the
one in the first slot.)

Shapes: B samples, T tasks.
"""

import threading
import weakref
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.bundle.stacks import Stacks, blank_stack

MIN_SPARE = 16
"""Slices kept free, at least."""


def spare_slices(num_tasks: int) -> int:
    """Slices to keep free for tasks to come. They take address space, but no memory before they are used."""
    return max(MIN_SPARE, num_tasks)


@dataclass(eq=False)
class _Room:
    """What the `Slots` that share arrays must agree on.

    Attributes:
        capacity: slices of each array.
        touched: slices from here on are blank: nobody wrote there.
        users: those that are still in somebody's hands.
        lock: held while slices are given away.
    """

    capacity: int
    touched: int
    users: "weakref.WeakSet[Slots]" = field(default_factory=weakref.WeakSet)
    lock: Any = field(default_factory=threading.RLock)


@dataclass(frozen=True, kw_only=True, eq=False)
class Slots:
    """The stacks of one graph. It never changes; adding or removing a task makes another one, which may share arrays.

    As long as there is a reference to it, its slices stay as they are. Views that `stacks` gave do not suffice.

    Attributes:
        arrays: name of a graph's input -> its slices, spare ones behind.
        slots: slice of each task.
        used: slices that the graph is given. The last one is plain CLIP.
        room: shared with those that have the same arrays.
    """

    arrays: Stacks
    slots: tuple[int, ...]
    used: int
    room: _Room

    def __post_init__(self) -> None:
        """Have its slices left alone."""
        with self.room.lock:
            self.room.users.add(self)

    @classmethod
    def of(cls, arrays: Stacks, num_tasks: int, spare: int) -> "Slots":
        """Stacks of `num_tasks` tasks in order, plain CLIP, and `spare` blank slices."""
        used = num_tasks + 1
        room = _Room(capacity=used + spare, touched=used)
        return cls(arrays=arrays, slots=tuple(range(num_tasks)), used=used, room=room)

    def stacks(self) -> Stacks:
        """What the graph is given: views, not copies."""
        return {name: array[: self.used] for name, array in self.arrays.items()}

    def add(self, one: Stacks, position: int) -> "Slots":
        """With another task.

        Args:
            one: stacks of that task alone, as `expert_stacks` makes them.
            position: its index; the tasks from there on move up by one.
        """
        with self.room.lock:
            slot, used = self._free()
            if used <= self.room.capacity:
                arrays = {name: self._put(name, slot, one[name][0]) for name in self.arrays}
                if used > self.used:
                    for name, array in arrays.items():
                        self._clear(name, array, used - 1)
                self.room.touched = max(self.room.touched, used)
                slots = (*self.slots[:position], slot, *self.slots[position:])
                return Slots(arrays=arrays, slots=slots, used=used, room=self.room)
        return self.packed().add(one, position)

    def _free(self) -> tuple[int, int]:
        """A slice that nobody reads, and how many are used with it; more than there are if there is none."""
        taken = {slot for user in self.room.users for slot in (*user.slots, user.used - 1)}
        inside = [slot for slot in range(self.used) if slot not in taken]
        if inside:
            return inside[0], self.used
        behind = {self.used, self.used + 1}
        return self.used, self.used + 2 if not behind & taken else self.room.capacity + 1

    def _clear(self, name: str, array: NDArray[Any], slot: int) -> None:
        if slot < self.room.touched:
            array[slot] = blank_stack(name, array.shape[1:], array.dtype)

    def _put(self, name: str, slot: int, value: NDArray[Any]) -> NDArray[Any]:
        """The array with `value` in a free slice; a wider copy where a task has more experts than any before it."""
        array = self.arrays[name]
        shape = tuple(max(a, b) for a, b in zip(array.shape[1:], value.shape, strict=True))
        if shape != array.shape[1:]:
            wider = blank_stack(name, (len(array), *shape), array.dtype)
            for kept in self.slots:
                wider[kept][_corner(array[kept])] = array[kept]
            array = wider
        else:
            self._clear(name, array, slot)
        array[slot][_corner(value)] = value
        return array

    def without(self, index: int) -> "Slots":
        """With one task less, whose slice stays as it is for those who still read it."""
        slots = (*self.slots[:index], *self.slots[index + 1 :])
        kept = Slots(arrays=self.arrays, slots=slots, used=self.used, room=self.room)
        return kept.packed() if kept.used > 2 * len(slots) + MIN_SPARE else kept

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


def _corner(value: NDArray[Any]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in value.shape)
