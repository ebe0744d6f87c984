"""One question to the model: an image, the task and the labels wanted; the answer, plain CLIP's beside it, the time."""

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.bundle.manifest import BundleTask
from igsp_deploy.bundle.preprocess import MAX_PIXELS, PreprocessSpec
from igsp_deploy.bundle.tokenizer import clean
from igsp_deploy.errors import UserError
from igsp_deploy.names import DEFAULT_TEMPLATE
from igsp_deploy.runtime.classifier import Prediction
from igsp_deploy.runtime.explain import Explanation, check_choice, cover, draw, weigh
from igsp_deploy.runtime.prompts import check_template
from igsp_serve.decode import decode
from igsp_serve.decoding import FORMATS
from igsp_serve.demo.backend import DemoBackend
from igsp_serve.demo.prompts import read_prompts

TOP_K = 5
LabelKind = Literal["task", "all", "own"]
"""Classes of the task given or chosen, classes of all tasks, or the user's own words."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of an image.

    Attributes:
        task: `auto`, `none` or the name of a task.
        labels: what to choose among.
        words: the user's own labels, one a line; for `labels="own"`.
        template: sentence with `{}` into which they are put.
    """

    task: str = "auto"
    labels: str = "task"
    words: str = ""
    template: str = DEFAULT_TEMPLATE


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found.

    Attributes:
        found: the model's answer.
        plain: plain CLIP's, among the same labels.
        milliseconds: time the model's answer took, decoding included.
    """

    found: Prediction
    plain: Prediction
    milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.found.to_json(), "plain_clip": self.plain.to_json()["predictions"], "ms": self.milliseconds}


async def ask(backend: DemoBackend, image: bytes, question: Question) -> Answer:
    """Classify one image.

    Raises:
        UserError: what is wrong with the image or the question.
    """
    words = _words(backend.tasks(), question)
    started = time.perf_counter()
    (found,) = await backend.classify([image], question.task, TOP_K, words.prompts, words.template)
    milliseconds = 1000 * (time.perf_counter() - started)
    if found.zero_shot:
        plain = found
    elif words.prompts is not None:
        (plain,) = await backend.classify([image], "none", TOP_K, words.prompts, words.template, counted=False)
    else:
        # Over the classes of all tasks; a softmax over some of them is what is left of it, scaled to 1.
        count = sum(len(task.classes) for task in backend.tasks())
        (everything,) = await backend.classify([image], "none", count, counted=False)
        plain = _among(everything, found.task)
    found, plain = words.named(found), words.named(plain)
    return Answer(found=found, plain=plain, milliseconds=milliseconds)


async def ask_many(backend: DemoBackend, images: Sequence[bytes], question: Question) -> list[Prediction]:
    """Classify several images, without plain CLIP's answers.

    Raises:
        UserError: what is wrong with an image or the question.
    """
    words = _words(backend.tasks(), question)
    found = await backend.classify(images, question.task, TOP_K, words.prompts, words.template)
    return [words.named(prediction) for prediction in found]


async def explain_answer(
    backend: DemoBackend, image: bytes, question: Question, found: Prediction
) -> tuple[Explanation, bytes]:
    """Which parts of an image an answer of `ask` hangs on, found by asking 50 times more; and a PNG that shows them.

    Raises:
        UserError: there is one label only, or what is wrong with the image or the question.
    """
    check_choice(found)
    words = _words(backend.tasks(), question)
    images = await asyncio.to_thread(_covered, image, backend.manifest.preprocess)
    answers = await backend.classify_pixels(images, found.task or "none", words.prompts, words.template)
    explanation = weigh([words.named(answer) for answer in answers], found)
    return explanation, await asyncio.to_thread(draw, images[0], explanation)


def _covered(image: bytes, spec: PreprocessSpec) -> list[NDArray[np.uint8]]:
    return cover(decode(image, spec, max_pixels=MAX_PIXELS, formats=FORMATS))


@dataclass(frozen=True, kw_only=True)
class _Words:
    """What to compare with, and the labels that are shown for it.

    Attributes:
        prompts: texts; None for the learned classes of a task, whose embeddings are there.
        template: around them.
        labels: prompt -> label and its task, where it is not its own label.
    """

    prompts: list[str] | None = None
    template: str | None = None
    labels: dict[str, tuple[str, str]] = field(default_factory=dict)

    def named(self, prediction: Prediction) -> Prediction:
        """The labels in place of their sentences."""
        if not self.labels:
            return prediction
        return dataclasses.replace(
            prediction,
            labels=tuple(self.labels[prompt][0] for prompt in prediction.labels),
            label_tasks=tuple(self.labels[prompt][1] for prompt in prediction.labels),
        )


def _words(tasks: Sequence[BundleTask], question: Question) -> _Words:
    if question.labels not in get_args(LabelKind):
        raise UserError(f"labels must be one of {', '.join(get_args(LabelKind))}, got {question.labels!r}.")
    if question.labels == "own":
        return _Words(prompts=read_prompts(question.words), template=check_template(question.template or ""))
    if question.labels == "all" and question.task != "none":
        labels: dict[str, tuple[str, str]] = {}
        read: set[str] = set()
        for task in tasks:
            for label, word in zip(task.classes, task.display_names, strict=True):
                prompt = task.templates[0].format(word)
                # Two tasks may have a class of the same words.
                if clean(prompt) not in read:
                    read.add(clean(prompt))
                    labels[prompt] = (label, task.name)
        return _Words(prompts=list(labels), template="{}", labels=labels)
    return _Words()


def _among(prediction: Prediction, task: str | None) -> Prediction:
    rows = [
        (label, score)
        for label, score, of in zip(prediction.labels, prediction.scores, prediction.label_tasks, strict=True)
        if of == task
    ]
    total = sum(score for _, score in rows) or 1.0
    return dataclasses.replace(
        prediction,
        labels=tuple(label for label, _ in rows[:TOP_K]),
        scores=tuple(score / total for _, score in rows[:TOP_K]),
        label_tasks=(task,) * len(rows[:TOP_K]),
    )
