"""What pillow needs help with: HEIC, PNG files with large texts, and formats that it should leave alone."""

import importlib
from functools import cache

UNSAFE_FORMATS = frozenset({"EPS", "IPTC", "FITS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
"""Formats that are never decoded, whatever the file is called: EPS starts Ghostscript, IPTC may hold an EPS, FITS
unpacks gzip without a limit, and the others have no decoder of their own in pillow."""
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PNG = b"\x89PNG\r\n\x1a\n"
_NOT_PIXELS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Chunks of a PNG that no pixel depends on: texts, and the colour profile, which is not applied."""


@cache
def register_heif() -> bool:
    """Teach pillow HEIC where the extra `heic` is installed; returns whether it is."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
    except ImportError:
        return False
    return True


def is_heif(data: bytes) -> bool:
    """Whether a file says that it is HEIC or HEIF."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def without_texts(data: bytes) -> bytes:
    """A PNG without its texts and colour profile, which pillow refuses to unpack where they are large."""
    if not data.startswith(_PNG):
        return data
    kept, place = [_PNG], len(_PNG)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] not in _NOT_PIXELS:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)
