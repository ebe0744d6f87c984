"""The Ray Serve application: two replicas on this machine, one killed under load, the bundle replaced under load."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from igsp_deploy.errors import UsageError
from igsp_serve.client import Classified, Client, ServerProblem
from tests.load.process import free_port

pytest.importorskip("ray")


class Cluster:
    """A Ray that runs, and its driver to talk to."""

    def __init__(self, bundle: Path, log: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.load.ray_cluster", str(bundle), "--port", str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self.expect("deployed")

    def expect(self, line: str) -> None:
        """The driver's next line is this one."""
        found = self.read()
        assert found == line, (found, self.log.read_text()[-3000:])

    def read(self) -> str:
        """The driver's next line; those of Ray itself are left out."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(">"):
                return line[1:].strip()
        raise AssertionError(self.log.read_text()[-3000:])

    def write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def replicas(self) -> set[int]:
        """Process ids."""
        self.write("replicas")
        return {int(pid) for pid in self.read().split()}

    def stop(self) -> None:
        """Ask it to end; else kill it, and what Ray leaves ends with it."""
        try:
            self.write("quit")
            self.process.wait(120)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        finally:
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()


@pytest.fixture(scope="module")
def cluster(bundled: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(bundled.bundle, tmp_path_factory.mktemp("ray") / "log")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def photos(bundled: Any) -> list[bytes]:
    return [path.read_bytes() for path in (*bundled.images("colors"), *bundled.images("stripes"))]


@pytest.fixture(scope="module")
def expected(bundled: Any, photos: list[bytes]) -> list[str]:
    """What the classifier says without any server."""
    from igsp_deploy.runtime.classifier import Classifier

    classifier = Classifier.open(bundled.bundle, "cpu")
    pixels = [classifier.load(photo) for photo in photos]
    return [found.labels[0] for found in classifier.classify(pixels)]


Answers = list[tuple[int, Classified]]


def wait_until(holds: Callable[[], object], cluster: Cluster) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, cluster.log.read_text()[-3000:]
        time.sleep(0.1)


def under_load(client: Client, photos: list[bytes], change: Callable[[Answers], None], *, lost: int = 0) -> Answers:
    """What four threads got while `change` ran: index of the photo, and its answer.

    Raises what one of them raised; but `lost` requests may be answered 500, as Ray's proxy does of a dead replica.
    """
    answers: Answers = []
    failures: list[Exception] = []
    stop = threading.Event()

    def ask(first: int) -> None:
        turn = first
        while not stop.is_set():
            try:
                answers.append((turn % len(photos), client.classify([photos[turn % len(photos)]], top_k=1)))
            except Exception as error:
                failures.append(error)
                if not (isinstance(error, ServerProblem) and error.status == 500):
                    return
            turn += 1

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    try:
        change(answers)
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
    if len(failures) > lost or any(not isinstance(error, ServerProblem) for error in failures):
        raise failures[-1]
    return answers


def test_a_replica_killed_under_load_costs_no_right_answer(
    cluster: Cluster, photos: list[bytes], expected: list[str]
) -> None:
    before = cluster.replicas()
    assert len(before) == 2

    def kill(answers: Answers) -> None:
        wait_until(lambda: len(answers) > 5, cluster)
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: len(now := cluster.replicas()) == 2 and min(before) not in now, cluster)
        answered = len(answers)
        wait_until(lambda: len(answers) > answered + 10, cluster)

    with Client(cluster.url, retry_for_s=120) as client:
        # Four ask at once: no more can have been in the replica that died.
        answers = under_load(client, photos, kill, lost=4)
    assert [answer.results[0].labels[0].label for _, answer in answers] == [expected[k] for k, _ in answers]
    assert max(before) in cluster.replicas()


def test_another_bundle_comes_without_a_gap(
    cluster: Cluster, bundled: Any, photos: list[bytes], first_only: Path
) -> None:
    with Client(cluster.url, retry_for_s=0) as client:  # without a second try: nothing may be refused
        old = client.model().version

        def deploy(answers: Answers) -> None:
            wait_until(lambda: len(answers) > 5, cluster)
            cluster.write(f"deploy {first_only}")
            cluster.expect("deployed")
            wait_until(lambda: any(answer.model.version != old for _, answer in answers), cluster)

        answers = under_load(client, photos, deploy)
        new = client.model().version
        assert client.model().tasks == ("colors",)
    assert old != new
    tasks = {old: {"colors", "stripes"}, new: {"colors"}}
    assert {answer.model.version for _, answer in answers} == {old, new}
    for _, answer in answers:  # each of exactly one version
        assert set(answer.results[0].task_scores) == tasks[answer.model.version]
    assert len(cluster.replicas()) == 2


def test_the_rest_of_the_server_is_there(cluster: Cluster) -> None:
    assert httpx2.get(f"{cluster.url}/health/ready", timeout=60).status_code == 200
    assert httpx2.get(f"{cluster.url}/v2/models/igsp", timeout=60).status_code == 200
    assert httpx2.get(f"{cluster.url}/openapi.json", timeout=60).status_code == 200
    bad = httpx2.post(f"{cluster.url}/v1/classify", files={"images": b"no image"}, timeout=60)
    assert bad.status_code == 422
    assert bad.headers["content-type"] == "application/problem+json"
    assert httpx2.post(f"{cluster.url}/v1/models", json={"bundle": "x"}, timeout=60).status_code == 403


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({}, "give bundle=FOLDER"),
        ({"bundle": "b", "replicas": "two"}, "replicas must be a whole number"),
        ({"bundle": "b", "replicas": 0}, "replicas must be at least 1"),
        ({"bundle": "b", "replicas": 3, "max_replicas": 2}, "max_replicas must be at least 3"),
        ({"bundle": "b", "max_batch": "x", "queu": "1"}, "(?s)--max-batch.*'queu'"),
        ({"bundle": "b", "admin_keys": "k"}, "would change one replica"),
        ({"bundle": "b", "bundle_roots": "/b"}, "would change one replica"),
        ({"bundle": "b", "demo": "true"}, "igsp demo"),
    ],
)
def test_wrong_options_are_said_before_anything_starts(args: dict[str, Any], match: str) -> None:
    ray_app = pytest.importorskip("igsp_serve.ray_app")
    with pytest.raises(UsageError, match=match):
        ray_app.app(args)


def test_replicas_grow_between_two_numbers() -> None:
    ray_app = pytest.importorskip("igsp_serve.ray_app")
    built = ray_app.app({"bundle": "b", "replicas": 1, "max_replicas": 4, "max_batch": 16})
    config = built._bound_deployment._deployment_config.autoscaling_config
    assert (config.min_replicas, config.max_replicas, config.target_ongoing_requests) == (1, 4, 32)
