"""`igsp export` in its other shapes, and in int8."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from igsp_deploy.bundle.manifest import check_files, read_manifest
from igsp_deploy.bundle.preprocess import load_image, to_uint8
from igsp_deploy.runtime.classifier import Classifier
from igsp_deploy.runtime.engine import Engine
from igsp_deploy.runtime.providers import CPU
from igsp_deploy.runtime.verify import verify_bundle

if TYPE_CHECKING:
    from tests.conftest import Bundled

Igsp = Callable[..., Any]


@pytest.fixture(scope="module")
def shapes(bundled: "Bundled", igsp: Igsp, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with `bundle`, `standalone` and `triton`, and what the command printed."""
    root = tmp_path_factory.mktemp("shapes")
    options = ["--precision", "fp32", "--precision", "int8", "--onnx-adapter", "--standalone", root / "standalone"]
    triton = ["--triton", root / "triton", "--triton-device", "cpu", "--json"]
    done = igsp("export", bundled.model, root / "bundle", *options, *triton)
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout)


def test_a_bundle_of_two_precisions_and_adapters_is_whole(shapes: tuple[Path, dict[str, Any]]) -> None:
    root, result = shapes
    manifest = read_manifest(root / "bundle")
    check_files(root / "bundle", manifest)
    assert [(v.precision, CPU in v.providers) for v in manifest.variants] == [("fp32", True), ("int8", True)]
    assert {f"adapters/{p}/{g}.onnx_adapter" for p in ("fp32", "int8") for g in ("image", "text")} <= set(
        manifest.files
    )
    assert not any("tmp" in name for name in manifest.files)
    assert result["standalone"]["files"] == [f"{g}.{p}.onnx" for p in ("fp32", "int8") for g in ("image", "text")]
    assert result["triton"]["models"] == ["igsp_image", "igsp_text"]
    names = {m["candidate"] for m in result["latency"]["measurements"]}
    assert {"plain CLIP alone", "one named task", "mixed tasks", "task chosen"} <= names


def test_int8_is_held_against_pytorch_and_taken_only_when_asked_for(
    shapes: tuple[Path, dict[str, Any]], bundled: "Bundled"
) -> None:
    bundle = shapes[0] / "bundle"
    parity = read_manifest(bundle).parity["int8"]
    for name in ("colors", "stripes"):
        figures = parity["tasks"][name]
        assert 1e-4 < figures["feature_difference"] < 5e-2
        assert 0.995 < figures["smallest_cosine"] < 0.999999
        assert figures["choices_differing"] == 0
    assert Engine.open(bundle, "cpu").variant.precision == "fp32"
    engine = Engine.open(bundle, "cpu", precision="int8")
    assert engine.variant.image == "image.int8.onnx"
    labels = [Classifier(engine).classify([path], "auto", top_k=1)[0].task for path in bundled.images("stripes")]
    assert labels == ["stripes"] * 8
    assert verify_bundle(bundle, "cpu", precision="int8")["holds"]


def test_a_standalone_graph_needs_no_stacks(shapes: tuple[Path, dict[str, Any]], bundled: "Bundled") -> None:
    root, _ = shapes
    engine = Engine.open(root / "bundle", "cpu")
    pixels = np.stack([to_uint8(load_image(p), engine.manifest.preprocess) for p in bundled.images("stripes")])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for graph in (root / "standalone/image.fp32.onnx", root / "triton/igsp_image/1/model.onnx"):
        session = onnxruntime.InferenceSession(str(graph), options, providers=[CPU])
        assert not session.get_overridable_initializers()
        task = np.full(len(pixels), -1)
        features, used, *_ = session.run(None, {"images": pixels, "task": task})
        expected = engine.run_images(pixels, task)
        np.testing.assert_allclose(features, expected.features, atol=1e-5)
        np.testing.assert_array_equal(used, expected.task)


def test_one_task_is_folded_from_the_command_line(bundled: "Bundled", igsp: Igsp, tmp_path: Path) -> None:
    done = igsp("export", bundled.model, tmp_path / "one", "--fold", "stripes", "--batch", "2")
    assert done.returncode == 0, done.stderr
    assert "stripes alone, against PyTorch" in done.stdout
    assert done.stdout.splitlines()[-1] == str(tmp_path / "one")
    assert json.loads((tmp_path / "one/labels.json").read_text())["labels"] == ["flat", "steep"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(tmp_path / "one/image.onnx"), options, providers=[CPU])
    assert [value.name for value in session.get_inputs()] == ["images"]
    classifier = Classifier.open(bundled.bundle, "cpu")
    pixels = np.stack([classifier.load(path) for path in bundled.images("stripes")[:2]])
    _, probabilities, *_ = session.run(None, {"images": pixels})
    for row, prediction in zip(probabilities, classifier.classify(list(pixels), "stripes"), strict=True):
        expected = dict(zip(prediction.labels, prediction.scores, strict=True))
        assert row.tolist() == pytest.approx([expected["flat"], expected["steep"]], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--fold", "stripe"], 1, "Did you mean 'stripes'"),
        (["--fold", "auto"], 1, "knows one task and cannot choose"),
        (["--fold", "stripes", "--triton", "t"], 2, "--fold writes one task instead of a bundle: leave --triton away"),
        (["--fold", "stripes", "--precision", "int8"], 2, "a folded graph takes one precision"),
        (["--batch", "1"], 2, "go with --fold"),
        (["--private"], 2, "--private goes with --push"),
        (["--push", "shoes"], 2, "USER/NAME"),
        (["--triton", "t", "--triton-device", "tpu"], 2, "--triton-device must be gpu or cpu"),
        (["--standalone", "."], 2, "--standalone . exists already"),
        (["--precision", "bf16"], 2, "bf16 graphs can be checked against PyTorch on a GPU alone"),
        (["--precision", "bf16", "--opset", 18], 2, "bf16 graphs need opset 23"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_begins(
    bundled: "Bundled", igsp: Igsp, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    done = igsp("export", bundled.model, tmp_path / "out", *options, cwd=tmp_path)
    assert done.returncode == code
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
