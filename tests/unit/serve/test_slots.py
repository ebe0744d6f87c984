"""Stacks that grow: whoever has the tasks of before sees them unchanged."""

from typing import Any

import numpy as np

from igsp_deploy.bundle.stacks import MASKED, Stacks
from igsp_serve.slots import MIN_SPARE, Slots

Numbers = np.ndarray[Any, np.dtype[Any]]


def stacks(*tasks: tuple[int, int], spare: int = 0) -> Stacks:
    """A block of rank 1 and width 2, with `(value, experts)` a task."""
    largest = max(experts for _, experts in tasks)
    down = np.zeros((len(tasks) + 1 + spare, largest, 2), np.float32)
    bias = np.full((len(tasks) + 1 + spare, largest), MASKED, np.float32)
    for t, (value, experts) in enumerate(tasks):
        down[t, :experts] = value
        bias[t, :experts] = value
    return {"experts.0.down": down, "experts.0.router_bias": bias}


def start(*tasks: tuple[int, int], spare: int = 4) -> Slots:
    return Slots.of(stacks(*tasks, spare=spare), len(tasks), spare)


def of(slots: Slots, task: int) -> Stacks:
    """What the graph takes for a task, or for plain CLIP with -2."""
    (slot,) = slots.slot(np.array([task]))
    return {name: array[slot if slot >= 0 else -1] for name, array in slots.stacks().items()}


def assert_holds(slots: Slots, *tasks: tuple[int, int]) -> None:
    """`slots` computes what stacks made of these tasks alone would, whatever is between and however wide they are."""
    expected = stacks(*tasks)
    for t in (*range(len(tasks)), -2):
        for name, value in of(slots, t).items():
            wanted = expected[name][t if t >= 0 else -1]
            np.testing.assert_array_equal(value[: len(wanted)], wanted)
            assert (value[len(wanted) :] == (MASKED if name.endswith("bias") else 0)).all()


def test_a_task_is_added_without_copying_or_touching_the_others() -> None:
    before = start((1, 2), (2, 1))
    held = before.stacks()
    copies = {name: array.copy() for name, array in held.items()}
    after = before.add(stacks((3, 1)), 2)
    assert_holds(after, (1, 2), (2, 1), (3, 1))
    assert_holds(before, (1, 2), (2, 1))
    for name, array in after.stacks().items():
        assert np.shares_memory(array, held[name])
        np.testing.assert_array_equal(held[name], copies[name])


def test_a_task_may_come_between_others() -> None:
    slots = start((1, 1), (2, 1)).add(stacks((3, 1)), 1).add(stacks((4, 1)), 0)
    assert_holds(slots, (4, 1), (1, 1), (3, 1), (2, 1))


def test_two_sets_that_grow_from_one_do_not_disturb_each_other() -> None:
    both = start((1, 1), spare=8)
    one = both.add(stacks((2, 1)), 1)
    other = both.add(stacks((3, 1)), 1)
    removed = one.without(1).add(stacks((4, 1)), 1)
    assert_holds(one, (1, 1), (2, 1))
    assert_holds(other, (1, 1), (3, 1))
    assert_holds(removed, (1, 1), (4, 1))
    assert_holds(both, (1, 1))


def test_a_task_of_more_experts_than_any_widens_the_stacks() -> None:
    before = start((1, 1), (2, 1))
    after = before.add(stacks((3, 3)), 2).add(stacks((4, 2)), 3)
    assert_holds(after, (1, 1), (2, 1), (3, 3), (4, 2))
    assert_holds(before, (1, 1), (2, 1))
    assert before.stacks()["experts.0.down"].shape[1] == 1


def test_tasks_move_to_larger_arrays_when_there_is_no_room() -> None:
    slots, tasks = start((0, 1), spare=0), [(0, 1)]
    for value in range(1, 4 * MIN_SPARE):
        slots = slots.add(stacks((value, 1)), value)
        tasks.append((value, 1))
        assert_holds(slots, *tasks)
        assert slots.used <= slots.capacity


def test_removed_tasks_give_their_memory_back_when_they_are_most() -> None:
    slots = start(*((value, 1) for value in range(8)))
    array = slots.arrays["experts.0.down"]
    for left in (7, 6, 5, 4):
        slots = slots.without(0)
        assert_holds(slots, *((value, 1) for value in range(8 - left, 8)))
    assert slots.arrays["experts.0.down"] is array
    slots = slots.without(0)
    assert_holds(slots, (5, 1), (6, 1), (7, 1))
    assert not np.shares_memory(slots.arrays["experts.0.down"], array)


def test_indices_and_slots_are_told_apart() -> None:
    slots = start((1, 1), (2, 1)).add(stacks((3, 1)), 0)
    assert slots.slots == (3, 0, 1)
    assert slots.used == 5
    tasks = np.array([0, -1, 2, -2, 1])
    assert slots.slot(tasks).tolist() == [3, -1, 1, -2, 0]
    assert slots.task(slots.slot(tasks)).tolist() == tasks.tolist()
    scores = np.array([[10, 11, -np.inf, 13]], np.float32)
    assert slots.columns(scores).tolist() == [[13, 10, 11]]


def test_the_stacks_of_a_block_without_arrays_grow_too() -> None:
    slots = Slots.of({}, 1, 2).add({}, 1)
    assert slots.stacks() == {}
    assert slots.slot(np.array([1])).tolist() == [2]
