"""The demo inside the server: behind its keys, and through its batcher."""

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.integration.demo_calls import Demo
from tests.load.process import serving

if TYPE_CHECKING:
    from tests.conftest import Bundled

KEY = {"Authorization": "Bearer secret"}
os.environ["NO_PROXY"] = "*"


def images_seen(url: str) -> float:
    metrics = httpx2.get(f"{url}/metrics", headers=KEY, timeout=60).text
    return sum(float(value) for value in re.findall(r"^igsp_images_total\{[^}]*\} (\S+)$", metrics, re.MULTILINE))


def test_the_demo_asks_for_the_key_and_classifies_through_the_batcher(bundled: "Bundled", tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    with serving(bundled.bundle, tmp_path / "server", "--demo", environment={"IGSP_API_KEYS": "secret"}) as server:
        assert httpx2.get(f"{server.url}/demo/", timeout=60).status_code == 401
        page = httpx2.get(f"{server.url}/demo/", headers=KEY, timeout=60)
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        before = images_seen(server.url)
        folder = str(tmp_path / "downloads")
        client = Client(f"{server.url}/demo/", headers=KEY, verbose=False, download_files=folder)
        image = handle_file(str(bundled.images("stripes")[0]))
        found = client.predict(image, api_name="/classify")
        assert found["task"] == "stripes"
        assert images_seen(server.url) > before
        direct = httpx2.post(
            f"{server.url}/v1/classify", headers=KEY, files={"images": bundled.images("stripes")[0].read_bytes()}
        ).json()["results"][0]
        assert [p["label"] for p in found["predictions"]] == [p["label"] for p in direct["predictions"]]
        client.close()


KIB = 1024


@pytest.fixture(scope="module")
def small(bundled: "Bundled", tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Demo, Path]]:
    """A server with small limits, and the folder with its files."""
    folder = tmp_path_factory.mktemp("small")
    limits = ["--max-body-bytes", 200 * KIB, "--body-timeout-s", 8]
    environment = {"GRADIO_TEMP_DIR": str(folder)}
    with serving(bundled.bundle, folder / "server", "--demo", *map(str, limits), environment=environment) as server:
        demo = Demo(f"{server.url}/demo/")
        yield demo, folder
        demo.close()


def kept_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("igsp-demo-*/**/*") if path.is_file())


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.glob("igsp-demo-*/tmp*") if path.is_file()]


def multipart(size: int) -> tuple[dict[str, str], bytes]:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return {"Content-Type": "multipart/form-data; boundary=x"}, head + b"x" * size + b"\r\n--x--\r\n"


def test_an_upload_over_the_servers_limit_is_refused_with_words(small: tuple[Demo, Path]) -> None:
    demo, folder = small
    headers, body = multipart(300 * KIB)

    def pieces() -> Iterator[bytes]:
        yield from (body[start : start + 10_000] for start in range(0, len(body), 10_000))

    for content in (body, pieces()):
        answer = demo.post("gradio_api/upload", headers=headers, content=content)
        assert answer.status_code == 413
        assert "Choose fewer or smaller files" in answer.text
    called = demo.post("gradio_api/queue/join", json={"data": ["x" * 300 * KIB], "fn_index": 0, "session_hash": "x"})
    assert called.status_code == 413
    assert half_written(folder) == []


def test_uploads_are_held_to_a_sum_and_the_oldest_go(small: tuple[Demo, Path]) -> None:
    demo, folder = small
    most = 16 * 200 * KIB
    names = [demo.upload(f"{number}.png", bytes([number]) * 190 * KIB) for number in range(24)]
    assert most / 2 < kept_bytes(folder) <= most
    assert demo.get(f"gradio_api/file={names[-1]}").status_code == 200
    gone = demo.get(f"gradio_api/file={names[0]}")
    assert gone.status_code == 403
    assert "not here any more. Upload it again" in gone.text


def test_an_upload_that_does_not_come_is_ended(small: tuple[Demo, Path]) -> None:
    demo, folder = small
    parts = urlsplit(demo.url)
    headers, body = multipart(100 * KIB)
    head = f"POST /demo/gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    for leaves in (True, False):
        with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60) as connection:
            connection.sendall(head.encode() + body[: 50 * KIB])
            if not leaves:
                assert b" 408 " in connection.recv(1000)
        end = time.monotonic() + 60
        while half_written(folder):
            assert time.monotonic() < end
            time.sleep(0.05)
