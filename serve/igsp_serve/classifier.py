"""From images to labels: `Classifier.open(bundle).classify(images)`. No torch."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from igsp_deploy.bundle.manifest import CLASSES, REMEDY, TOKENIZER
from igsp_deploy.bundle.preprocess import load_image, to_uint8
from igsp_deploy.bundle.tokenizer import ClipTokenizer
from igsp_deploy.errors import UserError
from igsp_serve.engine import CHOOSE, PLAIN, Engine
from igsp_serve.providers import Provider

ImageSource = Path | bytes | Image.Image | NDArray[np.uint8]
"""A file, its bytes, an opened image, or pixels that `Classifier.load` has prepared."""

BATCH = 32
"""Images a call of the graph."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was found for one image.

    Attributes:
        labels: the best labels, best first.
        scores: their probabilities; those that were not asked for are not in it, so they need not sum to 1.
        label_tasks: the task each label belongs to; None for a prompt.
        task: the task whose experts were used; None for plain CLIP.
        task_scores: the evidence: for each task the selector's score minus the task's threshold. At least 0 means
            that the task would take the image.
        zero_shot: no learned task was used: plain CLIP compared the image with the words alone.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    label_tasks: tuple[str | None, ...]
    task: str | None
    task_scores: dict[str, float]
    zero_shot: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = zip(self.labels, self.scores, self.label_tasks, strict=True)
        return {
            "task": self.task,
            "zero_shot": self.zero_shot,
            "predictions": [{"label": label, "score": score, "task": task} for label, score, task in rows],
            "task_scores": self.task_scores,
        }


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """Candidate labels with their embeddings `[C, D]`."""

    names: tuple[str, ...]
    tasks: tuple[str | None, ...]
    embeddings: NDArray[np.float32]


class Classifier:
    """A bundle, ready to classify.

    Example:
        >>> classifier = Classifier.open(Path("bundle"))
        >>> classifier.classify([Path("photo.jpg")])[0].labels[0]
        'sneaker'
    """

    def __init__(self, engine: Engine) -> None:
        """Take an open engine and read the class embeddings.

        Raises:
            UserError: they are damaged or of another backbone.
        """
        self.engine = engine
        self.manifest = engine.manifest
        self._tokenizer: ClipTokenizer | None = None
        path = engine.folder / CLASSES
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}). {REMEDY}") from error
        self._task_labels: list[_Labels] = []
        plain: list[_Labels] = []
        for t, task in enumerate(self.manifest.tasks):
            names: tuple[str | None, ...] = (task.name,) * len(task.classes)
            for kind, into in (("task", self._task_labels), ("plain", plain)):
                embeddings = tensors.get(f"{kind}.{t}")
                expected = (len(task.classes), self.manifest.backbone.embed_dim)
                if embeddings is None or embeddings.shape != expected:
                    found = "nothing" if embeddings is None else list(embeddings.shape)
                    raise UserError(
                        f"{path} must hold {list(expected)} numbers for task {task.name!r}, has {found}. {REMEDY}"
                    )
                into.append(_Labels(names=task.classes, tasks=names, embeddings=embeddings))
        self._plain_labels = _Labels(
            names=tuple(name for labels in plain for name in labels.names),
            tasks=tuple(task for labels in plain for task in labels.tasks),
            embeddings=np.concatenate([labels.embeddings for labels in plain]),
        )

    @classmethod
    def open(
        cls,
        bundle: Path,
        providers: Provider = "auto",
        *,
        allow_fallback: bool = False,
        num_threads: int = 0,
        check: bool = True,
    ) -> "Classifier":
        """Load a bundle; see `Engine.open`."""
        return cls(Engine.open(bundle, providers, allow_fallback=allow_fallback, num_threads=num_threads, check=check))

    def task_index(self, task: str) -> int:
        """Index of the task called `task`; `auto` gives `CHOOSE`, `none` gives `PLAIN`.

        Raises:
            UserError: unknown; suggests the nearest.
        """
        special = {"auto": CHOOSE, "none": PLAIN}
        if task in special:
            return special[task]
        names = self.manifest.task_names()
        if task not in names:
            near = difflib.get_close_matches(task, [*names, *special], n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It knows {', '.join(names)}, and auto and none."
            raise UserError(f"the bundle has no task {task!r}. {hint}")
        return names.index(task)

    def load(self, source: Path | bytes | Image.Image) -> NDArray[np.uint8]:
        """Decode and cut one image: uint8 `[S, S, 3]`.

        Raises:
            ImageError: it cannot be used; says why.
        """
        return to_uint8(load_image(source), self.manifest.preprocess)

    def classify(
        self,
        images: Sequence[ImageSource],
        task: str | Sequence[str] = "auto",
        prompts: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[Prediction]:
        """Classify images.

        With a task given or chosen, among that task's classes; where no task takes the image, or with `none`, among the
        classes of all tasks by plain CLIP; with `prompts`, among those, under the given or chosen task's experts.

        Args:
            images: files, bytes, opened images, or pixels from `load`.
            task: `auto`, `none` or the name of a task, for all images or one each.
            prompts: texts to choose among instead of learned classes, as whole sentences.
            top_k: labels to return for an image; fewer where there are fewer.

        Raises:
            UserError: unknown task, no prompts, or another number of tasks than images.
            ImageError: an image cannot be used.
        """
        tasks = [task] * len(images) if isinstance(task, str) else list(task)
        if len(tasks) != len(images):
            raise UserError(f"give one task for all images or one each: got {len(tasks)} for {len(images)} images.")
        if top_k < 1:
            raise UserError(f"top_k must be at least 1, got {top_k}.")
        if prompts is not None and not any(prompt.strip() for prompt in prompts):
            raise UserError('prompts must hold at least one text, for example --prompts "a cat, a dog".')
        index = np.array([self.task_index(name) for name in tasks], dtype=np.int64)
        by_task: dict[int, _Labels] = {}
        found: list[Prediction] = []
        for start in range(0, len(images), BATCH):
            rows = [i if isinstance(i, np.ndarray) else self.load(i) for i in images[start : start + BATCH]]
            output = self.engine.run_images(np.stack(rows), index[start : start + BATCH])
            for features, used, evidence in zip(output.features, output.task, output.task_scores, strict=True):
                labels = self._labels(int(used), prompts, by_task)
                found.append(self._predict(features, int(used), evidence, labels, top_k))
        return found

    def _labels(self, used: int, prompts: Sequence[str] | None, known: dict[int, _Labels]) -> _Labels:
        if prompts is None:
            return self._plain_labels if used == PLAIN else self._task_labels[used]
        if used not in known:
            names = tuple(prompt.strip() for prompt in prompts if prompt.strip())
            known[used] = _Labels(names=names, tasks=(None,) * len(names), embeddings=self.embed_text(names, used))
        return known[used]

    def embed_text(self, texts: Sequence[str], task: int = PLAIN) -> NDArray[np.float32]:
        """L2-normalised embeddings `[N, D]` of texts under a task's experts, or plain CLIP's."""
        if self._tokenizer is None:
            length = self.manifest.backbone.context_length
            self._tokenizer = ClipTokenizer.from_file(self.engine.folder / TOKENIZER, length)
        ids = self._tokenizer(texts)
        parts = [
            self.engine.embed_text(chunk, np.full(len(chunk), task, np.int64))
            for chunk in (ids[start : start + 256] for start in range(0, len(ids), 256))
        ]
        return np.concatenate(parts)

    def _predict(
        self, features: NDArray[np.float32], used: int, evidence: NDArray[np.float32], labels: _Labels, top_k: int
    ) -> Prediction:
        logits = self.manifest.backbone.logit_scale * (labels.embeddings @ features).astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[:top_k]
        names = self.manifest.task_names()
        return Prediction(
            labels=tuple(labels.names[i] for i in best),
            scores=tuple(float(shares[i]) for i in best),
            label_tasks=tuple(labels.tasks[i] for i in best),
            task=None if used == PLAIN else names[used],
            # A task without held-out images has no threshold: its score is infinite, which JSON does not know.
            task_scores=dict(zip(names, np.nan_to_num(evidence, posinf=1e30, neginf=-1e30).tolist(), strict=True)),
            zero_shot=used == PLAIN,
        )
