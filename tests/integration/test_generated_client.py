"""A client that openapi-python-client makes from /openapi.json: whole, and it authenticates."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.load.process import ServerProcess, serving

GENERATOR = "openapi-python-client==0.29.1"
"""In an environment of its own: it holds back packages of ours."""
PROGRAM = """
import importlib, pkgutil, sys
import made
for module in pkgutil.walk_packages(made.__path__, "made."):
    importlib.import_module(module.name)
from made import AuthenticatedClient, Client
from made.api.inference import classify_v1_classify_post as classify
from made.api.model import tasks_v1_tasks_get as tasks
from made.api.v2 import infer_v2_models_name_infer_post as infer
from made.models import ClassifyV1ClassifyPostJsonClassifyRequest as Request
from made.models import InferV2ModelsNameInferPostJsonInferRequest as InferRequest
url, image = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token="secret")
print(*(task.name for task in tasks.sync(client=client).tasks))
answer = classify.sync(client=client, body=Request.from_dict({"images": [image], "top_k": 1}))
print(answer.results[0].predictions[0].label)
tensor = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [image]}
print(infer.sync("igsp", client=client, body=InferRequest.from_dict({"inputs": [tensor]})).model_name)
print(tasks.sync_detailed(client=Client(base_url=url)).status_code.value)
"""


@pytest.fixture(scope="module")
def server(bundled: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(bundled.bundle, tmp_path_factory.mktemp("server"), "--api-keys", "secret") as running:
        yield running


def test_a_generated_client_is_whole_and_authenticates(server: ServerProcess, bundled: Any, tmp_path: Path) -> None:
    document = tmp_path / "openapi.json"
    document.write_bytes(httpx2.get(f"{server.url}/openapi.json", headers={"X-API-Key": "secret"}).content)
    uv = [sys.executable, "-m", "uv"]
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([*uv, "venv", "--quiet", str(tmp_path / "env")], check=True, timeout=120)
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", str(python), GENERATOR], check=True, timeout=300)
    # Its formatter is not needed.
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")
    command = ["generate", "--path", str(document), "--output-path", str(tmp_path / "made"), "--meta", "none"]
    generated = subprocess.run(
        [str(python), "-m", "openapi_python_client", *command, "--config", str(tmp_path / "config.yaml")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert generated.returncode == 0, generated.stdout + generated.stderr
    assert "WARNING" not in generated.stdout + generated.stderr, generated.stdout
    image = bundled.images("colors")[0]
    used = subprocess.run(
        [python, "-c", PROGRAM, server.url, base64.b64encode(image.read_bytes()).decode()],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert used.returncode == 0, used.stderr
    assert used.stdout.splitlines() == ["colors stripes", image.parent.name, "igsp", "401"]
