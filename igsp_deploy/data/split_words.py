"""The words people use for the splits of a data set."""

import re

SPLITS = ("train", "val", "test")
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Word, in lower case -> split."""

_FILLERS = frozenset({"set", "sets", "data", "dataset", "images", "image", "imgs", "img", "split", "folder", "files"})


def split_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that a folder, file or value is named after, and the other words of its name.

    `Training` and `test_images` give `("train", ())` and `("test", ())`, `seg_train` gives `("train", ("seg",))`; a
    name with no such word, or with two of them, gives None.
    """
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_A-Za-z]+", name)]
    places = [index for index, word in enumerate(words) if word in WORDS]
    if len(places) != 1:
        return None
    rest = tuple(word for index, word in enumerate(words) if index != places[0] and word not in _FILLERS)
    return WORDS[words[places[0]]], rest


def plain_split(name: str) -> str | None:
    """The split that `name` says and nothing else besides: `Validation`, `TEST`, `train_set`."""
    found = split_of(name.strip())
    return found[0] if found and not found[1] else None
