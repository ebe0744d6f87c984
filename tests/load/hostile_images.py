"""Files that should break a decoder, made anew each time from a fixed seed: damaged, lying and exploding ones."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SEED = 7
MODES = {"BLP": "P", "MSP": "1", "XBM": "1", "SPIDER": "F"}
UNWRITTEN = {"BUFR", "GRIB", "HDF5", "WMF"}
"""Formats pillow writes only with a handler of somebody else's."""
BEGINNINGS = {
    "BUFR": b"BUFR\x00\x00\x10\x04",
    "CUR": b"\x00\x00\x02\x00\x01\x00\x20\x20\x00\x00\x00\x00\x00\x00\x30\x01\x00\x00\x16\x00\x00\x00",
    "DCX": struct.pack("<6I", 0x3ADE68B1, 24, 60, 99, 2**31, 0),
    "FITS": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80),
    "FLI": struct.pack("<IHHHHHHI", 200, 0xAF11, 3, 64, 64, 8, 3, 100).ljust(128, b"\0"),
    "FTEX": struct.pack("<4sIIIIII", b"FTEX", 1, 64, 64, 1, 1, 0),
    "GBR": struct.pack(">5I4sI", 28, 2, 64, 64, 4, b"GIMP", 10),
    "GRIB": b"GRIB\x00\x10\x00\x01",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "IMT": b"*FMT\nwidth 64\nheight 64\npixel n8\n\x0c",
    "IPTC": b"\x1c\x02\x00\x00\x04abcd",
    "MCIDAS": struct.pack(">64i", 0, 4, *([64] * 62)),
    "MPEG": b"\x00\x00\x01\xb3\x04\x00\x40\x00",
    "PCD": bytes(2048) + b"PCD_" + bytes(2000),
    "PIXAR": b"\200\350\000\000".ljust(416, b"\0") + struct.pack("<2H", 64, 64).ljust(608, b"\x01"),
    "PSD": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 64, 64, 8, 3),
    "SUN": struct.pack(">8I", 0x59A66A95, 64, 64, 24, 12288, 2, 0, 0),
    "WMF": b"\xd7\xcd\xc6\x9a\x00\x00" + bytes(40),
    "XPM": b'/* XPM */\nstatic char *a[] = {\n"64 64 2 1",\n". c #FF0000",\n"# c None",\n',
    "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n64 64 255\n",
}
"""How a file of a format that pillow reads and does not write begins."""


def written(form: str, side: int = 48, **options: object) -> bytes:
    """A good file of a format pillow writes."""
    file = io.BytesIO()
    noise = np.random.default_rng(SEED).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(MODES.get(form, "RGB")).save(file, form, **options)
    return file.getvalue()


def read_formats() -> set[str]:
    """All that pillow reads, whether the server takes it or not."""
    Image.init()
    return set(Image.OPEN)


def damaged_images() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of files of every format pillow reads: cut off at several places, and with changed bytes."""
    random = np.random.default_rng(SEED)
    for form in sorted(read_formats()):
        by_pillow = form in Image.SAVE and form not in UNWRITTEN
        data = written(form) if by_pillow else BEGINNINGS[form] + random.bytes(800)
        yield f"{form} beginning", data[:24]
        yield f"{form} half", data[: len(data) // 2]
        yield f"{form} without its end", data[:-7]
        for turn in range(2):
            changed = bytearray(data)
            # Where the header is the most breaks.
            for at in random.integers(0, min(len(data), 200), 8):
                changed[at] = random.integers(0, 256)
            yield f"{form} changed {turn}", bytes(changed)
        yield f"{form} header, then noise", data[: min(len(data), 40)] + random.bytes(2000)


def bombs() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of files of a few KiB that claim, or become, very much more."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    small = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    zeros = zlib.compress(bytes(5_000_000), 9)
    yield "PNG of 2.5 gigapixels", _png((b"IHDR", header), (b"IDAT", zeros), (b"IEND", b""))
    text = (b"zTXt", b"k\0\0" + zeros)
    yield "PNG with a text that unpacks", _png((b"IHDR", small), text, text, (b"IDAT", zeros), (b"IEND", b""))
    yield "PNG with a profile that unpacks", _png((b"IHDR", small), (b"iCCP", b"k\0\0" + zeros), (b"IEND", b""))
    yield "PNG with too much data", _png((b"IHDR", small), (b"IDAT", zeros), (b"IEND", b""))
    yield "PNG with a negative length", b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 2**31 + 5, b"IHDR") + header
    yield "PNG of no width", _png((b"IHDR", struct.pack(">IIBBBBB", 0, 9, 8, 2, 0, 0, 0)), (b"IEND", b""))
    yield (
        "GIF of 4 gigapixels",
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b"," + bytes(99),
    )
    yield "GIF of many frames", _gif_of_frames(4000)
    yield (
        "BMP of 2**31 lines",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, *([0] * 6)),
    )
    yield "TIFF of 2**32 by 2**32", _tiff(width=2**32 - 1, height=2**32 - 1)
    yield "TIFF whose directory is its own next", _tiff(width=16, height=16, following=8)
    yield "TIFF with a strip behind its end", _tiff(width=64, height=64, offset=2**31)
    yield "JPEG of 65500 by 65500", _resized_jpeg(65_500, 65_500)
    yield "JPEG of many scans", _jpeg_of_scans(1500)
    yield (
        "JPEG with an Exif that points outside",
        _jpeg_with_exif(b"II*\0" + struct.pack("<IHHHII", 8, 9, 274, 3, 2**31, 2**31)),
    )
    yield "WEBP of 16383 by 16383", _resized_webp(16_383, 16_383)
    yield "PPM of 10**9 by 10**9", b"P6\n1000000000 1000000000\n255\n" + bytes(100)
    yield "PPM of a width of 4000 digits", b"P6\n" + b"9" * 4000 + b" 1\n255\n"
    yield "PPM that never says its size", b"P6\n" + b"# remark\n" * 3000
    yield "ICO in which nothing is", b"\0\0\1\0\xff\xff" + bytes(16 * 40)
    yield "ICNS of endless blocks", b"icns" + struct.pack(">I", 4000) + (b"ic07" + struct.pack(">I", 8)) * 400
    yield "PSD of 10**6 layers", b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 30_000, 30_000, 8, 3) + b"\x7f" * 400
    yield "QOI of 400 megapixels", b"qoif" + struct.pack(">IIBB", 20_000, 20_000, 4, 0) + b"\xfd" * 2000
    yield "SGI of 65535 by 65535", struct.pack(">hBBHHHH", 474, 1, 1, 3, 65535, 65535, 3) + bytes(600)
    yield (
        "TGA of 65535 by 65535",
        struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 65535, 65535, 24, 0) + b"\xff" * 400,
    )
    yield "DDS of 2**16 by 2**16", b"DDS " + struct.pack("<7I", 124, 0x1007, 65536, 65536, 0, 0, 0) + bytes(200)
    yield (
        "XBM of 10**9 by 10**9",
        b"#define a_width 1000000000\n#define a_height 1000000000\nstatic char a_bits[] = {\n",
    )
    yield "JPEG2000 of 2**31 by 2**31", _jpeg2000(2**31 - 1, 2**31 - 1)
    yield "a strip of 1 by 900000", written_strip()
    yield "EPS that runs a program", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch owned) (w) file\n"
    yield "SVG with an entity", b'<!DOCTYPE s [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>'
    yield "HTML", b"<html><script>alert(1)</script></html>"
    yield "a ZIP in a ZIP", b"PK\x03\x04" + bytes(500)
    yield "PDF", b"%PDF-1.7\n" + bytes(500)
    yield "zeros", bytes(4000)
    yield "one byte", b"\xff"


def written_strip() -> bytes:
    """A picture whose shorter side, made as long as the model's input, makes the longer one millions of pixels."""
    file = io.BytesIO()
    Image.new("L", (1, 900_000)).save(file, "PNG")
    return file.getvalue()


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _gif_of_frames(count: int) -> bytes:
    file = io.BytesIO()
    Image.new("P", (4, 4)).save(file, "GIF")
    data = file.getvalue()
    at = data.index(b",")
    return data[:at] + data[at:-1] * count + b";"


def _tiff(*, width: int, height: int, following: int = 0, offset: int = 200) -> bytes:
    tags = (
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, offset),
        (277, 1),
        (278, height),
        (279, 2**30),
    )
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + struct.pack("<I", following) + bytes(600)


def _resized_jpeg(width: int, height: int) -> bytes:
    data = bytearray(written("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _jpeg_of_scans(count: int) -> bytes:
    data = written("JPEG", 16, progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + b"\xff\xd9"


def _jpeg_with_exif(exif: bytes) -> bytes:
    block = b"Exif\0\0" + exif
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(block) + 2) + block + written("JPEG")[2:]


def _resized_webp(width: int, height: int) -> bytes:
    data = bytearray(written("WEBP"))
    at = data.index(b"\x9d\x01\x2a") + 3
    data[at : at + 4] = struct.pack("<HH", width, height)
    return bytes(data)


def _jpeg2000(width: int, height: int) -> bytes:
    size = struct.pack(">HHIIIIIIIIH", 41, 0, width, height, 0, 0, width, height, 0, 0, 1) + b"\x07\x01\x01"
    return b"\xff\x4f\xff\x51" + size + bytes(300)
