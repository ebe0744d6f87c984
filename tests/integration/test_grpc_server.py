"""`igsp serve --grpc-port` as a process of its own: start, TLS, end under load, both ports at once."""

import queue
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.load.process import ServerProcess, launch, serve_command, serving


def address(server: ServerProcess) -> str:
    """Where it listens for gRPC."""
    (found,) = (line["grpc"] for line in server.lines() if line["message"] == "listening for gRPC")
    return str(found)


def files(module: Any, *photos: bytes) -> list[Any]:
    made = module.InferInput("image_bytes", [len(photos)], "BYTES")
    made.set_data_from_numpy(np.array(photos, np.object_))
    return [made]


def key() -> dict[str, str]:
    """Each client writes into its own."""
    return {"x-api-key": "secret"}


def test_both_ports_give_the_same_answers_and_counts(bundled: Any, tmp_path: Path) -> None:
    photos = [bundled.images(task)[0].read_bytes() for task in ("colors", "stripes")]
    environment = {"IGSP_API_KEYS": "secret", "IGSP_GRPC_PORT": "0", "IGSP_PUBLIC_METRICS": "1"}
    with serving(bundled.bundle, tmp_path, environment=environment) as server:
        over_grpc = triton.InferenceServerClient(address(server))
        over_http = tritonclient.http.InferenceServerClient(server.url.removeprefix("http://"))
        options: dict[str, Any] = {"model_version": "1", "parameters": {"top_k": 2}}
        first = over_grpc.infer("igsp", files(triton, *photos), headers=key(), **options)
        second = over_http.infer("igsp", files(tritonclient.http, *photos), headers=key(), **options)
        for name in ("labels", "task_name"):
            assert first.as_numpy(name).tolist() == second.as_numpy(name).tolist()
        for name in ("features", "scores", "task_scores"):
            assert np.allclose(first.as_numpy(name), second.as_numpy(name), rtol=1e-3, atol=1e-5)
        statistics = over_http.get_inference_statistics("igsp", headers=key())["model_stats"][0]
        assert statistics["inference_stats"]["success"]["count"] == 2
        told = over_grpc.get_inference_statistics("igsp", headers=key(), as_json=True)["model_stats"][0]
        assert int(told["inference_count"]) == statistics["inference_count"] == 4
        with pytest.raises(InferenceServerException) as error:
            over_grpc.infer("igsp", files(triton, *photos), headers={"x-api-key": "wrong"})
        assert error.value.status() == "StatusCode.UNAUTHENTICATED"
        assert 'status="UNAUTHENTICATED"} 1.0' in server.metrics()
        over_grpc.close()
        over_http.close()
        assert server.stop() == 0
        assert not [line for line in server.lines() if line["level"] == "error"]


def test_sigterm_answers_what_was_accepted(bundled: Any, tmp_path: Path) -> None:
    photo = bundled.images("colors")[0].read_bytes()
    options = ("--grpc-port", 0, "--shutdown-delay-s", 1, "--max-wait-ms", 20)
    with serving(bundled.bundle, tmp_path, *options) as server:
        done = queue.Queue[tuple[Any, Any]]()
        client = triton.InferenceServerClient(address(server))
        answered: list[Any] = []
        refused: list[str] = []
        wrong: list[str] = []
        stopping = threading.Event()
        client.start_stream(lambda result, error: done.put((result, error)))
        for number in range(40):
            client.async_stream_infer("igsp", files(triton, photo), request_id=str(number))

        def ask() -> None:
            mine = triton.InferenceServerClient(address(server))
            while True:
                try:
                    mine.infer("igsp", files(triton, photo), client_timeout=200)
                    answered.append(mine)
                except InferenceServerException as error:
                    # The library cancels a call that came, but not yet to us, when it stops.
                    ends = ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED")
                    (refused if error.status() in ends and stopping.is_set() else wrong).append(str(error))
                    return

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 8 or done.qsize() < 40:  # what a stream has not been read of is not accepted
            time.sleep(0.01)
        assert client.is_server_ready()
        stopping.set()
        assert server.stop() == 0
        for thread in threads:
            thread.join(200)
        assert wrong == []
        assert len(refused) == 4
        for number in range(40):
            result, error = done.get(timeout=30)
            assert error is None
            assert result.get_response().id == str(number)
        client.stop_stream()
        client.close()
        # What the server took is what the clients have an answer to.
        taken = [line["status"] for line in server.lines() if str(line.get("path")).endswith("/ModelInfer")]
        assert taken == ["OK"] * len(answered)
        assert not [line for line in server.lines() if line["level"] == "error"]


def test_tls_is_that_of_http(bundled: Any, tmp_path: Path) -> None:
    private, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*command, "-keyout", private, "-out", certificate], check=True, capture_output=True)
    log = tmp_path / "log"
    given = ("--port", 0, "--grpc-port", 0, "--tls-key", private, "--tls-certificate", certificate)
    process = launch(serve_command(bundled.bundle, *given), log)
    try:
        server = ServerProcess(process=process, log=log, url="")
        end = time.monotonic() + 120
        while not [line for line in server.lines() if line["message"] == "ready"] if log.is_file() else True:
            assert time.monotonic() < end, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        trusted = triton.InferenceServerClient(address(server), ssl=True, root_certificates=str(certificate))
        assert trusted.is_server_ready()
        plain = triton.InferenceServerClient(address(server))
        with pytest.raises(InferenceServerException):
            plain.is_server_live()
        url = next(line["url"] for line in server.lines() if "url" in line)
        context = ssl.create_default_context(cafile=str(certificate))
        assert httpx2.get(f"{url}/v2/health/ready", verify=context, timeout=60).status_code == 200
        assert server.stop() == 0
    finally:
        process.kill()
        process.wait()


def test_a_port_that_is_taken_is_one_line(igsp: Callable[..., Any], bundled: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = igsp("serve", bundled.bundle, "--port", 0, "--grpc-port", port)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert f"port {port}" in result.stderr
    assert "--grpc-port" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_the_option_there_is_no_grpc(bundled: Any, tmp_path: Path) -> None:
    with serving(bundled.bundle, tmp_path) as server:
        assert not [line for line in server.lines() if "grpc" in line]
        libraries = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "onnxruntime" in libraries
        assert "grpc" not in libraries
