"""Writing `tokenizer.json` from open_clip's merges, so that serving needs neither torch nor open_clip."""

import sys
from pathlib import Path
from typing import Any

import regex
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from igsp_deploy.errors import UserError


def split_pattern() -> str:
    """open_clip's pattern for lower-cased text, its classes written out as ranges of code points.

    Libraries differ in the version of Unicode they know, so `\\p{L}` here and there would not be the same letters.
    The pattern ignores case; after lower-casing, the long s is the one character left that folds to one of its letters.
    """
    letters, numbers, others = (_ranges(name) for name in (r"\p{L}", r"\p{N}", r"^\s\p{L}\p{N}"))
    words = "<[s\u017f]tart_of_text>|<end_of_text>|'[s\u017f]|'t|'re|'ve|'m|'ll|'d"
    return f"{words}|[{letters}]+|[{numbers}]|[{others}]+"


def _ranges(name: str) -> str:
    """Code points that open_clip's regular expressions find in a class, as `\\x{..}-\\x{..}` ranges."""
    # Surrogates are no characters of a text: another one stands in for them, so that positions are code points.
    everything = "".join(" " if 0xD800 <= code < 0xE000 else chr(code) for code in range(sys.maxunicode + 1))
    spans = [match.span() for match in regex.finditer(f"[{name}]+", everything, regex.IGNORECASE)]
    inside = [(start, end - 1) for start, end in spans if not 0xD800 <= start < 0xE000]
    return "".join(rf"\x{{{start:x}}}-\x{{{end:x}}}" for start, end in inside)


def build_tokenizer(source: Any) -> Tokenizer:
    """The `tokenizers` equivalent of an open_clip tokenizer.

    Args:
        source: what `Backbone.tokenize` calls.

    Raises:
        UserError: it is not CLIP's BPE with open_clip's default cleaning.
    """
    cleaning = getattr(getattr(source, "clean_fn", None), "__name__", None)
    if type(source) is not SimpleTokenizer or cleaning != "_clean_lower" or source.reduction_fn is not None:
        raise UserError(
            f"the backbone's tokenizer ({type(source).__name__}) cannot be put into a bundle; only CLIP's byte-pair "
            "encoding can. Choose a backbone such as ViT-B-16, or nano."
        )
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    tokenizer = Tokenizer(BPE(vocab=source.encoder, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(split_pattern()), behavior="removed", invert=True),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def write_tokenizer(source: Any, path: Path) -> None:
    """Write `build_tokenizer(source)` to `path`."""
    path.write_text(build_tokenizer(source).to_str(), encoding="utf-8")
