"""What is told to strangers names no folder of this machine."""

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from igsp_deploy.bundle.preprocess import ImageError, PreprocessSpec
from igsp_deploy.errors import UserError
from igsp_serve.decode import decode, known_formats
from igsp_serve.failures import without_paths
from igsp_serve.http.problems import failure


@pytest.mark.parametrize("form", ["{} is damaged.", "cannot read '{}'", "({})", "at {}: no", "{}, and {}"])
def test_of_a_path_its_last_name_is_left(form: str, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "image.onnx"
    told = without_paths(form.format(path, path))
    assert told == form.format("image.onnx", "image.onnx")


@pytest.mark.parametrize(
    "text", ["GET /openapi.json lists what there is.", "POST /v1/tasks/{name}", "https://host/tmp/x", "1/2", "a/tmp/b"]
)
def test_what_is_no_path_of_this_machine_stays(text: str) -> None:
    assert without_paths(text) == text


@pytest.mark.parametrize("path", ["/v1/classify", "/v2/models/igsp/infer"])
def test_an_error_of_the_engine_is_answered_without_its_folder(path: str, tmp_path: Path) -> None:
    answer = failure({"type": "http", "path": path}, UserError(f"{tmp_path / 'text.onnx'} is missing."))
    assert b"text.onnx is missing" in answer.body
    assert str(tmp_path.parent).encode() not in answer.body


def test_an_image_that_breaks_its_decoder_is_logged_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("/usr/lib/codec.so failed")

    monkeypatch.setattr("igsp_serve.decode.read_pixels", fail)
    spec = PreprocessSpec(size=32, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode="shortest")
    with caplog.at_level(logging.INFO), pytest.raises(ImageError):
        decode(Image.new("RGB", (40, 40)), spec, max_pixels=10_000, formats=known_formats())
    assert "RuntimeError" in caplog.text
    assert "/usr" not in caplog.text
    assert "Traceback" not in caplog.text
