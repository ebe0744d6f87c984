"""Which parts of an image an answer hangs on: the same by both backends, asked within the service's limits."""

import asyncio
import io
import re
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from igsp_deploy.errors import UserError
from igsp_deploy.runtime.classifier import Classifier, Prediction
from igsp_deploy.runtime.explain import Explanation, cover, draw, explain
from igsp_serve.demo.answer_html import explanation_html
from igsp_serve.demo.ask import Answer, Question, ask, explain_answer
from igsp_serve.demo.backend import ClassifierBackend, DemoBackend, ServiceBackend
from igsp_serve.service import Service
from igsp_serve.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Bundled

QUESTIONS = [
    Question(),
    Question(task="stripes"),
    Question(task="none"),
    Question(labels="all"),
    Question(labels="own", words="a cat\nshoe", template="a drawing of a {}."),
]


@pytest.fixture(scope="module")
def service(bundled: "Bundled") -> Iterator[Service]:
    made = Service.open(bundled.bundle, Settings(provider="cpu", max_images=3, max_texts=1))
    asyncio.run(made.warm_up())
    yield made
    made.close()


@pytest.fixture(scope="module")
def classifier(service: Service) -> Classifier:
    return service.snapshot().classifier


@pytest.fixture(scope="module")
def image() -> bytes:
    """An odd photo, cut and scaled before the model sees it."""
    noise = np.random.default_rng(3).integers(0, 256, (9, 13, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((130, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


async def explained(backend: DemoBackend, image: bytes, question: Question) -> tuple[Answer, Explanation, bytes]:
    answer = await ask(backend, image, question)
    return answer, *await explain_answer(backend, image, question, answer.found)


@pytest.mark.parametrize("question", QUESTIONS)
def test_both_demos_explain_as_predict_does(
    service: Service, classifier: Classifier, image: bytes, question: Question
) -> None:
    answer, here, picture = asyncio.run(explained(ClassifierBackend(classifier), image, question))
    _, served, _ = asyncio.run(explained(ServiceBackend(service), image, question))
    assert here.label == served.label == answer.found.labels[0]
    assert here.score == pytest.approx(answer.found.scores[0], abs=1e-5)
    assert np.abs(here.odds).max() > 1e-3
    np.testing.assert_allclose(served.odds, here.odds, atol=1e-4)
    if question.labels != "all":
        words = question.words.splitlines() or None
        template = question.template if words else None
        pixels = classifier.load(image)
        found = classifier.classify(image, question.task, words, 5, template)
        told = explain(classifier, pixels, found, prompts=words, template=template)
        assert (told.odds == here.odds).all()
        assert draw(pixels, told) == picture


def test_pixels_and_their_png_are_the_same_to_the_model(classifier: Classifier, image: bytes) -> None:
    for pixels in cover(classifier.load(image))[::16]:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        assert (classifier.load(buffer.getvalue()) == pixels).all()


def test_the_service_is_asked_for_few_at_a_time_and_counts_none_of_it(
    service: Service, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = ServiceBackend(service)
    counts: list[int] = []
    embedded: list[Any] = []
    told: list[Any] = []
    question = Question(labels="own", words="a cat\nshoe")
    answer = asyncio.run(ask(backend, image, question))
    run, embed = service.run, service.snapshot().classifier.embed_text

    async def counted(images: Sequence[Any], *arguments: Any, **settings: Any) -> Any:
        counts.append(len(images))
        return await run(images, *arguments, **settings)

    def embedding(*arguments: Any, **settings: Any) -> Any:
        embedded.append(arguments)
        return embed(*arguments, **settings)

    monkeypatch.setattr(service, "run", counted)
    monkeypatch.setattr(service.snapshot().classifier, "embed_text", embedding)
    monkeypatch.setattr(service.watchers, "sample", told.append)
    asyncio.run(explain_answer(backend, image, question, answer.found))
    assert counts == [3] * 16 + [2]
    assert told == []
    assert len(embedded) == 1, "its words are embedded once"


def test_what_keeps_the_service_from_answering_is_told(bundled: "Bundled", image: bytes) -> None:
    service = Service.open(bundled.bundle, Settings(provider="cpu"))
    try:
        backend = ServiceBackend(service)
        found = asyncio.run(ask(ClassifierBackend(service.snapshot().classifier), image, Question())).found
        with pytest.raises(UserError, match="warming up"):
            asyncio.run(explain_answer(backend, image, Question(), found))
    finally:
        service.close()


class Slow:
    """A classifier that answers when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began: list[str] = []

    def classify(self, images: Any, task: str, *_: Any) -> list[Prediction]:
        self.began.append(task)
        assert self.go.wait(60)
        return []


def test_explanations_given_up_leave_no_more_than_one_at_work() -> None:
    model: Any = Slow()
    backend = ClassifierBackend(model)

    async def give_up() -> None:
        calls = [asyncio.create_task(backend.classify_pixels([], str(number))) for number in range(5)]
        while not model.began:
            await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        model.go.set()
        await backend.classify_pixels([], "next")

    asyncio.run(give_up())
    assert model.began == ["0", "next"]


def test_one_label_alone_is_refused_before_anything_is_asked(classifier: Classifier, image: bytes) -> None:
    question = Question(labels="own", words="a cat")
    backend = ClassifierBackend(classifier)
    found = asyncio.run(ask(backend, image, question)).found
    backend.classify_pixels = None  # type: ignore[method-assign, assignment]
    with pytest.raises(UserError, match=r"one label only, .* Give at least two"):
        asyncio.run(explain_answer(backend, image, question, found))


def test_the_picture_is_in_the_page_with_words_in_its_place() -> None:
    shown = Explanation(label='<b>"x"', score=0.9, lowest=0.4, odds=np.ones((8, 8)))
    html = explanation_html(shown, b"\x89PNG")
    assert 'src="data:image/png;base64,iVBORw=="' in html
    (alt,) = re.findall(r'alt="([^"]*)"', html)
    assert "&lt;b&gt;&quot;x&quot; less likely" in alt
    assert "red speaks for &lt;b&gt;" in html
    assert "<b>" not in html
