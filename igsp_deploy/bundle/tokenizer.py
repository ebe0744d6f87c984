"""From texts to token ids without torch or transformers, equal to open_clip's own, cleaning included."""

import html
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import ftfy
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from igsp_deploy.bundle.manifest import BundleTokenizer
from igsp_deploy.errors import UserError

Cleaning = Literal["lower", "whitespace", "canonicalize"]
START = "<start_of_text>"
END = "<end_of_text>"


_PUNCTUATION = str.maketrans({"_": " "} | {mark: None for mark in string.punctuation if mark != "_"})


def clean(text: str, how: Cleaning = "lower") -> str:
    """What open_clip does to a text first.

    Args:
        text: what people wrote.
        how: `whitespace` repairs mojibake and HTML entities and collapses white space; `lower` makes lower case of
            that; `canonicalize` leaves out ASCII punctuation as well, but for `_`, which becomes a space.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if how == "canonicalize":
        text = text.translate(_PUNCTUATION).lower()
    text = " ".join(text.split())
    return text.lower() if how == "lower" else text


def check_distinct(texts: Sequence[str], ids: NDArray[np.int64]) -> None:
    """Refuse texts that are the same to CLIP: after cleaning, or because they differ only beyond its context.

    Args:
        texts: what people wrote.
        ids: their token ids, int64 `[N, L]`.

    Raises:
        UserError: two are the same; names both.
    """
    seen: dict[bytes, str] = {}
    for text, row in zip(texts, np.ascontiguousarray(ids), strict=True):
        key = row.tobytes()
        if (other := seen.get(key)) is not None:
            raise UserError(
                f"CLIP cannot tell {_short(other)} from {_short(text)}: cleaned and cut to {ids.shape[1]} tokens they "
                "are the same. Make them shorter or more different."
            )
        seen[key] = text


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:80]}...{text[-35:]}")


def open_tokenizer(path: Path, context_length: int, about: BundleTokenizer) -> "ClipTokenizer | FastTokenizer":
    """Read a `tokenizer.json`.

    Args:
        path: the file, as `igsp export` writes it.
        context_length: ids a text, at least 3.
        about: what the manifest says of it.

    Raises:
        UserError: missing, damaged or of another kind of tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the package raises plain Exception
        raise UserError(f"{path} cannot be read as a tokenizer ({error}). Export the bundle again.") from error
    if about.kind == "fast":
        cut, padded = tokenizer.truncation or {}, tokenizer.padding or {}
        if cut.get("max_length") != context_length or padded.get("length") != context_length:
            raise UserError(f"{path} does not cut and pad texts to {context_length} tokens. Export the bundle again.")
        return FastTokenizer(tokenizer, context_length, about)
    if tokenizer.token_to_id(START) is None or tokenizer.token_to_id(END) is None:
        raise UserError(f"{path} is not CLIP's tokenizer (it lacks {START} or {END}). Export the bundle again.")
    return ClipTokenizer(tokenizer, context_length, about.clean)


class FastTokenizer:
    """A pipeline of the `tokenizers` package, which adds its own marks, cuts and pads."""

    def __init__(self, tokenizer: Tokenizer, context_length: int, about: BundleTokenizer) -> None:
        """Wrap a tokenizer that cuts and pads to `context_length`; use `open_tokenizer`."""
        self._tokenizer = tokenizer
        self._about = about
        self.context_length = context_length

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Those of `texts` that do not fit into the context and lose a part."""
        return [text for text in texts if self._tokenizer.encode(clean(text, self._about.clean)).overflowing]

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Ids of `texts`, int64 `[N, context_length]`."""
        rows = self._tokenizer.encode_batch([clean(text, self._about.clean) for text in texts])
        ids = np.array([row.ids for row in rows], dtype=np.int64).reshape(len(rows), self.context_length)
        if self._about.zeroed_id is not None:
            ids[ids == self._about.zeroed_id] = 0
        return ids


class ClipTokenizer:
    """CLIP's byte-pair encoding, equal to `open_clip.SimpleTokenizer`."""

    def __init__(self, tokenizer: Tokenizer, context_length: int, cleaning: Cleaning = "lower") -> None:
        """Wrap a tokenizer of the `tokenizers` package; use `open_tokenizer`."""
        self._tokenizer = tokenizer
        self._cleaning: Cleaning = cleaning
        self.context_length = context_length
        self._special: dict[str, int] = {token: tokenizer.token_to_id(token) or 0 for token in (START, END)}

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without start and end and of any length."""
        text = clean(text, self._cleaning)
        if START not in text and END not in text:
            ids: list[int] = self._tokenizer.encode(text).ids
            return ids
        # open_clip knows the two as words, but only where its pattern cuts them out whole: "!<end_of_text>" is not one.
        found: list[int] = []
        for piece, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(text):
            if piece in self._special:
                found.append(self._special[piece])
            else:
                found.extend(token.id for token in self._tokenizer.model.tokenize(piece))
        return found

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Those of `texts` that do not fit into the context and lose their end."""
        return [text for text in texts if len(self.encode(text)) > self.context_length - 2]

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Ids of `texts`, int64 `[N, context_length]`: start, text (cut where too long), end, then zeros."""
        result = np.zeros((len(texts), self.context_length), dtype=np.int64)
        for row, text in zip(result, texts, strict=True):
            ids = [self._special[START], *self.encode(text)[: self.context_length - 2], self._special[END]]
            row[: len(ids)] = ids
        return result
