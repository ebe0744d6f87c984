"""Bad requests, one after another, against one server: never a 500, never a leak, and the next good request answers."""

import base64
import contextlib
import json
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.load import hostile_images
from tests.load.hostile_requests import CLOSED, Hostile, Secrets, corpus
from tests.load.process import ServerProcess, serving

KEY = "boss-of-the-server"
LEAKS = re.compile(rb'Traceback|File "|\.py\b|site-packages|/usr/|/home/|/tmp/|root:x:|0x[0-9a-f]{8}', re.IGNORECASE)


@pytest.fixture(scope="module")
def server(bundled: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("hostile")
    (root / "roots").mkdir()
    with serving(
        bundled.bundle,
        root,
        *("--bundle-roots", root / "roots", "--max-pixels", 1_000_000, "--max-body-bytes", 2_000_000),
        *("--body-timeout-s", 3),
        environment={"IGSP_ADMIN_KEYS": KEY},
    ) as running:
        yield running


def ask(port: int, data: bytes) -> tuple[int, bytes]:
    """Status (0: closed without one) and the whole answer."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                got += part
    status = re.match(rb"HTTP/1\.[01] (\d{3}) ", got)
    return (int(status[1]) if status else CLOSED), got


def test_the_corpus_has_every_format_pillow_reads() -> None:
    for form in hostile_images.read_formats():
        accepts = Image.OPEN[form][1]
        if form in hostile_images.BEGINNINGS:
            beginning = hostile_images.BEGINNINGS[form]
        else:
            beginning = hostile_images.written(form)
        # What pillow does not recognise would never reach the decoder.
        assert accepts is None or accepts(beginning[:16]), form


def test_bad_requests_are_refused_and_the_next_good_one_answers(
    server: ServerProcess, bundled: Any, tmp_path: Path
) -> None:
    good = bundled.images("colors")[0].read_bytes()
    requests = list(corpus(Secrets(good=good, size=32, key=KEY)))
    assert len(requests) >= 300
    assert len({request.what for request in requests}) > 0.9 * len(requests)
    private = [str(bundled.bundle).encode(), str(Path(__file__).parents[2]).encode(), sys.prefix.encode(), KEY.encode()]
    wrong: list[str] = []
    refused = 0
    with httpx2.Client(timeout=60) as client:
        expected = client.post(f"{server.url}/v1/classify", files={"images": good}).json()["results"]
        for request in requests:
            status, answer = ask(server.port, request.raw)
            refused += status not in (200, CLOSED)
            if status not in request.allowed:
                wrong.append(f"{request.what}: {status} {answer[-300:]!r}")
            if (leak := LEAKS.search(answer)) or any(text in answer for text in private):
                wrong.append(f"{request.what}: {leak and leak[0]!r} in {answer[-600:]!r}")
            wrong += [f"{request.what}: {problem}" for problem in malformed(request, status, answer)]
            again = client.post(f"{server.url}/v1/classify", files={"images": good})
            assert again.status_code == 200, (request.what, again.text)
            assert again.json()["results"] == expected, request.what
    assert not wrong, f"{len(wrong)} of {len(requests)}:\n" + "\n".join(wrong[:40])
    assert refused > 0.7 * len(requests)
    # Nothing was thrown that nobody had thought of, and nothing was written.
    assert not [line for line in server.lines() if line["level"] == "error"]
    assert {line["status"] for line in server.requests()} <= set(range(200, 500)) | {504}
    assert not list((server.log.parent / "roots").iterdir())
    assert server.peak_rss_bytes() < 1.5e9


def malformed(request: Hostile, status: int, answer: bytes) -> Iterator[str]:
    """What is wrong with the form of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if status == CLOSED or status == 200 or request.raw.startswith(b"HEAD"):
        return
    if b"application/json" in head or b"problem+json" in head:
        values = json.loads(body)
        if b"problem+json" in head and (values["status"] != status or not values["detail"]):
            yield f"a problem that does not say what it is: {values}"
        if len(body) > 8000:
            yield f"an error of {len(body)} bytes"
    elif b"Invalid HTTP request received." not in body:  # uvicorn's, before there is a request
        yield f"no problem document: {answer[:300]!r}"


def test_a_hundred_bad_requests_on_one_connection(server: ServerProcess, bundled: Any) -> None:
    image = base64.b64encode(bundled.images("colors")[0].read_bytes()).decode()
    with httpx2.Client(timeout=60, limits=httpx2.Limits(max_connections=1)) as client:
        for turn in range(100):
            bad = [{"images": ["!"]}, {"images": [image], "task": "nothing"}, {"images": []}][turn % 3]
            assert client.post(f"{server.url}/v1/classify", json=bad).status_code == 422
        assert client.post(f"{server.url}/v1/classify", json={"images": [image]}).status_code == 200
