"""Requests made from the OpenAPI document, valid and not: the server answers as the document says, never with a 5xx."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.load.process import serving

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)
CONFIG = """[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]
"""
"""504 is the answer to a request whose own time limit is next to nothing, which the document allows."""

EXAMPLES = 8
"""A route and phase."""


def test_the_server_answers_as_its_document_says(bundled: Any, tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir()
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    with serving(
        bundled.bundle,
        tmp_path,
        *("--bundle-roots", tmp_path / "roots", "--body-timeout-s", 5),
        environment={"IGSP_ADMIN_KEYS": "boss"},
    ) as server:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
                *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--continue-on-failure"),
                *("--max-examples", str(EXAMPLES), "--seed", "1", "--generation-deterministic", "--no-color"),
                *("--suppress-health-check", "all", "--warnings", "off"),
                *("--header", "Authorization: Bearer boss", "--no-shrink", "--request-timeout", "60"),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert server.status("/health/ready") == 200
        requests = server.requests()
        # It really asked, and got past the doors: hundreds of requests, answers of every kind.
        assert len(requests) > 300
        assert {200, 404, 422} <= {line["status"] for line in requests}
        assert {line["status"] for line in requests} <= set(range(200, 500)) | {504}
        assert not [line for line in server.lines() if line["level"] == "error"]
