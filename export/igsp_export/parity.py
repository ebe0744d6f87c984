"""The gate of every export: the graphs must give what the uncompacted PyTorch model gives, or nothing is written."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igsp_deploy.bundle.reference import (
    FEATURE_TOLERANCE,
    SCORE_TOLERANCE,
    Reference,
    feature_tolerance,
    largest_difference,
    score_difference,
    smallest_cosine,
    wrong_choices,
)
from igsp_deploy.errors import UserError
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.names import AUTO, PLAIN
from igsp_deploy.runtime.classifier import Classifier, Labels
from igsp_deploy.runtime.engine import Engine, ImageOutput
from igsp_export import quantize
from igsp_export.images import CheckImages, synthetic_images

DIFFERING_ALLOWED = {"fp32": 0.0, "fp16": 0.01, "bf16": 0.05, "int8": quantize.DIFFERING_ALLOWED}
"""Share of images, rounded up, that may get another best class or task than PyTorch's, by precision. Ties are apart."""
COSINE_FLOOR = {"int8": quantize.COSINE_FLOOR}
"""Least cosine of a feature with PyTorch's, where a single number says less: rounding errors are spread over all."""
TIE = 2e-4
"""Difference of two cosines that fp32 rounding explains."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the uncompacted model gives for some images.

    Attributes:
        features: L2-normalised embeddings `[B, D]`.
        used_task: `[B]`.
        task_scores: scores minus thresholds, `[B, T]`.
        score_sizes: what errors of the scores are measured by, `[B, T]`.
        summary: what heads are compared with, `[B, P]`.
    """

    features: NDArray[np.float32]
    used_task: NDArray[np.int64]
    task_scores: NDArray[np.float32]
    score_sizes: NDArray[np.float32]
    summary: NDArray[np.float32]


@torch.no_grad()
def answer(learned: LearnedClip, tokens: Tensor, task: NDArray[np.int64]) -> Answer:
    """Embed the images behind `tokens`, each under its own task (`[B]`; `AUTO` chooses)."""
    assert learned.selector is not None
    asked = torch.from_numpy(task)
    used = torch.where(asked == AUTO, learned.choose(tokens), asked)
    summary = learned.clip.summary(tokens)
    return Answer(
        features=learned.embed(tokens, used).numpy(),
        used_task=used.numpy(),
        task_scores=learned.selector(summary)[1].numpy(),
        score_sizes=learned.selector.sizes(summary).numpy(),
        summary=learned.for_heads(summary).numpy(),
    )


@dataclass
class _Counts:
    """What was found for one way of asking."""

    images: int = 0
    feature: float = 0.0
    cosine: float = 1.0
    score: float = 0.0
    wrong_choices: int = 0
    top1_wrong: int = 0
    ties: int = 0
    right_onnx: int = 0
    right_torch: int = 0

    def compare(
        self,
        ours: ImageOutput,
        theirs: Answer,
        thresholds: NDArray[np.float32],
        tolerance: float,
    ) -> None:
        """Take in a batch.

        Args:
            ours: of the graphs.
            theirs: of PyTorch.
            thresholds: of each task.
            tolerance: of scores.
        """
        same: NDArray[np.bool_] = ours.task == theirs.used_task
        self.images += len(same)
        self.feature = max(self.feature, largest_difference(ours.features[same], theirs.features[same]))
        self.cosine = min(self.cosine, smallest_cosine(ours.features[same], theirs.features[same]))
        sizes = theirs.score_sizes
        self.score = max(self.score, score_difference(ours.task_scores, theirs.task_scores, sizes))
        wrong, ties = wrong_choices(ours.task, theirs.used_task, theirs.task_scores, thresholds, sizes, tolerance)
        self.wrong_choices += wrong
        self.ties += ties

    def compare_classes(
        self,
        ours: ImageOutput,
        theirs: Answer,
        classes: Callable[[int], Labels],
        labels: NDArray[np.int64] | None,
    ) -> None:
        """Compare the best class of both where they used the same task; equal within rounding of a cosine is a tie.

        Args:
            ours: of the graphs.
            theirs: of PyTorch.
            classes: a task, or `PLAIN` -> PyTorch's classes, among which an image is told apart under it.
            labels: right class of each row under the task used; None where they are not known.
        """
        for task in np.unique(theirs.used_task).tolist():
            rows = np.flatnonzero((theirs.used_task == task) & (ours.task == task))
            cosines = classes(task).compare(theirs.features[rows], theirs.summary[rows])
            best, other = cosines.argmax(1), classes(task).compare(ours.features[rows], ours.summary[rows]).argmax(1)
            for row in np.flatnonzero(best != other):
                if cosines[row, best[row]] - cosines[row, other[row]] <= TIE:
                    self.ties += 1
                else:
                    self.top1_wrong += 1
            if labels is not None:
                self.right_onnx += int((other == labels[rows]).sum())
                self.right_torch += int((best == labels[rows]).sum())


def check_parity(learned: LearnedClip, engine: Engine, images: Iterable[CheckImages], precision: str) -> dict[str, Any]:
    """Hold the graphs of an open bundle against the uncompacted model.

    Args:
        learned: the model in PyTorch, float32.
        engine: the bundle just written.
        images: of each task.
        precision: of the graphs; sets the tolerances.

    Returns:
        The figures, as kept in the manifest: `tasks` (name -> images, origin, differences, accuracies), `plain`,
        `mixed`, `auto`, `text`.

    Raises:
        UserError: a difference is larger than allowed, or a best class differs; names which.
    """
    tolerance = feature_tolerance(precision, engine.manifest.experts_precision)
    score_tolerance = SCORE_TOLERANCE[precision]
    assert learned.selector is not None
    thresholds = learned.selector.thresholds.numpy()
    report: dict[str, Any] = {"tolerance": tolerance, "tasks": {}}
    counts = {name: _Counts() for name in ("plain", "mixed", "auto")}
    classes = _class_lists(learned, engine)
    for t, (name_of, check) in enumerate(zip(engine.tasks.task_set.names(), images, strict=True)):
        own = _Counts()
        for number, (batch, labels) in enumerate(check.batches):
            tokens = learned.trunk(torch.from_numpy(batch))
            asked: dict[str, NDArray[np.int64]] = {
                "named": np.full(len(batch), t),
                "plain": np.full(len(batch), PLAIN),
                "auto": np.full(len(batch), AUTO),
            }
            if number == 0:
                asked["mixed"] = np.arange(len(batch)) % (len(learned.tasks) + 2) - 2
            for name, task in asked.items():
                ours, theirs = engine.run_images(batch, task), answer(learned, tokens, task)
                count = own if name == "named" else counts[name]
                count.compare(ours, theirs, thresholds, score_tolerance)
                count.compare_classes(ours, theirs, classes, labels if name == "named" else None)
        report["tasks"][name_of] = {"origin": check.origin, **_figures(own, check.labelled)}
        _judge(f"task {name_of!r}", own, precision, tolerance)
    for name, count in counts.items():
        report[name] = _figures(count, False)
        _judge(
            {"plain": "plain CLIP", "mixed": "a batch of mixed tasks", "auto": "task auto"}[name],
            count,
            precision,
            tolerance,
        )
    report["text"] = {"feature_difference": _check_text(learned, engine, precision, tolerance)}
    return report


def _class_lists(learned: LearnedClip, engine: Engine) -> Callable[[int], Labels]:
    """PyTorch's classes by task; under plain CLIP an image is told apart with the classes of all tasks.

    Raises:
        UserError: those in the bundle are not PyTorch's.
    """
    tasks, sets = engine.tasks.task_set, Classifier(engine).learned(engine.tasks)
    found = {PLAIN: sets.of(PLAIN)}
    for t, name in enumerate(tasks.names()):
        head = learned.head_vectors(t)
        found[t] = dataclasses.replace(
            sets.of(t), embeddings=learned.class_vectors(t).numpy(), head=None if head is None else head.numpy()
        )
        ours, theirs = (
            np.concatenate([labels.embeddings, *(() if labels.head is None else (labels.head,))], axis=1)
            for labels in (sets.of(t), found[t])
        )
        difference = largest_difference(ours, theirs) if ours.shape == theirs.shape else float("inf")
        if not difference <= FEATURE_TOLERANCE["fp32"]:
            raise UserError(
                f"the class vectors of task {name!r} in the bundle differ from PyTorch's by "
                f"{difference:.2g}. Nothing was written. Please report it with the output of `igsp doctor`."
            )
    return found.__getitem__


def _figures(count: _Counts, labelled: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "images": count.images,
        "feature_difference": count.feature,
        "smallest_cosine": count.cosine,
        "score_difference": count.score,
        "choices_differing": count.wrong_choices,
        "top1_differing": count.top1_wrong,
        "ties": count.ties,
    }
    if labelled and count.images:
        figures["accuracy_onnx"] = 100.0 * count.right_onnx / count.images
        figures["accuracy_pytorch"] = 100.0 * count.right_torch / count.images
    return figures


def what_to_try(precision: str) -> str:
    """Where a graph does not give what PyTorch gives."""
    if precision == "int8":
        return "Leave int8 out: its rounding is too coarse for this model."
    return "Try another --opset; if it stays, please report it with the output of `igsp doctor`."


def _judge(what: str, count: _Counts, precision: str, tolerance: float) -> None:
    problems = []
    if count.feature > tolerance:
        problems.append(f"features differ by {count.feature:.2g} (allowed {tolerance:g})")
    if count.cosine < COSINE_FLOOR.get(precision, -1.0):
        problems.append(f"the cosine of features is down to {count.cosine:.4f} (allowed {COSINE_FLOOR[precision]:g})")
    if count.score > SCORE_TOLERANCE[precision]:
        problems.append(f"selector scores differ by {count.score:.2g} (allowed {SCORE_TOLERANCE[precision]:g})")
    wrong_allowed = math.ceil(DIFFERING_ALLOWED[precision] * count.images)
    if count.wrong_choices > wrong_allowed:
        problems.append(f"another task is chosen for {count.wrong_choices} of {count.images} images")
    if count.top1_wrong > wrong_allowed:
        problems.append(f"another class is best for {count.top1_wrong} of {count.images} images")
    if problems:
        raise UserError(
            f"the {precision} graph does not give what PyTorch gives for {what}: {'; '.join(problems)}. "
            f"Nothing was written. {what_to_try(precision)}"
        )


def _check_text(learned: LearnedClip, engine: Engine, precision: str, tolerance: float) -> float:
    worst = 0.0
    for t, words in enumerate(learned.tasks):
        ids = learned.backbone.tokenize([words.templates[0].format(name) for name in words.display_names[:64]])
        for task in (t, PLAIN):
            ours = engine.embed_text(ids.numpy(), np.full(len(ids), task, np.int64))
            worst = max(worst, largest_difference(ours, learned.embed_text(ids, task).numpy()))
    if worst > tolerance:
        raise UserError(
            f"the {precision} text graph differs from PyTorch by {worst:.2g} "
            f"(allowed {tolerance:g}). Nothing was written. {what_to_try(precision)}"
        )
    return worst


def make_reference(learned: LearnedClip, num_images: int = 4) -> Reference:
    """Inputs and PyTorch's outputs for `igsp verify`: synthetic images and class prompts under every task."""
    images = synthetic_images(num_images, learned.backbone.preprocess.size, seed=1234)
    assert learned.selector is not None
    total = len(learned.tasks)
    tokens = learned.trunk(torch.from_numpy(images))
    asked = np.array([AUTO, PLAIN, *range(total)], dtype=np.int64)
    outputs = [answer(learned, tokens, np.full(num_images, task, np.int64)) for task in asked]
    texts = [words.templates[0].format(words.display_names[0]) for words in learned.tasks]
    ids = learned.backbone.tokenize(texts)
    # Each task's prompt under its own experts, under plain CLIP and under the next task's: not under all, which would
    # grow with the square of their number.
    own = np.arange(total, dtype=np.int64)
    text_tasks = np.concatenate([own, np.full(total, PLAIN, np.int64), (own + 1) % total])
    ids = ids.repeat(3, 1)
    return Reference(
        images=images,
        image_index=np.tile(np.arange(num_images, dtype=np.int64), len(asked)),
        task=asked.repeat(num_images),
        features=np.concatenate([output.features for output in outputs]),
        used_task=np.concatenate([output.used_task for output in outputs]),
        task_scores=outputs[0].task_scores,
        thresholds=learned.selector.thresholds.numpy(),
        score_sizes=outputs[0].score_sizes,
        ids=ids.numpy(),
        text_task=text_tasks,
        embeddings=np.concatenate(
            [learned.embed_text(row[None], int(t)).numpy() for row, t in zip(ids, text_tasks, strict=True)]
        ),
    )
