"""A manifest says what is wrong with it, and leads nowhere outside its bundle."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from igsp_deploy.bundle.manifest import (
    BundleBackbone,
    BundleTask,
    ExpertLayout,
    Manifest,
    Variant,
    check_files,
    check_sizes,
    list_files,
    read_manifest,
)
from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.errors import UserError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "examples").mkdir()
    for name in (
        "i.onnx",
        "t.onnx",
        "classes.safetensors",
        "experts.safetensors",
        "selector.safetensors",
        "tokenizer.json",
        "examples/one.png",
    ):
        (tmp_path / name).write_text(name)
    Manifest(
        created_by="test",
        backbone=BundleBackbone(
            name="nano", pretrained=None, weight_hash="0", embed_dim=4, context_length=8, logit_scale=30.0
        ),
        preprocess=PreprocessSpec(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        tasks=(BundleTask(name="a", classes=("x", "y"), display_names=("an x", "a y"), templates=("{}",)),),
        opset=23,
        variants=(Variant(precision="fp32", image="i.onnx", text="t.onnx", providers=("CPUExecutionProvider",)),),
        experts=ExpertLayout(rank=2, vision_blocks=(0,), text_blocks=(), vision_width=4, text_width=4, routed=True),
        files=list_files(tmp_path),
    ).write(tmp_path)
    return tmp_path


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((bundle / "manifest.json").read_text())
    change(values)
    (bundle / "manifest.json").write_text(json.dumps(values))


def test_what_is_written_is_read(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.preprocess.mean == (0.5, 0.5, 0.5)
    assert manifest.task_names() == ["a"]
    assert set(manifest.files) == set(list_files(bundle))
    check_files(bundle, manifest)
    manifest.write(bundle)
    assert read_manifest(bundle) == manifest == dataclasses.replace(manifest)


def test_heads_of_a_bundle_that_does_not_say_are_on_the_summary_itself(bundle: Path) -> None:
    edit(bundle, lambda values: values.update(head_features="fourier"))
    assert read_manifest(bundle).head_width(64) == 128
    edit(bundle, lambda values: values.pop("head_features"))
    assert (read_manifest(bundle).head_features, read_manifest(bundle).head_width(64)) == ("summary", 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("tasks"), "damaged: tasks is missing"),
        (lambda v: v.update(tasks=[]), "tasks must be at least 1 in number, got "),
        (lambda v: v["tasks"][0].update(display_names=["one"]), "display name"),
        (lambda v: v["preprocess"].update(size=0), "preprocess.size must be at least 1, got 0"),
        (lambda v: v["preprocess"].update(mean=[0.5]), "preprocess.mean must be at least 3 in number"),
        (lambda v: v["backbone"].update(logit_scale="big"), "backbone.logit_scale must be a number, got 'big'"),
        (
            lambda v: v["variants"][0].update(image="../../etc/passwd"),
            "variants.0.image must be a file of the bundle, got",
        ),
        (lambda v: v["variants"][0].update(image="other.onnx"), "no checksum for other.onnx"),
        (
            lambda v: v["files"].update({"/etc/passwd": v["files"]["i.onnx"]}),
            "files./etc/passwd must be a file of the bundle",
        ),
        (lambda v: v.update(format_version="1"), "no format_version"),
        (lambda v: v.update(format_version=7), "format 7; this version reads up to 6. Upgrade"),
        (
            lambda v: v.update(format_version=1),
            "format 1, of an earlier version; this one reads formats 2 to 6",
        ),
        (lambda v: v["experts"].update(rank=0), "experts.rank must be at least 1, got 0"),
        (lambda v: v["experts"].update(vision_blocks=[-1]), "experts.vision_blocks.0 must be at least 0, got -1"),
        (lambda v: v["tasks"].append(v["tasks"][0]), "two tasks are called 'a'"),
        (lambda v: v.update(selector_place="embedding"), "by plain CLIP's embedding.* Learn its tasks again"),
        (lambda v: v.update(files=[]), "damaged: files must be a mapping, got "),
        (lambda v: v.update(opset="23", created_by=3), "created_by must be text, got 3; opset must be a whole number"),
        (lambda v: v["tasks"][0].update(name=None), "tasks.0.name must be text, got None"),
        (lambda v: v.update(experts_precision="int4"), "fp32.*fp16.*int4"),
        (lambda v: v["tasks"][0].update(templates=[]), "task 'a' must have templates with one {} each"),
        (lambda v: v["tasks"][0].update(templates=["{}", "a photo"]), "templates with one {} each"),
        (lambda v: v["tasks"][0].update(templates=["{0.real} {}"]), "templates with one {} each"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(
    bundle: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(bundle, change)
    with pytest.raises(UserError, match=message):
        read_manifest(bundle)


def test_a_bundle_that_does_not_say_how_experts_are_stored_holds_them_as_its_graphs_are(bundle: Path) -> None:
    """Bundles made before that was said stay readable."""
    edit(bundle, lambda v: v.pop("experts_precision"))
    assert read_manifest(bundle).experts_precision == "fp32"
    edit(bundle, lambda v: v["variants"][0].update(precision="fp16"))
    assert read_manifest(bundle).experts_precision == "fp16"


def test_a_bundle_that_does_not_say_its_tasks_experts_is_read(bundle: Path) -> None:
    """Bundles made before that was said stay readable."""
    edit(bundle, lambda v: v["tasks"][0].pop("experts_sha256"))
    assert read_manifest(bundle).tasks[0].experts_sha256 == ""


@pytest.mark.parametrize("content", ["", "[]", "{", "null", "\x00"])
def test_what_is_no_manifest_is_refused(bundle: Path, content: str) -> None:
    (bundle / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        read_manifest(bundle)


def test_keys_of_later_versions_are_passed_over(bundle: Path) -> None:
    before = read_manifest(bundle)
    edit(bundle, lambda v: (v.update(more=1), v["variants"][0].update(select=None), v["tasks"][0].update(colour="red")))
    assert read_manifest(bundle) == before


def test_files_are_compared_in_size_and_checksum(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    (bundle / "t.onnx").write_text("T.onnx")
    check_sizes(bundle, manifest)
    with pytest.raises(UserError, match=r"t\.onnx is damaged or was changed"):
        check_files(bundle, manifest)
    (bundle / "t.onnx").write_text("t.on")
    with pytest.raises(UserError, match=r"t\.onnx has 4 bytes instead of 6"):
        check_files(bundle, manifest)
    with pytest.raises(UserError, match=r"t\.onnx has 4 bytes instead of 6"):
        check_sizes(bundle, manifest, ["t.onnx"])
    check_sizes(bundle, manifest, ["i.onnx"])
    (bundle / "t.onnx").unlink()
    with pytest.raises(UserError, match=r"t\.onnx is missing"):
        check_files(bundle, manifest)
