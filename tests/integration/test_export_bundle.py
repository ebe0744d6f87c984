"""Export: the bundle computes what PyTorch computes, or there is no bundle."""

import dataclasses
import errno
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from igsp_deploy.bundle.manifest import check_files, read_manifest
from igsp_deploy.config import ModelConfig, SelectorConfig
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.files import write_sums
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.runtime.engine import Engine
from igsp_deploy.runtime.verify import require, verify_bundle
from igsp_export import export as export_module
from igsp_export.compact import compact, selector_table
from igsp_export.export import export_bundle

if TYPE_CHECKING:
    from tests.conftest import Bundled

DEBUG = ModelConfig(backbone="debug", rank=2, vision_blocks=2)


def quiet() -> Console:
    return Console(file=io.StringIO())


def worst_feature(parity: dict[str, Any]) -> float:
    parts = [*parity["tasks"].values(), *(parity[name] for name in ("plain", "mixed", "auto", "text"))]
    return max(part["feature_difference"] for part in parts)


def test_graphs_equal_pytorch_on_the_whole_test_sets(bundled: "Bundled") -> None:
    manifest = read_manifest(bundled.bundle)
    parity = manifest.parity["fp32"]
    assert worst_feature(parity) <= 1e-4
    for name in ("colors", "stripes"):
        figures = parity["tasks"][name]
        assert figures["origin"] == "test images"
        assert figures["images"] == 8
        assert figures["top1_differing"] == figures["choices_differing"] == 0
        assert figures["accuracy_onnx"] == figures["accuracy_pytorch"]
    assert parity["auto"]["choices_differing"] == parity["auto"]["ties"] == 0
    assert parity["mixed"]["images"] == 16


def test_the_bundle_is_whole_and_verifies(bundled: "Bundled") -> None:
    manifest = read_manifest(bundled.bundle)
    check_files(bundled.bundle, manifest)
    assert set(manifest.files) == {
        "README.md",
        "classes.safetensors",
        "examples/reference.safetensors",
        "experts.safetensors",
        "image.fp32.onnx",
        "selector.safetensors",
        "text.fp32.onnx",
        "tokenizer.json",
    }
    assert [(task.name, task.experts, task.experts_new) for task in manifest.tasks] == [
        ("colors", 4, 4),
        ("stripes", 8, 4),
    ]
    first, second = (task.size_bytes for task in manifest.tasks)
    # Both bring as many experts; the second has more routers, over the first one's experts too.
    assert first < second < 1.5 * first
    assert first + second <= sum(
        manifest.files[f"{name}.safetensors"].size_bytes for name in ("experts", "classes", "selector")
    )
    report = verify_bundle(bundled.bundle, "cpu")
    assert report["holds"]
    assert len(report["rows"]) == 8


def test_other_users_may_read_the_bundle(bundled: "Bundled") -> None:
    assert all(path.stat().st_mode & 0o044 for path in bundled.bundle.rglob("*"))


def test_the_graph_of_opset_23_holds_attention_nodes(bundled: "Bundled") -> None:
    model = onnx.load(bundled.bundle / "image.fp32.onnx", load_external_data=False)
    assert [node.op_type for node in model.graph.node].count("Attention") == 3
    assert {entry.version for entry in model.opset_import if entry.domain == ""} == {23}


def test_the_card_names_tasks_and_classes(bundled: "Bundled") -> None:
    card = (bundled.bundle / "README.md").read_text()
    assert card.startswith("---\n")
    assert "\nlibrary_name: igsp-deploy\n" in card.split("---")[1]
    assert "| colors | 2 | 4 | 4 | 8 test images |" in card
    assert "red" in card
    assert str(bundled.data) not in card


def test_half_precision_is_close_and_kept_from_the_cpu(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """Here also: all blocks adapted, the router on the mean token, opset 18."""
    config = dataclasses.replace(DEBUG, vision_blocks=0, router_input="mean_token")
    make_model(tmp_path / "model", config, ("colors",))
    bundle = tmp_path / "bundle"
    result = export_bundle(tmp_path / "model", bundle, precision=("fp32", "fp16"), opset=18, console=quiet())
    assert worst_feature(result["parity"]["fp32"]) <= 1e-4
    assert 1e-6 < worst_feature(result["parity"]["fp16"]) <= 1e-2
    assert (bundle / "image.fp16.onnx").stat().st_size < 0.7 * (bundle / "image.fp32.onnx").stat().st_size
    assert verify_bundle(bundle, "cpu")["precision"] == "fp32"
    with pytest.raises(UserError, match="no fp16 graph that may run on CPUExecutionProvider"):
        Engine.open(bundle, "cpu", precision="fp16")


def test_weights_too_large_for_one_file_lie_beside_their_graphs(
    bundled: "Bundled", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igsp_export.onnx_file.LARGEST_FILE", 1000)
    bundle = tmp_path / "bundle"
    export_bundle(bundled.model, bundle, precision=["fp32", "int8"], check_limit=2, console=quiet())
    names = {path.name for path in bundle.iterdir()}
    assert {"image.fp32.onnx.data", "text.fp32.onnx.data"} <= names
    assert {"image.int8.onnx", "text.int8.onnx"} <= names
    manifest = read_manifest(bundle)
    assert {"image.fp32.onnx.data", "text.fp32.onnx.data"} <= set(manifest.files), "they have checksums"
    check_files(bundle, manifest)
    for precision in ("fp32", "int8"):
        require(verify_bundle(bundle, precision=precision))


def test_experts_stored_in_half_precision_are_held_to_what_that_costs(bundled: "Bundled", tmp_path: Path) -> None:
    full = read_manifest(bundled.bundle)
    assert full.experts_precision == "fp32"
    result = export_bundle(bundled.model, tmp_path / "bundle", experts="fp16", console=quiet())
    half = read_manifest(tmp_path / "bundle")
    assert half.experts_precision == "fp16"
    parity = result["parity"]["fp32"]
    assert (full.parity["fp32"]["tolerance"], parity["tolerance"]) == (1e-4, 1e-3)
    assert worst_feature(full.parity["fp32"]) < worst_feature(parity) <= 1e-3
    assert all(figures["top1_differing"] == 0 for figures in parity["tasks"].values())
    assert half.files["experts.safetensors"].size_bytes < 0.75 * full.files["experts.safetensors"].size_bytes
    assert half.tasks[0].size_bytes < full.tasks[0].size_bytes
    assert verify_bundle(tmp_path / "bundle", "cpu")["holds"]
    # An engine takes a task of either, and then computes what the bundle it came from does.
    engine = Engine.open(bundled.bundle, "cpu")
    engine.remove_task("stripes")
    engine.add_task(tmp_path / "bundle", "stripes")
    images = np.zeros((1, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(
        engine.run_images(images, np.array([1])).features,
        Engine.open(tmp_path / "bundle", "cpu").run_images(images, np.array([1])).features,
    )


def test_a_task_whose_images_are_gone_is_checked_on_synthetic_ones(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Here also: experts in the first block, static gates, a plain text tower."""
    config = dataclasses.replace(DEBUG, vision_blocks=0, text_blocks=-1, router_input="static")
    make_model(tmp_path / "model", config, ("colors",))
    record = next((tmp_path / "model/tasks").glob("*/task.json"))
    record.write_text(json.dumps({**json.loads(record.read_text()), "source": str(tmp_path / "gone")}))
    write_sums(record.parent)
    console = quiet()
    result = export_bundle(tmp_path / "model", tmp_path / "bundle", console=console)
    assert worst_feature(result["parity"]["fp32"]) <= 1e-4
    assert verify_bundle(tmp_path / "bundle", "cpu")["holds"]
    assert result["parity"]["fp32"]["tasks"]["colors"]["origin"] == "synthetic images"
    assert "synthetic images" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("precision", "factor", "advice"), [("fp32", 1.01, "Try another --opset"), ("int8", 3.0, "Leave int8 out")]
)
def test_wrong_experts_stop_the_export_and_leave_nothing(
    precision: str, factor: float, advice: str, bundled: "Bundled", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> Any:
        table = compact(*arguments)
        table.up["vision", 1][1] *= factor  # brought by the second task
        return table

    monkeypatch.setattr(export_module, "compact", wrong)
    message = rf"{precision} graph does not give what PyTorch gives for task 'stripes': features differ.* {advice}"
    with pytest.raises(UserError, match=message):
        export_bundle(bundled.model, tmp_path / "bundle", precision=(precision,), console=quiet())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["task.1", "head.1"])
def test_wrong_class_vectors_stop_the_export(
    name: str, bundled: "Bundled", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = export_module._class_vectors

    def wrong(learned: Any) -> Any:
        found = right(learned)
        found[name] = found[name][::-1]
        return found

    monkeypatch.setattr(export_module, "_class_vectors", wrong)
    with pytest.raises(UserError, match="class vectors of task 'stripes' in the bundle differ"):
        export_bundle(bundled.model, tmp_path / "bundle", console=quiet())
    assert list(tmp_path.iterdir()) == []


def test_best_classes_are_compared_for_plain_mixed_and_chosen_tasks(
    bundled: "Bundled", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features may differ in this test; the best class alone must stop the export."""
    from igsp_export import parity

    right = Engine.run_images

    def turned(self: Engine, images: Any, task: Any, **options: Any) -> Any:
        output = right(self, images, task, **options)
        plain = task == -2
        return dataclasses.replace(output, features=np.where(plain[:, None], -output.features, output.features))

    monkeypatch.setattr(Engine, "run_images", turned)
    monkeypatch.setattr(parity, "feature_tolerance", lambda *precisions: 10.0)
    with pytest.raises(UserError, match=r"for plain CLIP: another class is best for \d+ of 16 images"):
        export_bundle(bundled.model, tmp_path / "bundle", console=quiet())


def test_a_wrong_selector_stops_the_export(bundled: "Bundled", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> Any:
        table = selector_table(*arguments)
        return dataclasses.replace(table, thresholds=table.thresholds + np.float32(1e6))

    monkeypatch.setattr(export_module, "selector_table", wrong)
    with pytest.raises(UserError, match="selector scores differ"):
        export_bundle(bundled.model, tmp_path / "bundle", console=quiet())
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said_and_leaves_nothing(bundled: "Bundled", tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    empty = ModelFolder.create(tmp_path / "empty", load_backbone("debug"), DEBUG, SelectorConfig())
    cases: list[tuple[Path, dict[str, Any], type[Exception], str]] = [
        (empty.path, {}, UserError, "no learned task yet"),
        (tmp_path / "absent", {}, UserError, "not a model folder"),
        (bundled.model, {"opset": 7}, UsageError, "opset must be one of 18, 23"),
        (bundled.model, {"precision": ("fp7",)}, UsageError, "fp7"),
        (bundled.model, {"experts": "int4"}, UsageError, "--experts must be one of fp32, fp16, got 'int4'"),
    ]
    for model, options, error, message in cases:
        with pytest.raises(error, match=message):
            export_bundle(model, bundle, console=quiet(), **options)
        assert {path.name for path in tmp_path.iterdir()} == {"empty"}
    with pytest.raises(UserError, match="exists already"):
        export_bundle(bundled.model, bundled.bundle, console=quiet())


def test_a_full_disk_is_said_and_leaves_nothing(
    bundled: "Bundled", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_module, "write_tokenizer", full)
    with pytest.raises(UserError, match="No space left on device"):
        export_bundle(bundled.model, tmp_path / "bundle", console=quiet())
    assert list(tmp_path.iterdir()) == []
