"""The page on a running server's service."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from igsp_deploy.errors import UserError
from igsp_serve.demo.ask import Question, ask
from igsp_serve.demo.backend import ClassifierBackend, ServiceBackend
from igsp_serve.service import Service
from igsp_serve.settings import Settings

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
