"""Augmented training images: random crops and mirror images, each a pure function of (seed, epoch, index)."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.config import Augment
from igsp_deploy.data.images import Report, Skipped, decode_all, open_image, report_skipped
from igsp_deploy.data.items import ImageRef, Items
from igsp_deploy.errors import UserError
from igsp_train.data.augment import augmented
from igsp_train.data.order import seeded

RATIOS = (3 / 4, 4 / 3)
"""Shapes of a crop, width to height."""

_TRIES = 10


class TrainViews:
    """The training images of one task, decoded once, with a random view of each for every epoch.

    Every image is decoded here once, so an unreadable one is known before learning starts; what fits into
    `cache_bytes` is kept, the rest decoded anew when it is asked for.

    Attributes:
        items: the images that can be read, with their labels; the views' indices count these.
        skipped: the images that cannot.
    """

    def __init__(
        self,
        items: Items,
        spec: PreprocessSpec,
        *,
        scale: tuple[float, float] = (0.9, 1.0),
        horizontal_flip: bool = False,
        augment: Augment = "crops",
        seed: int = 0,
        on_skip: Report | None = None,
        cache_bytes: int = 512 << 20,
    ) -> None:
        """Decode all images.

        Args:
            items: the images.
            spec: side S of a view and its interpolation.
            scale: smallest and largest share of the image's area that a crop covers.
            horizontal_flip: mirror half of the views.
            augment: what else happens to a view (augment.py).
            seed: seed of all of them.
            on_skip: gets one line if images were left out.
            cache_bytes: memory for decoded images, in bytes.

        Raises:
            UserError: a class has no image that can be read.
        """
        self.spec = spec
        self.scale = scale
        self.horizontal_flip = horizontal_flip
        self.augment = augment
        self.seed = seed
        self._resample = Image.Resampling[spec.interpolation.upper()]
        # A crop of the smallest share is still at least twice as large as a view.
        self._longest_needed = math.ceil(2 * spec.size / math.sqrt(scale[0]))
        self._least = max(self._longest_needed, spec.decoded_side) if spec.decoded_side else None
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self.skipped: list[Skipped] = []
        kept: list[int] = []
        free = cache_bytes
        for index, result in enumerate(decode_all(items.images, self._shrink, self._least)):
            if isinstance(result, Skipped):
                self.skipped.append(result)
                continue
            if result.nbytes <= free:
                self._cache[len(kept)] = result
                free -= result.nbytes
            kept.append(index)
        report_skipped(self.skipped, len(items), on_skip)
        self.items = items.subset(kept)
        lost = sorted(set(items.labels.tolist()) - set(self.items.labels.tolist()))
        if lost:
            images = [image for image, label in zip(items.images, items.labels, strict=True) if label == lost[0]]
            raise UserError(f"no image of the class of {images[0]} can be read. The first: {self._reason(images)}")

    def _reason(self, images: list[ImageRef]) -> str:
        return next(entry.reason for entry in self.skipped if entry.image in images)

    def __len__(self) -> int:
        """Number of images that can be read."""
        return len(self.items)

    def view(self, index: int, epoch: int) -> NDArray[np.uint8]:
        """Image `index` as seen in `epoch`, uint8 `[S, S, 3]`."""
        pixels = self._cache.get(index)
        if pixels is None:
            pixels = self._shrink(open_image(self.items.images[index], self._least))
        image = Image.fromarray(pixels)
        random = seeded(self.seed, epoch, index)
        box = _crop_box(image.width, image.height, self.scale, random)
        mirrored = self.horizontal_flip and random.random() < 0.5
        image = image.resize((self.spec.size, self.spec.size), self._resample, box=box)
        view = np.asarray(augmented(image, self.augment, random))
        return np.ascontiguousarray(view[:, ::-1] if mirrored else view)

    def _shrink(self, image: Image.Image) -> NDArray[np.uint8]:
        """Pixels of an image, reduced where it is far larger than any view needs: cached or not, the same ones."""
        factor = min(image.size) // self._longest_needed
        return np.asarray(image.reduce(factor) if factor > 1 else image)


def _crop_box(
    width: int, height: int, scale: tuple[float, float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random box (left, top, right, bottom) of a share of the area and a shape in `RATIOS`.

    The rule of "Going deeper with convolutions" (Szegedy et al., 2015) in torchvision's form: ten tries, then the
    largest centred box whose shape is allowed.
    """
    for _ in range(_TRIES):
        area = width * height * random.uniform(*scale)
        ratio = math.exp(random.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * RATIOS[1])))
    h = min(height, max(1, round(width / RATIOS[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
