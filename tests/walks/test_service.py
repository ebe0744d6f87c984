"""A backend engineer with a bundle from a colleague, and a web developer who asks the server from a page."""

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.load.process import ServerProcess, serving

Igsp = Callable[..., Any]
SHOP = "https://shop.example"


@pytest.fixture(scope="module")
def bundle(bundled: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle alone, copied to where nothing else of the model is."""
    copied = tmp_path_factory.mktemp("another machine") / "bundle"
    shutil.copytree(bundled.bundle, copied)
    return copied


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(bundle, tmp_path_factory.mktemp("server"), "--cors-origin", SHOP) as running:
        yield running


def test_a_bundle_is_checked_and_answers_over_http_what_it_answers_on_the_terminal(
    bundle: Path, bundled: Any, server: ServerProcess, igsp: Igsp
) -> None:
    assert [task["name"] for task in json.loads(igsp("inspect", bundle, "--json").stdout)["tasks"]] == [
        "colors",
        "stripes",
    ]
    assert igsp("verify", bundle).returncode == 0
    photos = [bundled.images("colors")[0], bundled.images("stripes")[0]]
    here = json.loads(igsp("predict", bundle, *photos, "--json").stdout)
    files = [("images", (photo.name, photo.read_bytes(), "image/png")) for photo in photos]
    answer = httpx2.post(f"{server.url}/v1/classify", files=files, timeout=60)
    assert answer.status_code == 200, answer.text
    for ours, theirs in zip(here, answer.json()["results"], strict=True):
        assert theirs["task"] == ours["task"]
        assert [p["label"] for p in theirs["predictions"]] == [p["label"] for p in ours["predictions"]]
        for p, q in zip(theirs["predictions"], ours["predictions"], strict=True):
            assert p["score"] == pytest.approx(q["score"], abs=1e-4)
    assert server.status("/health/ready") == 200
    assert re.search(r'^igsp_requests_total\{route="/v1/classify",status="200"\} [1-9]', server.metrics(), re.MULTILINE)


def test_a_page_of_the_shop_may_ask_and_no_other(bundled: Any, server: ServerProcess) -> None:
    photo = bundled.images("colors")[0].read_bytes()
    asked = {"Origin": SHOP, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    allowed = httpx2.options(f"{server.url}/v1/classify", headers=asked, timeout=60)
    assert allowed.headers["access-control-allow-origin"] == SHOP
    other = httpx2.options(
        f"{server.url}/v1/classify", headers={**asked, "Origin": "https://other.example"}, timeout=60
    )
    assert "access-control-allow-origin" not in other.headers

    # As `fetch` sends what a page has read with FileReader, and as it sends a FormData.
    body = {"images": [base64.b64encode(photo).decode()], "task": "colors", "top_k": 1}
    read = httpx2.post(f"{server.url}/v1/classify", json=body, headers={"Origin": SHOP}, timeout=60)
    form = httpx2.post(
        f"{server.url}/v1/classify",
        files={"images": ("blob", photo, "application/octet-stream")},
        data={"task": "colors", "top_k": "1"},
        headers={"Origin": SHOP},
        timeout=60,
    )
    assert read.json()["results"][0]["predictions"] == form.json()["results"][0]["predictions"]
    assert read.headers["access-control-allow-origin"] == SHOP
    assert len(read.json()["results"][0]["predictions"]) == 1


def test_a_mistake_of_the_page_is_said_in_a_way_that_a_page_can_show(server: ServerProcess) -> None:
    files = {"images": ("notes.txt", b"no picture", "text/plain")}
    wrong = httpx2.post(f"{server.url}/v1/classify", files=files, headers={"Origin": SHOP}, timeout=60)
    assert wrong.status_code in (415, 422)
    assert wrong.headers["content-type"] == "application/problem+json"
    assert wrong.headers["access-control-allow-origin"] == SHOP
    assert {"title", "status", "detail", "instance"} <= set(wrong.json())
    described = httpx2.get(f"{server.url}/openapi.json", timeout=60).json()
    assert {"/v1/classify", "/v1/embed", "/v1/tasks"} <= set(described["paths"])
