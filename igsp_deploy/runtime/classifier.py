"""From images to labels: `Classifier(bundle).classify(images)`. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igsp_deploy.bundle.fetch import local_bundle
from igsp_deploy.bundle.manifest import TOKENIZER
from igsp_deploy.bundle.preprocess import read_pixels
from igsp_deploy.bundle.tokenizer import ClipTokenizer, FastTokenizer, check_distinct, open_tokenizer
from igsp_deploy.errors import UserError
from igsp_deploy.names import PLAIN
from igsp_deploy.runtime.engine import Engine, LoadedTasks
from igsp_deploy.runtime.prompts import as_sentence, check_readable, check_template
from igsp_deploy.runtime.providers import Provider

ImageSource = str | Path | bytes | Image.Image | NDArray[np.uint8]
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
            that the task would take the image. Empty where the task was given and choosing needs a pass of its own.
        zero_shot: no learned task was used: plain CLIP compared the image with the words alone.
        unsure: the best score is lower than the `min_score` that was asked for.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    label_tasks: tuple[str | None, ...]
    task: str | None
    task_scores: dict[str, float]
    zero_shot: bool
    unsure: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = zip(self.labels, self.scores, self.label_tasks, strict=True)
        return {
            "task": self.task,
            "zero_shot": self.zero_shot,
            "unsure": self.unsure,
            "predictions": [{"label": label, "score": score, "task": task} for label, score, task in rows],
            "task_scores": self.task_scores,
        }


def check_min_score(value: float) -> None:
    """See that a least score is a probability.

    Raises:
        UserError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:  # NaN is not, either
        raise UserError(f"min_score must be a probability between 0 and 1, got {str(value)[:60]}.")


class ModelRows(Protocol):
    """What the image graph gives, see `ImageOutput`; or a part of its rows."""

    @property
    def features(self) -> NDArray[np.float32]:
        """`[B, D]`."""

    @property
    def task(self) -> NDArray[np.int64]:
        """`[B]`."""

    @property
    def task_scores(self) -> NDArray[np.float32]:
        """`[B, T]`."""

    @property
    def summary(self) -> NDArray[np.float32]:
        """`[B, F]`."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Candidate labels with their embeddings `[C, D]`, and the head `[C, F]` of a task's own classes, if it has one."""

    names: tuple[str, ...]
    tasks: tuple[str | None, ...]
    embeddings: NDArray[np.float32]
    head: NDArray[np.float32] | None = None

    def compare(self, features: NDArray[np.float32], summary: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores `[..., C]` in units of a cosine, of embeddings `[..., D]` and summaries `[..., F]`."""
        scores: NDArray[np.float32] = (self.embeddings @ features.T).T
        return scores if self.head is None else scores + (self.head @ summary.T).T


class Classifier:
    """A bundle, ready to classify.

    Examples:
        >>> classifier = Classifier("bundle")
        >>> classifier.classify("photo.jpg").labels[0]
        'sneaker'
    """

    def __init__(self, bundle: str | Path | Engine, providers: Provider = "auto") -> None:
        """Open a bundle (a folder, or `hf:USER/NAME[@REVISION]`, which is fetched), or take an open engine.

        Raises:
            UserError: not a bundle, damaged, or no such provider here; says what to do.
        """
        self.engine = bundle if isinstance(bundle, Engine) else Engine.open(local_bundle(Path(bundle)), providers)
        self.manifest = self.engine.manifest
        self._tokenizer: ClipTokenizer | FastTokenizer | None = None
        self._learned: LabelSets | None = None

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        providers: Provider = "auto",
        *,
        allow_fallback: bool = False,
        num_threads: int = 0,
        check: bool = True,
    ) -> "Classifier":
        """Open a bundle in a way of its own; see `Engine.open`."""
        folder = local_bundle(Path(bundle))
        return cls(Engine.open(folder, providers, allow_fallback=allow_fallback, num_threads=num_threads, check=check))

    def open_text(self) -> None:
        """Open the text graph and the tokenizer now, so that nothing is read from the folder any more.

        Raises:
            UserError: one cannot be loaded, or is not the file that was checked.
        """
        self._open_tokenizer()
        self.engine.open_text()

    def _open_tokenizer(self) -> ClipTokenizer | FastTokenizer:
        if self._tokenizer is None:
            length = self.manifest.backbone.context_length
            tokenizer = open_tokenizer(self.engine.folder / TOKENIZER, length, self.manifest.tokenizer)
            self.engine.require_unchanged((TOKENIZER,))
            self._tokenizer = tokenizer
        return self._tokenizer

    def cut_prompts(self, prompts: Sequence[str], template: str | None = None) -> list[str]:
        """The sentences of `prompts` that are longer than the text tower reads, and lose their end."""
        return self._open_tokenizer().cut([as_sentence(prompt, template) for prompt in prompts])

    def check_prompts(self, prompts: Sequence[str], template: str | None = None) -> None:
        """Refuse prompts that are no texts, or that CLIP reads alike.

        Raises:
            UserError: names two of them.
        """
        check_readable(template or "", *prompts)
        check_distinct(prompts, self._open_tokenizer()([as_sentence(prompt, template) for prompt in prompts]))

    def task_index(self, task: str) -> int:
        """Index of the task called `task`; `auto` gives `AUTO`, `none` gives `PLAIN`.

        Raises:
            UserError: unknown; suggests the nearest.
        """
        return self.engine.tasks.task_set.index(task)

    def load(self, source: str | Path | bytes | Image.Image) -> NDArray[np.uint8]:
        """Decode and cut one image: uint8 `[S, S, 3]`.

        Raises:
            ImageError: it cannot be used; says why.
        """
        return read_pixels(Path(source) if isinstance(source, str) else source, self.manifest.preprocess)

    @overload
    def classify(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        images: str | Path | bytes | Image.Image,
        task: str = "auto",
        prompts: Sequence[str] | None = None,
        top_k: int = 5,
        template: str | None = None,
        min_score: float = 0.0,
    ) -> Prediction: ...
    @overload
    def classify(
        self,
        images: Sequence[ImageSource],
        task: str | Sequence[str] = "auto",
        prompts: Sequence[str] | None = None,
        top_k: int = 5,
        template: str | None = None,
        min_score: float = 0.0,
    ) -> list[Prediction]: ...
    def classify(
        self,
        images: ImageSource | Sequence[ImageSource],
        task: str | Sequence[str] = "auto",
        prompts: Sequence[str] | None = None,
        top_k: int = 5,
        template: str | None = None,
        min_score: float = 0.0,
    ) -> Prediction | list[Prediction]:
        """Classify one image, or several.

        With a task given or chosen, among that task's classes; where no task takes the image, or with `none`, among the
        classes of all tasks by plain CLIP; with `prompts`, among those, under the given or chosen task's experts.

        Args:
            images: a file, bytes or an opened image; or a list of these, or of pixels from `load`.
            task: `auto`, `none` or the name of a task, for all images or one each.
            prompts: texts to choose among instead of learned classes: words or whole sentences.
            top_k: labels to return for an image; fewer where there are fewer.
            template: sentence with `{}` around each of `prompts`; see `as_sentence`.
            min_score: probability in [0, 1] under which the best label is called unsure; it is told all the same.

        Returns:
            A prediction; a list of them for a list.

        Raises:
            UserError: unknown task, no prompts, two prompts that CLIP cannot tell apart, a template that is none or
                has no prompts, or another number of tasks than images.
            ImageError: an image cannot be used.
        """
        if isinstance(images, (str, Path, bytes, Image.Image)):
            return self.classify([images], task, prompts, top_k, template, min_score)[0]
        tasks = [task] * len(images) if isinstance(task, str) else list(task)
        if len(tasks) != len(images):
            raise UserError(f"give one task for all images or one each: got {len(tasks)} for {len(images)} images.")
        if top_k < 1:
            raise UserError(f"top_k must be at least 1, got {top_k}.")
        check_min_score(min_score)
        if prompts is None and template is not None:
            raise UserError("a template goes around prompts: give prompts too.")
        known = self.engine.tasks
        index = np.array([known.task_set.index(name) for name in tasks], dtype=np.int64)
        labels = self.learned(known) if prompts is None else LabelSets(self, known, prompts, template)
        found: list[Prediction] = []
        for start in range(0, len(images), BATCH):
            rows = [i if isinstance(i, np.ndarray) else self.load(i) for i in images[start : start + BATCH]]
            output = self.engine.run_images(np.stack(rows), index[start : start + BATCH], tasks=known)
            found += self.predict(output, labels, top_k, min_score)
        return found

    def learned(self, known: LoadedTasks) -> "LabelSets":
        """The learned classes of a task set."""
        labels = self._learned
        if labels is None or labels.known is not known:
            self._learned = labels = LabelSets(self, known)
        return labels

    def embed_text(
        self, texts: Sequence[str], task: int = PLAIN, *, tasks: LoadedTasks | None = None
    ) -> NDArray[np.float32]:
        """L2-normalised embeddings `[N, D]` of texts under a task's experts, or plain CLIP's.

        Args:
            texts: whole sentences.
            task: index of a task, or `PLAIN`.
            tasks: what the index refers to; by default the tasks known now.
        """
        ids = self._open_tokenizer()(texts)
        parts = [
            self.engine.embed_text(chunk, np.full(len(chunk), task, np.int64), tasks=tasks)
            for chunk in (ids[start : start + 256] for start in range(0, len(ids), 256))
        ]
        return np.concatenate(parts)

    def predict(self, rows: ModelRows, labels: "LabelSets", top_k: int, min_score: float = 0.0) -> list[Prediction]:
        """From what the image graph gave to labels.

        Args:
            rows: of the model.
            labels: what to choose among.
            top_k: labels to return; fewer where there are fewer.
            min_score: see `classify`.
        """
        each = zip(rows.features, rows.summary, rows.task.tolist(), rows.task_scores, strict=True)
        return [self._predict(*row, labels, top_k, min_score) for row in each]

    def _predict(
        self,
        features: NDArray[np.float32],
        summary: NDArray[np.float32],
        used: int,
        evidence: NDArray[np.float32],
        labels: "LabelSets",
        top_k: int,
        min_score: float,
    ) -> Prediction:
        candidates = labels.of(used)
        shares = softmax(candidates.compare(features, summary), self.manifest.backbone.logit_scale)
        best = np.argsort(-shares, kind="stable")[:top_k]
        names = labels.known.task_set.names()
        # A task without held-out images has no threshold: its score is infinite, which JSON does not know.
        finite = np.nan_to_num(evidence, posinf=1e30, neginf=-1e30).tolist()
        return Prediction(
            labels=tuple(candidates.names[i] for i in best),
            scores=tuple(float(shares[i]) for i in best),
            label_tasks=tuple(candidates.tasks[i] for i in best),
            task=None if used == PLAIN else names[used],
            task_scores={} if np.isnan(evidence).all() else dict(zip(names, finite, strict=True)),
            zero_shot=used == PLAIN,
            unsure=bool(shares.max() < min_score),
        )


class LabelSets:
    """What each task's images are compared with: learned classes, or given prompts under that task's experts."""

    def __init__(
        self,
        classifier: Classifier,
        known: LoadedTasks,
        prompts: Sequence[str] | None = None,
        template: str | None = None,
    ) -> None:
        """Prompts are embedded when a task first needs them.

        Args:
            classifier: of the bundle.
            known: its tasks.
            prompts: texts, as somebody gave them; None for the learned classes.
            template: around them; see `as_sentence`.

        Raises:
            UserError: no prompts, two that CLIP reads alike, or a template that is none.
        """
        self.known = known
        self._classifier = classifier
        self._template = None if template is None else check_template(template)
        self._prompts: tuple[str, ...] | None = None
        if prompts is not None:
            self._prompts = tuple(prompt.strip() for prompt in prompts if prompt.strip())
            if not self._prompts:
                raise UserError('prompts must hold at least one text, for example --prompts "a cat, a dog".')
            classifier.check_prompts(self._prompts, self._template)
        self._made: dict[int, Labels] = {}

    def of(self, used: int) -> Labels:
        """Candidates for images of task `used`; for `PLAIN`, the classes of all tasks."""
        if used not in self._made:
            self._made[used] = self._make(used)
        return self._made[used]

    def _make(self, used: int) -> Labels:
        if self._prompts is not None:
            sentences = [as_sentence(prompt, self._template) for prompt in self._prompts]
            embeddings = self._classifier.embed_text(sentences, used, tasks=self.known)
            return Labels(names=self._prompts, tasks=(None,) * len(self._prompts), embeddings=embeddings)
        tasks = self.known.task_set
        if used != PLAIN:
            task = tasks.entries[used]
            names: tuple[str | None, ...] = (task.name,) * len(task.classes)
            return Labels(
                names=task.classes, tasks=names, embeddings=tasks.class_embeddings[used], head=tasks.heads[used]
            )
        return Labels(
            names=tuple(name for task in tasks.entries for name in task.classes),
            tasks=tuple(task.name for task in tasks.entries for _ in task.classes),
            embeddings=np.concatenate(tasks.plain_embeddings),
        )


def softmax(cosines: NDArray[np.float32], logit_scale: float) -> NDArray[np.float64]:
    """Probabilities `[C]` of classes from an image's cosines with them."""
    logits = logit_scale * cosines.astype(np.float64)
    shares = np.exp(logits - logits.max())
    result: NDArray[np.float64] = shares / shares.sum()
    return result
