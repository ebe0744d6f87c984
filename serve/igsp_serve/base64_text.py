"""Files that come as text: base64 as any client writes it."""

import base64
import binascii
import re

_SPACES = re.compile(r"\s+")
_URL_SAFE = str.maketrans("-_", "+/")


def from_base64(text: object) -> bytes:
    """Bytes of a base64 text or a data URL (`data:image/png;base64,...`).

    Line breaks and spaces anywhere, the URL-safe alphabet (`-_` for `+/`) and missing padding are taken.

    Raises:
        ValueError: not a text, or not base64.
    """
    if not isinstance(text, str):
        raise ValueError("base64 must be a text")
    if text[:5].lower() == "data:":
        header, _, text = text.partition(",")
        if not header.rstrip().lower().endswith(";base64"):
            raise ValueError("a data URL must hold base64")
    if not text.isascii():
        raise ValueError("not base64")
    digits = _SPACES.sub("", text).translate(_URL_SAFE)
    bare = digits.rstrip("=")
    if len(bare) % 4 == 1 or len(digits) - len(bare) > 2:
        raise ValueError("not base64")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
