"""Is what comes still what was learned? Recent samples the model was unsure of, and the selector's scores by task.

A continual learner is taught a new task when its users send something new. Then more images fall back to zero-shot, and
selector scores sink towards and below 0.
"""

import collections
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from igsp_serve.settings import Settings
from igsp_serve.watchers import Sample

logger = logging.getLogger(__name__)

WINDOWS_S = {"1m": 60, "10m": 600, "1h": 3600, "24h": 86_400}
"""Windows over which shares are given."""
BUCKET_S = 10
"""Counts are kept for steps of so many seconds."""
MARGINS = 1000
"""Scores kept for each task."""
MAX_TASKS = 1000
"""Tasks whose scores are kept; those that come later are not."""
EVIDENCE = 10
"""Tasks whose scores are kept with a sample, best first."""
_SUFFIXES = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"))


class Drift:
    """Keeps what `GET /v1/drift` tells. A `Watcher`; bounded, whatever comes."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        """Nothing seen yet.

        Args:
            settings: what counts as low confidence, and how much is kept.
            clock: seconds since 1970.
        """
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: collections.deque[dict[str, Any]] = collections.deque(maxlen=settings.drift_samples)
        self._margins: dict[str, collections.deque[float]] = {}
        # Of each step: when, images whose task was to be chosen, fallbacks, all images, those of low confidence.
        self._counts: collections.deque[list[float]] = collections.deque(maxlen=max(WINDOWS_S.values()) // BUCKET_S)
        self._images = None if settings.drift_images is None else ImageFolder(settings)

    def batch(self, size: int, seconds: float) -> None:
        """Nothing to keep."""

    def dropped(self, why: str, images: int) -> None:
        """Nothing to keep."""

    def sample(self, sample: Sample) -> None:
        """An image was classified. Those with the caller's own prompts are not counted."""
        if sample.prompted:
            return
        found, now = sample.prediction, self._clock()
        fell_back = sample.chosen and found.zero_shot
        low = fell_back or found.scores[0] < self._settings.low_confidence
        best = sorted(found.task_scores.items(), key=lambda item: -item[1])[:EVIDENCE]
        with self._lock:
            counts = self._step(now)
            counts[1] += sample.chosen
            counts[2] += fell_back
            counts[3] += 1
            counts[4] += low
            if sample.chosen and best:
                task, margin = best[0]
                if task in self._margins or len(self._margins) < MAX_TASKS:
                    self._margins.setdefault(task, collections.deque(maxlen=MARGINS)).append(margin)
            if not low:
                return
            kept = {
                "time": round(now, 3),
                "request_id": sample.request_id,
                "task": found.task,
                "zero_shot": found.zero_shot,
                "label": found.labels[0],
                "score": found.scores[0],
                "task_scores": dict(best),
            }
            self._samples.append(kept)
        if self._images is not None and isinstance(sample.source, bytes):
            kept["image"] = self._images.keep(sample.source, now)

    def report(self) -> dict[str, Any]:
        """Shares over recent windows, the scores of each task, and the samples, newest first."""
        now = self._clock()
        with self._lock:
            samples = [dict(sample) for sample in reversed(self._samples)]
            margins = {task: list(values) for task, values in self._margins.items()}
            counts = [list(row) for row in self._counts]
        return {
            "low_confidence": self._settings.low_confidence,
            "windows": {name: _shares([row for row in counts if row[0] > now - s]) for name, s in WINDOWS_S.items()},
            "margins": {task: _summary(values) for task, values in sorted(margins.items())},
            "samples": samples,
        }

    def close(self) -> None:
        """Write what is to be written, end the thread."""
        if self._images is not None:
            self._images.close()

    def _step(self, now: float) -> list[float]:
        start = now - now % BUCKET_S
        if not self._counts or self._counts[-1][0] < start:
            self._counts.append([start, 0, 0, 0, 0])
        return self._counts[-1]


class ImageFolder:
    """Images of low-confidence samples in a folder, within a number and a size; the oldest go first.

    Written by a thread of its own; when it cannot keep up or the disk is full, images are left out.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the folder as it is, with what is in it.

        Raises:
            OSError: it cannot be made.
        """
        assert settings.drift_images is not None
        self._folder = settings.drift_images
        self._most, self._most_bytes = settings.drift_max_images, settings.drift_max_bytes
        self._folder.mkdir(parents=True, exist_ok=True)
        found = sorted(p for p in self._folder.glob("igsp-*") if p.is_file())
        self._files: collections.deque[tuple[Path, int]] = collections.deque((p, p.stat().st_size) for p in found)
        self._bytes = sum(size for _, size in self._files)
        self._count = 0
        self._queue: queue.Queue[tuple[str, bytes] | None] = queue.Queue(maxsize=16)
        self._thread = threading.Thread(target=self._work, name="igsp-drift", daemon=True)
        self._thread.start()

    def keep(self, data: bytes, now: float) -> str | None:
        """Name of the file it will have; None when it is left out."""
        if len(data) > self._most_bytes:
            return None
        suffix = next((suffix for magic, suffix in _SUFFIXES if data.startswith(magic)), ".bin")
        self._count += 1
        name = f"igsp-{int(now * 1000):014d}-{os.getpid()}-{self._count:06d}{suffix}"
        try:
            self._queue.put_nowait((name, data))
        except queue.Full:
            return None
        return name

    def close(self) -> None:
        """Write what waits."""
        self._queue.put(None)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            name, data = item
            while self._files and (len(self._files) >= self._most or self._bytes + len(data) > self._most_bytes):
                oldest, size = self._files.popleft()
                self._bytes -= size
                oldest.unlink(missing_ok=True)
            partial = self._folder / f".{name}.part"
            try:
                partial.write_bytes(data)
                partial.rename(self._folder / name)
            except OSError as error:
                logger.warning("an image of low confidence was not kept: %s", error.strerror)
                partial.unlink(missing_ok=True)
                continue
            self._files.append((self._folder / name, len(data)))
            self._bytes += len(data)


def _shares(rows: list[list[float]]) -> dict[str, float | int | None]:
    chosen, fell_back, images, low = (int(sum(row[k] for row in rows)) for k in range(1, 5))
    return {
        "images": images,
        "low_confidence_share": round(low / images, 4) if images else None,
        "chosen": chosen,
        "fallback_share": round(fell_back / chosen, 4) if chosen else None,
    }


def _summary(values: list[float]) -> dict[str, float | int]:
    found = np.array(values)
    quantiles = np.quantile(found, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
    names = ("p05", "p25", "p50", "p75", "p95")
    return {
        "images": len(values),
        "mean": float(found.mean()),
        **dict(zip(names, quantiles, strict=True)),
        "below_threshold_share": round(float((found < 0).mean()), 4),
    }
