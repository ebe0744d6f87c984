"""Planted tasks with a known answer: the same pictures labelled by colour, by count, and by colour again.

`colour` and `count` look alike to the pixel (they are the same pictures) and follow different logic: sharing must not
harm the second. `colour-again` is `colour` under another name: it has nothing to add and must reuse.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": (208, 44, 44), "green": (44, 160, 60), "blue": (48, 84, 208), "yellow": (228, 200, 48)}
COUNTS = ("one", "two", "three", "four")
SIDE = 64
TRAIN_IMAGES, TEST_IMAGES = 15, 15
"""Pictures of each colour and count, so that every class has four times as many."""


def write_planted(folder: Path, seed: int = 0) -> dict[str, str]:
    """Draw the pictures into two image folders.

    Returns:
        Task name -> source, in the order to learn them: `colour`, `count`, `colour-again`.
    """
    random = np.random.default_rng(seed)
    for split, number in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        for colour in COLOURS:
            for count, word in enumerate(COUNTS, start=1):
                for index in range(number):
                    picture = draw_shapes(COLOURS[colour], count, random)
                    name = f"{colour}-{word}-{index:02d}.png"
                    for task, label in (("colour", colour), ("count", word)):
                        path = folder / task / split / label / name
                        path.parent.mkdir(parents=True, exist_ok=True)
                        picture.save(path)
    return {
        "colour": str(folder / "colour"),
        "count": str(folder / "count"),
        "colour-again": str(folder / "colour"),
    }


def draw_shapes(colour: tuple[int, int, int], count: int, random: np.random.Generator) -> Image.Image:
    """`count` discs or squares of one colour that do not touch, on a grey background with noise."""
    ground = random.integers(90, 220)
    pixels = np.clip(random.normal(ground, 6, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    half = SIDE // 2
    for cell in random.permutation(4)[:count]:
        radius = random.uniform(7, 12)
        x = half * (cell % 2) + random.uniform(radius + 2, half - radius - 2)
        y = half * (cell // 2) + random.uniform(radius + 2, half - radius - 2)
        shade = tuple(int(np.clip(value + random.integers(-18, 19), 0, 255)) for value in colour)
        shape = pen.ellipse if random.random() < 0.5 else pen.rectangle
        shape((x - radius, y - radius, x + radius, y + radius), fill=shade)
    return picture
