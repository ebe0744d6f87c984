"""The server behind Debian's nginx at a prefix, which nginx strips or passes on."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.load.process import ServerProcess, free_port, serving

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 64m;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_buffering off;
        proxy_request_buffering off;
        location /igsp/ {{ proxy_pass {server}{strip}; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def server(bundled: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With a prefix, keys and the demo."""
    options = ("--root-path", "/igsp", "--api-keys", "secret", "--admin-keys", "boss", "--demo")
    with serving(bundled.bundle, tmp_path_factory.mktemp("server"), *options) as running:
        yield running


@pytest.fixture(scope="module", params=["/", ""], ids=["stripped", "passed on"])
def url(
    server: ServerProcess, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where nginx shows the server."""
    assert NGINX is not None, "nginx is missing. Run: sh tests/browser/install.sh"
    folder = tmp_path_factory.mktemp("nginx")
    port, config = free_port(), folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, server=server.url, strip=request.param))
    with (folder / "out").open("w") as out:
        nginx = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config)], stdout=out, stderr=out)
    try:
        end = time.monotonic() + 60
        while True:
            assert nginx.poll() is None, (folder / "out").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/igsp"
    finally:
        nginx.terminate()
        nginx.wait(30)


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(headers={"Authorization": "Bearer secret"}, timeout=60) as client:
        yield client


def test_images_are_classified_and_keys_are_asked_for(url: str, client: httpx2.Client, bundled: Any) -> None:
    files = [("images", ("x.png", path.read_bytes())) for path in bundled.images("colors")[:3]]
    answer = client.post(f"{url}/v1/classify", files=files)
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == 3
    assert httpx2.get(f"{url}/v1/tasks", timeout=60).status_code == 401
    assert client.request("DELETE", f"{url}/v1/tasks/colors").status_code == 403
    assert httpx2.head(f"{url}/health/ready").status_code == 200


def test_the_first_page_and_the_docs_point_below_the_prefix(url: str, client: httpx2.Client) -> None:
    paths = client.get(f"{url}/").json()["paths"]
    assert {"/igsp/docs", "/igsp/demo"} <= set(paths)
    base = url.removesuffix("/igsp")
    for path in paths:
        assert client.get(f"{base}{path}", follow_redirects=True).status_code == 200, path
    assert "'/igsp/openapi.json'" in client.get(f"{url}/docs").text
    assert client.get(f"{url}/openapi.json").json()["servers"] == [{"url": "/igsp"}]


def test_the_demo_and_its_files_are_below_the_prefix(url: str, client: httpx2.Client) -> None:
    page = client.get(f"{url}/demo/", follow_redirects=True)
    assert page.status_code == 200
    config = client.get(f"{url}/demo/config").json()
    assert config["root"] == f"{url}/demo"
    assert client.get(f"{config['root']}/theme.css").status_code == 200
    # An event, as the page sends it.
    info = client.get(f"{config['root']}{config['api_prefix']}/info")
    assert info.status_code == 200
    assert json.loads(info.text)["named_endpoints"]


def test_a_body_beyond_the_limit_is_413_through_the_proxy(url: str, client: httpx2.Client, tmp_path: Path) -> None:
    answer = client.post(f"{url}/v1/classify", content=bytes(40 * 2**20), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
