"""Stacks that grow: whoever has the tasks of before sees them unchanged."""

from typing import Any

import numpy as np

from igsp_deploy.bundle.stacks import MASKED, Stacks
from igsp_deploy.runtime.slots import MIN_SPARE, Slots

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
        assert slots.used <= slots.room.capacity <= 2 * (value + 1) + MIN_SPARE


def test_a_slot_is_used_again_when_nobody_reads_it_any_more() -> None:
    slots = start((1, 1), (2, 2), spare=2)
    arrays = slots.arrays
    for value in range(3, 20):
        slots = slots.without(1).add(stacks((value, 1)), 1)  # with fewer experts than what was there
        assert_holds(slots, (1, 1), (value, 1))
    slots = slots.add(stacks((30, 1)), 2)
    assert_holds(slots, (1, 1), (19, 1), (30, 1))
    assert slots.arrays["experts.0.down"] is arrays["experts.0.down"]
    assert slots.used == 5
    held = slots
    slots = slots.without(0).add(stacks((40, 1)), 0)
    assert_holds(slots, (40, 1), (19, 1), (30, 1))
    assert_holds(held, (1, 1), (19, 1), (30, 1))


def test_plain_clip_stays_blank_where_a_task_was() -> None:
    slots = start((1, 1), spare=6)
    other = slots.add(stacks((2, 1)), 1).add(stacks((3, 1)), 1)
    other = other.add(stacks((4, 1)), 1)
    assert {2, 3, 4} & set(other.slots)
    del other
    assert_holds(slots.add(stacks((5, 1)), 1), (1, 1), (5, 1))


def test_no_slot_in_use_is_given_away() -> None:
    random = np.random.default_rng(0)
    held = [(start((0, 1), spare=2), [(0, 1)])]
    for value in range(1, 300):
        slots, tasks = held[random.integers(len(held))]
        position = int(random.integers(len(tasks) + 1))
        if len(tasks) > 1 and random.random() < 0.4:
            position %= len(tasks)
            held.append((slots.without(position), tasks[:position] + tasks[position + 1 :]))
        else:
            task = (value, int(random.integers(1, 4)))
            held.append((slots.add(stacks(task), position), [*tasks[:position], task, *tasks[position:]]))
        if len(held) > 6:
            held.pop(int(random.integers(len(held))))
        for each, its_tasks in held:
            assert_holds(each, *its_tasks)


def test_removed_tasks_give_their_memory_back_when_they_are_most() -> None:
    slots = start(*((value, 1) for value in range(40)))
    array = slots.arrays["experts.0.down"]
    for first in range(1, 28):
        slots = slots.without(0)
        assert_holds(slots, *((value, 1) for value in range(first, 40)))
    assert slots.arrays["experts.0.down"] is array
    slots = slots.without(0)
    assert_holds(slots, *((value, 1) for value in range(28, 40)))
    assert len(slots.arrays["experts.0.down"]) == 12 + 1 + MIN_SPARE


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
