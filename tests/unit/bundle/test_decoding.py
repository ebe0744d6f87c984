"""Images that pillow alone reads wrongly, or differently from path and bytes: right, or refused with the reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from igsp_deploy.bundle import image_formats
from igsp_deploy.bundle.preprocess import ImageError, PreprocessSpec, load_image, read_pixels

PLAIN = PreprocessSpec(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SCALED = PreprocessSpec(size=32, mean=PLAIN.mean, std=PLAIN.std, decoding="scaled")


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _smooth(width: int, height: int) -> Image.Image:
    return _noise(5, 4).resize((width, height), Image.Resampling.BICUBIC)


def _bytes(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _by_path(data: bytes, folder: Path) -> Image.Image:
    (folder / "image").write_bytes(data)
    return load_image(folder / "image")


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_orientation_is_the_same_from_path_and_bytes(
    orientation: int, format: str, options: dict[str, object], tmp_path: Path
) -> None:
    image = _noise(20, 12)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _bytes(image, format, exif=exif, **options)
    expected = TURNED[orientation](np.asarray(image))
    np.testing.assert_array_equal(np.asarray(load_image(data)), expected)
    np.testing.assert_array_equal(np.asarray(_by_path(data, tmp_path)), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "I;16", "1", "RGBA", "P"])
@pytest.mark.parametrize("format", ["TIFF", "PNG", "JPEG", "BMP", "PPM", "WEBP", "GIF", "AVIF", "JPEG2000"])
def test_every_format_gives_the_same_pixels_from_path_and_bytes(mode: str, format: str, tmp_path: Path) -> None:
    deep = Image.fromarray(np.arange(240, dtype=np.uint16).reshape(12, 20) * 257)
    image = deep if mode == "I;16" else _noise(20, 12).convert(mode)
    try:
        data = _bytes(image, format)
    except (OSError, ValueError, KeyError):
        pytest.skip(f"pillow writes no {mode} as {format}")
    np.testing.assert_array_equal(np.asarray(load_image(data)), np.asarray(_by_path(data, tmp_path)))


def _float_tiff(values: np.ndarray) -> bytes:
    return _bytes(Image.fromarray(values.astype(np.float32)), "TIFF")


RAMP = np.linspace(0, 1, 2000).reshape(40, 50)


@pytest.mark.parametrize("scale", [1.0, 255.0, 65535.0])
@pytest.mark.parametrize("odd", [None, 1.0001, 1.3, np.inf, -np.inf, np.nan])
def test_float_images_keep_their_range_whatever_a_single_value_is(scale: float, odd: float | None) -> None:
    values = RAMP * scale
    if odd is not None:
        values[20, 20] = odd * scale
    shown = np.asarray(load_image(_float_tiff(values)))[..., 0].astype(float)
    others = np.ones(RAMP.shape, bool)
    others[20, 20] = odd is None
    assert np.abs(shown - 255 * RAMP)[others].max() <= 1


@pytest.mark.parametrize(
    "values", [RAMP * 2 - 1, RAMP * 4, RAMP * 1e6, np.full((4, 4), np.nan), np.full((4, 4), -np.inf), RAMP * 255 - 128]
)
def test_values_of_a_range_that_cannot_be_told_are_refused_with_the_reason(values: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"cannot be shown in 8 bits: .*(values go from|no finite value)") as caught:
        load_image(_float_tiff(values))
    assert caught.value.kind == "unknown range"


@pytest.mark.parametrize(("most", "expected"), [(255, 255), (65535, 255), (128, 128)])
def test_32_bit_whole_numbers(most: int, expected: int) -> None:
    image = Image.fromarray(np.array([[0, most]] * 3, dtype=np.int32))
    assert np.asarray(load_image(_bytes(image, "TIFF")))[0, 1, 0] == expected


def test_white_may_be_zero_in_deep_images_too() -> None:
    image = Image.fromarray(np.array([[0, 65535]] * 3, dtype=np.uint16))
    shown = np.asarray(load_image(_bytes(image, "TIFF", tiffinfo={262: 0})))[..., 0]
    assert shown[0].tolist() == [255, 0]


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt", "iCCP"])
@pytest.mark.parametrize("size", [10, 1 << 20, 5 << 20])
def test_large_texts_and_profiles_of_a_png_are_no_obstacle(kind: str, size: int, tmp_path: Path) -> None:
    image = _noise(20, 12)
    plain = _bytes(image, "PNG")
    text = b"x" * size
    body = {
        "zTXt": b"k\0\0" + zlib.compress(text),
        "iTXt": b"k\0\1\0\0\0" + zlib.compress(text),
        "tEXt": b"k\0" + text,
        "iCCP": b"p\0\0" + zlib.compress(text),
    }[kind]
    name = kind.encode()
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    data = plain[:33] + chunk + plain[33:]
    np.testing.assert_array_equal(np.asarray(load_image(data)), np.asarray(image))
    np.testing.assert_array_equal(np.asarray(_by_path(data, tmp_path)), np.asarray(image))


def test_a_truncated_png_with_large_texts_is_still_an_error() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("k", "x" * (3 << 20), zip=True)
    data = _bytes(_noise(64, 64), "PNG", pnginfo=info)
    with pytest.raises(ImageError, match="truncated"):
        load_image(data[: len(data) - 3000])


def test_heic_is_read_where_its_package_is_and_named_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = _smooth(64, 48)
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95)
    data = buffer.getvalue()
    assert np.abs(np.asarray(load_image(data)).astype(int) - np.asarray(image)).mean() < 8
    monkeypatch.setattr(image_formats, "register_heif", lambda: False)
    with pytest.raises(ImageError, match=r"pip install .*\[heic\]") as caught:
        load_image(data, formats=("JPEG", "PNG"))
    assert caught.value.kind == "HEIC"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("size", [(1600, 1200), (900, 700), (4000, 300), (127, 127), (129, 400)])
def test_scaled_decoding_never_goes_under_twice_the_input(
    mode: str, options: dict[str, object], size: tuple[int, int], tmp_path: Path
) -> None:
    data = _bytes(_smooth(*size).convert(mode), "JPEG", quality=92, **options)
    whole, scaled = load_image(data), load_image(data, least=64)
    assert whole.size == size
    assert min(scaled.size) >= min(64, *size)
    assert scaled.size == size or min(size) >= 128
    difference = read_pixels(data, PLAIN).astype(int) - read_pixels(data, SCALED)
    assert np.abs(difference).mean() < 3
    (tmp_path / "a.jpg").write_bytes(data)
    np.testing.assert_array_equal(read_pixels(data, SCALED), read_pixels(tmp_path / "a.jpg", SCALED))


@pytest.mark.parametrize("orientation", TURNED)
def test_scaled_decoding_turns_as_plain_decoding_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _bytes(_smooth(640, 400), "JPEG", quality=95, exif=exif)
    assert np.abs(read_pixels(data, PLAIN).astype(int) - read_pixels(data, SCALED)).mean() < 2


def test_a_truncated_photo_is_an_error_when_scaled_too() -> None:
    data = _bytes(_noise(640, 400), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        read_pixels(data[: len(data) // 2], SCALED)
