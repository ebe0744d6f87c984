"""Real images for pretraining: random views of a folder of classes, and mixtures of two views."""

import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from igsp_deploy.errors import UserError
from igsp_train.research.pretrain.rendered import SIDE

HELD_OUT_EVERY = 20


def list_images(folder: Path) -> tuple[list[Path], list[int], list[str]]:
    """List an ImageFolder: paths, class indices, class names (sorted).

    Raises:
        UserError: there is no image.
    """
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    paths, labels = [], []
    for index, name in enumerate(names):
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
                paths.append(path)
                labels.append(index)
    if not paths:
        raise UserError(f"{folder} holds no images. Expected: {folder}/CLASS/*.jpg (or .png).")
    return paths, labels, names


def open_image(path: Path) -> Image.Image:
    """Read one image as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


def plain_view(image: Image.Image) -> Image.Image:
    """Resize the shorter side to 128 pixels (bicubic) and cut the middle, as at test time."""
    return ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC)


def random_view(image: Image.Image, rng: random.Random) -> Image.Image:
    """Cut 35 to 100 % of the area, flip, and now and then change brightness, contrast, colour or sharpness."""
    width, height = image.size
    side = max(8.0, (width * height * rng.uniform(0.35, 1.0)) ** 0.5)
    ratio = rng.uniform(0.8, 1.25)
    w, h = min(width, side * ratio), min(height, side / ratio)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    view = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    if rng.random() < 0.5:
        view = ImageOps.mirror(view)
    for enhancer, spread in ((ImageEnhance.Brightness, 0.4), (ImageEnhance.Contrast, 0.4), (ImageEnhance.Color, 0.6)):
        if rng.random() < 0.4:
            view = enhancer(view).enhance(1 + rng.uniform(-spread, spread))
    chance = rng.random()
    if chance < 0.06:
        view = ImageOps.grayscale(view).convert("RGB")
    elif chance < 0.09:
        view = ImageOps.invert(view)
    elif chance < 0.2:
        small = rng.randint(28, 64)
        view = view.resize((small, small), Image.Resampling.BILINEAR).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return view


def mixture(first: Image.Image, second: Image.Image, rng: random.Random) -> Image.Image:
    """Blend two views, paste a rectangle of one into the other, or set two halves side by side."""
    if rng.random() < 0.4:
        return Image.blend(first, second, rng.uniform(0.25, 0.5))
    width, height = rng.randint(40, 100), rng.randint(40, 100)
    x, y = rng.randint(0, SIDE - width), rng.randint(0, SIDE - height)
    result = first.copy()
    result.paste(second.crop((x, y, x + width, y + height)), (x, y))
    return result


def to_array(image: Image.Image) -> np.ndarray:
    """[128, 128, 3] uint8."""
    return np.asarray(image, dtype=np.uint8)
