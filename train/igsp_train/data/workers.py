"""Augmented training images made by several processes, ahead of the steps that need them.

A view is a function of seed, epoch and index alone, so it does not matter which process makes it, or when.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.errors import UserError
from igsp_train.data.views import TrainViews

Pairs = list[tuple[int, int]]
"""Index and epoch of each view."""

AHEAD = 2
"""Batches that are made before they are asked for."""

_PARENT_CHECK_S = 2.0

_views: TrainViews | None = None
"""In a worker: what it was started with."""


class WorkerViews:
    """The views of `TrainViews`, made by `num_workers` processes; 0 makes them here.

    Use it in a `with` statement: the processes end with it.
    """

    def __init__(self, views: TrainViews, num_workers: int) -> None:
        """Start the processes, which share what `views` holds in memory.

        Args:
            views: the views; nothing in it may change from now on.
            num_workers: processes.
        """
        self.views = views
        self.num_workers = num_workers
        self._pool: ProcessPoolExecutor | None = None
        self._coming: deque[tuple[Pairs, list[Future[NDArray[np.uint8]]]]] = deque()
        self._schedule: Callable[[int], Pairs] | None = None
        self._next = 0
        if num_workers:
            method = "fork" if sys.platform == "linux" else "spawn"
            self._pool = ProcessPoolExecutor(
                num_workers,
                mp_context=multiprocessing.get_context(method),
                initializer=_start,
                initargs=(views, os.getpid()),
            )

    def __enter__(self) -> "WorkerViews":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.views)

    def view(self, index: int, epoch: int) -> NDArray[np.uint8]:
        """Image `index` as seen in `epoch`, uint8 `[S, S, 3]`; made here."""
        return self.views.view(index, epoch)

    def follow(self, schedule: Callable[[int], Pairs], step: int) -> None:
        """Make the batches of `schedule(step)`, `schedule(step + 1)`, ... ahead, in that order."""
        self._schedule, self._next = schedule, step
        self._coming.clear()

    def batch(self, pairs: Pairs) -> NDArray[np.uint8]:
        """The views of `pairs`, uint8 `[B, S, S, 3]`.

        Raises:
            UserError: an image cannot be read any more, or a process was ended from outside.
        """
        if self._pool is None:
            return _stack(self.views, pairs)
        try:
            self._fill()
            futures = self._coming.popleft()[1] if self._coming and self._coming[0][0] == pairs else self._submit(pairs)
            self._fill()
            return np.concatenate([future.result() for future in futures])
        except BrokenProcessPool as error:
            raise UserError(
                "a process that reads images was ended from outside, perhaps for want of memory. Lower "
                "data.num_workers or data.cache_mib and give the command again."
            ) from error

    def _fill(self) -> None:
        while self._schedule is not None and len(self._coming) < AHEAD:
            pairs = self._schedule(self._next)
            self._coming.append((pairs, self._submit(pairs)))
            self._next += 1

    def _submit(self, pairs: Pairs) -> list[Future[NDArray[np.uint8]]]:
        assert self._pool is not None
        size = -(-len(pairs) // self.num_workers)
        return [self._pool.submit(_make, pairs[start : start + size]) for start in range(0, len(pairs), size)]


def _stack(views: TrainViews, pairs: Pairs) -> NDArray[np.uint8]:
    return np.stack([views.view(index, epoch) for index, epoch in pairs])


def _start(views: TrainViews, parent: int) -> None:
    """Begin a worker. Ctrl-C is the parent's to handle; when the parent is killed, the worker goes too."""
    global _views
    _views = views
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


def _make(pairs: Pairs) -> NDArray[np.uint8]:
    assert _views is not None
    return _stack(_views, pairs)
