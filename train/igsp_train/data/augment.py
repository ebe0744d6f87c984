"""What else may happen to a training image besides crops and mirroring, by torchvision's functional transforms.

Which one, and how strongly, comes from the view's own generator. torchvision's random transforms draw from torch's
global generator, which a thread that makes views would share with the steps of learning. Images are PIL's, so nothing
here depends on torch's threads.
"""

import math
from typing import Any

import numpy as np
from PIL import Image

from igsp_deploy.config import Augment

OPERATIONS = 14
"""What `trivial` chooses from, leaving the image as it is among them."""


def augmented(image: Image.Image, augment: Augment, random: np.random.Generator) -> Image.Image:
    """The image as `augment` changes it, of the same size; the very image, and nothing drawn, under `crops`."""
    return image if augment == "crops" else _trivial(image, random)


def _trivial(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """One operation, all equally likely, of a strength up to that of AutoAugment, all equally likely.

    The rule of TrivialAugment (Müller and Hutter, 2021, arXiv 2103.10158) with its narrower ranges ("RA").
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    number, level = int(random.integers(OPERATIONS)), float(random.uniform())
    signed = level if random.random() < 0.5 else -level
    slant, shift, factor = math.degrees(math.atan(0.3 * signed)), round(0.25 * image.width * signed), 1 + 0.9 * signed

    def move(angle: float = 0.0, x: int = 0, y: int = 0, shear_x: float = 0.0, shear_y: float = 0.0) -> Any:
        bilinear = InterpolationMode.BILINEAR
        return F.affine(image, angle, [x, y], 1.0, [shear_x, shear_y], interpolation=bilinear, fill=0)

    operations = (
        lambda: image,
        lambda: move(shear_x=slant),
        lambda: move(shear_y=slant),
        lambda: move(x=shift),
        lambda: move(y=shift),
        lambda: move(angle=30.0 * signed),
        lambda: F.adjust_brightness(image, factor),
        lambda: F.adjust_saturation(image, factor),
        lambda: F.adjust_contrast(image, factor),
        lambda: F.adjust_sharpness(image, factor),
        lambda: F.posterize(image, 8 - round(4 * level)),
        lambda: F.solarize(image, 255.0 * (1 - level)),
        lambda: F.autocontrast(image),
        lambda: F.equalize(image),
    )
    changed: Image.Image = operations[number]()
    return changed
