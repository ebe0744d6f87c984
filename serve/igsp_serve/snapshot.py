"""One version of what is served: an engine and the tasks it knew at one moment."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.errors import UserError
from igsp_deploy.names import AUTO, PLAIN
from igsp_deploy.runtime.classifier import Classifier, LabelSets
from igsp_deploy.runtime.engine import Engine, ImageOutput, LoadedTasks
from igsp_deploy.runtime.providers import Provider
from igsp_serve.cpus import model_threads
from igsp_serve.failures import RequestError
from igsp_serve.settings import Settings


class Snapshot:
    """What a request is answered with from its first step to its last. It never changes.

    Attributes:
        classifier: of the bundle.
        known: its tasks at that moment.
        version: the same for the same graphs and tasks, whatever machine they are on.
        labels: the learned classes.
    """

    def __init__(self, classifier: Classifier, known: LoadedTasks) -> None:
        """Name this version."""
        self.classifier = classifier
        self.known = known
        self.labels = LabelSets(classifier, known)
        self.version = _version(classifier, known)

    @classmethod
    def open(cls, bundle: Path, settings: Settings) -> "Snapshot":
        """Open a bundle as the server's options say, all of it: nothing is read from the folder later.

        Raises:
            UserError: it is missing or damaged, or the provider cannot be had.
        """
        engine = Engine.open(
            bundle,
            cast(Provider, settings.provider),
            allow_fallback=settings.allow_fallback,
            precision=settings.precision,
            num_threads=settings.threads or model_threads(),
            spinning=settings.spinning,
            batch_sizes=settings.batch_sizes,
            cuda_graph=settings.cuda_graph,
            engine_cache=settings.engine_cache,
        )
        classifier = Classifier(engine)
        classifier.open_text()
        return cls(classifier, engine.tasks)

    def run(self, images: NDArray[np.uint8], task: NDArray[np.int64]) -> ImageOutput:
        """Run the image graph; see `Engine.run_images`."""
        return self.classifier.engine.run_images(images, task, tasks=self.known)

    @cached_property
    def names(self) -> list[str]:
        """Names of the tasks, in order."""
        return self.known.task_set.names()

    @cached_property
    def num_labels(self) -> int:
        """Classes of all tasks: more labels than these there are not for an image."""
        return sum(len(task.classes) for task in self.known.task_set.entries)

    def name_of(self, used: int) -> str | None:
        """Name of a task; None for plain CLIP."""
        return None if used == PLAIN else self.names[used]

    def task_index(self, task: str | Sequence[str], count: int) -> NDArray[np.int64]:
        """Index of the task of each of `count` images, from one name for all or one each, int64 `[count]`.

        Raises:
            RequestError: an unknown name, or another number of them.
        """
        tasks = [task] * count if isinstance(task, str) else list(task)
        if len(tasks) != count:
            raise RequestError(f"give one task for all images or one each: got {len(tasks)} for {count} images.")
        try:
            return np.array([self.known.task_set.index(name) for name in tasks], np.int64)
        except UserError as error:
            raise RequestError(str(error)) from error

    def warm_up(self, max_batch: int) -> None:
        """Run batches of all sizes and some texts a first time."""
        size = self.size
        sizes = {1, max_batch} | {2**k for k in range(1, 12) if 2**k < max_batch}
        for count in sorted(sizes):
            images = np.zeros((count, size, size, 3), np.uint8)
            self.run(images, np.full(count, AUTO, np.int64))
        for used in (PLAIN, *range(len(self.names))):
            self.labels.of(used)
        # One text and several, short and long, plain and with experts: what the first prompts would wait for.
        long = "a photo of something, " * self.classifier.manifest.backbone.context_length
        for texts in (["a photo"], ["a photo", long]):
            for used in (PLAIN, 0):
                self.classifier.embed_text(texts, used, tasks=self.known)

    def probe(self) -> None:
        """Run the model on anything.

        Raises:
            Exception: it fails.
        """
        size = self.size
        self.run(np.zeros((1, size, size, 3), np.uint8), np.array([AUTO], np.int64))

    @property
    def size(self) -> int:
        """Side of an image, in pixels."""
        return self.classifier.manifest.preprocess.size


def _version(classifier: Classifier, known: LoadedTasks) -> str:
    engine, tasks = classifier.engine, known.task_set
    files = {name: engine.manifest.files[name].sha256 for name in engine.variant.files()}
    described = [
        [task.name, task.fingerprint, task.classes, task.display_names, task.templates] for task in tasks.entries
    ]
    digest = hashlib.sha256(json.dumps([files, described]).encode())
    heads = [head for head in tasks.heads if head is not None]
    for arrays in (tasks.selector.stacks().values(), tasks.class_embeddings, tasks.plain_embeddings, heads):
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
