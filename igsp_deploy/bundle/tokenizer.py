"""CLIP's byte-pair encoding without torch, equal to `open_clip.SimpleTokenizer`, cleaning included."""

import html
from collections.abc import Sequence
from pathlib import Path

import ftfy
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from igsp_deploy.errors import UserError

START = "<start_of_text>"
END = "<end_of_text>"


def clean(text: str) -> str:
    """What open_clip does to a text first: mojibake and HTML entities repaired, white space collapsed, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


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


class ClipTokenizer:
    """Turns prompts into token ids.

    Example:
        >>> tokenizer = ClipTokenizer.from_file(Path("bundle/tokenizer.json"), context_length=77)
        >>> tokenizer(["a photo of a cat."]).shape
        (1, 77)
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        """Wrap a tokenizer of the `tokenizers` package; use `from_file`."""
        self._tokenizer = tokenizer
        self.context_length = context_length
        self._special: dict[str, int] = {token: tokenizer.token_to_id(token) or 0 for token in (START, END)}

    @classmethod
    def from_file(cls, path: Path, context_length: int) -> "ClipTokenizer":
        """Read a `tokenizer.json`.

        Args:
            path: the file, as `igsp export` writes it.
            context_length: ids a text, at least 3.

        Raises:
            UserError: missing, damaged or of another kind of tokenizer.
        """
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the package raises plain Exception
            raise UserError(f"{path} cannot be read as a tokenizer ({error}). Export the bundle again.") from error
        if tokenizer.token_to_id(START) is None or tokenizer.token_to_id(END) is None:
            raise UserError(f"{path} is not CLIP's tokenizer (it lacks {START} or {END}). Export the bundle again.")
        return cls(tokenizer, context_length)

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without start and end and of any length."""
        text = clean(text)
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
