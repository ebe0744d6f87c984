"""The images of a request on their way to the batcher."""

import concurrent.futures
import logging
import threading
import time
from collections.abc import Sequence

from igsp_deploy.bundle.preprocess import ImageError, PreprocessSpec
from igsp_serve.batcher import Batcher, Job
from igsp_serve.decode import decode, known_formats
from igsp_serve.failures import DeadlineExceeded, RequestError, Unavailable
from igsp_serve.watchers import ImageSource

logger = logging.getLogger(__name__)

FORMATS = known_formats()
"""Image formats that are decoded."""


class Decoding:
    """The images of one request being decoded: a few at a time, each image a turn of its own in the pool.

    So a request of many images takes turns with those that came after it.
    """

    def __init__(
        self,
        images: Sequence[ImageSource],
        job: Job,
        *,
        spec: PreprocessSpec,
        max_pixels: int,
        batcher: Batcher,
        pool: concurrent.futures.Executor,
    ) -> None:
        """Of a job; `start` begins.

        Args:
            images: bytes of files, opened images or prepared pixels.
            job: where their pixels go.
            spec: how the model wants its images.
            max_pixels: larger images are refused.
            batcher: the job's.
            pool: threads that decode.
        """
        self._images = images
        self._job = job
        self._spec = spec
        self._max_pixels = max_pixels
        self._batcher = batcher
        self._pool = pool
        self._next = iter(range(len(images)))
        self._lock = threading.Lock()
        self.seconds = 0.0
        """Time of all images together."""
        self.began_at = self.ended_at = 0.0

    def start(self, turns: int) -> None:
        """Decode so many images at a time."""
        for _ in range(turns):
            self._turn()

    def _turn(self) -> None:
        with self._lock:
            index = next(self._next, None)
        if index is None or self._job.done:
            return
        try:
            self._pool.submit(self._decode, index)
        except RuntimeError:  # the pool is closed
            self._batcher.fail(self._job, Unavailable("The server is shutting down."))

    def _decode(self, index: int) -> None:
        job = self._job
        if job.done:
            return
        if time.monotonic() >= job.deadline:
            self._batcher.fail(job, DeadlineExceeded("The request's time ran out."), "expired")
            return
        began = time.monotonic()
        try:
            pixels = decode(
                self._images[index],
                self._spec,
                max_pixels=self._max_pixels,
                formats=FORMATS,
            )
        except ImageError as error:
            where = f"images[{index}]: " if len(self._images) > 1 else ""
            self._batcher.fail(job, RequestError(f"{where}{error}"), "refused")
            return
        except Exception as error:
            logger.exception("an image could not be decoded")
            self._batcher.fail(job, error, "failed")
            return
        with self._lock:
            self.ended_at = time.monotonic()
            self.began_at = self.began_at or began
            self.seconds += self.ended_at - began
        self._batcher.put(job, index, pixels)
        self._turn()
