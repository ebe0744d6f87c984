"""Which of open_clip's tokenizers can come along in a bundle, and what is done around each."""

from typing import Any, cast

from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer

from igsp_deploy.bundle.manifest import BundleTokenizer
from igsp_deploy.bundle.tokenizer import Cleaning
from igsp_deploy.errors import UserError

_CLEANINGS: dict[str, Cleaning] = {
    "_clean_lower": "lower",
    "_clean_whitespace": "whitespace",
    "_clean_canonicalize": "canonicalize",
}
REMEDY = "Choose a backbone with CLIP's own tokenizer, such as ViT-B-16, or nano."


def describe(source: Any) -> BundleTokenizer:
    """What a bundle says of an open_clip tokenizer, whatever the text tower is (see `TextEnds.end_id`).

    Args:
        source: what `Backbone.tokenize` calls.

    Raises:
        UserError: it cannot be written into a bundle; says why.
    """
    if type(source) is SimpleTokenizer:
        return _simple(source)
    if type(source) not in (HFTokenizer, SigLipTokenizer):
        raise _refusal(source, "it is none of open_clip's kinds")
    return _fast(source)


def _simple(source: Any) -> BundleTokenizer:
    if source.reduction_fn is not None:
        raise _refusal(source, "it drops tokens of long texts by chance (reduction_mask)")
    if len(source.all_special_ids) != 2:
        raise _refusal(source, "it has more special tokens than start and end")
    return BundleTokenizer(kind="clip", clean=_cleaning(source), end_id=int(source.eot_token_id))


def _fast(source: Any) -> BundleTokenizer:
    inner = source.tokenizer
    if not getattr(inner, "is_fast", False):
        raise _refusal(source, f"{type(inner).__name__} is written in Python; only fast ones have a tokenizer.json")
    if getattr(source, "tokenizer_mode", ""):
        raise _refusal(source, f"its mode {source.tokenizer_mode!r} puts tokens together in a way of its own")
    if getattr(inner, "split_special_tokens", False):
        raise _refusal(source, "it reads special tokens as plain text (split_special_tokens)")
    if inner.pad_token_id is None:
        raise _refusal(source, "it has no padding token, so texts cannot be brought to one length")
    strip = getattr(source, "strip_sep_token", False)
    return BundleTokenizer(
        kind="fast",
        clean="canonicalize" if type(source) is SigLipTokenizer else _cleaning(source),
        pad_id=int(inner.pad_token_id),
        zeroed_id=inner.sep_token_id if strip else None,
        end_id=None,
    )


def _cleaning(source: Any) -> Cleaning:
    name = cast(str, getattr(source.clean_fn, "__name__", ""))
    if name not in _CLEANINGS:
        raise _refusal(source, f"its cleaning {name or source.clean_fn!r} is none of open_clip's")
    return _CLEANINGS[name]


def _refusal(source: Any, why: str) -> UserError:
    return UserError(f"the backbone's tokenizer ({type(source).__name__}) cannot be put into a bundle: {why}. {REMEDY}")
