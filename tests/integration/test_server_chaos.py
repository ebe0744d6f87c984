"""What breaks in production, done on purpose: what clients see, and that it is over afterwards.

SIGTERM under load and a bundle replaced under load are in test_server.py.
"""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from igsp_serve.client import Client, ServerProblem
from tests.load.process import ServerProcess, free_port, launch, serve_command, serving


@pytest.fixture(scope="module")
def photo(bundled: Any) -> bytes:
    data: bytes = bundled.images("colors")[0].read_bytes()
    return data


@contextlib.contextmanager
def asking(count: int, ask: Callable[[], None]) -> Iterator[None]:
    """`ask` over and over, in threads, until the block ends."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            ask()

    threads = [threading.Thread(target=loop) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)


def test_a_killed_server_that_is_started_again_loses_no_clients_request(
    bundled: Any, photo: bytes, tmp_path: Path
) -> None:
    """kill -9 under load, twice, with what systemd or compose do: start it again. The client bridges the gap."""
    port = free_port()
    command = serve_command(bundled.bundle, "--port", port)
    process = launch(command, tmp_path / "log")
    server = ServerProcess(process=process, log=tmp_path / "log", url=f"http://127.0.0.1:{port}")
    answers: list[str] = []
    failures: list[Exception] = []
    try:
        server.wait_status(200)
        with Client(server.url, retry_for_s=200) as client:
            expected = client.classify([photo], top_k=1).results[0].labels[0].label

            def ask() -> None:
                try:
                    answers.append(client.classify([photo], top_k=1).results[0].labels[0].label)
                except Exception as error:
                    failures.append(error)

            with asking(4, ask):
                for _ in range(2):
                    answered = len(answers)
                    process.send_signal(signal.SIGKILL)
                    assert process.wait(60) == -signal.SIGKILL
                    process = launch(command, tmp_path / "log")
                    ServerProcess(process=process, log=tmp_path / "log", url=server.url).wait_status(200)
                    end = time.monotonic() + 120
                    while len(answers) < answered + 8 and not failures:
                        assert time.monotonic() < end
                        time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert not failures
    assert set(answers) == {expected}


def test_a_full_disk_for_logs_stops_nothing(bundled: Any, photo: bytes, tmp_path: Path) -> None:
    with serving(bundled.bundle, tmp_path, stderr=Path("/dev/full")) as server, Client(server.url) as client:
        for _ in range(20):
            assert client.classify([photo]).results
        with pytest.raises(ServerProblem, match="not an image"):  # an error is logged as well
            client.classify([b"no image"])
        assert "igsp_requests_total" in server.metrics()
        assert server.stop() == 0


def test_a_log_nobody_reads_any_more_stops_nothing(bundled: Any, photo: bytes, tmp_path: Path) -> None:
    """The program behind a pipe has ended: writing raises BrokenPipeError."""
    port = free_port()
    read, write = os.pipe()
    process = subprocess.Popen(serve_command(bundled.bundle, "--port", port), stderr=write, stdout=write)
    os.close(write)
    server = ServerProcess(process=process, log=tmp_path / "none", url=f"http://127.0.0.1:{port}")
    try:
        server.wait_status(200)
        os.close(read)
        with Client(server.url) as client:
            for _ in range(20):
                assert client.classify([photo]).results
        assert server.stop() == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def breakable(bundled: Any, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose model fails while there is a file `lost` beside its log, and hangs while there is one `stuck`."""
    command = [sys.executable, "-m", "tests.load.breakable", str(tmp_path)]
    with serving(bundled.bundle, tmp_path, "--stall-s", 4, "--timeout-s", 8, command=command) as server:
        yield server


def test_a_lost_device_is_not_ready_says_503_and_comes_back(
    breakable: ServerProcess, photo: bytes, tmp_path: Path
) -> None:
    server = breakable
    with httpx2.Client(timeout=60) as client:

        def ask() -> httpx2.Response:
            return client.post(f"{server.url}/v1/classify", files={"images": photo})

        expected = ask().json()["results"]
        (tmp_path / "lost").touch()
        lost = ask()
        assert lost.status_code == 503
        assert int(lost.headers["retry-after"]) >= 1
        assert "CUDA" not in lost.text
        ready = client.get(f"{server.url}/health/ready")
        assert ready.status_code == 503
        assert "The model fails on" in ready.json()["detail"]
        # A lost device may come back, and starting anew is for the operator to decide: it is alive.
        assert server.status("/health/live") == 200
        assert ask().status_code == 503
        assert "igsp_ready 0.0" in server.metrics()
        (tmp_path / "lost").unlink()
        server.wait_status(200)  # without any request: it tries by itself
        assert ask().json()["results"] == expected
    messages = [line["message"] for line in server.lines()]
    assert "the model works again" in messages
    assert any("CUDA failure 700" in line.get("exception", "") for line in server.lines())


def test_a_call_that_never_ends_makes_the_server_not_live(
    breakable: ServerProcess, photo: bytes, tmp_path: Path
) -> None:
    server = breakable
    with httpx2.Client(timeout=60) as client:
        (tmp_path / "stuck").touch()
        # Its time runs out whatever the model does.
        assert client.post(f"{server.url}/v1/classify", files={"images": photo}).status_code == 504
        server.wait_status(503, "/health/live")
        (tmp_path / "stuck").unlink()
        server.wait_status(200, "/health/live")
        assert client.post(f"{server.url}/v1/classify", files={"images": photo}).status_code == 200


def test_sigterm_while_the_model_is_stuck_ends_in_time(breakable: ServerProcess, photo: bytes, tmp_path: Path) -> None:
    """What is in the model cannot be stopped; the process ends nevertheless, before a supervisor has to kill it."""
    (tmp_path / "stuck").touch()
    with httpx2.Client(timeout=60) as client:
        assert client.post(f"{breakable.url}/v1/classify", files={"images": photo}).status_code == 504
    assert breakable.stop() == 0


def test_a_client_that_leaves_frees_its_place(bundled: Any, photo: bytes, tmp_path: Path) -> None:
    """Three images wait behind one that is in the model; their client goes, and they never reach it."""
    command = [sys.executable, "-m", "tests.load.breakable", str(tmp_path)]
    body = json.dumps({"images": 3 * [base64.b64encode(photo).decode()]}).encode()
    head = "POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    options = ("--stall-s", 600, "--timeout-s", 200, "--max-batch", 1)
    with serving(bundled.bundle, tmp_path, *options, command=command) as server:
        batches = float(re.findall(r"^igsp_batch_images_count (\S+)", server.metrics(), re.MULTILINE)[0])
        (tmp_path / "stuck").touch()

        def ask() -> None:
            httpx2.post(f"{server.url}/v1/classify", files={"images": photo}, timeout=200)

        first = threading.Thread(target=ask)
        first.start()
        wait_for(server, "igsp_open_requests 1.0", "igsp_queue_images 0.0")  # it is in the model
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
            connection.sendall(head.encode() + body)
            wait_for(server, "igsp_queue_images 3.0")
        wait_for(server, "igsp_queue_images 0.0")
        wait_for(server, 'igsp_requests_total{route="/v1/classify",status="499"} 1.0')
        wait_for(server, 'igsp_dropped_images_total{why="cancelled"} 3.0')
        (tmp_path / "stuck").unlink()
        first.join(200)
        wait_for(server, 'igsp_requests_total{route="/v1/classify",status="200"} 1.0')
        assert f"igsp_batch_images_count {batches + 1}" in server.metrics()
        assert server.stop() == 0


def wait_for(server: ServerProcess, *lines: str) -> None:
    """Until these lines are in its metrics, all at once."""
    end = time.monotonic() + 120
    while not all(line in (text := server.metrics()) for line in lines):
        assert time.monotonic() < end, text
        time.sleep(0.02)
