"""What stands between the page and the model: a classifier in this process, or a running server's service."""

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from igsp_deploy.bundle.manifest import BundleTask, Manifest
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.classifier import Classifier, Prediction
from igsp_serve.failures import DeadlineExceeded, EngineFailed, Overloaded, Unavailable
from igsp_serve.service import Service


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
    ) -> list[Prediction]:
        """As `Classifier.classify`, for one task or `auto` or `none`.

        Raises:
            UserError: what is wrong with the question, in the user's words.
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
    ) -> list[Prediction]:
        """In a thread, so that the page stays alive meanwhile."""
        return await asyncio.to_thread(self._classifier.classify, list(images), task, prompts, top_k, template)

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
    ) -> list[Prediction]:
        """Through the service's batcher. What keeps it from answering is told as a user's error, like all others."""
        try:
            # How many words the page takes is the page's own limit, the same in `igsp demo`.
            most = None if prompts is None else len(prompts)
            answer = await self._service.classify(
                list(images), task=task, top_k=top_k, prompts=prompts, template=template, max_texts=most
            )
        except (Overloaded, DeadlineExceeded, Unavailable, EngineFailed) as error:
            raise UserError(str(error) or "The server cannot answer now. Try again later.") from error
        return list(answer.results)

    def add_task(self, bundle: Path, name: str) -> None:
        """From a thread that has no event loop, such as the teacher's."""
        asyncio.run(_wait(self._service.add_task(bundle, name)))

    def remove_task(self, name: str) -> None:
        """From a thread that has no event loop."""
        asyncio.run(_wait(self._service.remove_task(name)))


async def _wait(change: Coroutine[Any, Any, Any]) -> None:
    await change
