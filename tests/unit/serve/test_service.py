"""The service: what a batcher, decoders and an engine give together, on a real bundle."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from igsp_deploy.errors import UserError
from igsp_deploy.names import PLAIN
from igsp_deploy.runtime.classifier import Classifier
from igsp_deploy.runtime.engine import Engine, ImageOutput
from igsp_serve.failures import DeadlineExceeded, EngineFailed, Overloaded, RequestError, TooLarge, Unavailable
from igsp_serve.service import Service
from igsp_serve.settings import Settings


@pytest.fixture(scope="module")
def photos(bundled: Any) -> list[bytes]:
    """Files of both tasks."""
    return [path.read_bytes() for path in [*bundled.images("colors"), *bundled.images("stripes")]]


@pytest.fixture
def make_service(bundled: Any) -> Iterator[Callable[..., Service]]:
    """Opens services, warm ones, and closes them at the end."""
    opened: list[Service] = []

    def make(bundle: Path = bundled.bundle, **options: Any) -> Service:
        opened.append(Service.open(bundle, Settings(provider="cpu", **options)))
        asyncio.run(opened[-1].warm_up())
        return opened[-1]

    yield make
    for service in opened:
        service.close()


class Gate:
    """Holds the engine's calls until it is opened or lets some through, and counts their rows."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self._permits = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.fail: Exception | None = None
        run = engine.run_images

        def gated(images: NDArray[np.uint8], task: NDArray[np.int64], **options: Any) -> ImageOutput:
            self.entered.set()
            end = time.monotonic() + 120
            while not self.open.is_set() and not self._permits.acquire(timeout=0.005):
                assert time.monotonic() < end, "nobody opened the gate"
            self.sizes.append(len(images))
            if self.fail is not None:
                raise self.fail
            return run(images, task, **options)

        monkeypatch.setattr(engine, "run_images", gated)

    def let_through(self, calls: int) -> None:
        """Open for so many calls."""
        self._permits.release(calls)


@pytest.mark.parametrize("task", ["auto", "colors", "none"])
def test_answers_are_those_of_the_classifier(
    make_service: Callable[..., Service], bundled: Any, photos: list[bytes], task: str
) -> None:
    service = make_service()
    expected = Classifier.open(bundled.bundle, "cpu").classify(photos, task, top_k=2)
    answer = asyncio.run(service.classify(photos, task=task, top_k=2))
    assert [r.labels for r in answer.results] == [r.labels for r in expected]
    assert [r.task for r in answer.results] == [r.task for r in expected]
    assert np.allclose([r.scores for r in answer.results], [r.scores for r in expected], atol=1e-5)
    assert answer.timings.total_ms > 0
    assert answer.timings.decode_ms > 0
    assert answer.timings.inference_ms > 0
    assert answer.model == service.model()


def test_fixed_batch_sizes_change_nothing(make_service: Callable[..., Service], photos: list[bytes]) -> None:
    free = asyncio.run(make_service().classify(photos[:5]))
    fixed = asyncio.run(make_service(batch_sizes=(1, 4)).classify(photos[:5]))
    for one, other in zip(free.results, fixed.results, strict=True):
        assert one.labels == other.labels
        assert np.allclose(one.scores, other.scores, atol=1e-5)


def test_prompts_are_compared_under_the_experts_of_the_task(
    make_service: Callable[..., Service], bundled: Any, photos: list[bytes]
) -> None:
    prompts = ["a red thing", "a blue thing", "stripes"]
    expected = Classifier.open(bundled.bundle, "cpu").classify(photos[:3], "colors", prompts, top_k=3)
    answer = asyncio.run(make_service().classify(photos[:3], task="colors", prompts=prompts, top_k=3))
    assert [r.labels for r in answer.results] == [r.labels for r in expected]


def test_many_callers_with_any_mix_of_tasks_share_batches(
    make_service: Callable[..., Service], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(max_wait_ms=50.0)
    names = ["auto", "colors", "stripes", "none"]
    alone = [asyncio.run(service.classify([p], task=names[i % 4])) for i, p in enumerate(photos)]
    gate = Gate(service.engine, monkeypatch)
    gate.open.set()

    async def together() -> list[Any]:
        return await asyncio.gather(*(service.classify([p], task=names[i % 4]) for i, p in enumerate(photos)))

    answers = asyncio.run(together())
    assert max(gate.sizes) > 1
    for one, other in zip(alone, answers, strict=True):
        assert one.results[0].labels == other.results[0].labels
        assert one.results[0].task == other.results[0].task
        assert np.allclose(one.results[0].scores, other.results[0].scores, atol=1e-5)


def test_embeddings_of_images_and_texts(make_service: Callable[..., Service], photos: list[bytes]) -> None:
    service = make_service()
    found = asyncio.run(service.embed_images(photos[:2], task="colors"))
    assert found.embeddings.shape == (2, service.manifest.backbone.embed_dim)
    assert found.tasks == ("colors", "colors")
    texts = asyncio.run(service.embed_texts(["a cat", "a dog"]))
    expected = service.snapshot().classifier.embed_text(["a cat", "a dog"])
    assert np.allclose(texts.embeddings, expected, atol=1e-6)
    assert texts.tasks == (None, None)
    with pytest.raises(RequestError, match="chosen from images"):
        asyncio.run(service.embed_texts(["a cat"], task="auto"))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"images": []}, RequestError, "no image"),
        ({"images": [b""]}, RequestError, "empty"),
        ({"images": [b"hello"]}, RequestError, "not an image"),
        ({"task": "color"}, RequestError, "Did you mean 'colors'"),
        ({"task": ["colors", "colors"]}, RequestError, "one task for all"),
        ({"top_k": 0}, RequestError, "top_k"),
        ({"min_score": 1.5}, UserError, "min_score must be a probability"),
        ({"min_score": float("nan")}, UserError, "min_score must be a probability"),
        ({"prompts": ["  "]}, RequestError, "prompts"),
        ({"prompts": ["a"] * 300}, TooLarge, "256"),
        ({"prompts": ["a" * 3000]}, TooLarge, "characters"),
        ({"timeout_s": -1.0}, RequestError, "timeout_s"),
        ({"timeout_s": float("nan")}, RequestError, "timeout_s"),
    ],
)
def test_what_cannot_be_answered_is_said(
    make_service: Callable[..., Service],
    photos: list[bytes],
    change: dict[str, Any],
    error: type[Exception],
    match: str,
) -> None:
    service = make_service()
    arguments: dict[str, Any] = {"images": photos[:1], **change}
    with pytest.raises(error, match=match):
        asyncio.run(service.classify(arguments.pop("images"), **arguments))
    assert service.batcher.pending == 0
    assert service.batcher.open_jobs == 0


def test_one_bad_image_of_many_is_named(make_service: Callable[..., Service], photos: list[bytes]) -> None:
    with pytest.raises(RequestError, match=r"images\[2\]: .*truncated"):
        asyncio.run(make_service().classify([photos[0], photos[1], photos[2][:-40]]))


def test_a_full_queue_refuses_and_frees_itself(
    make_service: Callable[..., Service], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(queue=4, max_images=4, max_batch=2, max_wait_ms=0.0)
    gate = Gate(service.engine, monkeypatch)

    async def main() -> None:
        first = asyncio.create_task(service.classify(photos[:1]))
        await _until(gate.entered.is_set)
        second = asyncio.create_task(service.classify(photos[:4]))
        await _until(lambda: service.batcher.pending == 4)
        with pytest.raises(Overloaded) as refused:
            await service.classify(photos[:1])
        assert 1 <= refused.value.retry_after_s <= 60
        gate.open.set()
        assert len((await first).results) == 1
        assert len((await second).results) == 4
        assert len((await service.classify(photos[:1])).results) == 1

    asyncio.run(main())
    assert service.batcher.pending == 0


def test_what_expires_or_is_cancelled_never_reaches_the_model(
    make_service: Callable[..., Service], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(max_batch=2, max_wait_ms=0.0)
    gate = Gate(service.engine, monkeypatch)

    async def main() -> None:
        first = asyncio.create_task(service.classify(photos[:1]))
        await _until(gate.entered.is_set)
        left = asyncio.create_task(service.classify(photos[:3]))
        await _until(lambda: service.batcher.pending == 3)
        with pytest.raises(DeadlineExceeded):
            await service.classify(photos[:2], timeout_s=0.05)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert service.batcher.pending == 0
        gate.open.set()
        await first

    asyncio.run(main())
    assert sum(gate.sizes) == 1


def test_one_image_does_not_wait_for_the_many_of_another(
    make_service: Callable[..., Service], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(max_batch=4, max_wait_ms=0.0)
    gate = Gate(service.engine, monkeypatch)
    answered: list[str] = []

    async def ask(name: str, images: list[bytes]) -> None:
        await service.classify(images)
        answered.append(name)

    def decoded(waiting: int) -> bool:
        return service.batcher.ready == service.batcher.pending == waiting

    async def main() -> None:
        first = asyncio.create_task(service.classify(photos[:1]))
        await _until(gate.entered.is_set)
        large = asyncio.create_task(ask("large", photos * 2))
        await _until(lambda: decoded(2 * len(photos)))
        small = asyncio.create_task(ask("small", photos[:1]))
        await _until(lambda: decoded(2 * len(photos) + 1))
        gate.let_through(2)
        await asyncio.gather(first, small)
        assert gate.sizes == [1, 4]
        assert not large.done()
        gate.open.set()
        await large

    asyncio.run(main())
    assert answered == ["small", "large"]


def test_a_failing_model_is_said_and_recovers(
    make_service: Callable[..., Service], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igsp_serve.batcher.PROBE_INTERVAL_S", 0.02)
    service = make_service()
    gate = Gate(service.engine, monkeypatch)
    gate.open.set()
    gate.fail = RuntimeError("CUDA failure 999")
    with pytest.raises(EngineFailed):
        asyncio.run(service.classify(photos[:2]))
    assert service.not_ready() == "The model fails on CPUExecutionProvider."
    gate.fail = None
    asyncio.run(_until(lambda: service.not_ready() is None))
    assert len(asyncio.run(service.classify(photos[:2])).results) == 2


def test_not_ready_before_the_warm_up_and_while_draining(bundled: Any, photos: list[bytes]) -> None:
    service = Service.open(bundled.bundle, Settings(provider="cpu"))
    assert service.not_ready() == "The server is warming up."
    with pytest.raises(Unavailable, match="warming up"):
        asyncio.run(service.classify(photos[:1]))
    asyncio.run(service.warm_up())
    assert service.not_ready() is None
    service.drain()
    assert service.not_ready() == "The server is shutting down."
    assert asyncio.run(service.classify(photos[:1])).results  # accepted ones are still answered
    service.close()
    with pytest.raises(Unavailable):
        asyncio.run(service.classify(photos[:1]))


def test_tasks_come_and_go_and_the_version_follows(
    make_service: Callable[..., Service], bundled: Any, first_only: Path, photos: list[bytes]
) -> None:
    service = make_service(first_only)
    before = service.model()
    added = asyncio.run(service.add_task(bundled.bundle, "stripes"))
    assert added == service.model() != before
    assert [task.name for task in service.tasks()] == ["colors", "stripes"]
    assert asyncio.run(service.classify(photos[-1:], task="stripes")).model == added
    assert asyncio.run(service.remove_task("stripes")) != added
    with pytest.raises(UserError, match="no task"):
        asyncio.run(service.remove_task("stripes"))


def test_equal_bundles_have_equal_versions(make_service: Callable[..., Service], bundled: Any) -> None:
    assert make_service().model() == make_service().model()


def test_a_bundle_replaced_under_load_loses_nothing(
    make_service: Callable[..., Service], bundled: Any, first_only: Path, photos: list[bytes]
) -> None:
    service = make_service()
    old = service.model().version
    expected = {old: {"colors", "stripes"}}

    async def main() -> list[Any]:
        answers: list[Any] = []

        async def client() -> None:
            while not done or len(answers) < 20:
                answers.append(await service.classify(photos[:2]))

        done: list[bool] = []
        clients = [asyncio.create_task(client()) for _ in range(6)]
        await _until(lambda: len(answers) > 5)
        new = (await service.replace_bundle(first_only)).version
        expected[new] = {"colors"}
        await _until(lambda: any(answer.model.version == new for answer in answers))
        done.append(True)
        await asyncio.gather(*clients)
        return answers

    answers = asyncio.run(main())
    assert {answer.model.version for answer in answers} == set(expected)
    for answer in answers:
        assert all(set(result.task_scores) == expected[answer.model.version] for result in answer.results)


def test_a_damaged_bundle_is_refused_and_changes_nothing(
    make_service: Callable[..., Service], tmp_path: Path, photos: list[bytes]
) -> None:
    service = make_service()
    before = service.model()
    with pytest.raises(UserError, match="manifest"):
        asyncio.run(service.replace_bundle(tmp_path))
    assert service.model() == before
    assert asyncio.run(service.classify(photos[:1])).model == before


def test_tasks_are_run_as_named(make_service: Callable[..., Service], photos: list[bytes]) -> None:
    service = make_service()
    ran = asyncio.run(service.run(photos[:3], ["auto", "none", "stripes"]))
    assert ran.rows.task[1:].tolist() == [PLAIN, 1]
    assert ran.rows.features.shape[0] == 3
    assert ran.results == ()  # nobody wanted labels
    with pytest.raises(RequestError, match="no task 'dots'"):
        asyncio.run(service.run(photos[:1], "dots"))


async def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.005)
