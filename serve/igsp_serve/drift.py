"""Is what comes still what was learned? The latest samples the model was unsure of, and their images.

A continual learner is taught a new task when its users send something new. Then more images fall back to zero-shot, and
selector scores sink towards and below 0: `metrics.py` counts both, and Prometheus keeps them over time.
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

from igsp_serve.watchers import Sample

logger = logging.getLogger(__name__)

LOW_CONFIDENCE = 0.5
"""Score of the best label below which the model is unsure."""
SAMPLES = 200
"""Unsure samples that are kept."""
MAX_IMAGES = 200
"""Images in the folder; the oldest go first."""
MAX_BYTES = 256 * 2**20
"""Bytes in the folder."""
EVIDENCE = 10
"""Tasks whose scores are kept with a sample, best first."""
_SUFFIXES = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"))


class Drift:
    """Keeps what `GET /v1/drift` tells. A `Watcher`; bounded, whatever comes."""

    def __init__(self, images: Path | None = None, *, clock: Callable[[], float] = time.time) -> None:
        """Nothing seen yet.

        Args:
            images: folder for the images of unsure samples.
            clock: seconds since 1970.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: collections.deque[dict[str, Any]] = collections.deque(maxlen=SAMPLES)
        self._images = None if images is None else ImageFolder(images)

    def batch(self, size: int, seconds: float) -> None:
        """Nothing to keep."""

    def dropped(self, why: str, images: int) -> None:
        """Nothing to keep."""

    def sample(self, sample: Sample) -> None:
        """An image was classified. Those with the caller's own prompts are not kept."""
        if sample.prompted or not is_unsure(sample):
            return
        found, now = sample.prediction, self._clock()
        kept = {
            "time": round(now, 3),
            "request_id": sample.request_id,
            "task": found.task,
            "zero_shot": found.zero_shot,
            "label": found.labels[0],
            "score": found.scores[0],
            "task_scores": dict(sorted(found.task_scores.items(), key=lambda item: -item[1])[:EVIDENCE]),
        }
        if self._images is not None and isinstance(sample.source, bytes):
            kept["image"] = self._images.keep(sample.source, now)
        with self._lock:
            self._samples.append(kept)

    def report(self) -> dict[str, Any]:
        """The samples, newest first."""
        with self._lock:
            samples = list(reversed(self._samples))
        return {"low_confidence": LOW_CONFIDENCE, "samples": samples}

    def close(self) -> None:
        """Write what is to be written, end the thread."""
        if self._images is not None:
            self._images.close()


def is_unsure(sample: Sample) -> bool:
    """No task took an image that was to be given one, or its best label has a low score."""
    found = sample.prediction
    return (sample.chosen and found.zero_shot) or found.scores[0] < LOW_CONFIDENCE


class ImageFolder:
    """Images of low-confidence samples in a folder, within a number and a size; the oldest go first.

    Written by a thread of its own; when it cannot keep up or the disk is full, images are left out.
    """

    def __init__(self, folder: Path, *, most: int = MAX_IMAGES, most_bytes: int = MAX_BYTES) -> None:
        """Take the folder as it is, with what is in it.

        Args:
            folder: made where it is missing.
            most: images in it.
            most_bytes: bytes in it.

        Raises:
            OSError: it cannot be made.
        """
        self._folder = folder
        self._most, self._most_bytes = most, most_bytes
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
