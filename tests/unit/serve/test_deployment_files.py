"""Dockerfile, compose, Kubernetes and systemd files: what can be checked of them without an engine that runs them."""

import json
import re
import shlex
import shutil
import socketserver
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import typer.testing
import yaml

from igsp_deploy.cli.main import app as cli
from igsp_serve import probe
from igsp_serve.http.app import create_app
from igsp_serve.settings import Settings

ROOT = Path(__file__).parents[3]
SERVE = ROOT / "serve"
DOCKERFILE = (SERVE / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((SERVE / "compose.yaml").read_text(encoding="utf-8"))
KUBERNETES, SERVICE = yaml.safe_load_all((SERVE / "kubernetes.yaml").read_text(encoding="utf-8"))
UNIT = (SERVE / "igsp-serve.service").read_text(encoding="utf-8")
STOPS_WITHIN_S = Settings().shutdown_delay_s + Settings().grace_s


def instructions() -> list[tuple[str, str]]:
    """Lines of the Dockerfile, joined, as instruction and rest."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def stage(name: str) -> list[tuple[str, str]]:
    """Instructions of a stage and of those it is built on."""
    found: list[tuple[str, str]] = []
    parent, current = "", ""
    for word, rest in instructions():
        if word == "FROM":
            parent, _, current = rest.partition(" AS ")
            if current == name:
                found = [*stage(parent)]
        elif current == name:
            found.append((word, rest))
    return found


def unit(name: str) -> list[str]:
    """Values of a key of the systemd unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def starts(arguments: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    """The command line and the variables are understood by the real command: all it misses is the bundle."""
    environment = {key: re.sub(r".*/api-keys$", str(tmp_path / "keys"), value) for key, value in environment.items()}
    environment |= {"IGSP_BUNDLE": "/nowhere/bundle", "IGSP_PORT": "0", "IGSP_HOST": "127.0.0.1"}
    environment["IGSP_PROVIDER"] = "cpu"
    (tmp_path / "keys").write_text("secret\n")
    known = {f"IGSP_{name.upper()}" for name in Settings.__dataclass_fields__} | {"IGSP_BUNDLE", "IGSP_CONFIG"}
    assert {key for key in environment if key.startswith("IGSP_")} <= known
    result = typer.testing.CliRunner().invoke(cli, arguments, env=environment)
    assert result.exit_code == 1, result.output
    assert "is not a bundle" in str(result.exception) + result.output or "/bundle" in str(result.exception)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_images_run_the_command_as_nobody(target: str, tmp_path: Path) -> None:
    found = stage(target)
    words = dict(found)
    user = words["USER"].split(":")[0]
    assert user.isdigit()
    assert int(user) > 0
    environment = dict(
        pair.split("=", 1) for word, rest in found if word == "ENV" for pair in shlex.split(rest) if "=" in pair
    )
    assert environment["IGSP_PROVIDER"] == target
    assert words["STOPSIGNAL"] == "SIGTERM"
    command = json.loads(words["ENTRYPOINT"]) + json.loads(words["CMD"])
    assert command[0] == "igsp"
    starts(command[1:], environment, tmp_path)
    # What the image is made of is in the repository, and let through to the build.
    ignored = (SERVE / "Dockerfile.dockerignore").read_text().splitlines()
    for word, rest in stage("build"):
        if word == "COPY":
            for name in rest.split()[:-1]:
                assert (ROOT / name).exists()
                assert f"!{name}" in ignored


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for another name than the one it is asked by, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "chain.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=shop.example"]
    subprocess.run([*command, "-keyout", key, "-out", chain], check=True, capture_output=True, timeout=60)
    return chain, key


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.2", "localhost"])
@pytest.mark.parametrize("given", ["variables", "command line"])
def test_the_images_health_check_tells_alive_from_not(
    host: str, tls: bool, given: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0] if self.path == "/health/live" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Be quiet."""

    with socketserver.TCPServer((host, 0), Handler) as server:
        options = {"host": host, "port": str(server.server_address[1]), "root_path": "/igsp"}
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            options |= {"tls_certificate": str(certificate[0]), "tls_key": str(certificate[1])}
        words = ["python", "/opt/igsp/bin/igsp", "serve"]
        for name, value in options.items():
            if given == "variables":
                monkeypatch.setenv(f"IGSP_{name.upper()}", value)
            else:
                words += [f"--{name.replace('_', '-')}", value] if name != "port" else [f"--port={value}"]
        first = tmp_path / "cmdline"
        first.write_text("\0".join(words) + "\0")
        monkeypatch.setattr(probe, "_FIRST_PROCESS", first)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            assert probe.main() == 0
            status[0] = 503
            assert probe.main() == 1
        finally:
            server.shutdown()
            thread.join()
    assert probe.main() == 1


def test_the_images_health_check_is_that_probe() -> None:
    (check,) = (rest for word, rest in stage("cpu") if word == "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command == ["python", "-m", "igsp_serve.probe"]
    command[0] = sys.executable
    # Wrong options are said and are not alive.
    done = subprocess.run(command, env={"IGSP_PORT": "x"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "IGSP_PORT must be a whole number" in done.stderr


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_compose_runs_the_image_locked_down(name: str, tmp_path: Path) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["user"].split(":")[0] != "0"
    assert service["restart"] in ("always", "unless-stopped")
    assert float(service["stop_grace_period"].removesuffix("s")) > STOPS_WITHIN_S
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    build = service["build"]
    assert (SERVE / build["context"] / build["dockerfile"]).resolve() == SERVE / "Dockerfile"
    assert f" AS {build['target']}\n" in DOCKERFILE
    assert set(service["secrets"]) <= set(COMPOSE["secrets"])
    starts(service["command"], service["environment"], tmp_path)


def test_kubernetes_probes_are_routes_and_the_pod_is_locked_down(bundled: Any, tmp_path: Path) -> None:
    pod = KUBERNETES["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    documented = create_app(bundled.bundle, Settings(provider="cpu")).openapi()["paths"]
    assert paths == {"/health/live", "/health/ready"}
    assert paths <= set(documented)
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    args = container["args"]
    delay = float(args[args.index("--shutdown-delay-s") + 1])
    assert pod["terminationGracePeriodSeconds"] > delay + Settings().grace_s
    # A balancer must have seen that it is not ready before it stops to serve.
    assert delay > container["readinessProbe"]["periodSeconds"] * 3
    assert pod["enableServiceLinks"] is False
    starts(args, {row["name"]: row["value"] for row in container["env"]}, tmp_path)
    assert SERVICE["spec"]["selector"] == KUBERNETES["spec"]["template"]["metadata"]["labels"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_systemd_unit_restarts_stops_in_time_and_starts_the_command(tmp_path: Path) -> None:
    (command,) = unit("ExecStart")
    program, *arguments = command.split()
    assert program.endswith("/bin/igsp")
    assert unit("Restart") == ["always"]
    # What fails at every start, at once or after a minute, stays down in the end.
    interval, burst = int(unit("StartLimitIntervalSec")[0]), int(unit("StartLimitBurst")[0])
    longest_start_s = 25
    assert burst * (float(unit("RestartSec")[0]) + longest_start_s) < interval
    assert burst >= 5
    assert unit("DynamicUser") == ["yes"]
    assert unit("ProtectSystem") == ["strict"]
    assert float(unit("TimeoutStopSec")[0]) > STOPS_WITHIN_S
    environment = dict(pair.split("=", 1) for line in unit("Environment") for pair in line.split())
    starts(arguments, environment, tmp_path)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    # The program is not where the unit has it: another that is.
    path = tmp_path / "igsp-serve.service"
    path.write_text(UNIT.replace("/opt/igsp/bin/igsp", shutil.which("true") or "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60
    )
    about = [line for line in (done.stdout + done.stderr).splitlines() if "igsp-serve" in line]
    assert not about
