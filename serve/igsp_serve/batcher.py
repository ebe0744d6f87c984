"""Images of many requests -> calls of the model: dynamic batches, formed by one thread.

What it must know, and no batcher we looked at does all of (`batched`, Ray Serve's `@serve.batch`): that a batch may mix
tasks but not task sets; how many images are admitted (429 before any work is done); each request's deadline and whether
its caller has left (dropped before they reach the model); and turns between requests, so that one image does not wait
behind sixty-four of somebody else.

Shapes: n images of one request, B images of a batch, S image side, D embedding width, T tasks.
"""

import collections
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.runtime.engine import ImageOutput
from igsp_serve.failures import DeadlineExceeded, EngineFailed, Overloaded, Unavailable, without_paths

logger = logging.getLogger(__name__)

MAX_RETRY_AFTER_S = 60.0
"""Longest time a caller is told to wait."""
PROBE_INTERVAL_S = 1.0
"""While the model fails, it is tried this often without any request."""
_FORGET = 0.9
"""Share of the old value in the running mean of the rate."""


class Target(Hashable, Protocol):
    """What runs a batch. Batches are formed of images with the same target (by identity)."""

    def run(self, images: NDArray[np.uint8], task: NDArray[np.int64]) -> ImageOutput:
        """Run images uint8 `[B, S, S, 3]` under the tasks int64 `[B]`."""
        ...


class Observer(Protocol):
    """Who wants to know what the batcher does. Called from several threads."""

    def batch(self, size: int, seconds: float) -> None:
        """A batch was run."""
        ...

    def dropped(self, why: str, images: int) -> None:
        """Images were not run: `rejected`, `expired`, `cancelled` or `failed`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The model's answer to one request.

    Attributes:
        features: float32 `[n, D]`.
        task: task used, int64 `[n]`.
        task_scores: float32 `[n, T]`.
        summary: float32 `[n, P]`.
        queue_s: longest time one of its images waited for the model.
        inference_s: time of the model calls that held its images, in all.
        ready_at: when its first image was decoded, on the clock of `time.monotonic`.
        began_at: when the model took its first image.
        ended_at: when the model gave its last one.
    """

    features: NDArray[np.float32]
    task: NDArray[np.int64]
    task_scores: NDArray[np.float32]
    summary: NDArray[np.float32]
    queue_s: float
    inference_s: float
    ready_at: float = 0.0
    began_at: float = 0.0
    ended_at: float = 0.0


class Job:
    """The images of one request on their way through the model. Made by `Batcher.open`."""

    def __init__(self, target: Target, task: NDArray[np.int64], deadline: float) -> None:
        """Use `Batcher.open`."""
        self.target = target
        self.task = task
        self.deadline = deadline
        self.future: concurrent.futures.Future[Rows] = concurrent.futures.Future()
        self.done = False
        self.ready: collections.deque[tuple[int, NDArray[np.uint8], float]] = collections.deque()
        self.in_turn = False
        self.waiting = len(task)
        """Images not yet in the model; they count for the queue."""
        self.missing = len(task)
        """Images without an answer."""
        self.rows: list[tuple[ImageOutput, int] | None] = [None] * len(task)
        self.queue_s = 0.0
        self.inference_s = 0.0
        self.ready_at = self.began_at = self.ended_at = 0.0

    def finish(self) -> Rows:
        """All rows, in the order of the request."""
        rows = [row for row in self.rows if row is not None]
        return Rows(
            features=np.stack([output.features[row] for output, row in rows]),
            task=np.array([output.task[row] for output, row in rows], np.int64),
            task_scores=np.stack([output.task_scores[row] for output, row in rows]),
            summary=np.stack([output.summary[row] for output, row in rows]),
            queue_s=self.queue_s,
            inference_s=self.inference_s,
            ready_at=self.ready_at,
            began_at=self.began_at,
            ended_at=self.ended_at,
        )


_Item = tuple[Job, int, NDArray[np.uint8], float]


class Batcher:
    """A bounded queue before the model, and the thread that runs it. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        max_batch: int = 32,
        max_wait_s: float = 0.002,
        queue: int = 512,
        observer: Observer | None = None,
        probe: Callable[[], None] | None = None,
    ) -> None:
        """Start the thread.

        Args:
            max_batch: images of one call.
            max_wait_s: longest wait for more images while the model is idle.
            queue: images admitted and not yet in the model.
            observer: told of each batch and each image dropped.
            probe: runs the model on anything; tried while the model fails, until it does not raise.
        """
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._queue = queue
        self._observer = observer
        self._probe = probe
        self._changed = threading.Condition()
        self._turns: collections.deque[Job] = collections.deque()
        self._pending = 0
        self._ready = 0
        self._open = 0
        self._first_ready = 0.0
        self._rate = 0.0
        self._busy_since: float | None = None
        self._failure: str | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="igsp-model", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Images admitted and not yet in the model."""
        return self._pending

    @property
    def ready(self) -> int:
        """Those of them that are decoded."""
        return self._ready

    @property
    def open_jobs(self) -> int:
        """Requests without an answer."""
        return self._open

    @property
    def failure(self) -> str | None:
        """Why the model failed last time; None when it works."""
        return self._failure

    def busy_s(self) -> float:
        """For how long the model has been in the call under way."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def retry_after_s(self) -> float:
        """When a full queue is likely to have room: half of it at the measured rate."""
        return min(MAX_RETRY_AFTER_S, max(1.0, self._pending / 2 / self._rate if self._rate else 1.0))

    def open(self, target: Target, task: NDArray[np.int64], deadline: float) -> Job:
        """Admit a request; its images follow with `put`.

        Args:
            target: what is to run them.
            task: of each image, int64 `[n]`.
            deadline: on the clock of `time.monotonic`.

        Raises:
            Overloaded: there is no room for all of them.
            Unavailable: closed.
        """
        if not len(task):
            raise ValueError("a job needs an image")
        job = Job(target, task, deadline)
        with self._changed:
            if self._closed:
                raise Unavailable("The server is shutting down.")
            if self._pending + job.waiting > self._queue:
                self._tell_dropped("rejected", job.waiting)
                raise Overloaded(self.retry_after_s())
            self._open += 1
            self._pending += job.waiting
        return job

    def put(self, job: Job, index: int, image: NDArray[np.uint8]) -> None:
        """Give image `index` of a job, uint8 `[S, S, 3]`. Each is given once; after the job is done it is ignored."""
        with self._changed:
            if job.done:
                return
            now = time.monotonic()
            job.ready.append((index, image, now))
            job.ready_at = job.ready_at or now
            if not self._ready:
                self._first_ready = now
            self._ready += 1
            if not job.in_turn:
                job.in_turn = True
                self._turns.append(job)
            self._changed.notify()

    def fail(self, job: Job, error: BaseException, why: str = "cancelled") -> None:
        """End a job without an answer; what has not reached the model never will."""
        with self._changed:
            self._end(job, why)
        if not job.future.cancelled():
            _settle(job.future, error)

    def close(self) -> None:
        """Refuse new work, finish what was admitted and is ready, end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10)

    def _end(self, job: Job, why: str | None = None) -> None:
        """Take a job out of everything; holds the lock."""
        if job.done:
            return
        job.done = True
        self._open -= 1
        self._pending -= job.waiting
        self._ready -= len(job.ready)
        if why is not None and job.waiting:
            self._tell_dropped(why, job.waiting)
        job.ready.clear()
        job.waiting = 0
        self._changed.notify()

    def _work(self) -> None:
        while True:
            batch = self._next()
            if batch is None:
                return
            if batch:
                self._run(batch)
            elif self._failure is not None:
                self._try_again()

    def _next(self) -> list[_Item] | None:
        """The next batch; empty when it is only time to look; None at the end."""
        expired: list[Job] = []
        with self._changed:
            while not self._ready:
                if self._closed:
                    return None
                if not self._changed.wait(PROBE_INTERVAL_S if self._failure is not None else None):
                    return []
            until = self._first_ready + self._max_wait_s
            while 0 < self._ready < self._max_batch and not self._closed:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch = self._take(expired)
            if batch:
                self._busy_since = time.monotonic()
        for job in expired:
            _settle(job.future, DeadlineExceeded("The request's time ran out before the model had room for it."))
        return batch

    def _take(self, expired: list[Job]) -> list[_Item]:
        """One image of each request in turn; holds the lock."""
        now = time.monotonic()
        batch: list[_Item] = []
        others: list[Job] = []
        target: Target | None = None
        while self._turns and len(batch) < self._max_batch:
            job = self._turns.popleft()
            if not job.done and job.deadline <= now:
                self._end(job, "expired")
                expired.append(job)
            if job.done:
                job.in_turn = False
                continue
            if target is None:
                target = job.target
            elif job.target is not target:
                others.append(job)
                continue
            index, image, since = job.ready.popleft()
            job.waiting -= 1
            self._pending -= 1
            self._ready -= 1
            batch.append((job, index, image, since))
            if job.ready:
                self._turns.append(job)
            else:
                job.in_turn = False
        self._turns.extendleft(reversed(others))
        # What is left has waited long enough.
        self._first_ready = 0.0
        return batch

    def _run(self, batch: list[_Item]) -> None:
        target = batch[0][0].target
        start = time.monotonic()
        try:
            images = np.stack([image for _, _, image, _ in batch])
            task = np.array([job.task[index] for job, index, _, _ in batch], np.int64)
            output = target.run(images, task)
        except Exception as error:
            self._broken(batch, error)
            return
        finally:
            self._busy_since = None
        seconds = time.monotonic() - start
        self._failure = None
        rate = len(batch) / max(seconds, 1e-6)
        self._rate = rate if not self._rate else _FORGET * self._rate + (1 - _FORGET) * rate
        if self._observer is not None:
            self._observer.batch(len(batch), seconds)
        finished: list[Job] = []
        with self._changed:
            for row, (job, index, _, since) in enumerate(batch):
                job.rows[index] = (output, row)
                job.queue_s = max(job.queue_s, start - since)
                job.missing -= 1
                if not job.missing and not job.done:
                    self._end(job)
                    finished.append(job)
            for job in {id(item[0]): item[0] for item in batch}.values():
                job.inference_s += seconds
                job.began_at, job.ended_at = job.began_at or start, start + seconds
        for job in finished:
            _settle(job.future, job.finish())

    def _broken(self, batch: list[_Item], error: Exception) -> None:
        logger.exception("the model failed on a batch of %d images", len(batch))
        self._failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        jobs = list({id(item[0]): item[0] for item in batch}.values())
        if self._observer is not None:
            self._observer.dropped("failed", len(batch))
        with self._changed:
            for job in jobs:
                self._end(job, "failed")
        for job in jobs:
            _settle(job.future, EngineFailed("The model failed on this request."))

    def _try_again(self) -> None:
        if self._probe is None:
            return
        try:
            self._probe()
        except Exception as error:
            logger.warning("the model still fails: %s", without_paths(str(error)))
            return
        self._failure = None
        logger.info("the model works again")

    def _tell_dropped(self, why: str, images: int) -> None:
        if self._observer is not None:
            self._observer.dropped(why, images)


def _settle(future: "concurrent.futures.Future[Rows]", result: Rows | BaseException) -> None:
    """Set a result nobody may be waiting for any more."""
    try:
        if isinstance(result, Rows):
            future.set_result(result)
        else:
            future.set_exception(result)
    except concurrent.futures.InvalidStateError:
        pass
