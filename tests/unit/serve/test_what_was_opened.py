"""A serving process answers from what it opened and checked at its start, whatever happens to the folder."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from igsp_deploy.bundle.manifest import EXPERTS, TOKENIZER, read_manifest
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.classifier import Classifier
from igsp_deploy.runtime.engine import Engine
from igsp_deploy.runtime.graph import Graph
from igsp_serve.demo.serve import make_app
from igsp_serve.http.app import create_app
from igsp_serve.service import Service
from igsp_serve.settings import Settings

PROMPTS = ["a photo of red", "a photo of blue", "stripes"]


@pytest.fixture
def bundle(bundled: Any, tmp_path: Path) -> Path:
    """A copy of the bundle that may be broken."""
    return Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))


def swap(bundle: Path) -> None:
    """Put files of the right names and sizes with other contents in the bundle's place, in one step."""
    other = bundle.with_name("other")
    shutil.copytree(bundle, other)
    for path in other.rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))
    bundle.rename(bundle.with_name("gone"))
    other.rename(bundle)


def overwrite(bundle: Path) -> None:
    """Write into the files themselves."""
    for path in bundle.rglob("*"):
        if path.is_file():
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.write(os.urandom(min(size, 4096)))


def remove(bundle: Path) -> None:
    """No folder at all."""
    shutil.rmtree(bundle)


@pytest.mark.parametrize("change", [swap, overwrite, remove])
def test_a_server_whose_folder_changes_answers_as_before(
    bundle: Path, bundled: Any, change: Callable[[Path], None]
) -> None:
    files = [("images", ("x.png", bundled.images("colors")[0].read_bytes()))]
    data = {"prompts": PROMPTS, "task": "colors"}
    expected = Classifier.open(bundled.bundle, "cpu").classify(
        [bundled.images("colors")[0]], task="colors", prompts=PROMPTS
    )[0]
    with TestClient(create_app(bundle, Settings(provider="cpu"))) as client:
        change(bundle)
        assert client.get("/health/ready").status_code == 200
        answer = client.post("/v1/classify", files=files, data=data)
        assert answer.status_code == 200
        (result,) = answer.json()["results"]
        assert [row["label"] for row in result["predictions"]] == list(expected.labels)
        assert np.allclose([row["score"] for row in result["predictions"]], expected.scores, atol=1e-5)
        assert client.post("/v1/classify", files=files).json()["results"][0]["task"] is not None
        embedded = client.post("/v1/embed", json={"texts": PROMPTS, "task": "colors"})
        assert embedded.status_code == 200
        assert client.get("/v1/models").status_code == 200


def test_the_text_tower_is_open_and_has_run_before_a_server_is_ready(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    run = Graph.run

    def noted(self: Graph, *args: Any, **options: Any) -> Any:
        ran.append(self.path.name)
        return run(self, *args, **options)

    monkeypatch.setattr(Graph, "run", noted)
    service = Service.open(bundle, Settings(provider="cpu"))
    remove(bundle)
    assert service.not_ready()
    asyncio.run(service.warm_up())
    assert service.not_ready() is None
    assert {service.engine.variant.image, service.engine.variant.text} <= set(ran)
    service.close()


def test_a_replaced_bundle_is_read_before_it_is_served(bundle: Path, bundled: Any) -> None:
    service = Service.open(bundled.bundle, Settings(provider="cpu"))
    asyncio.run(service.warm_up())
    asyncio.run(service.replace_bundle(bundle))
    remove(bundle)
    assert len(asyncio.run(service.embed_texts(PROMPTS, task="colors")).embeddings) == len(PROMPTS)
    service.close()


def test_the_demo_reads_texts_before_it_starts(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Classifier] = []
    open_text = Classifier.open_text

    def noted(self: Classifier) -> None:
        opened.append(self)
        open_text(self)

    monkeypatch.setattr(Classifier, "open_text", noted)
    # The page itself is not needed here.
    monkeypatch.setattr("igsp_serve.demo.page.build_demo", lambda *_, **__: None)
    monkeypatch.setattr("igsp_serve.demo.mount.mount_demo", lambda app, *_, **__: app)
    make_app(bundle, provider="cpu")
    remove(bundle)
    assert opened[0].embed_text(PROMPTS).shape[0] == len(PROMPTS)


@pytest.mark.parametrize("change", [swap, overwrite, remove])
@pytest.mark.parametrize("text_first", [False, True])
def test_what_is_opened_late_is_what_was_checked_or_nothing(
    bundle: Path, change: Callable[[Path], None], text_first: bool
) -> None:
    classifier = Classifier.open(bundle, "cpu")
    if text_first:
        classifier.engine.open_text()
    change(bundle)
    with pytest.raises(UserError):
        classifier.embed_text(PROMPTS)


@pytest.mark.parametrize("name", ["text", TOKENIZER])
def test_a_valid_file_of_another_bundle_is_not_taken_late(bundle: Path, name: str) -> None:
    """A swap that reads well: the same bytes are fine, but nothing says so; so it is refused, and says what to do."""
    classifier = Classifier.open(bundle, "cpu")
    path = bundle / (classifier.engine.variant.text if name == "text" else name)
    other = path.with_suffix(".new")
    shutil.copy(path, other)
    other.replace(path)
    with pytest.raises(UserError, match=r"changed or removed after it was checked.*Open the bundle again"):
        classifier.embed_text(PROMPTS)


@pytest.mark.parametrize("name", ["image", EXPERTS])
def test_a_swap_between_check_and_opening_is_seen(bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = read_manifest(bundle).variants[0]
    path = bundle / (variant.image if name == "image" else name)

    def late(*args: Any) -> None:
        """Runs after the image graph is loaded and before the tasks are read."""
        other = path.with_suffix(".new")
        shutil.copy(path, other)
        other.replace(path)

    monkeypatch.setattr("igsp_deploy.runtime.engine.check_image_graph", late)
    with pytest.raises(UserError, match="after it was checked"):
        Engine.open(bundle, "cpu")


def test_images_do_not_pay_for_the_text_tower(bundle: Path, bundled: Any) -> None:
    classifier = Classifier.open(bundle, "cpu")
    classifier.classify([bundled.images("colors")[0]])
    assert classifier.engine._text is None
