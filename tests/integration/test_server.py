"""`igsp serve` as a process of its own, asked over sockets."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.load.process import START_S, free_port

ADMIN = {"Authorization": "Bearer boss"}


class Server:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self.process, self.log = process, log
        self.url = ""
        end = time.monotonic() + START_S
        while not self.url:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            self.url = next((line["url"] for line in self.lines() if line["message"] == "listening"), "")
            time.sleep(0.05)
        self.port = int(self.url.rpartition(":")[2])

    def lines(self) -> list[dict[str, Any]]:
        """Lines of its log that are whole."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]

    def wait_ready(self, **options: Any) -> None:
        """Until it says so."""
        end = time.monotonic() + START_S
        while httpx2.get(f"{self.url}/health/ready", timeout=60, **options).status_code != 200:
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start(bundled: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts servers; what still runs at the end is killed."""
    running: list[Server] = []

    def run(*options: object, bundle: Path = bundled.bundle, environment: dict[str, str] | None = None) -> Server:
        log = tmp_path_factory.mktemp("server") / "log"
        command = [
            sys.executable,
            "-m",
            "igsp_deploy.cli.main",
            "serve",
            str(bundle),
            "--port",
            "0",
            *map(str, options),
        ]
        with log.open("w") as file:
            process = subprocess.Popen(
                command, stderr=file, stdout=file, text=True, env={**os.environ, **(environment or {})}
            )
        running.append(Server(process, log))
        running[-1].wait_ready(verify=False)
        return running[-1]

    yield run
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="module")
def server(start: Start, bundled: Any, first_only: Path) -> Server:
    """One for the tests that need nothing special."""
    roots = [bundled.bundle.parent, first_only.parent]
    return start(
        *(option for root in roots for option in ("--bundle-roots", root)),
        *("--max-body-bytes", 2_000_000),
        environment={"IGSP_ADMIN_KEYS": "boss"},
    )


@pytest.fixture(scope="module")
def strict(start: Start) -> Server:
    """One with little patience and room for few."""
    return start("--body-timeout-s", 4, "--max-connections", 20)


@pytest.fixture(scope="module")
def photos(bundled: Any) -> list[bytes]:
    return [path.read_bytes() for path in [*bundled.images("colors"), *bundled.images("stripes")]]


def classify(client: httpx2.Client, url: str, *images: bytes, **options: Any) -> httpx2.Response:
    files = [("images", (f"{k}.png", data)) for k, data in enumerate(images)]
    return client.post(f"{url}/v1/classify", files=files, data=options, timeout=120)


def raw(port: int, data: bytes, *, wait: float = 120.0) -> bytes:
    """Send bytes; all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        got = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
            while part := connection.recv(65536):
                got += part
        return got


def eventually(holds: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until it holds: a server logs and counts a request after its answer has gone."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


def test_it_answers_logs_and_counts(server: Server, photos: list[bytes]) -> None:
    with httpx2.Client(timeout=60) as client:
        answer = classify(client, server.url, *photos[:3], top_k=1)
        assert answer.status_code == 200
        assert len(answer.json()["results"]) == 3
        identity = answer.headers["x-request-id"]
        eventually(lambda: any(line.get("request_id") == identity for line in server.lines()))
        (line,) = (line for line in server.lines() if line.get("request_id") == identity)
        assert (line["path"], line["status"], line["method"]) == ("/v1/classify", 200, "POST")
        assert "server" not in answer.headers
        counted = re.compile(r'igsp_requests_total\{route="/v1/classify",status="200"\} [1-9]')
        eventually(lambda: counted.search(client.get(f"{server.url}/metrics").text))
        assert client.get(f"{server.url}/docs").status_code == 200
        assert client.get(f"{server.url}/health/live").json() == {"status": "ok"}


def test_a_slow_client_holds_nobody(strict: Server, photos: list[bytes]) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
    slow: dict[str, bytes] = {}

    def send(name: str, data: bytes) -> None:
        slow[name] = raw(strict.port, data)

    sent = {"headers": head[:40], "body": head + b'{"images": [', "nothing": b""}
    threads = [threading.Thread(target=send, args=item) for item in sent.items()]
    for thread in threads:
        thread.start()
    with httpx2.Client(timeout=60) as client:
        assert classify(client, strict.url, photos[0]).status_code == 200
    for thread in threads:
        thread.join(150)
    assert b" 408 " in slow["headers"].splitlines()[0]
    assert b" 408 " in slow["body"].splitlines()[0]
    assert slow["nothing"] == b""


def test_headers_are_bounded(strict: Server) -> None:
    answer = raw(strict.port, b"GET /v1/tasks HTTP/1.1\r\nhost: x\r\n" + b"x-a: " + b"a" * 400_000)
    assert b" 431 " in answer.splitlines()[0]
    assert b"application/problem+json" in answer


def test_open_connections_are_bounded(strict: Server) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", strict.port), timeout=60))
        assert b" 503 " in raw(strict.port, b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").splitlines()[0]
    end = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"{strict.url}/health/live", timeout=60).status_code == 200:
                break
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_body_that_is_too_large_is_refused_while_it_comes(server: Server) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(100_000)

    response = httpx2.post(
        f"{server.url}/v1/classify", content=endless(), headers={"content-type": "application/json"}, timeout=120
    )
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Content-Length: 3000000\r\n", b"413"),
        ("Content-Length: 100\r\nContent-Encoding: br\r\n", b"415"),
    ],
)
def test_who_waits_to_be_asked_for_a_body_that_is_refused_is_not_asked(
    server: Server, headers: str, status: bytes
) -> None:
    asking = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{headers}\r\n"
    # Who waited for the body would answer after its time, with 408.
    answer = raw(server.port, asking.encode())
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"100 Continue" not in answer


def test_who_waits_to_be_asked_for_a_body_that_is_taken_is_asked(server: Server) -> None:
    asking = b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: application/json\r\n"
    body = json.dumps({"texts": ["a"]}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        connection.sendall(asking + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        got = b""
        while part := connection.recv(65536):
            got += part
    assert got.startswith(b"HTTP/1.1 200")


def test_a_bundle_is_replaced_under_load(server: Server, bundled: Any, first_only: Path, photos: list[bytes]) -> None:
    answers: list[httpx2.Response] = []
    stop = threading.Event()

    def client() -> None:
        with httpx2.Client(timeout=60) as http:
            while not stop.is_set():
                answers.append(classify(http, server.url, photos[0]))

    def replace(bundle: Path) -> str:
        reply = httpx2.post(f"{server.url}/v1/models", json={"bundle": str(bundle)}, headers=ADMIN, timeout=200)
        assert reply.status_code == 200, reply.text
        version = str(reply.json()["model"]["version"])
        end = time.monotonic() + 120
        while not any(answer.json()["model"]["version"] == version for answer in answers[-20:]):
            assert time.monotonic() < end, "nobody is answered by the new bundle"
            time.sleep(0.05)
        return version

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        first = replace(first_only)
        both = replace(bundled.bundle)
    finally:
        stop.set()
        for thread in threads:
            thread.join(150)
    assert {answer.status_code for answer in answers} == {200}
    tasks = {first: {"colors"}, both: {"colors", "stripes"}}
    seen = set()
    for answer in answers:
        values = answer.json()
        seen.add(values["model"]["version"])
        assert set(values["results"][0]["task_scores"]) == tasks[values["model"]["version"]]
    assert seen == set(tasks)


def test_sigterm_under_load_answers_what_was_accepted(start: Start, photos: list[bytes]) -> None:
    server = start("--shutdown-delay-s", 6)
    statuses: list[int] = []

    def client() -> None:
        with httpx2.Client(timeout=60) as http:
            while True:
                try:
                    statuses.append(classify(http, server.url, *photos[:4]).status_code)
                except httpx2.HTTPError:
                    return  # it takes no more connections

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(statuses) > 6)
    server.process.send_signal(signal.SIGTERM)
    seen: list[int] = []
    with contextlib.suppress(httpx2.HTTPError):
        while 503 not in seen:
            seen.append(httpx2.get(f"{server.url}/health/ready", timeout=60).status_code)
            time.sleep(0.02)
    assert server.process.wait(120) == 0
    for thread in threads:
        thread.join(120)
    assert 503 in seen  # while it still served
    assert set(statuses) == {200}
    lines = server.lines()
    # What the server took is what the clients have an answer to.
    assert [line["status"] for line in lines if line.get("path") == "/v1/classify"] == [200] * len(statuses)
    assert [line["message"] for line in lines if line["message"] != "request"][-2:] == ["stopping", "stopped"]


def test_pressure_gives_429_and_504_and_then_it_is_over(start: Start, photos: list[bytes]) -> None:
    server = start("--queue", 8, "--max-images", 8, "--max-batch", 2, "--timeout-s", 60)
    statuses: list[int] = []
    end = time.monotonic() + 120

    def client(timeout_s: float) -> None:
        with httpx2.Client(timeout=60) as http:
            # Which of them come first depends on the machine; in the end there are all three.
            while len(set(statuses)) < 3 and time.monotonic() < end:
                answer = classify(http, server.url, *photos[:4], timeout_s=timeout_s)
                statuses.append(answer.status_code)
                if answer.status_code == 429:
                    assert int(answer.headers["retry-after"]) >= 1

    threads = [threading.Thread(target=client, args=(0.001 if k < 4 else 60.0,)) for k in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(150)
    assert set(statuses) == {200, 429, 504}
    with httpx2.Client(timeout=60) as http:
        assert classify(http, server.url, *photos[:4]).status_code == 200
        metrics = http.get(f"{server.url}/metrics").text
    assert "igsp_queue_images 0.0" in metrics
    assert re.search(r'igsp_dropped_images_total\{why="rejected"\} [1-9]', metrics)
    server.process.kill()


def test_tls_keys_and_environment(start: Start, photos: list[bytes], tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    server = start(
        environment={
            "IGSP_TLS_KEY": str(key),
            "IGSP_TLS_CERTIFICATE": str(certificate),
            "IGSP_API_KEYS": "secret",
            "IGSP_NAME": "shop",
        }
    )
    assert server.url.startswith("https://")
    with httpx2.Client(verify=ssl.create_default_context(cafile=str(certificate)), timeout=60) as client:
        assert classify(client, server.url, photos[0]).status_code == 401
        client.headers["X-API-Key"] = "secret"
        assert classify(client, server.url, photos[0]).json()["model"]["name"] == "shop"
    assert server.stop() == 0


def test_wrong_starts_are_one_line(igsp: Callable[..., Any], bundled: Any, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = {
            f"port {port} (Address already in use)": [bundled.bundle, "--port", port],
            "is not a bundle": [tmp_path, "--port", 0],
            "--max-batch must be a whole number": [bundled.bundle, "--max-batch", "x", "--port", "y"],
            "tls_key": [bundled.bundle, "--tls-key", tmp_path / "no", "--tls-certificate", tmp_path / "no"],
            "CUDA was asked for": [bundled.bundle, "--provider", "cuda", "--port", 0],
        }
        for text, options in cases.items():
            result = igsp("serve", *options)
            assert result.returncode in (1, 2), (text, result.stderr)
            assert "Traceback" not in result.stderr
            assert text in result.stderr, result.stderr
            assert result.stderr.startswith("error: ")


def test_a_full_disk_under_the_log_stops_nothing(bundled: Any, photos: list[bytes]) -> None:
    port = free_port()
    command = [sys.executable, "-m", "igsp_deploy.cli.main", "serve", str(bundled.bundle), "--port", str(port)]
    with open("/dev/full", "w") as full:
        process = subprocess.Popen([*command, "--shutdown-delay-s", "0"], stderr=full, stdout=full)
    try:
        end = time.monotonic() + START_S
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(f"http://127.0.0.1:{port}/health/ready", timeout=60).status_code == 200:
                    break
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        with httpx2.Client(timeout=60) as client:
            for _ in range(5):
                assert classify(client, f"http://127.0.0.1:{port}", photos[0]).status_code == 200
        process.terminate()
        assert process.wait(120) == 0
    finally:
        process.kill()


class TestTriton:
    """Triton's own client, unchanged."""

    @pytest.fixture
    def client(self, server: Server) -> Iterator[Any]:
        import tritonclient.http

        with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=8) as client:
            yield client

    @pytest.fixture
    def pixels(self, bundled: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        from igsp_deploy.runtime.classifier import Classifier

        classifier = Classifier.open(bundled.bundle, "cpu")
        return np.stack([classifier.load(path) for path in bundled.images("colors")[:3]])

    def tensor(self, name: str, values: Any, datatype: str, **options: Any) -> Any:
        import tritonclient.http

        made = tritonclient.http.InferInput(name, list(values.shape), datatype)
        made.set_data_from_numpy(values, **options)
        return made

    def test_it_finds_the_model(self, client: Any) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("igsp")
        (model,) = client.get_model_repository_index()
        assert model["version"] == "1"
        assert client.is_model_ready("igsp", model["version"])
        metadata = client.get_model_metadata("igsp", model["version"])
        assert [row["name"] for row in metadata["inputs"]] == ["images", "image_bytes", "task"]
        assert client.get_model_config("igsp")["max_batch_size"] == 64
        assert client.get_server_metadata()["name"] == "igsp-deploy"
        (statistics,) = client.get_inference_statistics("igsp", "1")["model_stats"]
        assert statistics["inference_stats"].keys() >= {"success", "fail", "queue", "compute_infer"}

    @pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
    def test_binary_tensors_go_in_and_out(
        self, client: Any, pixels: Any, bundled: Any, compression: str | None
    ) -> None:
        from igsp_deploy.runtime.engine import Engine

        task = np.array([-1, 1, -2])
        expected = Engine.open(bundled.bundle, "cpu").run_images(pixels, task)
        names = np.array([b"auto", b"stripes", b"none"], np.object_)
        inputs = [self.tensor("images", pixels, "UINT8"), self.tensor("task", names, "BYTES")]
        result = client.infer("igsp", inputs, model_version="1", request_compression_algorithm=compression)
        assert np.allclose(result.as_numpy("features"), expected.features, atol=1e-5)
        assert np.allclose(result.as_numpy("task_scores"), expected.task_scores, rtol=1e-3)
        assert result.as_numpy("labels").shape[0] == 3
        assert result.as_numpy("task_name").tolist()[1:] == [b"stripes", b""]

    def test_a_subset_of_outputs_and_json_tensors(self, client: Any, pixels: Any) -> None:
        import tritonclient.http

        outputs = [
            tritonclient.http.InferRequestedOutput("task_name", binary_data=False),
            tritonclient.http.InferRequestedOutput("labels"),
        ]
        inputs = [self.tensor("images", pixels, "UINT8", binary_data=False)]
        result = client.infer("igsp", inputs, outputs=outputs, request_id="one", parameters={"top_k": 1})
        assert [row["name"] for row in result.get_response()["outputs"]] == ["task_name", "labels"]
        assert result.get_response()["id"] == "one"
        assert result.as_numpy("labels").shape == (3, 1)
        assert result.as_numpy("task_name").shape == (3,)

    def test_files_are_decoded(self, client: Any, photos: list[bytes]) -> None:
        files = self.tensor("image_bytes", np.array(photos[:2], np.object_), "BYTES")
        assert client.infer("igsp", [files]).as_numpy("features").shape[0] == 2

    def test_many_at_once(self, client: Any, pixels: Any) -> None:
        inputs = [self.tensor("images", pixels, "UINT8")]
        waiting = [client.async_infer("igsp", inputs) for _ in range(24)]
        first = waiting[0].get_result().as_numpy("features")
        for other in waiting[1:]:
            assert np.allclose(other.get_result().as_numpy("features"), first, atol=1e-5)

    @pytest.mark.parametrize(
        ("name", "values", "datatype", "match"),
        [
            ("images", np.full((1, 32, 32, 3), np.nan, np.float32), "FP32", "datatype UINT8"),
            ("images", np.zeros((1, 3, 32, 32), np.uint8), "UINT8", "must have the shape"),
            ("images", np.zeros((0, 32, 32, 3), np.uint8), "UINT8", "1 to 64 images"),
            ("images", np.zeros((65, 32, 32, 3), np.uint8), "UINT8", "1 to 64 images"),
            ("pictures", np.zeros((1, 32, 32, 3), np.uint8), "UINT8", "no input"),
            ("image_bytes", np.array([b"no image"], np.object_), "BYTES", "not an image"),
            ("task", np.array([b"colors"], np.object_), "BYTES", "images or image_bytes"),
            ("task", np.array([0]), "INT64", "by name"),
        ],
    )
    def test_wrong_tensors_are_said(self, client: Any, name: str, values: Any, datatype: str, match: str) -> None:
        from tritonclient.utils import InferenceServerException

        with pytest.raises(InferenceServerException) as error:
            client.infer("igsp", [self.tensor(name, values, datatype)])
        assert match in error.value.message()
        assert error.value.status() in ("400", "413")

    def test_unknown_models_versions_outputs_and_tasks(self, client: Any, pixels: Any) -> None:
        import tritonclient.http
        from tritonclient.utils import InferenceServerException

        def tasks(*names: bytes) -> Any:
            return np.array(names, np.object_)

        images = self.tensor("images", pixels, "UINT8")
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("404", {"model_name": "other", "inputs": [images]}),
            ("404", {"model_name": "igsp", "model_version": "7", "inputs": [images]}),
            (
                "400",
                {"model_name": "igsp", "inputs": [images], "outputs": [tritonclient.http.InferRequestedOutput("x")]},
            ),
            ("400", {"model_name": "igsp", "inputs": [images, self.tensor("task", tasks(b"auto"), "BYTES")]}),
            ("400", {"model_name": "igsp", "inputs": [images, self.tensor("task", tasks(*[b"x"] * 3), "BYTES")]}),
            ("400", {"model_name": "igsp", "inputs": [images], "parameters": {"unheard": 1}}),
            ("400", {"model_name": "igsp", "inputs": [images], "sequence_id": 3}),
            ("400", {"model_name": "igsp", "inputs": [images], "parameters": {"top_k": "many"}}),
            ("504", {"model_name": "igsp", "inputs": [images], "timeout": 1}),
        ]
        for status, arguments in wrong:
            with pytest.raises(InferenceServerException) as error:
                client.infer(**arguments)
            assert error.value.status() == status, (arguments, error.value)
