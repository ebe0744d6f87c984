"""Four small tasks without a download: two of real pictures that installed packages bring, two drawn here.

digits    handwritten digits (scikit-learn's copy of the UCI set), 10 classes
surfaces  pieces of photographs and scans (scikit-image's examples), 6 classes; training and test pieces come from
          different parts of each picture
letters   letters A to J in matplotlib's fonts, 10 classes; test images use fonts that training images do not
shapes    drawn shapes of any colour, size and angle, 8 classes
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from igsp_deploy.files import explain_os_error

TRAIN_IMAGES = 40
"""Training images a class."""
TEST_IMAGES = 20
"""Test images a class."""
SIDE = 96
"""Side of the pictures, in pixels (the digits are 8 x 8 measurements, enlarged)."""

Draw = Callable[[str, bool, np.random.Generator], Image.Image]
"""(class, whether for the test, random numbers) -> picture."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = tuple("ABCDEFGHIJ")
SURFACES = {
    "brick": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "print": "page.png",
    "stars": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
}
"""Class -> picture of scikit-image."""
SHAPES = ("circle", "cross", "crescent", "hexagon", "ring", "square", "star", "triangle")
TRAIN_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono-Oblique", "cmr10", "cmss10")
TEST_FONTS = ("DejaVuSerif-BoldItalic", "DejaVuSansMono", "STIXGeneral", "STIXGeneralBol")


def write_quickstart_data(folder: Path, *, seed: int = 0) -> dict[str, Path]:
    """Write the four tasks as folders `NAME/train/CLASS/*.png`, `NAME/test/CLASS/*.png`, `NAME/classes.json`.

    A task whose folder is there already is left as it is.

    Args:
        folder: where the tasks go.
        seed: seed of everything drawn at random.

    Returns:
        Task name -> its folder, in the order to learn them.

    Raises:
        UserError: the folder cannot be written.
        ModuleNotFoundError: scikit-learn, scikit-image or matplotlib is not installed.
    """
    writers: dict[str, Callable[[Path, np.random.Generator], None]] = {
        "digits": _write_digits,
        "surfaces": _write_surfaces,
        "letters": _write_letters,
        "shapes": _write_shapes,
    }
    for number, (name, write) in enumerate(writers.items()):
        if (folder / name).exists():
            continue
        # Not `new_folder`: flushing thousands of files takes longer than drawing them, and they can be drawn again.
        scratch = folder / f".{name}.{os.getpid()}.tmp"
        try:
            scratch.mkdir(parents=True)
            write(scratch, np.random.default_rng([seed, number]))
            scratch.rename(folder / name)
        except OSError as error:
            raise explain_os_error(error, folder / name) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return {name: folder / name for name in writers}


def _write_words(folder: Path, template: str, classes: dict[str, str]) -> None:
    text = json.dumps({"template": template, "classes": classes}, indent=1)
    (folder / "classes.json").write_text(text + "\n", encoding="utf-8")


def _places(folder: Path, name: str) -> Iterator[tuple[Path, bool]]:
    """Files to write for one class, and whether each is for the test."""
    for split, count in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        (folder / split / name).mkdir(parents=True)
        for number in range(count):
            yield folder / split / name / f"{number:03d}.png", split == "test"


def _write_drawn(folder: Path, names: tuple[str, ...], draw: Draw, random: np.random.Generator) -> None:
    for name in names:
        for path, for_test in _places(folder, name):
            draw(name, for_test, random).save(path)


def _write_digits(folder: Path, random: np.random.Generator) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for value, name in enumerate(DIGITS):
        # The set holds its writers in turn, so that the last third is by others than the first two.
        members = np.flatnonzero(digits.target == value)
        border = 2 * len(members) // 3
        spread = [np.linspace(0, border - 1, TRAIN_IMAGES), np.linspace(border, len(members) - 1, TEST_IMAGES)]
        chosen = members[np.concatenate(spread).round().astype(np.int64)]
        for index, (path, _) in zip(chosen, _places(folder, name), strict=True):
            ink = np.clip(digits.images[index] * (255 / 16), 0, 255).astype(np.uint8)
            Image.fromarray(ink).resize((SIDE // 2, SIDE // 2), Image.Resampling.BICUBIC).save(path)
    _write_words(folder, "a photo of the handwritten digit {}.", {name: name for name in DIGITS})


def _write_surfaces(folder: Path, random: np.random.Generator) -> None:
    import skimage

    pictures = Path(skimage.__file__).parent / "data"
    for name, file_name in SURFACES.items():
        with Image.open(pictures / file_name) as opened:
            picture = opened.convert("RGB")
        for path, for_test in _places(folder, name):
            _piece(picture, for_test, random).save(path)
    words = {"print": "a printed page", "stars": "distant galaxies", "tissue": "stained tissue"}
    _write_words(folder, "a close-up photo of {}.", {name: words.get(name, name) for name in SURFACES})


def _piece(picture: Image.Image, for_test: bool, random: np.random.Generator) -> Image.Image:
    """A random square of the left 60 % (training) or the right 40 % (test), mirrored and brightened at random."""
    border = round(0.6 * picture.width)
    left, right = (border, picture.width) if for_test else (0, border)
    side = int(random.integers(64, min(130, right - left, picture.height)))
    x = int(random.integers(left, right - side + 1))
    y = int(random.integers(0, picture.height - side + 1))
    piece = picture.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    if random.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gain = random.uniform(0.8, 1.2)
    return piece.point(lambda value: min(255, value * gain))


def _write_letters(folder: Path, random: np.random.Generator) -> None:
    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    _write_drawn(folder, LETTERS, lambda name, for_test, random: _letter(fonts, name, for_test, random), random)
    _write_words(folder, "a picture of the letter {}.", {name: name for name in LETTERS})


def _letter(fonts: Path, name: str, for_test: bool, random: np.random.Generator) -> Image.Image:
    ink, paper = _two_colours(random)
    font_name = str(random.choice(TEST_FONTS if for_test else TRAIN_FONTS))
    font = ImageFont.truetype(str(fonts / f"{font_name}.ttf"), int(random.integers(45, 75)))
    mask = Image.new("L", (SIDE, SIDE), 0)
    place = (SIDE / 2 + random.uniform(-8, 8), SIDE / 2 + random.uniform(-8, 8))
    ImageDraw.Draw(mask).text(place, name, fill=255, font=font, anchor="mm")
    mask = mask.rotate(random.uniform(-15, 15), Image.Resampling.BICUBIC)
    return _compose(ink, paper, mask, random)


def _write_shapes(folder: Path, random: np.random.Generator) -> None:
    _write_drawn(folder, SHAPES, lambda name, _, random: _shape(name, random), random)
    _write_words(folder, "a picture of a {}.", {name: name for name in SHAPES})


def _shape(name: str, random: np.random.Generator) -> Image.Image:
    ink, paper = _two_colours(random)
    # Drawn four times as large and scaled down, for smooth edges.
    side = 4 * SIDE
    radius = side * random.uniform(0.2, 0.34)
    x, y = (random.uniform(radius * 1.1, side - radius * 1.1) for _ in range(2))
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    _fill(pen, name, x, y, radius, random.uniform(0, 2 * math.pi))
    return _compose(ink, paper, mask.resize((SIDE, SIDE), Image.Resampling.BICUBIC), random)


def _fill(pen: ImageDraw.ImageDraw, name: str, x: float, y: float, radius: float, angle: float) -> None:
    """Fill the shape `name` of `radius` around (x, y), turned by `angle` radians."""

    def disc(cx: float, cy: float, r: float, fill: int) -> None:
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=fill)

    if name in ("circle", "ring", "crescent"):
        disc(x, y, radius, 255)
        if name == "ring":
            disc(x, y, 0.6 * radius, 0)
        if name == "crescent":
            disc(x + 0.45 * radius * math.cos(angle), y + 0.45 * radius * math.sin(angle), 0.8 * radius, 0)
        return
    corners = {"triangle": 3, "square": 4, "hexagon": 6, "star": 10, "cross": 12}[name]
    points = []
    for number in range(corners):
        length, turn = radius, 2 * math.pi * number / corners
        if name == "star" and number % 2:
            length = 0.42 * radius
        if name == "cross":
            # Twelve corners: arms a third as wide as the cross, an inner corner between each two.
            arm, corner = divmod(number, 3)
            turn = arm * math.pi / 2 + (-0.3217, 0.3217, math.pi / 4)[corner]
            length = radius * (math.sqrt(2) / math.sqrt(10) if corner == 2 else 1.0)
        points.append((x + length * math.cos(angle + turn), y + length * math.sin(angle + turn)))
    pen.polygon(points, fill=255)


def _two_colours(random: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two colours that differ clearly in brightness."""
    while True:
        colours = random.uniform(0, 255, (2, 3))
        brightness = colours @ (0.299, 0.587, 0.114)
        if abs(brightness[0] - brightness[1]) > 70:
            return colours[0], colours[1]


def _compose(
    ink: NDArray[np.float64], paper: NDArray[np.float64], mask: Image.Image, random: np.random.Generator
) -> Image.Image:
    """Ink on paper where the mask is white, with a slope of light and noise."""
    weight = np.asarray(mask, dtype=np.float64)[..., None] / 255
    slope = np.linspace(-1, 1, SIDE)[:, None, None] * random.uniform(-25, 25)
    noise = random.normal(0, random.uniform(0, 12), (SIDE, SIDE, 3))
    pixels = weight * ink + (1 - weight) * paper + slope + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
