"""Views made by other processes, ahead of time: the same ones, whatever their number."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.data.items import Items
from igsp_deploy.errors import UserError
from igsp_train.data.order import Order
from igsp_train.data.views import TrainViews
from igsp_train.data.workers import WorkerViews
from tests.unit.data.conftest import write_image

SPEC = PreprocessSpec(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def make_views(folder: Path, cache_bytes: int = 0) -> TrainViews:
    paths = [write_image(folder / f"{number}.png", number, (30, 20)) for number in range(7)]
    items = Items(paths, np.zeros(7, dtype=np.int64))
    return TrainViews(items, SPEC, horizontal_flip=True, seed=3, cache_bytes=cache_bytes)


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    views = make_views(tmp_path, cache_bytes=3 * 30 * 20 * 3)
    order = Order(np.zeros(7, np.int64), 4, 5).pairs
    expected = [np.stack([views.view(*pair) for pair in order(step)]) for step in range(6)]
    for num_workers in (0, 1, 2):
        with WorkerViews(views, num_workers) as workers:
            workers.follow(order, 0)
            for step in range(6):
                assert (workers.batch(order(step)) == expected[step]).all(), (num_workers, step)
            # Another batch than the one that was made ahead.
            assert (workers.batch(order(2)) == expected[2]).all()


def test_batches_are_made_before_they_are_asked_for(tmp_path: Path) -> None:
    views = make_views(tmp_path)
    order = Order(np.zeros(7, np.int64), 4, 5).pairs
    with WorkerViews(views, 1) as workers:
        workers.follow(order, 0)
        workers.batch(order(0))
        assert len(workers._coming) == 2
        for future in [future for _, futures in workers._coming for future in futures]:
            future.result()
        for path in tmp_path.glob("*.png"):
            path.unlink()
        assert workers.batch(order(1)).shape == (4, 16, 16, 3)


def test_an_image_that_vanishes_is_named(tmp_path: Path) -> None:
    views = make_views(tmp_path)
    (tmp_path / "4.png").unlink()
    with WorkerViews(views, 2) as workers, pytest.raises(UserError, match=r"4.png does not exist"):
        workers.batch([(1, 0), (4, 0)])


def test_a_worker_that_is_killed_is_told_of(tmp_path: Path) -> None:
    with WorkerViews(make_views(tmp_path), 1) as workers:
        workers.batch([(0, 0)])
        assert workers._pool is not None
        for pid in list(workers._pool._processes):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(UserError, match=r"Lower data.num_workers"):
            workers.batch([(0, 0)])
