"""The batcher alone, with a target that does sums."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from igsp_deploy.runtime.engine import ImageOutput
from igsp_serve.batcher import Batcher, Job, Rows
from igsp_serve.failures import DeadlineExceeded, EngineFailed, Overloaded, Unavailable

FAR = 1e12


class Sums:
    """Answers the sum of an image; keeps what it was given; waits while `free` is not set."""

    def __init__(self) -> None:
        self.free, self.entered = threading.Event(), threading.Event()
        self.free.set()
        self.batches: list[list[int]] = []
        self.error: Exception | None = None

    def run(self, images: NDArray[np.uint8], task: NDArray[np.int64]) -> ImageOutput:
        self.entered.set()
        assert self.free.wait(120)
        if self.error is not None:
            raise self.error
        sums = images.reshape(len(images), -1).sum(1).astype(np.float32)
        self.batches.append([int(x) for x in sums])
        scores, read = np.zeros((len(task), 2), np.float32), np.zeros((len(task), 3), np.float32)
        return ImageOutput(features=sums[:, None], task=task, task_scores=scores, summary=read)


class Seen:
    """An observer that counts."""

    def __init__(self) -> None:
        self.dropped_images: dict[str, int] = {}
        self.sizes: list[int] = []

    def batch(self, size: int, seconds: float) -> None:
        self.sizes.append(size)

    def dropped(self, why: str, images: int) -> None:
        self.dropped_images[why] = self.dropped_images.get(why, 0) + images


@pytest.fixture
def make() -> Iterator[Callable[..., Batcher]]:
    """Makes batchers and closes them."""
    made: list[Batcher] = []

    def batcher(**options: Any) -> Batcher:
        made.append(Batcher(**{"max_batch": 4, "max_wait_s": 0.0, "queue": 100, **options}))
        return made[-1]

    yield batcher
    for one in made:
        one.close()


def pixel(value: int) -> NDArray[np.uint8]:
    return np.full((1, 1, 1), value, np.uint8)


def submit(batcher: Batcher, target: Sums, values: list[int], deadline: float = FAR) -> Job:
    job = batcher.open(target, np.zeros(len(values), np.int64), deadline)
    for index, value in enumerate(values):
        batcher.put(job, index, pixel(value))
    return job


def sums(job: Job) -> list[int]:
    rows: Rows = job.future.result(120)
    return [int(x) for x in rows.features[:, 0]]


def test_rows_come_back_in_the_order_of_the_request_whatever_order_they_went_in(make: Callable[..., Batcher]) -> None:
    batcher, target = make(), Sums()
    job = batcher.open(target, np.arange(3), FAR)
    for index in (2, 0, 1):
        batcher.put(job, index, pixel(10 * index))
    rows = job.future.result(120)
    assert rows.features[:, 0].tolist() == [0, 10, 20]
    assert rows.task.tolist() == [0, 1, 2]


def test_batches_fill_up_to_the_maximum_and_no_further(make: Callable[..., Batcher]) -> None:
    seen = Seen()
    batcher, target = make(observer=seen), Sums()
    target.free.clear()
    first = submit(batcher, target, [99])
    assert target.entered.wait(120)
    jobs = [submit(batcher, target, [value]) for value in range(10)]
    target.free.set()
    assert [sums(job) for job in jobs] == [[value] for value in range(10)]
    assert sums(first) == [99]
    assert [len(batch) for batch in target.batches] == [1, 4, 4, 2] == seen.sizes


def test_requests_take_turns(make: Callable[..., Batcher]) -> None:
    batcher, target = make(), Sums()
    target.free.clear()
    submit(batcher, target, [99])
    assert target.entered.wait(120)
    large = submit(batcher, target, [1] * 20)
    small = submit(batcher, target, [2])
    pair = submit(batcher, target, [3, 3])
    target.free.set()
    assert sums(large) == [1] * 20
    assert sums(small) == [2]
    assert sums(pair) == [3, 3]
    assert target.batches[1] == [1, 2, 3, 1]
    assert target.batches[2] == [3, 1, 1, 1]


def test_targets_are_never_mixed(make: Callable[..., Batcher]) -> None:
    batcher, old, new = make(), Sums(), Sums()
    old.free.clear()
    submit(batcher, old, [99])
    assert old.entered.wait(120)
    jobs = [submit(batcher, target, [value]) for value, target in enumerate((old, new, old, new, new))]
    old.free.set()
    assert [sums(job) for job in jobs] == [[0], [1], [2], [3], [4]]
    assert old.batches[1:] == [[0, 2]]
    assert new.batches == [[1, 3, 4]]


def test_an_image_waits_for_others_no_longer_than_it_is_told(make: Callable[..., Batcher]) -> None:
    batcher, target = make(max_wait_s=3600.0), Sums()
    jobs = [submit(batcher, target, [value]) for value in range(4)]  # full: nobody waits
    assert [sums(job) for job in jobs] == [[0], [1], [2], [3]]
    assert target.batches == [[0, 1, 2, 3]]
    batcher = make(max_wait_s=0.01)
    assert sums(submit(batcher, target, [5])) == [5]


def test_the_queue_is_bounded_before_anything_is_decoded(make: Callable[..., Batcher]) -> None:
    seen = Seen()
    batcher, target = make(queue=3, observer=seen), Sums()
    first = batcher.open(target, np.zeros(3, np.int64), FAR)
    with pytest.raises(Overloaded) as refused:
        batcher.open(target, np.zeros(1, np.int64), FAR)
    assert 1 <= refused.value.retry_after_s <= 60
    assert seen.dropped_images == {"rejected": 1}
    batcher.fail(first, RuntimeError("left"))
    assert batcher.pending == 0
    assert sums(submit(batcher, target, [1, 2, 3])) == [1, 2, 3]


def test_the_time_to_come_back_follows_the_measured_rate(make: Callable[..., Batcher]) -> None:
    batcher, target = make(queue=10_000), Sums()
    assert sums(submit(batcher, target, [1])) == [1]
    batcher._rate = 10.0
    batcher.open(target, np.zeros(400, np.int64), FAR)
    assert batcher.retry_after_s() == pytest.approx(20.0)
    batcher._rate = 1.0
    assert batcher.retry_after_s() == 60.0


def test_what_is_late_or_gone_never_reaches_the_target(make: Callable[..., Batcher]) -> None:
    seen = Seen()
    batcher, target = make(observer=seen), Sums()
    target.free.clear()
    first = submit(batcher, target, [99])
    assert target.entered.wait(120)
    late = submit(batcher, target, [1, 1], deadline=time.monotonic())
    gone = submit(batcher, target, [2, 2, 2])
    kept = submit(batcher, target, [3])
    batcher.fail(gone, RuntimeError("left"))
    target.free.set()
    assert sums(kept) == [3]
    assert sums(first) == [99]
    with pytest.raises(DeadlineExceeded):
        late.future.result(120)
    with pytest.raises(RuntimeError, match="left"):
        gone.future.result(120)
    assert target.batches == [[99], [3]]
    assert seen.dropped_images == {"expired": 2, "cancelled": 3}
    assert (batcher.pending, batcher.open_jobs, batcher.ready) == (0, 0, 0)


def test_a_failure_ends_its_batch_alone_and_is_found_over(
    make: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igsp_serve.batcher.PROBE_INTERVAL_S", 0.01)
    probed = threading.Event()
    target = Sums()

    def probe() -> None:
        probed.set()
        if target.error is not None:
            raise target.error

    batcher = make(probe=probe)
    target.error = RuntimeError("lost the device\nand more")
    job = submit(batcher, target, [1, 2])
    with pytest.raises(EngineFailed):
        job.future.result(120)
    assert batcher.failure == "RuntimeError: lost the device"
    assert probed.wait(120)
    target.error = None
    end = time.monotonic() + 120
    while batcher.failure is not None:
        assert time.monotonic() < end
    assert sums(submit(batcher, target, [3])) == [3]


def test_closing_finishes_what_is_ready_and_refuses_more(make: Callable[..., Batcher]) -> None:
    batcher, target = make(), Sums()
    jobs = [submit(batcher, target, [value]) for value in range(9)]
    batcher.close()
    assert [sums(job) for job in jobs] == [[value] for value in range(9)]
    with pytest.raises(Unavailable):
        batcher.open(target, np.zeros(1, np.int64), FAR)


def test_many_threads_lose_nothing(make: Callable[..., Batcher]) -> None:
    batcher, target = make(max_batch=7, max_wait_s=0.001, queue=100_000), Sums()
    wrong: list[Any] = []

    def caller(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(30):
            values = random.integers(0, 255, random.integers(1, 12)).tolist()
            job = submit(batcher, target, values)
            if random.random() < 0.2:
                batcher.fail(job, RuntimeError("left"))
            elif sums(job) != values:
                wrong.append(values)

    threads = [threading.Thread(target=caller, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (batcher.pending, batcher.open_jobs, batcher.ready) == (0, 0, 0)
