"""Which images a step sees."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from igsp_train.data.order import batch_indices


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


def test_seed_and_epoch_change_the_order() -> None:
    base = batch_indices(100, 100, 0, 0)
    assert (base != batch_indices(100, 100, 0, 1)).any()
    assert (base != batch_indices(100, 100, 1, 0)).any()
