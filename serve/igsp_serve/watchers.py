"""What a service tells those who watch it in use: metrics and drift."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igsp_deploy.runtime.classifier import Prediction

logger = logging.getLogger(__name__)

ImageSource = bytes | Image.Image | NDArray[np.uint8]
"""A file's bytes, an opened image, or pixels uint8 `[S, S, 3]`."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One answered image.

    Attributes:
        source: what came.
        prediction: what was answered.
        chosen: the task was to be chosen, not given.
        prompted: it was compared with the caller's own texts.
        request_id: of its request.
    """

    source: ImageSource
    prediction: Prediction
    chosen: bool
    prompted: bool
    request_id: str


class Watcher(Protocol):
    """Who is told. Called from several threads; must be quick."""

    def batch(self, size: int, seconds: float) -> None:
        """A batch was run."""
        ...

    def dropped(self, why: str, images: int) -> None:
        """Images were not run: `rejected`, `expired`, `cancelled`, `refused` or `failed`."""
        ...

    def sample(self, sample: Sample) -> None:
        """An image was classified."""
        ...


class Watchers:
    """Tells several. One that fails is logged and does no harm."""

    def __init__(self) -> None:
        """Nobody yet."""
        self._watchers: tuple[Watcher, ...] = ()

    def add(self, watcher: Watcher) -> None:
        """Tell `watcher` too from now on."""
        self._watchers = (*self._watchers, watcher)

    def batch(self, size: int, seconds: float) -> None:
        """A batch was run."""
        self._tell(lambda watcher: watcher.batch(size, seconds))

    def dropped(self, why: str, images: int) -> None:
        """Images were not run."""
        self._tell(lambda watcher: watcher.dropped(why, images))

    def sample(self, sample: Sample) -> None:
        """An image was classified."""
        self._tell(lambda watcher: watcher.sample(sample))

    def _tell(self, tell: Callable[[Watcher], None]) -> None:
        for watcher in self._watchers:
            try:
                tell(watcher)
            except Exception:
                logger.exception("a watcher failed")
