"""Questions to the model."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from igsp_deploy.errors import UserError
from igsp_deploy.runtime.classifier import Classifier
from igsp_serve.demo.answer_html import answer_html
from igsp_serve.demo.ask import Answer, Question, ask
from igsp_serve.demo.backend import ClassifierBackend
from igsp_serve.demo.prompts import read_prompts

if TYPE_CHECKING:
    from tests.conftest import Bundled


@pytest.fixture(scope="module")
def backend(bundled: "Bundled") -> ClassifierBackend:
    return ClassifierBackend(Classifier.open(bundled.bundle, "cpu", num_threads=1))


@pytest.fixture(scope="module")
def image(bundled: "Bundled") -> bytes:
    return bundled.images("colors")[0].read_bytes()


def answer(backend: ClassifierBackend, image: bytes, **settings: str) -> Answer:
    return asyncio.run(ask(backend, image, Question(**settings)))


def test_plain_clip_answers_among_the_same_labels(backend: ClassifierBackend, image: bytes) -> None:
    got = answer(backend, image)
    assert got.found.task == "colors"
    assert set(got.plain.labels) == set(got.found.labels) == {"red", "blue"}
    assert sum(got.plain.scores) == pytest.approx(1.0)
    # The same as plain CLIP asked for these two alone.
    tasks = {task.name: task for task in backend.tasks()}
    assert tasks["colors"].templates == ("a photo of {}.", "{}")
    assert got.plain.scores != got.found.scores


def test_classes_of_all_tasks_are_compared_under_the_chosen_one(backend: ClassifierBackend, image: bytes) -> None:
    got = answer(backend, image, labels="all")
    assert got.found.task == "colors"
    assert set(got.found.labels) == {"red", "blue", "flat", "steep"}
    assert dict(zip(got.found.labels, got.found.label_tasks, strict=True))["flat"] == "stripes"


def test_own_words_come_back_without_their_template(backend: ClassifierBackend, image: bytes) -> None:
    got = answer(backend, image, labels="own", words="cat\n\n dog \ncat", template="a drawing of a {}.")
    assert set(got.found.labels) == {"cat", "dog"}
    assert set(got.plain.labels) == {"cat", "dog"}


def test_plain_clip_is_not_compared_with_itself(backend: ClassifierBackend, image: bytes) -> None:
    got = answer(backend, image, task="none")
    assert got.plain is got.found
    assert got.found.zero_shot


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "colour"}, "Did you mean 'colors'"),
        ({"labels": "some"}, "labels must be one of"),
        ({"labels": "own", "words": " \n"}, "at least one label"),
        ({"labels": "own", "words": "\n".join(map(str, range(5000)))}, "these are 5,000"),
        ({"labels": "own", "words": "x" * 301}, "has 301"),
        ({"labels": "own", "words": "cat", "template": "a cat"}, "once"),
        ({"labels": "own", "words": "cat", "template": "{} {}"}, "once"),
        ({"labels": "own", "words": "cat", "template": "{0.__class__} {}"}, "once"),
    ],
)
def test_a_wrong_question_is_told(
    backend: ClassifierBackend, image: bytes, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        answer(backend, image, **settings)


def test_markup_in_labels_is_shown_as_text(backend: ClassifierBackend, image: bytes) -> None:
    question = Question(labels="own", words="<img src=x onerror=alert(1)>\ncat")
    html = answer_html(asyncio.run(ask(backend, image, question)), question)
    assert "<img" not in html
    assert "&lt;img src=x" in html


def test_prompts_are_lines_without_repeats() -> None:
    assert read_prompts(" a\r\nb\n\na\n") == ["a", "b"]
