"""The Ray Serve application without a Ray: its options, and one replica."""

import asyncio
import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from igsp_deploy.bundle.manifest import list_files
from igsp_deploy.errors import UsageError
from igsp_serve.settings import Settings
from tests.fake_hub import FakeHub

from .traces import TRACE, TRACEPARENT, Collector

ray_app = pytest.importorskip("igsp_serve.ray_app")

GIVEN = {
    "host": "0.0.0.0",
    "port": 9000,
    "grpc_port": 8001,
    "tls_key": "key.pem",
    "tls_certificate": "certificate.pem",
    "max_connections": 10,
    "shutdown_delay_s": 5,
    "admin_keys": "k",
    "admin_key_file": "keys.txt",
    "bundle_roots": "/bundles",
    "demo": "true",
}


def test_every_option_that_would_do_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GIVEN.keys() == ray_app.REFUSED.keys()
    with pytest.raises(UsageError) as refused:
        ray_app.app({"bundle": "b", **GIVEN})
    for name in GIVEN:
        assert f"{name}: {ray_app.REFUSED[name]}." in str(refused.value)
    with pytest.raises(UsageError) as one:
        ray_app.app({"bundle": "b", "grpc_port": 0})
    assert re.findall(r"^ +(\w+): ", str(one.value), re.M) == ["grpc_port"]
    monkeypatch.setenv("IGSP_GRPC_PORT", "8001")
    with pytest.raises(UsageError, match="grpc_port: Ray's proxy passes on HTTP alone"):
        ray_app.app({"bundle": "b"})


def test_every_other_option_is_read_by_what_a_replica_runs() -> None:
    """Whatever is added to the options is one or the other."""
    root = Path(ray_app.__file__).parent
    alone = {"http/server.py", "oip/grpc_server.py", "oip/grpc_call.py", "probe.py", "settings.py"}
    sources = [path.read_text() for path in root.rglob("*.py") if path.relative_to(root).as_posix() not in alone]
    unread = {
        field.name
        for field in dataclasses.fields(Settings)
        if not any(re.search(rf"settings\.(all_)?{field.name}\b", text) for text in sources)
    }
    assert unread - {"api_key_file"} <= ray_app.REFUSED.keys()  # read by `all_api_keys`


def deployed(args: dict[str, Any]) -> Any:
    """What replicas are told to open."""
    return ray_app.app(args)._bound_deployment._deployment_config.user_config["bundle"]


def test_replicas_open_the_same_commit_of_a_repository(
    hub: FakeHub, bundled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["manifest.json", *list_files(bundled.bundle)]
    hub.commits["me/shoes"] = {"1" * 40: {name: (bundled.bundle / name).read_bytes() for name in names}}
    hub.use(monkeypatch)
    for name in ("hf:me/shoes", "hf:me/shoes@main"):
        assert deployed({"bundle": name}) == f"hf:me/shoes@{'1' * 40}"
    assert deployed({"bundle": "b"}) == str(Path("b").resolve())


@pytest.fixture
def quiet_logs() -> Iterator[None]:
    """A replica sets up the log of its process: here it is put back."""
    logger = logging.getLogger("igsp_serve")
    kept = (logger.handlers, logger.propagate, logger.level)
    yield
    logger.handlers, logger.propagate, logger.level = kept


def replica(bundle: Path, **options: Any) -> Any:
    """A replica with its bundle open, as Ray makes one."""
    made = ray_app.Replica(Settings(provider="cpu", **options))
    made.app = ray_app.LateApp()
    asyncio.run(made.reconfigure({"bundle": str(bundle)}))
    return made


@pytest.mark.usefixtures("quiet_logs")
@pytest.mark.parametrize(("level", "logged"), [("info", True), ("warning", False)])
def test_a_replica_logs_as_its_options_say(
    bundled: Any, capsys: pytest.CaptureFixture[str], level: str, logged: bool
) -> None:
    with TestClient(replica(bundled.bundle, log_level=level).app) as client:
        assert client.get("/v1/tasks", headers={"traceparent": TRACEPARENT}).status_code == 200
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    asked = [line for line in lines if line["message"] == "request"]
    assert [(line["path"], line["trace_id"]) for line in asked] == ([("/v1/tasks", TRACE)] if logged else [])


@pytest.mark.usefixtures("quiet_logs")
def test_a_replica_sends_spans(
    bundled: Any, photo: bytes, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with TestClient(replica(bundled.bundle).app) as client:
        asked = client.post("/v1/classify", files={"images": photo}, headers={"traceparent": TRACEPARENT})
        assert asked.status_code == 200
    collector.check_request("POST /v1/classify")  # sent by the end of the replica


@pytest.mark.usefixtures("quiet_logs")
def test_a_replica_changes_its_bundle_and_keeps_it_where_the_new_one_is_damaged(bundled: Any, tmp_path: Path) -> None:
    made = replica(bundled.bundle)
    with TestClient(made.app) as client:
        before = client.get("/v1/models").json()
        damaged = shutil.copytree(bundled.bundle, tmp_path / "damaged")
        (damaged / "selector.safetensors").write_bytes(b"x")
        with pytest.raises(Exception, match=r"selector\.safetensors"):
            asyncio.run(made.reconfigure({"bundle": str(damaged)}))
        assert client.get("/v1/models").json() == before
