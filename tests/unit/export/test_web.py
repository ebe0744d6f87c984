"""One graph from a picture of any size to the probabilities of all labels."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from PIL import Image

from igsp_deploy.bundle.preprocess import PreprocessSpec, to_uint8
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.classifier import Classifier
from igsp_export import web
from igsp_export.picture_graph import _resized
from igsp_export.web import write_web

if TYPE_CHECKING:
    from tests.unit.export.conftest import Opened

SIZES = [(1, 1), (32, 32), (33, 32), (35, 32), (32, 39), (7, 300), (200, 71), (640, 480), (31, 97), (90, 1)]


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def written(trunk: "Opened", tmp_path_factory: pytest.TempPathFactory) -> tuple["Opened", Path]:
    out = tmp_path_factory.mktemp("web") / "out"
    write_web(trunk.bundle, out)
    return trunk, out


@pytest.mark.parametrize("task", ["auto", "colors", "stripes", "none"])
def test_the_graph_gives_every_label_what_the_classifier_gives(written: tuple["Opened", Path], task: str) -> None:
    opened, out = written
    classifier, run = Classifier(opened.engine), session(out / "model.onnx")
    labels = json.loads((out / "labels.json").read_text())
    index = classifier.task_index(task)
    for pixels in opened.images:
        shares, used, scores, features = run.run(None, {"image": pixels, "task": np.array([index])})
        (told,) = classifier.classify([pixels], task, top_k=100)
        assert (labels["tasks"][used[0]] if used[0] >= 0 else None) == told.task
        expected = dict(zip(zip(told.label_tasks, told.labels, strict=True), told.scores, strict=True))
        for share, entry in zip(shares[0].tolist(), labels["labels"], strict=True):
            assert share == pytest.approx(expected.get((entry["task"], entry["label"]), 0.0), abs=1e-4)
        assert scores.shape == (1, 2)
        assert features.shape == (1, 24)


def test_the_graph_is_valid_and_its_sizes_are_numbers(written: tuple["Opened", Path]) -> None:
    _, out = written
    model = onnx.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output}
    assert shapes == {"probabilities": [1, 4], "used_task": [1], "task_scores": [1, 2], "features": [1, 24]}
    assert [value.name for value in model.graph.input] == ["image", "task"]


@pytest.mark.parametrize("odd", [-3, 2, 100])
def test_a_number_that_names_no_task_gives_no_numbers(written: tuple["Opened", Path], odd: int) -> None:
    opened, out = written
    shares, *_ = session(out / "model.onnx").run(None, {"image": opened.images[0], "task": np.array([odd])})
    assert np.isnan(shares).all()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "mode"), [(32, "shortest"), (224, "shortest"), (32, "longest"), (48, "squash")])
def test_the_graph_shrinks_and_cuts_as_pillow_does(tmp_path: Path, interpolation: Any, size: int, mode: Any) -> None:
    ways = {"interpolation": interpolation, "resize_mode": mode}
    spec = PreprocessSpec(size=size, mean=(0.0,) * 3, std=(1.0,) * 3, **ways)
    picture = ir.val("image", ir.DataType.UINT8, ["height", "width", 3])
    parts = ir.tape.Tape()
    pixels = _resized(parts, picture, spec)
    graph = ir.Graph([picture], [pixels], nodes=parts.nodes, initializers=parts.initializers, opset_imports={"": 18})
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "resize.onnx")
    run, random = session(tmp_path / "resize.onnx"), np.random.default_rng(0)
    differing = total = 0
    for height, width in [*SIZES, *random.integers(1, 400, (30, 2)).tolist()]:
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        if height > width:  # not noise alone
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX, (0, 0, 1, 1)))
        found, expected = run.run(None, {"image": image})[0][0].astype(int), to_uint8(Image.fromarray(image), spec)
        assert np.abs(found - expected).max() <= 2, (height, width)
        differing, total = differing + int((found != expected).sum()), total + expected.size
    assert differing < total / 100


def test_the_labels_name_their_tasks_and_the_preprocessing_says_what_is_left(written: tuple["Opened", Path]) -> None:
    _, out = written
    labels = json.loads((out / "labels.json").read_text())
    assert [(entry["task"], entry["label"]) for entry in labels["labels"]] == [
        ("colors", "blue"),
        ("colors", "red"),
        ("stripes", "flat"),
        ("stripes", "steep"),
    ]
    told = json.loads((out / "preprocess.json").read_text())
    assert (told["size"], told["interpolation"], told["resize_and_crop_in_graph"]) == (32, "bicubic", True)
    assert {path.name for path in out.iterdir()} == {
        "model.onnx",
        "labels.json",
        "preprocess.json",
        "index.html",
        "igsp.mjs",
        "README.md",
    }


def test_a_graph_that_gives_something_else_is_not_written(
    trunk: "Opened", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = web._classes

    def wrong(*arguments: Any) -> Any:
        own, *rest = right(*arguments)
        return own[::-1], *rest

    monkeypatch.setattr(web, "_classes", wrong)
    with pytest.raises(UserError, match=r"does not give what .* gives: probabilities differ by 0\.\d+"):
        write_web(trunk.bundle, tmp_path / "web")
    assert list(tmp_path.iterdir()) == []


def test_what_no_browser_can_load_is_refused(trunk: "Opened", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igsp_export.onnx_file.LARGEST_FILE", 1000)
    with pytest.raises(UserError, match=r"which a browser cannot load.*--precision int8"):
        write_web(trunk.bundle, tmp_path / "web")
    assert list(tmp_path.iterdir()) == []
