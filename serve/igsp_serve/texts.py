"""Texts of a request: their limits, and their room before the text tower."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from igsp_serve.failures import Overloaded, RequestError, TooLarge

MAX_TEXT_LENGTH = 2000
"""Characters of one prompt or text; CLIP reads some 300 of them."""


def check_texts(texts: Sequence[str], what: str, max_texts: int) -> list[str]:
    """Texts without the space around them.

    Args:
        texts: as they came.
        what: what the caller calls them.
        max_texts: most of them.

    Raises:
        RequestError: none with anything in it.
        TooLarge: too many, or too long.
    """
    given = [text.strip() for text in texts if text.strip()]
    if not given:
        raise RequestError(f'{what} must hold at least one text, for example "a photo of a cat".')
    if len(given) > max_texts:
        raise TooLarge(f"{what} may hold {max_texts} texts, got {len(given)}. Send several requests.")
    longest = max(len(text) for text in given)
    if longest > MAX_TEXT_LENGTH:
        raise TooLarge(f"a text may have {MAX_TEXT_LENGTH} characters, got {longest}. Shorten it.")
    return given


class TextRoom:
    """Room for texts before the text tower: as many as images before the image tower."""

    def __init__(self, most: int, retry_after_s: Callable[[], float]) -> None:
        """Nobody is waiting.

        Args:
            most: texts of all requests together; those of one alone are always taken.
            retry_after_s: when to come back.
        """
        self._most = most
        self._retry_after_s = retry_after_s
        self._lock = threading.Lock()
        self._waiting = 0

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Hold room for `count` texts.

        Raises:
            Overloaded: there is none.
        """
        with self._lock:
            if self._waiting and self._waiting + count > self._most:
                raise Overloaded(self._retry_after_s())
            self._waiting += count
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= count
