"""The demo inside the server: behind its keys, and through its batcher."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

from tests.load.process import serving

if TYPE_CHECKING:
    from tests.conftest import Bundled

KEY = {"Authorization": "Bearer secret"}
os.environ["NO_PROXY"] = "*"


def images_seen(url: str) -> float:
    metrics = httpx2.get(f"{url}/metrics", headers=KEY).text
    return sum(float(value) for value in re.findall(r"^igsp_images_total\{[^}]*\} (\S+)$", metrics, re.MULTILINE))


def test_the_demo_asks_for_the_key_and_classifies_through_the_batcher(bundled: "Bundled", tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    with serving(bundled.bundle, tmp_path / "server", "--demo", environment={"IGSP_API_KEYS": "secret"}) as server:
        assert httpx2.get(f"{server.url}/demo/").status_code == 401
        page = httpx2.get(f"{server.url}/demo/", headers=KEY)
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
