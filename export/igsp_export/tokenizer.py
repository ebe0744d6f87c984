"""Writing `tokenizer.json` from open_clip's tokenizers, so that serving needs no torch, open_clip or transformers."""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import regex
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from igsp_deploy.bundle.manifest import BundleTokenizer
from igsp_deploy.model.tokenizing import describe

_WORDS = ("<start_of_text>", "<end_of_text>", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def split_pattern() -> str:
    """open_clip's pattern, its classes written out as ranges of code points.

    Libraries differ in the version of Unicode they know, so `\\p{L}` here and there would not be the same letters.
    The pattern ignores case, and so does this one: each letter stands beside those that open_clip takes for the same.
    """
    letters, numbers, others = (_ranges(name) for name in (r"\p{L}", r"\p{N}", r"^\s\p{L}\p{N}"))
    words = "|".join("".join(f"[{_ranges(c)}]" if c.isalpha() else c for c in word) for word in _WORDS)
    return f"{words}|[{letters}]+|[{numbers}]|[{others}]+"


@cache
def _everything() -> str:
    # Surrogates are no characters of a text: another one stands in for them, so that positions are code points.
    return "".join(" " if 0xD800 <= code < 0xE000 else chr(code) for code in range(sys.maxunicode + 1))


@cache
def _ranges(name: str) -> str:
    """Code points that open_clip's regular expressions find in a class, as `\\x{..}-\\x{..}` ranges."""
    spans = [match.span() for match in regex.finditer(f"[{name}]+", _everything(), regex.IGNORECASE)]
    inside = [(start, end - 1) for start, end in spans if not 0xD800 <= start < 0xE000]
    return "".join(rf"\x{{{start:x}}}-\x{{{end:x}}}" for start, end in inside)


def build_tokenizer(source: Any) -> tuple[Tokenizer, BundleTokenizer]:
    """The `tokenizers` equivalent of an open_clip tokenizer.

    Args:
        source: what `Backbone.tokenize` calls.

    Returns:
        What goes into `tokenizer.json`, and what the manifest says of it.

    Raises:
        UserError: it has no such equivalent.
    """
    about = describe(source)
    if about.kind == "clip":
        return _byte_pairs(source), about
    inner, length = source.tokenizer, source.context_length
    tokenizer = Tokenizer.from_str(inner.backend_tokenizer.to_str())
    tokenizer.enable_truncation(length, direction=inner.truncation_side)
    tokenizer.enable_padding(
        length=length, direction=inner.padding_side, pad_id=about.pad_id, pad_token=inner.pad_token
    )
    return tokenizer, about


def _byte_pairs(source: Any) -> Tokenizer:
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    tokenizer = Tokenizer(BPE(vocab=source.encoder, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(split_pattern()), behavior="removed", invert=True),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def write_tokenizer(source: Any, path: Path) -> BundleTokenizer:
    """Write `build_tokenizer(source)` to `path`; returns what the manifest says of it."""
    tokenizer, about = build_tokenizer(source)
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    return about
