"""Counts and times since the start, in the words of Triton's statistics extension."""

import threading
import time
from typing import Any

from igsp_serve.client_answers import Timings
from igsp_serve.oip.model import VERSION
from igsp_serve.service import Service
from igsp_serve.watchers import Sample

PARTS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
"""Where a request's time goes: in the queue, decoding, in the model, naming labels. There is no cache."""


class Statistics:
    """A `Watcher`. Images and calls of the model are everybody's; times of requests are this protocol's.

    Its methods may be called from any thread.
    """

    def __init__(self, service: Service) -> None:
        """Start at zero and watch `service`."""
        self._name = service.settings.name
        self._lock = threading.Lock()
        self._parts = {part: [0, 0] for part in PARTS}
        self._batches: dict[int, list[int]] = {}
        self._last_ms = 0
        service.watchers.add(self)

    def batch(self, size: int, seconds: float) -> None:
        """A batch was run."""
        with self._lock:
            _add(self._batches.setdefault(size, [0, 0]), seconds)
            self._last_ms = int(1000 * time.time())

    def dropped(self, why: str, images: int) -> None:
        """Images were not run: their requests fail."""

    def sample(self, sample: Sample) -> None:
        """An image was classified."""

    def succeeded(self, timings: Timings, output_s: float) -> None:
        """A request was answered.

        Args:
            timings: to the model's answer.
            output_s: from there to the request's.
        """
        parts = {
            "success": timings.total_ms / 1e3 + output_s,
            "queue": timings.queue_ms / 1e3,
            "compute_input": timings.decode_ms / 1e3,
            "compute_infer": timings.inference_ms / 1e3,
            "compute_output": output_s,
        }
        with self._lock:
            for part, seconds in parts.items():
                _add(self._parts[part], seconds)

    def failed(self, seconds: float) -> None:
        """A request was not answered."""
        with self._lock:
            _add(self._parts["fail"], seconds)

    def report(self) -> dict[str, Any]:
        """All of it, as `/v2/models/stats` and `ModelStatistics` answer."""
        with self._lock:
            parts = {part: _duration(counted) for part, counted in self._parts.items()}
            batches = sorted((size, _duration(counted)) for size, counted in self._batches.items())
            last = self._last_ms
        nothing = {"count": 0, "ns": 0}
        model = {
            "name": self._name,
            "version": VERSION,
            "last_inference": last,
            "inference_count": sum(size * calls["count"] for size, calls in batches),
            "execution_count": sum(calls["count"] for _, calls in batches),
            "inference_stats": parts,
            "response_stats": {},
            "batch_stats": [
                {"batch_size": size, "compute_input": nothing, "compute_infer": calls, "compute_output": nothing}
                for size, calls in batches
            ],
            "memory_usage": [],
        }
        return {"model_stats": [model]}


def _add(counted: list[int], seconds: float) -> None:
    counted[0] += 1
    counted[1] += max(0, round(1e9 * seconds))


def _duration(counted: list[int]) -> dict[str, int]:
    return {"count": counted[0], "ns": counted[1]}
