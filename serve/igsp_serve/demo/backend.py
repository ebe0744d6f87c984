"""What stands between the page and the model: a classifier in this process, or a running server's service."""

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.bundle.manifest import BundleTask, Manifest
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.classifier import Classifier, Prediction
from igsp_serve.batcher import Rows
from igsp_serve.deadlines import until
from igsp_serve.failures import DeadlineExceeded, EngineFailed, Overloaded, Unavailable
from igsp_serve.labelling import Labelling
from igsp_serve.service import Service
from igsp_serve.watchers import ImageSource

AT_ONCE = 8
"""Most images of a request to the service that the page splits: few, so that each keeps the time of a request."""


class DemoBackend(Protocol):
    """Everything the page asks of a model. Any thread and any event loop may call it."""

    @property
    def manifest(self) -> Manifest:
        """Of the bundle in use."""
        ...

    @property
    def folder(self) -> Path:
        """The bundle in use."""
        ...

    def tasks(self) -> tuple[BundleTask, ...]:
        """The tasks known now, in order."""
        ...

    async def classify(
        self,
        images: Sequence[bytes],
        task: str,
        top_k: int,
        prompts: Sequence[str] | None = None,
        template: str | None = None,
        *,
        counted: bool = True,
    ) -> list[Prediction]:
        """As `Classifier.classify`, for one task or `auto` or `none`.

        Args:
            images: bytes of files.
            task: `auto`, `none` or a name.
            top_k: labels of an image.
            prompts: texts to choose among in place of learned classes.
            template: sentence with `{}` around each of them.
            counted: whether they count as images that somebody sent. One that is looked at again does not.

        Raises:
            UserError: what is wrong with the question, in the user's words.
        """
        ...

    async def classify_pixels(
        self,
        images: Sequence[NDArray[np.uint8]],
        task: str,
        prompts: Sequence[str] | None = None,
        template: str | None = None,
    ) -> list[Prediction]:
        """Every label of images that nobody sent, uint8 `[S, S, 3]` each: no figure of what comes counts them.

        Raises:
            UserError: as of `classify`.
        """
        ...

    def add_task(self, bundle: Path, name: str) -> None:
        """As `Engine.add_task`."""
        ...

    def remove_task(self, name: str) -> None:
        """As `Engine.remove_task`."""
        ...


class ClassifierBackend:
    """A classifier in this process."""

    def __init__(self, classifier: Classifier) -> None:
        """Take an open classifier."""
        self._classifier = classifier
        # One thread: calls that were cancelled while they ran leave no more behind than this one's work.
        self._pixels_pool = ThreadPoolExecutor(1, "igsp-pixels")

    @property
    def manifest(self) -> Manifest:
        """Of the bundle in use."""
        return self._classifier.manifest

    @property
    def folder(self) -> Path:
        """The bundle in use."""
        return self._classifier.engine.folder

    def tasks(self) -> tuple[BundleTask, ...]:
        """The tasks known now, in order."""
        return self._classifier.engine.tasks.task_set.entries

    async def classify(
        self,
        images: Sequence[bytes],
        task: str,
        top_k: int,
        prompts: Sequence[str] | None = None,
        template: str | None = None,
        *,
        counted: bool = True,
    ) -> list[Prediction]:
        """In a thread, so that the page stays alive meanwhile. Nothing is counted here."""
        return await asyncio.to_thread(self._classifier.classify, list(images), task, prompts, top_k, template)

    async def classify_pixels(
        self,
        images: Sequence[NDArray[np.uint8]],
        task: str,
        prompts: Sequence[str] | None = None,
        template: str | None = None,
    ) -> list[Prediction]:
        """One call after the other."""

        def work() -> list[Prediction]:
            return self._classifier.classify(list(images), task, prompts, 2**31, template)

        return await asyncio.get_running_loop().run_in_executor(self._pixels_pool, work)

    def add_task(self, bundle: Path, name: str) -> None:
        """As `Engine.add_task`."""
        self._classifier.engine.add_task(bundle, name)

    def remove_task(self, name: str) -> None:
        """As `Engine.remove_task`."""
        self._classifier.engine.remove_task(name)


class ServiceBackend:
    """A running server's service: what the page asks joins the batches of all other requests."""

    def __init__(self, service: Service) -> None:
        """Take a service that is warmed up by the time of the first question."""
        self._service = service

    @property
    def manifest(self) -> Manifest:
        """Of the bundle in use."""
        return self._service.manifest

    @property
    def folder(self) -> Path:
        """The bundle in use."""
        return self._service.engine.folder

    def tasks(self) -> tuple[BundleTask, ...]:
        """The tasks known now, in order."""
        return self._service.tasks()

    async def classify(
        self,
        images: Sequence[bytes],
        task: str,
        top_k: int,
        prompts: Sequence[str] | None = None,
        template: str | None = None,
        *,
        counted: bool = True,
    ) -> list[Prediction]:
        """Through the service's batcher."""
        if not counted:
            return await self._uncounted(images, task, top_k, prompts, template)
        with _told():
            answer = await self._service.classify(
                list(images), task=task, top_k=top_k, prompts=prompts, template=template, max_texts=_most(prompts)
            )
        return list(answer.results)

    async def classify_pixels(
        self,
        images: Sequence[NDArray[np.uint8]],
        task: str,
        prompts: Sequence[str] | None = None,
        template: str | None = None,
    ) -> list[Prediction]:
        """A few at a time through the service's batcher; prompts are embedded once."""
        return await self._uncounted(images, task, 2**31, prompts, template)

    async def _uncounted(
        self,
        images: Sequence[ImageSource],
        task: str,
        top_k: int,
        prompts: Sequence[str] | None,
        template: str | None,
    ) -> list[Prediction]:
        """As `classify`, and those who watch the service are not told."""
        service, snapshot = self._service, self._service.snapshot()
        few = min(AT_ONCE, service.settings.max_images)
        with _told():
            wanted = Labelling(top_k=top_k, prompts=prompts, template=template).checked(snapshot, _most(prompts) or 1)
            parts = [
                (await service.run(images[start : start + few], task, snapshot=snapshot)).rows
                for start in range(0, len(images), few)
            ]
            deadline = time.monotonic() + service.settings.timeout_s
            async with until(deadline):
                return list(await service.label(wanted, snapshot, _joined(parts), deadline))

    def add_task(self, bundle: Path, name: str) -> None:
        """From a thread that has no event loop, such as the teacher's."""
        asyncio.run(_wait(self._service.add_task(bundle, name)))

    def remove_task(self, name: str) -> None:
        """From a thread that has no event loop."""
        asyncio.run(_wait(self._service.remove_task(name)))


def _most(prompts: Sequence[str] | None) -> int | None:
    """How many words may be asked about: the page has a limit of its own, the same in `igsp demo`."""
    return None if prompts is None else len(prompts)


async def _wait(change: Coroutine[Any, Any, Any]) -> None:
    await change


@contextmanager
def _told() -> Iterator[None]:
    """What keeps the service from answering is told as a user's error, like all others."""
    try:
        yield
    except (Overloaded, DeadlineExceeded, Unavailable, EngineFailed) as error:
        raise UserError(str(error) or "The server cannot answer now. Try again later.") from error


def _joined(parts: Sequence[Rows]) -> Rows:
    return Rows(
        features=np.concatenate([part.features for part in parts]),
        task=np.concatenate([part.task for part in parts]),
        task_scores=np.concatenate([part.task_scores for part in parts]),
        summary=np.concatenate([part.summary for part in parts]),
        queue_s=sum(part.queue_s for part in parts),
        inference_s=sum(part.inference_s for part in parts),
    )
