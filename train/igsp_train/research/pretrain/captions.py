"""Texts of pretraining: templates for names, and captions of rendered scenes."""

import random
from collections.abc import Sequence

NAME_TEMPLATES = (
    "a photo of a {}.",
    "a photo of a {}.",
    "a {}",
    "{}",
    "the {}.",
    "a picture of a {}.",
    "an image of a {}",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a photo of {}.",
    "a small photo of a {}.",
    "a photo of one {}.",
    "a photo of a {}, a type of thing.",
)
"""Wordings in which a class name is met, so that the wording does not matter later; the plain one counts twice."""

SCENE_TEMPLATES = ("{}", "a photo of {}.", "a picture of {}", "an image of {}.", "a drawing of {}.", "a photo of {}")
"""Wordings around the description of a rendered scene."""

GLYPH_WORDS = {
    "letter": (
        "the letter {}",
        "the handwritten letter {}",
        'the letter "{}"',
        'the handwritten letter "{}"',
        "a letter {}",
        "the character {}",
    ),
    "digit": (
        "the number {}",
        "the digit {}",
        "the handwritten digit {}",
        "a number {}",
        "the handwritten number {}",
        'the digit "{}"',
    ),
}
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def name_text(name: str, rng: random.Random) -> str:
    """Put a class name into a random wording."""
    return rng.choice(NAME_TEMPLATES).format(name.replace("_", " "))


def plural(noun: str) -> str:
    """English plural of the shapes' names."""
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "oss")) else "s")


def object_phrase(attributes: dict[str, str], keep: Sequence[str]) -> str:
    """Describe one object by the attributes in `keep`, for example "a large red striped circle"."""
    words = [attributes[key] for key in ("size", "colour", "texture") if key in keep and attributes.get(key)]
    words.append(attributes["shape"] if "shape" in keep else "shape")
    article = "an" if words[0][0] in "aeio" else "a"
    return f"{article} {' '.join(words)}"
