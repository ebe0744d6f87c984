"""Images become the pixels torchvision would make of them, or one clear message."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import EpsImagePlugin, Image
from torchvision import transforms

from igsp_deploy.bundle.preprocess import ImageError, PreprocessSpec, load_image, normalize, to_uint8
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.loading import load_backbone

SPEC = PreprocessSpec(size=32, mean=(0.48, 0.45, 0.40), std=(0.26, 0.26, 0.27))


def noise(width: int, height: int, channels: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "size", [(32, 32), (1, 1), (31, 33), (100, 40), (40, 100), (333, 500), (57, 56), (3, 90), (32, 77)]
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resize_and_crop_equal_torchvision_to_the_bit(size: tuple[int, int], interpolation: str) -> None:
    image = Image.fromarray(noise(*size))
    mode = transforms.InterpolationMode(interpolation)
    reference = transforms.Compose([transforms.Resize(32, mode), transforms.CenterCrop(32)])
    spec = PreprocessSpec(size=32, mean=SPEC.mean, std=SPEC.std, interpolation=interpolation)  # type: ignore[arg-type]
    np.testing.assert_array_equal(to_uint8(image, spec), np.asarray(reference(image)))


OTHERS = [("longest", "bicubic"), ("longest", "bilinear")]
"""What no tag asks for today."""


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (63, 65), (200, 80), (80, 201), (333, 500), (57, 56), (64, 77)])
def test_pixels_are_those_of_open_clip_for_every_way_of_its_tags(size: tuple[int, int]) -> None:
    tags = [open_clip.get_pretrained_cfg(*pair) for pair in open_clip.list_pretrained()]
    ways = {(cfg.get("resize_mode", "shortest"), cfg.get("interpolation", "bicubic")) for cfg in tags}
    assert ways >= {("shortest", "bicubic"), ("squash", "bicubic"), ("squash", "bilinear"), ("shortest", "bilinear")}
    norms = {(tuple(cfg.get("mean", SPEC.mean)), tuple(cfg.get("std", SPEC.std))) for cfg in tags}
    assert len(norms) >= 4
    image = Image.fromarray(noise(*size))
    for mode, interpolation in sorted(ways | set(OTHERS)):
        given: dict[str, Any] = {"interpolation": interpolation, "resize_mode": mode}
        for mean, std in sorted(norms):
            theirs = open_clip.image_transform(64, is_train=False, mean=mean, std=std, **given)
            spec = PreprocessSpec(size=64, mean=mean, std=std, **given)
            pixels = to_uint8(image, spec)
            bare = transforms.Compose([t for t in theirs.transforms if not hasattr(t, "mean")])  # before it normalises
            expected = (bare(image) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
            np.testing.assert_array_equal(pixels, expected, err_msg=f"{mode} {interpolation}")
            np.testing.assert_allclose(normalize(pixels[None], spec)[0], theirs(image).numpy(), atol=1e-6)


def test_a_strip_is_never_resized_to_nothing() -> None:
    spec = PreprocessSpec(size=32, mean=SPEC.mean, std=SPEC.std, resize_mode="longest")
    pixels = to_uint8(Image.new("RGB", (3000, 2), "white"), spec)
    assert (pixels[15] == 255).all()
    assert not pixels[:15].any()
    assert not pixels[16:].any()


def test_normalisation_equals_the_towers() -> None:
    batch = np.stack([noise(32, 32), noise(32, 32) // 2])
    backbone = load_backbone("debug")
    ours = normalize(batch, backbone.preprocess)
    theirs = Clip(backbone, []).pixels(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_orientation_is_applied() -> None:
    pixels = noise(20, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270 degrees to see it upright
    data = encoded(Image.fromarray(pixels), exif=exif)
    image = load_image(data)
    assert image.size == (10, 20)
    np.testing.assert_array_equal(np.asarray(image), np.rot90(pixels, k=-1))


def test_alpha_is_composed_on_white() -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (200, 0, 0, 255)
    image = np.asarray(load_image(encoded(Image.fromarray(rgba))))
    assert image[0, 0].tolist() == [200, 0, 0]
    assert image[3, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "PA", "RGBX"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("L", (5, 7), 255).convert("RGB") if mode == "LAB" else Image.new("RGB", (5, 7), "white")
    source = Image.new("LAB", (5, 7), (255, 128, 128)) if mode == "LAB" else image.convert(mode)
    rgb = load_image(source)
    assert rgb.mode == "RGB"
    assert rgb.size == (5, 7)
    assert np.asarray(rgb).min() >= 254


def test_palette_transparency_is_composed_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    rgb = np.asarray(load_image(encoded(image, transparency=0)))
    assert rgb[0, 0].tolist() == [40, 50, 60]
    assert rgb[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("value", "expected"), [(65535, 255), (32768, 128), (200, 1), (0, 0)])
def test_16_bit_grey_is_scaled_from_the_whole_range(value: int, expected: int) -> None:
    data = encoded(Image.fromarray(np.full((3, 3), value, np.uint16)))
    assert np.asarray(load_image(data)).max() == expected


def test_float_images_in_the_unit_range_are_scaled() -> None:
    data = encoded(Image.fromarray(np.full((3, 3), 0.5, np.float32)), "TIFF")
    assert np.asarray(load_image(data)).max() == 128


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(load_image(buffer.getvalue()))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_truncated_file_is_an_error_that_names_it(format: str, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise(64, 64)), format)
    path = tmp_path / "half.img"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"half\.img"):
        load_image(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "known format"), (b"hello", "known format"), (b"\xff\xd8\xff", "known format")]
)
def test_what_is_no_image_is_an_error(content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(content)


def test_an_eps_under_another_name_does_not_reach_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **_: started.append(given))
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png", "EPS")
    with pytest.raises(ImageError, match="not an image of a known format"):
        load_image(tmp_path / "cat.png")
    assert not started


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        load_image(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="folder"):
        load_image(tmp_path)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises far more pixels than its few bytes hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_huge_image_is_refused_from_its_header(side: int) -> None:
    with pytest.raises(ImageError, match="Scale it down"):
        load_image(bomb(side, side))


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igsp_deploy.bundle.preprocess.MAX_FILE_BYTES", 1 << 20)
    path = tmp_path / "huge.png"
    path.write_bytes(encoded(Image.fromarray(noise(9, 9))))
    assert load_image(path).size == (9, 9)
    with path.open("ab") as file:
        file.truncate(3 << 20)
    with pytest.raises(ImageError, match=r"huge\.png has 3 MiB; at most 1 are read"):
        load_image(path)


def test_the_limit_is_an_option_and_holds_for_opened_images() -> None:
    with pytest.raises(ImageError, match="at most 50 in all"):
        load_image(Image.new("RGB", (10, 10)), max_pixels=50)


def test_a_strip_is_refused_instead_of_filling_the_memory() -> None:
    with pytest.raises(ImageError, match="long and thin"):
        to_uint8(Image.new("RGB", (1, 1_000_000)), SPEC)
