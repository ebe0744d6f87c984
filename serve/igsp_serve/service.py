"""Classification as a service: what HTTP, the v2 protocol, the demo and Ray share. No web framework here.

    service = Service.open(Path("bundle"), Settings())
    await service.warm_up()
    answer = await service.classify([photo_bytes], task="auto", top_k=3)
    answer.results[0].labels, answer.model.version, answer.timings.total_ms
    service.close()

Its coroutines may be awaited from any event loop, and from several at once.

Shapes: n images, N texts, S image side, D embedding width, T tasks.
"""

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.bundle.manifest import BundleTask, Manifest
from igsp_deploy.names import AUTO
from igsp_deploy.runtime.classifier import Classifier, Prediction
from igsp_deploy.runtime.engine import Engine
from igsp_serve.answers import Classified, Embedded, Ran, ms, timings
from igsp_serve.batcher import Batcher, Rows
from igsp_serve.client_answers import Model, Timings
from igsp_serve.cpus import usable_cpus
from igsp_serve.deadlines import before, until
from igsp_serve.decoding import Decoding
from igsp_serve.failures import DeadlineExceeded, RequestError, TooLarge, Unavailable
from igsp_serve.labelling import Labelling
from igsp_serve.settings import Settings
from igsp_serve.snapshot import Snapshot
from igsp_serve.texts import TextRoom, check_texts
from igsp_serve.tracing import record_parts
from igsp_serve.watchers import ImageSource, Sample, Watchers

logger = logging.getLogger(__name__)

T = TypeVar("T")

_INLINE = 8
"""Images of one answer that are labelled where the request is served rather than in a thread."""


class Service:
    """One bundle behind a batcher. It may change its tasks and its bundle while it serves.

    Attributes:
        settings: limits and sizes.
        batcher: the queue before the model.
        decode_pool: the threads that do it.
        watchers: told of every batch and image.
    """

    def __init__(self, classifier: Classifier, settings: Settings | None = None) -> None:
        """Take an open classifier; `open` opens one."""
        self.settings = settings or Settings()
        self.watchers = Watchers()
        self._snapshot = Snapshot(classifier, classifier.engine.tasks)
        self._changing = threading.Lock()
        self._warm = False
        self._draining = False
        self._decoders = usable_cpus()
        self.decode_pool = concurrent.futures.ThreadPoolExecutor(self._decoders, "igsp-decode")
        # Text towers, labels of large requests, changes of tasks: apart, so that no image waits for them to be decoded.
        self._side_pool = concurrent.futures.ThreadPoolExecutor(2, "igsp-side")
        self.batcher = Batcher(
            max_batch=self.settings.max_batch,
            max_wait_s=self.settings.max_wait_ms / 1000,
            queue=self.settings.queue,
            observer=self.watchers,
            probe=lambda: self._snapshot.probe(),
        )
        self._text_room = TextRoom(self.settings.queue, self.batcher.retry_after_s)

    @classmethod
    def open(cls, bundle: Path, settings: Settings | None = None) -> "Service":
        """Open a bundle. It serves only after `warm_up`.

        Raises:
            UserError: the bundle is missing or damaged, or the provider cannot be had.
        """
        settings = settings or Settings()
        return cls(Snapshot.open(bundle, settings).classifier, settings)

    # What it is, and how it is.

    def snapshot(self) -> Snapshot:
        """What requests that come now are answered with."""
        current = self._snapshot
        known = current.classifier.engine.tasks
        if known is not current.known:
            # Somebody changed the engine's tasks directly.
            self._snapshot = current = Snapshot(current.classifier, known)
        return current

    def model(self) -> Model:
        """Name and version."""
        return self._model(self.snapshot())

    def tasks(self) -> tuple[BundleTask, ...]:
        """The tasks known now, in order."""
        return self.snapshot().known.task_set.entries

    @property
    def manifest(self) -> Manifest:
        """Of the bundle in use. Its tasks are those of the bundle's folder: see `tasks` for those known now."""
        return self.snapshot().classifier.manifest

    @property
    def engine(self) -> Engine:
        """The engine in use."""
        return self.snapshot().classifier.engine

    @property
    def draining(self) -> bool:
        """`drain` or `close` was called."""
        return self._draining

    def not_ready(self) -> str | None:
        """Why no traffic should come now; None when all is well."""
        if self._draining:
            return "The server is shutting down."
        if not self._warm:
            return "The server is warming up."
        if self.batcher.failure is not None:
            return f"The model fails on {self.engine.provider}."
        return None

    def not_live(self) -> str | None:
        """Why the process should be started anew; None when all is well."""
        if self.batcher.busy_s() > self.settings.stall_s:
            return f"A call of the model has taken more than {self.settings.stall_s:g} s."
        return None

    async def warm_up(self) -> None:
        """Run batches of several sizes a first time, on the provider that `open` has tried out and obtained.

        Raises:
            Exception: the model does not run.
        """
        await self._aside(self.snapshot().warm_up, self.settings.max_batch)
        self._warm = True

    def drain(self) -> None:
        """Not ready any more; requests that come nevertheless are answered until `close`."""
        self._draining = True

    def close(self) -> None:
        """Finish what was admitted, end the threads."""
        self._draining = True
        self.batcher.close()
        self.decode_pool.shutdown(wait=False, cancel_futures=True)
        self._side_pool.shutdown(wait=False, cancel_futures=True)

    # What it answers.

    async def classify(
        self,
        images: Sequence[ImageSource],
        *,
        task: str | Sequence[str] = "auto",
        top_k: int = 5,
        prompts: Sequence[str] | None = None,
        template: str | None = None,
        min_score: float = 0.0,
        timeout_s: float | None = None,
        request_id: str = "",
        max_texts: int | None = None,
    ) -> Classified:
        """Classify images; see `Classifier.classify` for what is compared with what.

        Cancelling this coroutine drops what has not reached the model.

        Args:
            images: bytes of files, opened images or prepared pixels.
            task: `auto`, `none` or a name, for all images or one each.
            top_k: labels to return for an image.
            prompts: texts to choose among instead of learned classes.
            template: sentence with `{}` around each of them; see `as_sentence`.
            min_score: probability under which the best label is called unsure.
            timeout_s: time to answer; at most and by default `settings.timeout_s`.
            request_id: for those who watch.
            max_texts: most prompts; `settings.max_texts` by default.

        Raises:
            RequestError: unknown task, no or too many images or prompts, an image that cannot be used.
            Overloaded: the queue is full.
            DeadlineExceeded: the time ran out.
            Unavailable: warming up.
            EngineFailed: the model failed.
        """
        wanted = Labelling(top_k=top_k, prompts=prompts, template=template, min_score=min_score, request_id=request_id)
        ran = await self.run(images, task, wanted=wanted, timeout_s=timeout_s, max_texts=max_texts)
        return Classified(model=self._model(ran.snapshot), results=ran.results, timings=ran.timings)

    async def embed_images(
        self,
        images: Sequence[ImageSource],
        *,
        task: str | Sequence[str] = "auto",
        timeout_s: float | None = None,
    ) -> Embedded:
        """Embed images, each under the given or chosen task's experts. Arguments and errors as in `classify`."""
        ran = await self.run(images, task, timeout_s=timeout_s)
        return Embedded(
            model=self._model(ran.snapshot),
            embeddings=ran.rows.features,
            tasks=tuple(ran.snapshot.name_of(used) for used in ran.rows.task.tolist()),
            timings=ran.timings,
        )

    async def embed_texts(
        self, texts: Sequence[str], *, task: str = "none", timeout_s: float | None = None
    ) -> Embedded:
        """Embed texts under a task's experts, or plain CLIP's (`none`). Errors as in `classify`; `auto` is one."""
        start = time.monotonic()
        self._check_ready()
        snapshot = self.snapshot()
        (index,) = snapshot.task_index(task, 1).tolist()
        if index == AUTO:
            raise RequestError("a task is chosen from images, not from texts. Give task none or the name of a task.")
        given = check_texts(texts, "texts", self.settings.max_texts)
        deadline = self._deadline(start, timeout_s)

        def embed() -> NDArray[np.float32]:
            return snapshot.classifier.embed_text(given, index, tasks=snapshot.known)

        async with until(deadline):
            with self._text_room.take(len(given)):
                began = time.monotonic()
                embeddings = await self._aside(before(deadline, embed))
        now = time.monotonic()
        return Embedded(
            model=self._model(snapshot),
            embeddings=embeddings,
            tasks=(snapshot.name_of(index),) * len(given),
            timings=Timings(queue_ms=0.0, decode_ms=0.0, inference_ms=ms(now - began), total_ms=ms(now - start)),
        )

    async def run(
        self,
        images: Sequence[ImageSource],
        task: str | Sequence[str] = "auto",
        *,
        wanted: Labelling | None = None,
        snapshot: Snapshot | None = None,
        timeout_s: float | None = None,
        max_texts: int | None = None,
    ) -> Ran:
        """The model's outputs for images, and their labels if any are wanted. Errors as in `classify`.

        Args:
            images: bytes of files, opened images or prepared pixels.
            task: `auto`, `none` or a name, for all images or one each.
            wanted: the labels.
            snapshot: what is to answer; what is served now by default.
            timeout_s: time to answer.
            max_texts: most prompts.
        """
        start = time.monotonic()
        self._check_ready()
        snapshot = snapshot or self.snapshot()
        if wanted is not None:
            wanted = wanted.checked(snapshot, max_texts or self.settings.max_texts)
        index = snapshot.task_index(task, len(images))
        deadline = self._deadline(start, timeout_s)
        async with until(deadline):
            rows, decode_s = await self._run(snapshot, images, index, deadline)
            results = () if wanted is None else tuple(await self.label(wanted, snapshot, rows, deadline))
        if wanted is not None:
            self._tell(images, index, results, wanted)
        return Ran(snapshot=snapshot, rows=rows, results=results, timings=timings(start, rows, decode_s))

    async def label(self, wanted: Labelling, snapshot: Snapshot, rows: Rows, deadline: float) -> Sequence[Prediction]:
        """The labels of rows that `run` gave without any. Who watches is not told. Errors as in `classify`."""
        if wanted.prompts is not None:
            with self._text_room.take(len(wanted.prompts) * len(set(rows.task.tolist()))):
                return await self._aside(before(deadline, partial(wanted.label, snapshot, rows)))
        if len(rows.task) > _INLINE:
            return await self._aside(wanted.label, snapshot, rows)
        return wanted.label(snapshot, rows)

    # How it changes.

    async def add_task(self, bundle: Path, name: str) -> Model:
        """Learn a task from another export of the same model; see `Engine.add_task`.

        Raises:
            UserError: it does not fit; all is as it was.
        """
        return await self._change(lambda: self.engine.add_task(bundle, name))

    async def remove_task(self, name: str) -> Model:
        """Forget a task; requests under way keep it.

        Raises:
            UserError: unknown, or the only one.
        """
        return await self._change(lambda: self.engine.remove_task(name))

    async def replace_bundle(self, bundle: Path) -> Model:
        """Serve another bundle, whatever its backbone: opened and warmed up beside, then swapped.

        Requests under way are answered by the version they began with.

        Raises:
            UserError: it is missing or damaged, or the provider cannot be had; all is as it was.
        """

        def swap() -> None:
            snapshot = Snapshot.open(bundle, self.settings)
            snapshot.warm_up(self.settings.max_batch)
            self._snapshot = snapshot

        return await self._change(swap)

    async def _change(self, change: Callable[[], None]) -> Model:
        def locked() -> Model:
            with self._changing:
                change()
                return self.model()

        changed = await self._aside(locked)
        logger.info("now serving version %s with tasks %s", changed.version, ", ".join(self.snapshot().names))
        return changed

    # How.

    async def _run(
        self, snapshot: Snapshot, images: Sequence[ImageSource], task: NDArray[np.int64], deadline: float
    ) -> tuple[Rows, float]:
        """Decode and run; the seconds spent decoding come with the rows."""
        if not len(images):
            raise RequestError("there is no image. Send at least one.")
        if len(images) > self.settings.max_images:
            raise TooLarge(f"a request may hold {self.settings.max_images} images, got {len(images)}. Send several.")
        job = self.batcher.open(snapshot, task, deadline)
        decoding = Decoding(
            images,
            job,
            spec=snapshot.classifier.manifest.preprocess,
            max_pixels=self.settings.max_pixels,
            batcher=self.batcher,
            pool=self.decode_pool,
        )
        try:
            decoding.start(min(len(images), self._decoders))
            rows = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            expired = time.monotonic() >= deadline
            self.batcher.fail(job, DeadlineExceeded(), "expired" if expired else "cancelled")
            raise
        record_parts(
            {
                "decode": (decoding.began_at, decoding.ended_at),
                "queue": (rows.ready_at, rows.began_at),
                "infer": (rows.began_at, rows.ended_at),
            }
        )
        return rows, decoding.seconds

    def _tell(
        self, images: Sequence[ImageSource], asked: NDArray[np.int64], found: Sequence[Prediction], wanted: Labelling
    ) -> None:
        for source, task, prediction in zip(images, asked.tolist(), found, strict=True):
            self.watchers.sample(
                Sample(
                    source=source,
                    prediction=prediction,
                    chosen=task == AUTO,
                    prompted=wanted.prompts is not None,
                    request_id=wanted.request_id,
                )
            )

    def _check_ready(self) -> None:
        if not self._warm:
            raise Unavailable("The server is warming up. Try again in a moment.")

    def _deadline(self, start: float, timeout_s: float | None) -> float:
        if timeout_s is not None and not timeout_s > 0:
            raise RequestError(f"timeout_s must be more than 0, got {timeout_s}.")
        most = self.settings.timeout_s
        return start + (most if timeout_s is None else min(timeout_s, most))

    async def _aside(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._side_pool, work, *arguments)

    def _model(self, snapshot: Snapshot) -> Model:
        return Model(name=self.settings.name, version=snapshot.version)
