"""The page on a running server's service."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from igsp_deploy.errors import UserError
from igsp_serve.demo.ask import Question, ask
from igsp_serve.demo.backend import ClassifierBackend, ServiceBackend
from igsp_serve.demo.prompts import MAX_PROMPTS
from igsp_serve.failures import TooLarge
from igsp_serve.service import Service
from igsp_serve.settings import Settings
from igsp_serve.watchers import Sample

if TYPE_CHECKING:
    from tests.conftest import Bundled


def test_the_service_answers_as_the_classifier_does(bundled: "Bundled") -> None:
    service = Service.open(bundled.bundle, Settings(provider="cpu"))
    image = bundled.images("stripes")[0].read_bytes()
    try:
        backend = ServiceBackend(service)
        with pytest.raises(UserError, match="warming up"):
            asyncio.run(ask(backend, image, Question()))
        asyncio.run(service.warm_up())
        ours = asyncio.run(ask(backend, image, Question()))
        theirs = asyncio.run(ask(ClassifierBackend(service.snapshot().classifier), image, Question()))
        assert ours.found.task == theirs.found.task == "stripes"
        assert ours.plain == theirs.plain
        assert backend.folder == bundled.bundle
        backend.remove_task("stripes")
        assert [task.name for task in backend.tasks()] == ["colors"]
        backend.add_task(bundled.bundle, "stripes")
        assert [task.name for task in backend.tasks()] == ["colors", "stripes"]
    finally:
        service.close()


def test_as_many_words_as_the_page_takes_are_taken_by_both_demos(bundled: "Bundled") -> None:
    """The limits of the server's calls are those of its calls."""
    service = Service.open(bundled.bundle, Settings(provider="cpu", max_texts=5, queue=64, timeout_s=200))
    image, words = bundled.images("stripes")[0].read_bytes(), [f"name {number}" for number in range(MAX_PROMPTS)]
    question = Question(labels="own", words="\n".join(words))
    try:
        asyncio.run(service.warm_up())
        ours = asyncio.run(ask(ServiceBackend(service), image, question))
        theirs = asyncio.run(ask(ClassifierBackend(service.snapshot().classifier), image, question))
        assert ours.found.labels == theirs.found.labels
        assert ours.found.scores == pytest.approx(theirs.found.scores, abs=1e-5)
        with pytest.raises(TooLarge, match="may hold 5 texts"):
            asyncio.run(service.classify([image], prompts=words))
        too_many = Question(labels="own", words="\n".join([*words, "one more"]))
        for backend in (ServiceBackend(service), ClassifierBackend(service.snapshot().classifier)):
            with pytest.raises(UserError, match="these are 1,001"):
                asyncio.run(ask(backend, image, too_many))
    finally:
        service.close()


def test_words_that_are_read_alike_are_named_by_both_demos(bundled: "Bundled") -> None:
    service = Service.open(bundled.bundle, Settings(provider="cpu"))
    image = bundled.images("stripes")[0].read_bytes()
    try:
        asyncio.run(service.warm_up())
        for backend in (ServiceBackend(service), ClassifierBackend(service.snapshot().classifier)):
            with pytest.raises(UserError, match="cannot tell 'Red boot' from 'red  boot'"):
                asyncio.run(ask(backend, image, Question(labels="own", words="Red boot\nred  boot")))
            # Classes of several tasks may be called the same.
            assert asyncio.run(ask(backend, image, Question(labels="all"))).found.task == "stripes"
    finally:
        service.close()


@pytest.mark.parametrize(
    "question",
    [Question(), Question(task="colors"), Question(labels="own", words="a cat\na dog"), Question(task="none")],
    ids=["chosen", "named", "own words", "plain CLIP"],
)
def test_an_image_counts_once_though_plain_clip_answers_beside(
    bundled: "Bundled", question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service.open(bundled.bundle, Settings(provider="cpu"))
    told: list[Sample] = []
    monkeypatch.setattr(service.watchers, "sample", told.append)
    try:
        asyncio.run(service.warm_up())
        answer = asyncio.run(ask(ServiceBackend(service), bundled.images("colors")[0].read_bytes(), question))
        assert [sample.prediction.task for sample in told] == [answer.found.task]
        assert answer.plain.zero_shot
    finally:
        service.close()
