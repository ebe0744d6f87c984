"""Images from strangers: every format that can be written, damaged ones, bombs."""

import io
import struct
import zlib
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from igsp_deploy.bundle.preprocess import ImageError, PreprocessSpec
from igsp_serve.decode import NOT_SERVED, decode, known_formats

SPEC = PreprocessSpec(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
WRITABLE = [
    "AVIF",
    "BMP",
    "DDS",
    "DIB",
    "GIF",
    "IM",
    "JPEG",
    "JPEG2000",
    "MSP",
    "PCX",
    "PNG",
    "PPM",
    "QOI",
    "SGI",
    "SPIDER",
    "TGA",
    "TIFF",
    "WEBP",
    "XBM",
]
MODES = {"MSP": "1", "XBM": "1", "SPIDER": "F"}


def run(data: bytes, max_pixels: int = 2_000_000) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return decode(data, SPEC, max_pixels=max_pixels, formats=known_formats())


def written(form: str) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    picture.convert(MODES.get(form, "RGB")).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("form", WRITABLE)
def test_every_format_that_pillow_writes_is_read(form: str) -> None:
    assert run(written(form)).shape == (32, 32, 3)


@pytest.mark.parametrize("form", WRITABLE)
def test_damaged_files_are_image_errors_or_images(form: str) -> None:
    data = written(form)
    random = np.random.default_rng(0)
    tried = [data[: len(data) * k // 8] for k in range(8)]
    for _ in range(12):
        changed = bytearray(data)
        for at in random.integers(0, len(data), 1 + len(data) // 200):
            changed[at] = random.integers(0, 256)
        tried.append(bytes(changed))
    refused = 0
    for damaged in tried:
        try:
            assert run(damaged).shape == (32, 32, 3)
        except ImageError:
            refused += 1
    assert refused >= 1


@pytest.mark.parametrize("form", ["EPS", "IPTC", "FITS", "WMF", "ICO", "ICNS", "BLP"])
def test_formats_that_start_programs_or_unpack_without_limit_are_refused(form: str) -> None:
    assert form in NOT_SERVED
    assert form not in known_formats()


def test_an_eps_does_not_reach_ghostscript(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def never(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", never)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "EPS")
    with pytest.raises(ImageError, match="not an image of a known format"):
        run(file.getvalue())


def test_bombs_are_refused_from_their_header() -> None:
    rows = zlib.compress(bytes(10_000), 9)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (12_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="12000 x 12000"):
        run(png)
    scans = written("JPEG")[:-2] + b"\xff\xda\x00\x02" * 600
    with pytest.raises(ImageError, match="scans"):
        run(scans)


@pytest.mark.parametrize("form", ["ICO", "ICNS"])
def test_a_large_picture_does_not_come_in_under_the_header_of_a_small_one(form: str) -> None:
    file = io.BytesIO()
    Image.new("L", (3000, 3000)).save(file, "PNG")
    png = file.getvalue()
    if form == "ICO":
        data = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png
    else:
        data = struct.pack(">4sI4sI", b"icns", len(png) + 16, b"ic07", len(png) + 8) + png
    with (
        patch.object(PngImageFile, "load", side_effect=AssertionError("it was decoded")),
        pytest.raises(ImageError, match="not an image of a known format"),
    ):
        run(data)


def test_pixels_must_be_what_the_model_takes() -> None:
    ready = np.zeros((32, 32, 3), np.uint8)
    assert decode(ready, SPEC, max_pixels=1, formats=()) is ready
    for wrong in (ready[:31], ready.astype(np.float32)):
        with pytest.raises(ImageError, match="pixels must be uint8"):
            decode(wrong, SPEC, max_pixels=1, formats=())  # type: ignore[arg-type]
