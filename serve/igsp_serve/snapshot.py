"""One version of what is served: an engine and the tasks it knew at one moment."""

import hashlib
import json
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.names import PLAIN
from igsp_deploy.runtime.classifier import Classifier, LabelSets
from igsp_deploy.runtime.engine import ImageOutput, LoadedTasks


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
        self.labels = LabelSets(classifier, known, None)
        self.version = _version(classifier, known)

    def run(self, images: NDArray[np.uint8], task: NDArray[np.int64]) -> ImageOutput:
        """Run the image graph; see `Engine.run_images`."""
        return self.classifier.engine.run_images(images, task, tasks=self.known)

    @cached_property
    def names(self) -> list[str]:
        """Names of the tasks, in order."""
        return self.known.tasks.names()

    @cached_property
    def num_labels(self) -> int:
        """Classes of all tasks: more labels than these there are not for an image."""
        return sum(len(task.classes) for task in self.known.tasks.tasks)

    def name_of(self, used: int) -> str | None:
        """Name of a task; None for plain CLIP."""
        return None if used == PLAIN else self.names[used]

    @property
    def size(self) -> int:
        """Side of an image, in pixels."""
        return self.classifier.manifest.preprocess.size


def _version(classifier: Classifier, known: LoadedTasks) -> str:
    engine, tasks = classifier.engine, known.tasks
    files = {name: engine.manifest.files[name].sha256 for name in engine.variant.files()}
    described = [
        [task.name, task.fingerprint, task.classes, task.display_names, task.templates] for task in tasks.tasks
    ]
    digest = hashlib.sha256(json.dumps([files, described]).encode())
    for arrays in (tasks.selector.stacks().values(), tasks.class_embeddings, tasks.plain_embeddings):
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
