"""The same words get the same scores, whoever is asked: the command, Python, /v1, /v2, gRPC, the client, both demos."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio_client
import httpx2
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from igsp_deploy.names import DEFAULT_TEMPLATE
from igsp_deploy.runtime.classifier import Classifier
from igsp_serve.client import Client
from igsp_serve.demo.ask import Question, ask
from igsp_serve.demo.backend import ClassifierBackend
from tests.load.process import ServerProcess, serving

if TYPE_CHECKING:
    from tests.conftest import Bundled

os.environ["NO_PROXY"] = "*"
WORDS = ["red", "blue boot", "a green thing", "stripes that fall.", "photo"]
Scores = dict[str, float]


@pytest.fixture(scope="module")
def server(bundled: "Bundled", tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("words")
    with serving(bundled.bundle, folder, "--demo", "--grpc-port", 0, "--timeout-s", 120) as running:
        yield running


@pytest.fixture(scope="module")
def image(bundled: "Bundled") -> Path:
    return bundled.images("colors")[0]


def of(rows: Any) -> Scores:
    """From what /v1, `igsp predict` and the demo call predictions."""
    return {row["label"]: row["score"] for row in rows}


def triton(client: Any, kind: Any, image: Path, template: str | None) -> Scores:
    files = kind.InferInput("image_bytes", [1], "BYTES")
    files.set_data_from_numpy(np.array([image.read_bytes()], np.object_))
    parameters: dict[str, Any] = {"prompts": json.dumps(WORDS), "task": "colors"}
    if template is not None:
        parameters["template"] = template
    try:
        found = client.infer("igsp", [files], parameters=parameters)
    finally:
        client.close()
    labels, scores = found.as_numpy("labels")[0], found.as_numpy("scores")[0]
    return {label.decode(): float(score) for label, score in zip(labels, scores, strict=True)}


@pytest.mark.parametrize("template", [None, "a drawing of {}", "{}"])
def test_the_same_words_get_the_same_scores_everywhere(
    bundled: "Bundled",
    igsp: Callable[..., Any],
    server: ServerProcess,
    image: Path,
    tmp_path: Path,
    template: str | None,
) -> None:
    found: dict[str, Scores] = {}
    given = {} if template is None else {"template": template}
    # The command separates by commas.
    asked = ["--prompts", ", ".join(WORDS), "--task", "colors", "--provider", "cpu", "--json"]
    done = igsp("predict", bundled.bundle, image, *asked, *(() if template is None else ("--template", template)))
    assert done.returncode == 0, done.stderr
    found["igsp predict"] = of(json.loads(done.stdout)[0]["predictions"])
    classifier = Classifier.open(bundled.bundle, "cpu")
    one = classifier.classify(image, task="colors", prompts=WORDS, template=template)
    found["Classifier"] = dict(zip(one.labels, one.scores, strict=True))

    form = {"prompts": WORDS, "task": "colors", **given}
    answer = httpx2.post(f"{server.url}/v1/classify", files={"images": image.read_bytes()}, data=form, timeout=120)
    assert answer.status_code == 200, answer.text
    found["/v1"] = of(answer.json()["results"][0]["predictions"])
    with Client(server.url, timeout_s=120) as client:
        labels = client.classify([image], task="colors", prompts=WORDS, template=template).results[0].labels
    found["Client"] = {label.label: label.score for label in labels}
    address = server.url.removeprefix("http://")
    found["/v2"] = triton(
        tritonclient.http.InferenceServerClient(address, network_timeout=120), tritonclient.http, image, template
    )
    (grpc,) = (line["grpc"] for line in server.lines() if line["message"] == "listening for gRPC")
    found["gRPC"] = triton(tritonclient.grpc.InferenceServerClient(grpc), tritonclient.grpc, image, template)

    words = "\n".join(WORDS)
    question = Question(task="colors", labels="own", words=words, **given)
    shown = asyncio.run(ask(ClassifierBackend(classifier), image.read_bytes(), question))
    found["igsp demo"] = of(shown.to_json()["predictions"])
    page = gradio_client.Client(f"{server.url}/demo/", verbose=False, download_files=str(tmp_path))
    values = [gradio_client.handle_file(str(image)), "colors", "own", words, template or DEFAULT_TEMPLATE]
    found["igsp serve --demo"] = of(page.predict(*values, api_name="/classify")["predictions"])
    page.close()

    expected = found["Classifier"]
    assert set(expected) == set(WORDS)
    for door, scores in found.items():
        assert scores == pytest.approx(expected, abs=1e-5), door
