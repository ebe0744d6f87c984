"""Packed bodies: unpacked as they come, in pieces, with every byte of them counted."""

import zlib
from collections.abc import Iterator

from igsp_serve.http.problems import Refused

PIECE = 2**20
"""Bytes unpacked in one go: how long nobody else is served."""
_SLICE = 2**16
"""Packed bytes given to zlib in one go: it copies what it leaves of them."""
MOST_MEMBERS = 1024
"""gzip members of one body. Tools that write several write 64 KiB a member or more."""
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Content encoding -> what zlib calls it."""


class Unpacker:
    """One body that comes packed. gzip may be of several members, which are one body (RFC 1952, 2.2)."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        """Take the value of `Content-Encoding`.

        Args:
            encoding: `gzip`, `x-gzip`, `deflate` (zlib data, RFC 9110) or `identity`.
            max_bytes: bytes of the packed body; the unpacked ones are for the caller to count.

        Raises:
            Refused: another encoding, or several.
        """
        self._encoding = encoding.strip().lower() or "identity"
        if self._encoding != "identity" and self._encoding not in _WINDOWS:
            raise Refused(415, f"the content encoding must be gzip or deflate, once, got {encoding[:40]!r}.")
        self._max_bytes = max_bytes
        self._packed = 0
        self._members = 0
        self._member: zlib._Decompress | None = None

    def feed(self, part: bytes) -> Iterator[bytes]:
        """What a part of the packed body gives, in pieces of at most `PIECE` bytes; those of `identity` as they are.

        Raises:
            Refused: too many packed bytes, not what the encoding says, or something behind the end.
        """
        self._packed += len(part)
        if self._packed > self._max_bytes:
            raise too_large(self._max_bytes)
        if self._encoding == "identity":
            yield part
            return
        for start in range(0, len(part), _SLICE):
            yield from self._unpack(part[start : start + _SLICE])

    def _unpack(self, part: bytes) -> Iterator[bytes]:
        more = True
        while more:
            member = self._begun()
            try:
                piece = member.decompress(part, PIECE)
            except zlib.error as error:
                what = "zlib data (RFC 1950)" if self._encoding == "deflate" else "gzip data"
                raise Refused(
                    400, f"the body is not {what} from its first to its last byte, as its encoding says."
                ) from error
            yield piece
            part = member.unused_data if member.eof else member.unconsumed_tail
            # A full piece may have a rest inside zlib.
            more = bool(part) or (len(piece) == PIECE and not member.eof)

    def finish(self) -> None:
        """The body is over.

        Raises:
            Refused: its packed data is not.
        """
        if self._member is not None and not self._member.eof:
            raise Refused(400, f"the body is not whole {self._encoding} data: it ends too early.")

    def _begun(self) -> "zlib._Decompress":
        """The member that the next bytes belong to."""
        if self._member is not None and not self._member.eof:
            return self._member
        if self._members and self._encoding == "deflate":
            raise Refused(400, "the body has bytes behind the end of its deflate data.")
        if self._members == MOST_MEMBERS:
            raise Refused(400, f"a body may have {MOST_MEMBERS:,} gzip members. Pack it in one.")
        self._members += 1
        self._member = zlib.decompressobj(_WINDOWS[self._encoding])
        return self._member


def stated_length(text: str) -> int | None:
    """The length that a header states; None where it is no number. Zeros in front may be more than Python reads."""
    return int(text.lstrip("0")[:20] or 0) if text.isascii() and text.isdecimal() else None


def too_large(max_bytes: int) -> Refused:
    """A body of more than `max_bytes`."""
    return Refused(413, f"a body may have {max_bytes:,} bytes. Send fewer or smaller images.")
