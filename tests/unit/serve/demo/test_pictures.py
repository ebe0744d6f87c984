from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from igsp_deploy.bundle.preprocess import ImageError
from igsp_deploy.runtime.classifier import Classifier
from igsp_serve.demo.pictures import most_telling_first


class Known:
    """Answers that were written down: file -> the model's label and score, plain CLIP's label."""

    def __init__(self, answers: dict[str, tuple[str, float, str]]) -> None:
        self.answers = answers

    def load(self, path: Path) -> str:
        if path.name not in self.answers:
            raise ImageError("damaged")
        return path.name

    def classify(self, names: list[str], task: str) -> list[Any]:
        rows = [self.answers[name] for name in names]
        return [
            SimpleNamespace(labels=(plain if task == "none" else own, "other"), scores=(score, 0.0))
            for own, score, plain in rows
        ]


def first(answers: dict[str, tuple[str, float, str]], files: list[tuple[str, str]]) -> list[str]:
    found = most_telling_first(cast("Classifier", Known(answers)), [(label, Path(name)) for label, name in files])
    return [path.name for path in found]


def test_the_surest_image_that_plain_clip_gets_wrong_comes_first() -> None:
    answers = {
        "both": ("a", 0.99, "a"),
        "wrong": ("b", 0.98, "b"),
        "gain": ("a", 0.6, "b"),
        "more": ("a", 0.9, "b"),
        "loss": ("b", 0.97, "a"),
    }
    order = first(answers, [("a", name) for name in ("both", "wrong", "broken", "gain", "more", "loss")])
    assert order == ["more", "both", "wrong", "gain", "loss"]


def test_the_order_stays_where_nothing_is_gained() -> None:
    assert first({"x": ("a", 0.9, "a"), "y": ("a", 0.8, "a")}, [("a", "x"), ("a", "y")]) == ["x", "y"]
    assert first({}, [("a", "broken")]) == []
