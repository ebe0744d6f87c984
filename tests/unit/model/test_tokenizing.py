"""A tokenizer that could not come along is refused before anything is downloaded or learned."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
from open_clip.tokenizer import HFTokenizer

from igsp_deploy.errors import UserError
from igsp_deploy.model import loading
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.model.tokenizing import describe
from tests.tokenizers_at_hand import byte_level


class Other(open_clip.SimpleTokenizer):  # type: ignore[misc]
    """One of somebody else's."""


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (Other(), r"\(Other\).*none of open_clip's kinds.*Choose"),
        (open_clip.SimpleTokenizer(reduction_mask="random"), "by chance"),
        (open_clip.SimpleTokenizer(additional_special_tokens=["<x>"]), "more special tokens"),
    ],
)
def test_what_cannot_come_along_is_refused_before_the_weights(
    tokenizer: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(loading, "_weighted", never)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: tokenizer)
    with pytest.raises(UserError, match=why):
        load_backbone("ViT-B-32", "openai")


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setattr(open_clip, "get_tokenizer", missing)
    with pytest.raises(UserError, match=r"transformers.*pip install"):
        load_backbone("ViT-B-32", "openai")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: setattr(t, "tokenizer_mode", "clips"), "its mode 'clips'"),
        (lambda t: setattr(t.tokenizer, "split_special_tokens", True), "split_special_tokens"),
        (lambda t: setattr(t.tokenizer, "pad_token", None), "no padding token"),
        (lambda t: setattr(t, "clean_fn", str.upper), "its cleaning 'upper'"),
        (lambda t: setattr(t, "tokenizer", object()), "object is written in Python"),
    ],
)
def test_of_hugging_faces_those_are_refused_that_do_more_than_their_file(change: Any, why: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tokenizer = HFTokenizer(str(byte_level(tmp_path)))
    assert describe(tokenizer).pad_id == 1
    change(tokenizer)
    with pytest.raises(UserError, match=why):
        describe(tokenizer)
