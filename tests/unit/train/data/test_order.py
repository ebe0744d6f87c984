"""Which images a step sees."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from igsp_train.data.order import Order, batch_indices


@given(num_items=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(-3, 3))
def test_every_epoch_sees_every_image_once(num_items: int, batch_size: int, seed: int) -> None:
    steps = -(-3 * num_items // batch_size)
    stream = np.concatenate([batch_indices(num_items, batch_size, step, seed) for step in range(steps)])
    assert stream.dtype == np.int64
    assert len(stream) == steps * batch_size
    for epoch in range(3):
        assert sorted(stream[epoch * num_items : (epoch + 1) * num_items]) == list(range(num_items))


def test_a_step_does_not_depend_on_the_steps_before_it() -> None:
    alone = batch_indices(37, 8, 11, 5)
    in_order = [batch_indices(37, 8, step, 5) for step in range(12)][-1]
    assert (alone == in_order).all()


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    batch_size=st.integers(1, 20),
    start=st.integers(0, 60),
    rounds=st.integers(1, 5),
    seed=st.integers(-2, 2),
)
def test_every_class_comes_equally_often_and_so_does_each_of_its_images(
    sizes: list[int], batch_size: int, start: int, rounds: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes)
    order = Order(labels, batch_size, seed, balanced=True)
    steps = -(-(start + rounds * len(sizes)) // batch_size)
    drawn = [pair for step in range(steps) for pair in order.pairs(step)]
    window = labels[[index for index, _ in drawn[start : start + rounds * len(sizes)]]]
    for label in np.unique(labels):
        assert abs(int((window == label).sum()) - rounds) <= 1
    # From the first draw on: rounds of all classes, and the e-th time that an image comes is its epoch e.
    whole = labels[[index for index, _ in drawn[: rounds * len(sizes)]]]
    assert (np.bincount(whole)[np.unique(labels)] == rounds).all()
    came = np.zeros(len(labels), dtype=np.int64)
    for index, epoch in drawn:
        assert epoch == came[index]
        came[index] += 1
    for label in np.unique(labels):
        assert np.ptp(came[labels == label]) <= 1


@given(batch_size=st.integers(1, 12), step=st.integers(0, 9), balanced=st.booleans())
def test_an_order_is_a_function_of_seed_and_step(batch_size: int, step: int, balanced: bool) -> None:
    labels = np.array([0, 1, 1, 1, 1, 2, 2])
    order = Order(labels, batch_size, 5, balanced=balanced)
    for earlier in range(step):
        order.batch(earlier)
    alone = Order(labels, batch_size, 5, balanced=balanced)
    assert order.pairs(step) == alone.pairs(step)
    if not balanced:
        assert [index for index, _ in alone.pairs(step)] == batch_indices(7, batch_size, step, 5).tolist()
        assert [epoch for _, epoch in alone.pairs(step)] == [(step * batch_size + k) // 7 for k in range(batch_size)]


def test_classes_of_the_same_size_take_turns_of_their_own() -> None:
    labels = np.repeat([0, 1], 30)
    drawn = [index for index, _ in Order(labels, 60, 0, balanced=True).pairs(0)]
    first, second = ([index % 30 for index in drawn if labels[index] == label] for label in (0, 1))
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second


def test_seed_and_epoch_change_the_order() -> None:
    base = batch_indices(100, 100, 0, 0)
    assert (base != batch_indices(100, 100, 0, 1)).any()
    assert (base != batch_indices(100, 100, 1, 0)).any()
