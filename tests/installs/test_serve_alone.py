"""`[serve,cpu]` in an environment of its own: small, and it starts, answers and verifies. Needs the registry."""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_MB = 260
"""What the packages bring; the bytecode that Python makes of them (46 MB; `pip install --no-compile`) comes on top."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `bin` of an environment with the line for serving, from a wheel of this project."""
    folder = tmp_path_factory.mktemp("serve")
    uv = str(Path(sys.executable).with_name("uv"))

    def run(*command: object) -> None:
        subprocess.run(list(map(str, command)), check=True, timeout=240, cwd=ROOT)

    run(uv, "venv", "--quiet", "--python", sys.executable, folder / "env")
    run(
        *(uv, "pip", "install", "--quiet", "--python", folder / "env" / "bin" / "python"),
        *("--constraint", ROOT / "constraints.txt", f"{ROOT}[serve,cpu]"),
    )
    return folder / "env" / "bin"


@pytest.fixture(scope="module")
def url(environment: Path, bundled: Any) -> Iterator[str]:
    """A server in that environment."""
    log = environment.parent / "log"
    command = [environment / "igsp", "serve", bundled.bundle, "--port", "0"]
    with (
        open(log, "w") as stderr,
        subprocess.Popen(command, stderr=stderr, env=_environment(), cwd=environment.parent) as server,
    ):
        try:
            yield _address(server, log)
        finally:
            server.terminate()
            server.wait(60)


def _address(server: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        for line in log.read_text().splitlines():
            if "http://127.0.0.1:" in line:
                return "http://127.0.0.1:" + line.split("http://127.0.0.1:")[1].split('"')[0].split()[0].rstrip("/.,")
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _igsp(environment: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [str(environment / "igsp"), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=_environment(), cwd=environment.parent
    )


def test_it_is_small_and_has_neither_torch_nor_gradio_nor_cuda(environment: Path) -> None:
    site = next(environment.parent.glob("lib/python*/site-packages"))
    names = {path.name.split("-")[0] for path in site.iterdir()}
    assert names & {"torch", "gradio", "nvidia", "onnxruntime_gpu", "ray", "pandas"} == set()
    files = (path for path in environment.parent.rglob("*") if path.is_file() and path.suffix != ".pyc")
    size = sum(path.lstat().st_size for path in files) / 1e6
    assert size < LIMIT_MB, f"{size:.0f} MB"


def test_the_doctor_has_no_complaint(environment: Path) -> None:
    done = _igsp(environment, "doctor", "--json")
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert list(found["runtimes"]) == ["onnxruntime"]
    assert found["sessions"] == {"CPUExecutionProvider": True}
    assert done.returncode == 0


def test_it_verifies_and_predicts(environment: Path, bundled: Any) -> None:
    assert _igsp(environment, "verify", bundled.bundle).returncode == 0
    done = _igsp(environment, "predict", bundled.bundle, bundled.images("colors")[0], "--json")
    assert json.loads(done.stdout)[0]["task"] == "colors"
    assert done.stderr == ""


def test_it_answers(url: str, bundled: Any) -> None:
    image = base64.b64encode(bundled.images("colors")[0].read_bytes()).decode()
    body = json.dumps({"images": [image]}).encode()
    request = urllib.request.Request(f"{url}/v1/classify", data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["results"][0]["task"] == "colors"


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("serve", "BUNDLE", "--demo", "--port", "0"), "demo"),
        (("demo", "BUNDLE", "--port", "0"), "demo"),
        (("bench", "BUNDLE", "--model", "MODEL"), "export"),
        (("export", "MODEL", "out"), "export"),
        (("train", "model", "--task", "colors=DATA"), "train"),
        (("report", "MODEL"), "train"),
        (("quickstart", "--out", "tour"), "quickstart"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_what_it_lacks_is_named_with_the_line_that_brings_it(
    command: tuple[str, ...], extra: str, environment: Path, bundled: Any
) -> None:
    words = {"BUNDLE": bundled.bundle, "MODEL": bundled.model, "colors=DATA": f"colors={bundled.data / 'colors'}"}
    done = _igsp(environment, *(words.get(word, word) for word in command))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f'pip install "{ROOT}[{extra}]"' in done.stderr
