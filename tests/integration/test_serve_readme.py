"""The commands of serve/README.md, run as they stand there against a real server."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

README = (Path(__file__).parents[2] / "serve" / "README.md").read_text(encoding="utf-8")
OPERATING = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
CURLS = re.findall(r"^    ((?:base64 .*)?curl .*)$", README, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(bundled: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader is: with photos, and a newer bundle."""
    import shutil

    from PIL import Image

    root = tmp_path_factory.mktemp("reader")
    for name, image in (("photo.jpg", bundled.images("colors")[0]), ("other.jpg", bundled.images("stripes")[0])):
        Image.open(image).save(root / name)
    shutil.copytree(bundled.bundle, root / "newer-bundle")
    return root


@pytest.fixture(scope="module")
def url(bundled: Any, folder: Path) -> Iterator[str]:
    log = folder / "log"
    command = [sys.executable, "-m", "igsp_deploy.cli.main", "serve", str(bundled.bundle), "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--bundle-roots", str(folder), "--grpc-port", "0"],
            stderr=file,
            env={**os.environ, "IGSP_ADMIN_KEYS": "boss"},
        )
    try:
        end = time.monotonic() + 60
        while '"ready"' not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield json.loads(log.read_text().splitlines()[0])["url"]
    finally:
        process.terminate()
        process.wait(30)


def test_the_curl_examples_answer_in_their_order(url: str, folder: Path) -> None:
    assert len(CURLS) >= 12
    for command in CURLS:
        run = (
            command.replace("http://127.0.0.1:8000", url).replace("NAME", "stripes").replace("curl ", "curl -sS -f ", 1)
        )
        done = subprocess.run(
            ["bash", "-c", run],
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=60,
            env={**os.environ, "ADMIN_KEY": "boss"},
        )
        assert done.returncode == 0, (command, done.stderr, done.stdout)
        if "/metrics" not in command:
            answer = json.loads(done.stdout)
            assert answer
            if "/v1/classify" in command:
                assert len(answer["results"]) == command.count("images=@") + command.count('"images"')
                assert answer["results"][0]["predictions"]


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_examples_of_tritons_client_run(url: str, folder: Path, transport: str) -> None:
    found = re.findall(r"^    import numpy as np\n(?:    .*\n|\n)+", README, re.MULTILINE)
    (code,) = (text for text in found if f"import tritonclient.{transport} as" in text)
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    (grpc,) = (line["grpc"] for line in lines if "grpc" in line)
    address = {"http": ("127.0.0.1:8000", url.removeprefix("http://")), "grpc": ("127.0.0.1:8001", grpc)}
    code = re.sub(r"^    ", "", code, flags=re.MULTILINE).replace(*address[transport])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "blue" in done.stdout


@pytest.mark.parametrize("text", [README, OPERATING])
def test_the_example_of_the_client_runs(url: str, folder: Path, text: str) -> None:
    (code,) = re.findall(r"^    from igsp_serve.client .*\n(?:    .*\n|\n)+", text, re.MULTILINE)
    code = re.sub(r"^    ", "", code, flags=re.MULTILINE).replace("http://127.0.0.1:8000", url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("blue ")


def test_the_shown_answer_has_the_fields_of_a_real_one(url: str, folder: Path) -> None:
    shown = re.search(r"answers like\n\n((?:    .*\n)+)", README)
    assert shown is not None
    values = json.loads(shown[1].replace(", ...]", "]"))
    real = httpx2.post(f"{url}/v1/classify", files={"images": (folder / "photo.jpg").read_bytes()}, timeout=30).json()

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(inner) for key, inner in value.items()}
        return [shape(value[0])] if isinstance(value, list) else type(value).__name__

    assert shape(values) == shape(real)
