"""A thousand clients before a queue of sixty-four."""

import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2

from tests.load.process import serving

CLIENTS = 1000


def test_a_thousand_clients_get_200_429_or_504_and_then_it_is_over(bundled: Any, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (*bundled.images("colors"), *bundled.images("stripes")):
        shutil.copy(path, images / f"{path.parent.name}-{path.name}")
    good = next(iter(images.iterdir())).read_bytes()
    # A queue that nine requests of eight images overfill: it takes less to send them than to classify them.
    limits = ("--queue", 64, "--max-images", 8, "--max-batch", 8, "--timeout-s", 30)
    with serving(bundled.bundle, tmp_path, *limits) as server, httpx2.Client(timeout=60) as client:

        def ask() -> float:
            start = time.monotonic()
            answer = client.post(f"{server.url}/v1/classify", files={"images": good})
            answer.raise_for_status()
            return time.monotonic() - start

        before = statistics.median(ask() for _ in range(10))
        quiet_bytes = server.rss_bytes()
        command = [sys.executable, "-m", "tests.load.clients", "--url", server.url, "--images", str(images)]
        loads = [
            subprocess.Popen(
                [*command, "--clients", str(clients), "--copies", "8", "--seconds", "8", "--timeout-s", timeout],
                stdout=subprocess.PIPE,
                text=True,
            )
            # Some ask for an answer at once, which they cannot have.
            for clients, timeout in ((CLIENTS - 100, "30"), (100, "0.002"))
        ]
        most_bytes: list[int] = []
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.1):
                most_bytes.append(server.rss_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        probes = []
        try:
            time.sleep(3)
            # Probes are answered meanwhile: nobody starts a server anew because it has much to do.
            probes = [client.get(f"{server.url}/health/{kind}").status_code for kind in ("live", "ready")]
            outputs = [load.communicate(timeout=120)[0] for load in loads]
        finally:
            over.set()
            watcher.join()
            for load in loads:
                load.kill()
                load.wait()
        ended = time.monotonic()
        results = [json.loads(output) for output in outputs]
        statuses: dict[str, int] = {}
        for result in results:
            for status, count in result["statuses"].items():
                statuses[status] = statuses.get(status, 0) + count
        # A full queue may refuse all those who cannot wait before their time is over.
        assert {"200", "429"} <= set(statuses) <= {"200", "429", "504"}, statuses
        assert sum(result["retry_after"] for result in results) == statuses["429"]
        assert probes == [200, 200]
        # Back to normal: a median near that of the quiet server, soon.
        while statistics.median(ask() for _ in range(5)) > max(5 * before, 1.0):
            assert time.monotonic() - ended < 120
        # A thousand requests with their connections, not a queue without an end.
        assert max(most_bytes) - quiet_bytes < 250e6, (quiet_bytes, max(most_bytes))
        # The last request is counted out after its answer has gone.
        while not all(f"{name} 0.0" in server.metrics() for name in ("igsp_queue_images", "igsp_open_requests")):
            assert time.monotonic() - ended < 60, server.metrics()
            time.sleep(0.05)
        assert server.stop() == 0
        assert not [line for line in server.lines() if line["level"] == "error"]
