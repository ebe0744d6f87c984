"""Letters and digits that look printed or written: a font's glyph, thinned or thickened, bent, on varied grounds."""

import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont


def paint_glyph(
    glyph: str, colour: tuple[int, int, int], size: int, rng: random.Random, fonts: list[Path]
) -> Image.Image:
    """Paint one letter or digit.

    Args:
        glyph: one lower-case letter or digit; letters are painted as capitals now and then.
        colour: RGB of the ink when the picture is coloured; half of the pictures are black and white.
        size: side of the picture, pixels.
        rng: source of every choice.
        fonts: paths of TrueType fonts.

    Returns:
        An RGB image, size x size.
    """
    if glyph.isalpha() and rng.random() < 0.15:
        glyph = glyph.upper()
    font = ImageFont.truetype(str(rng.choice(fonts)), int(size * rng.uniform(0.5, 0.95)))
    mask = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(mask)
    left, top, right, bottom = draw.textbbox((0, 0), glyph, font=font)
    free = size * 0.06
    x = (size - (right - left)) / 2 - left + rng.uniform(-free, free)
    y = (size - (bottom - top)) / 2 - top + rng.uniform(-free, free)
    draw.text((x, y), glyph, fill=255, font=font)
    mask = _weight(mask, rng)
    mask = _bend(mask, rng)
    style = rng.random()
    if style < 0.3:
        ground, ink = (0, 0, 0), (255, 255, 255)
    elif style < 0.55:
        ground, ink = (255, 255, 255), (0, 0, 0)
    else:
        ink = colour
        tone = rng.randint(0, 90) if sum(colour) > 380 else rng.randint(165, 255)
        ground = (tone, min(255, tone + rng.randint(0, 25)), tone)
    return Image.composite(Image.new("RGB", mask.size, ink), Image.new("RGB", mask.size, ground), mask)


def _weight(mask: Image.Image, rng: random.Random) -> Image.Image:
    """Make the strokes thinner (like a pen) or thicker (like a brush)."""
    choice = rng.random()
    if choice < 0.35:
        return mask.filter(ImageFilter.MinFilter(rng.choice((3, 5, 7))))
    if choice < 0.65:
        return mask.filter(ImageFilter.MaxFilter(rng.choice((3, 5, 7, 9))))
    return mask


def _bend(mask: Image.Image, rng: random.Random) -> Image.Image:
    """Turn, shear, scale and warp smoothly, as a hand does."""
    size = mask.size[0]
    noise = np.random.default_rng(rng.getrandbits(32))
    angle, shear = rng.uniform(-0.26, 0.26), rng.uniform(-0.3, 0.3)
    sx, sy = rng.uniform(0.85, 1.5), rng.uniform(0.85, 1.3)
    cos, sin = np.cos(angle), np.sin(angle)
    v, u = np.mgrid[0:size, 0:size].astype(np.float32) - size / 2
    source_u, source_v = sx * (cos * u - sin * v + shear * v), sy * (sin * u + cos * v)
    for axis in (source_u, source_v):
        coarse = Image.fromarray((noise.normal(0, 1, (4, 4)) * size * 0.035).astype(np.float32))
        axis += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    columns = np.clip(source_u + size / 2, 0, size - 1).astype(np.int32)
    rows = np.clip(source_v + size / 2, 0, size - 1).astype(np.int32)
    return Image.fromarray(np.asarray(mask)[rows, columns])
