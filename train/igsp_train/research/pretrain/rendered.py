"""Rendered images with captions: colours, textures, shapes, sizes, counts, positions and glyphs.

Every scene is a dictionary of attributes drawn from a seeded generator, then painted with Pillow. One pair (colour,
shape) in five, and as many pairs (number, shape) and (relation, shape), are held out: they are never painted for
training and serve to measure whether the model composes what it knows.
"""

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from igsp_train.research.pretrain.captions import GLYPH_WORDS, NUMBER_WORDS, SCENE_TEMPLATES, object_phrase, plural

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 220, 50),
    "orange": (245, 140, 30),
    "purple": (140, 60, 180),
    "pink": (250, 150, 190),
    "brown": (130, 80, 40),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "gray": (130, 130, 130),
    "cyan": (60, 210, 220),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond", "crescent", "arrow")
TEXTURES = ("", "striped", "dotted", "checkered")
RELATIONS = ("left of", "right of", "above", "below")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIDE = 128
OVERSAMPLING = 2


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What one image shows."""

    kind: str
    """`object`, `glyph`, `count` or `relation`."""
    attributes: dict[str, str]
    """Attribute to value; which keys there are depends on the kind."""


def held_out(*values: str) -> bool:
    """Whether a combination is kept for measuring (a fixed fifth, by checksum)."""
    return zlib.crc32(" ".join(values).encode()) % 5 == 0


def sample_scene(rng: random.Random, kind: str | None = None, *, unseen: bool = False) -> Scene:
    """Draw a scene from the training combinations, or from the held-out ones if `unseen`."""
    kind = kind or rng.choices(("object", "glyph", "count", "relation"), weights=(30, 40, 15, 15))[0]
    while True:
        attributes = {"colour": rng.choice(list(COLOURS)), "shape": rng.choice(SHAPES)}
        if kind == "object":
            attributes |= {"texture": rng.choice(TEXTURES), "size": rng.choice(("small", "large", ""))}
        elif kind == "count":
            attributes["number"] = NUMBER_WORDS[rng.randint(1, 6)]
        elif kind == "relation":
            attributes |= {
                "relation": rng.choice(RELATIONS),
                "other_shape": rng.choice(SHAPES),
                "other_colour": rng.choice(list(COLOURS)),
            }
            if attributes["colour"] == attributes["other_colour"] or attributes["shape"] == attributes["other_shape"]:
                continue
        else:
            glyph = rng.choice(LETTERS) if rng.random() < 0.6 else rng.choice("0123456789")
            return Scene(kind=kind, attributes={"glyph": glyph, "colour": rng.choice(list(COLOURS))})
        scene = Scene(kind=kind, attributes=attributes)
        if is_unseen(scene) == unseen:
            return scene


def is_unseen(scene: Scene) -> bool:
    """Whether a scene shows a held-out combination."""
    a = scene.attributes
    if scene.kind == "object":
        return held_out(a["colour"], a["shape"])
    if scene.kind == "count":
        return held_out(a["number"], a["shape"])
    return scene.kind == "relation" and held_out(a["shape"], a["relation"], a["other_shape"])


def facts(scene: Scene) -> frozenset[str]:
    """All that may be said of a scene; a caption is true of it if the caption's facts are among them."""
    a = scene.attributes
    if scene.kind == "glyph":
        return frozenset({f"glyph {a['glyph']}"})
    if scene.kind == "relation":
        pair = [f"{a['colour']} {a['shape']}", f"{a['other_colour']} {a['other_shape']}"]
        axis = "left" if a["relation"] in ("left of", "right of") else "above"
        return frozenset({" ".join([axis, *(pair if a["relation"] in ("left of", "above") else pair[::-1])])})
    return frozenset(f"{key} {value}" for key, value in ({"number": "one"} | a).items() if value)


def caption(scene: Scene, rng: random.Random, *, full: bool = False) -> tuple[str, frozenset[str]]:
    """Describe a scene in a random wording, or, if `full`, in the plainest with every attribute.

    Returns:
        The text, and those of the scene's facts that it states.
    """
    a, stated = scene.attributes, facts(scene)
    if scene.kind == "object":
        keep = ["size", "colour", "texture", "shape"]
        if not full and rng.random() < 0.4:
            keep = rng.sample(keep, rng.randint(1, 3))
        body = object_phrase(a, keep)
        stated = frozenset(fact for fact in stated if fact.split()[0] in (*keep, "number"))
    elif scene.kind == "count":
        noun = a["shape"] if a["number"] == "one" else plural(a["shape"])
        coloured = full or rng.random() < 0.6
        body = f"{a['number']} {a['colour']} {noun}" if coloured else f"{a['number']} {noun}"
        stated = stated if coloured else stated - {f"colour {a['colour']}"}
    elif scene.kind == "relation":
        other = {"colour": a["other_colour"], "shape": a["other_shape"]}
        first, second = (object_phrase(each, ("colour", "shape")) for each in (a, other))
        body = f"{first} {a['relation']} {second}"
    else:
        glyph, digit = a["glyph"], a["glyph"].isdigit()
        word = NUMBER_WORDS[int(glyph)] if digit and rng.random() < 0.7 else glyph
        body = rng.choice(GLYPH_WORDS["digit" if digit else "letter"]).format(word)
    return (body if full else rng.choice(SCENE_TEMPLATES).format(body)), stated


def altered(scene: Scene, rng: random.Random) -> Scene:
    """Change one attribute of a scene (for a caption that is almost right); never into a held-out combination."""
    choices: dict[str, Sequence[str]] = {
        "colour": tuple(COLOURS),
        "other_colour": tuple(COLOURS),
        "shape": SHAPES,
        "other_shape": SHAPES,
        "texture": TEXTURES,
        "size": ("small", "large"),
        "number": NUMBER_WORDS[1:7],
        "relation": RELATIONS,
        "glyph": LETTERS + "0123456789",
    }
    while True:
        key = "glyph" if scene.kind == "glyph" else rng.choice(list(scene.attributes))
        other = Scene(kind=scene.kind, attributes=scene.attributes | {key: rng.choice(choices[key])})
        if other != scene and not is_unseen(other):
            return other


def _outline(shape: str, x: float, y: float, radius: float, angle: float) -> list[tuple[float, float]]:
    """Corners of a shape's outline."""

    def polar(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x + radius * r * math.cos(t + angle), y + radius * r * math.sin(t + angle)) for r, t in points]

    def local(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        c, s = math.cos(angle), math.sin(angle)
        return [(x + radius * (u * c - v * s), y + radius * (u * s + v * c)) for u, v in points]

    turn = 2 * math.pi
    if shape == "square":
        return local([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
    if shape == "triangle":
        return polar([(1.05, -turn / 4 + turn * k / 3) for k in range(3)])
    if shape == "star":
        return polar([(1.05 if k % 2 == 0 else 0.45, -turn / 4 + turn * k / 10) for k in range(10)])
    if shape == "diamond":
        return local([(0, -1.1), (0.65, 0), (0, 1.1), (-0.65, 0)])
    if shape == "cross":
        w = 0.32
        return local(
            [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]
        )
    if shape == "arrow":
        return local([(-1, -0.28), (0.2, -0.28), (0.2, -0.75), (1.05, 0), (0.2, 0.75), (0.2, 0.28), (-1, 0.28)])
    if shape == "heart":
        ts = [turn * k / 40 for k in range(40)]
        return local(
            [
                (
                    math.sin(t) ** 3,
                    -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 15,
                )
                for t in ts
            ]
        )
    if shape == "crescent":
        outer = [(math.cos(t), math.sin(t)) for t in (turn * (0.12 + 0.76 * k / 30) for k in range(31))]
        ex, ey = outer[-1]
        inner = [
            (0.35 + 0.72 * math.cos(t), 0.78 * math.sin(t)) for t in (turn * (0.84 - 0.68 * k / 30) for k in range(31))
        ]
        return local([*outer, (ex, ey), *inner])
    return polar([(1.0, turn * k / 48) for k in range(48)])


def _paint(
    image: Image.Image, attributes: dict[str, str], x: float, y: float, radius: float, rng: random.Random
) -> None:
    """Paint one object, textured, into `image` (oversampled pixels)."""
    shape = attributes["shape"]
    angle = rng.uniform(-0.25, 0.25)
    mask = Image.new("L", image.size, 0)
    draw = ImageDraw.Draw(mask)
    draw.polygon(_outline(shape, x, y, radius, angle), fill=255)
    if shape == "ring":
        hole = 0.6 * radius
        draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    base = _jitter(COLOURS[attributes["colour"]], rng, 18)
    fill = Image.new("RGB", image.size, base)
    texture = attributes.get("texture", "")
    if texture:
        ink = _contrast(base, rng)
        pen = ImageDraw.Draw(fill)
        step = int(rng.uniform(0.28, 0.4) * radius) + 4
        size = image.size[0]
        if texture == "striped":
            slope = rng.choice((-1, 0, 1))
            for u in range(-size, 2 * size, 2 * step // 2 + step // 2):
                pen.line((u, 0, u + slope * size, size), fill=ink, width=max(2, step // 2))
        else:
            for i, u in enumerate(range(int(x - 2 * radius), int(x + 2 * radius), step)):
                for j, v in enumerate(range(int(y - 2 * radius), int(y + 2 * radius), step)):
                    if texture == "dotted":
                        r = step * 0.28
                        pen.ellipse((u - r, v - r, u + r, v + r), fill=ink)
                    elif (i + j) % 2:
                        pen.rectangle((u, v, u + step - 1, v + step - 1), fill=ink)
    image.paste(fill, (0, 0), mask)


def _jitter(colour: tuple[int, int, int], rng: random.Random, spread: int) -> tuple[int, int, int]:
    r, g, b = (max(0, min(255, c + rng.randint(-spread, spread))) for c in colour)
    return r, g, b


def _contrast(colour: tuple[int, int, int], rng: random.Random) -> tuple[int, int, int]:
    dark = sum(colour) < 330
    return _jitter((235, 235, 235) if dark else (35, 35, 35), rng, 20)


def _background(attributes: dict[str, str], rng: random.Random) -> tuple[int, int, int]:
    used = [COLOURS[attributes[key]] for key in ("colour", "other_colour") if key in attributes]
    while True:
        tone = rng.randint(0, 255)
        colour = _jitter((tone, tone, tone), rng, 35)
        if all(sum(abs(a - b) for a, b in zip(colour, other, strict=True)) > 130 for other in used):
            return colour


def render(scene: Scene, rng: random.Random, fonts: list[Path]) -> Image.Image:
    """Paint a scene.

    Returns:
        An RGB image of 128 x 128 pixels.
    """
    from igsp_train.research.pretrain.glyphs import paint_glyph

    size = SIDE * OVERSAMPLING
    image = Image.new("RGB", (size, size), _background(scene.attributes, rng))
    a = scene.attributes
    if scene.kind == "glyph":
        image = paint_glyph(a["glyph"], COLOURS[a["colour"]], size, rng, fonts)
    elif scene.kind == "object":
        low, high = {"small": (0.13, 0.2), "large": (0.34, 0.44), "": (0.2, 0.36)}[a["size"]]
        radius = rng.uniform(low, high) * size
        margin = min(radius, size * 0.45)
        _paint(image, a, rng.uniform(margin, size - margin), rng.uniform(margin, size - margin), radius, rng)
    elif scene.kind == "count":
        spots = rng.sample([(i, j) for i in range(3) for j in range(3)], NUMBER_WORDS.index(a["number"]))
        radius = rng.uniform(0.09, 0.135) * size
        for i, j in spots:
            _paint(
                image,
                a,
                (i + 0.5 + rng.uniform(-0.1, 0.1)) * size / 3,
                (j + 0.5 + rng.uniform(-0.1, 0.1)) * size / 3,
                radius,
                rng,
            )
    else:
        radius = rng.uniform(0.13, 0.2) * size
        near, far, drift = rng.uniform(0.22, 0.3), rng.uniform(0.7, 0.78), rng.uniform(0.3, 0.7)
        first = {"left of": (near, drift), "right of": (far, drift), "above": (drift, near), "below": (drift, far)}[
            a["relation"]
        ]
        second = {"left of": (far, drift), "right of": (near, drift), "above": (drift, far), "below": (drift, near)}[
            a["relation"]
        ]
        _paint(image, a, first[0] * size, first[1] * size, radius, rng)
        _paint(
            image,
            {"shape": a["other_shape"], "colour": a["other_colour"]},
            second[0] * size,
            second[1] * size,
            radius,
            rng,
        )
    image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.5:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 12), (SIDE, SIDE, 1))
        image = Image.fromarray(np.clip(np.asarray(image, dtype=np.float32) + noise, 0, 255).astype(np.uint8))
    return image


def find_fonts() -> list[Path]:
    """The fonts that matplotlib brings along, those with Latin letters."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmr10", "cmss10", "cmtt10", "cmb10", "cmmi10")
    fonts = sorted(
        p
        for p in folder.glob("*.ttf")
        if p.stem.startswith(names) and "Display" not in p.stem and "NonUni" not in p.stem
    )
    for path in fonts:
        ImageFont.truetype(str(path), 20)
    return fonts
