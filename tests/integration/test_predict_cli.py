"""`igsp predict`, `verify` and `inspect` as a user meets them."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from igsp_deploy.bundle.manifest import list_files, read_manifest
from igsp_deploy.cli.inspect import describe
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.verify import verify_bundle

if TYPE_CHECKING:
    from tests.conftest import Bundled

Igsp = Callable[..., Any]


def test_every_image_gets_a_line_with_its_task(bundled: "Bundled", igsp: Igsp) -> None:
    color, stripe = bundled.images("colors")[0], bundled.images("stripes")[0]
    result = igsp("predict", bundled.bundle, color, stripe, "--top-k", 1)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{color}: ")
    assert first.endswith("(task colors)")
    assert second.endswith("(task stripes)")
    assert result.stderr == ""


def test_json_of_a_folder(bundled: "Bundled", igsp: Igsp) -> None:
    result = igsp("predict", bundled.bundle, bundled.data / "colors" / "test", "--json", "--task", "none")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert [entry["image"] for entry in found] == [str(path) for path in bundled.images("colors")]
    for entry in found:
        assert entry["zero_shot"] is True
        assert entry["task"] is None
        assert {p["label"] for p in entry["predictions"]} == {"red", "blue", "flat", "steep"}
        assert sum(p["score"] for p in entry["predictions"]) == pytest.approx(1.0)
        assert set(entry["task_scores"]) == {"colors", "stripes"}


def test_a_table_has_a_row_for_every_image_and_says_what_is_unsure(
    bundled: "Bundled", igsp: Igsp, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    images = [*bundled.images("colors")[:2], bundled.images("stripes")[0], tmp_path / "text.jpg"]
    plain = json.loads(igsp("predict", bundled.bundle, *images, "--json").stdout)
    scores = [entry["predictions"][0]["score"] for entry in plain[:3]]
    least = (sorted(scores)[1] + sorted(scores)[2]) / 2
    result = igsp("predict", bundled.bundle, *images, "--csv", "deep/t.csv", "--min-score", least, cwd=tmp_path)
    assert result.returncode == 1
    assert "deep/t.csv: 4 images" in result.stderr
    with (tmp_path / "deep" / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(image) for image in images]
    assert [row["unsure"] for row in rows] == [str(score < least) for score in scores] + [""]
    assert [row["unsure"] for row in rows].count("True") == 2
    for row, entry in zip(rows[:3], plain[:3], strict=True):
        first, second = entry["predictions"][:2]
        assert (row["label"], float(row["score"])) == (first["label"], round(first["score"], 4))
        assert (row["second_label"], float(row["second_score"])) == (second["label"], round(second["score"], 4))
        assert (row["task"], row["zero_shot"], row["error"]) == (entry["task"], "False", "")
    assert "not an image" in rows[3]["error"]
    assert [": unsure, " in line for line in result.stdout.splitlines()] == [score < least for score in scores]
    refused = igsp("predict", bundled.bundle, images[0], "--csv", tmp_path)
    assert refused.returncode == 1
    assert "is a folder" in refused.stderr


def test_prompts_replace_the_classes(bundled: "Bundled", igsp: Igsp) -> None:
    image = bundled.images("colors")[0]
    result = igsp(
        "predict", bundled.bundle, image, "--json", "--prompts", "a cat, a very long dog ,", "--task", "colors"
    )
    predictions = json.loads(result.stdout)[0]["predictions"]
    assert {p["label"] for p in predictions} == {"a cat", "a very long dog"}


def test_bad_images_get_a_line_each_and_the_others_are_classified(
    bundled: "Bundled", igsp: Igsp, tmp_path: Path
) -> None:
    good = bundled.images("colors")[0]
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    Image.new("1", (1, 1)).save(tmp_path / "tiny.png")
    Image.new("L", (50, 20)).save(tmp_path / "gray.png")
    Image.new("RGBA", (20, 50)).save(tmp_path / "rgba.png")
    Image.new("P", (20, 50)).save(tmp_path / "palette.gif")
    names = ["text.jpg", "cut.png", "tiny.png", "gray.png", "rgba.png", "palette.gif", "absent.png"]
    result = igsp("predict", bundled.bundle, good, *names, cwd=tmp_path)
    assert result.returncode == 1
    assert [line.split(": ")[0] for line in result.stdout.splitlines()] == [
        str(good),
        "tiny.png",
        "gray.png",
        "rgba.png",
        "palette.gif",
    ]
    lines = result.stderr.splitlines()
    assert [line.split()[1] for line in lines] == ["text.jpg", "cut.png", "absent.png"]
    assert all(line.startswith("error: ") for line in lines)


def test_json_holds_the_error_of_a_bad_image(bundled: "Bundled", igsp: Igsp, tmp_path: Path) -> None:
    result = igsp("predict", bundled.bundle, tmp_path / "absent.png", "--json")
    assert result.returncode == 1
    assert "does not exist" in json.loads(result.stdout)[0]["error"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--task", "color"], 1, "Did you mean 'colors'?"),
        (["--task", "zebra"], 1, "It knows colors, stripes"),
        (["--prompts", " , "], 1, "at least one text"),
        (["--provider", "tpu"], 2, "auto, cpu, cuda"),
        (["--top-k", "0"], 2, "top-k"),
    ],
)
def test_a_wrong_option_is_said(bundled: "Bundled", igsp: Igsp, arguments: list[str], code: int, message: str) -> None:
    result = igsp("predict", bundled.bundle, bundled.images("colors")[0], *arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_an_empty_folder_is_said(bundled: "Bundled", igsp: Igsp, tmp_path: Path) -> None:
    result = igsp("predict", bundled.bundle, tmp_path)
    assert result.returncode == 1
    assert "holds no image" in result.stderr


BLOCKED = """
import sys
for name in ("torch", "torchvision", "open_clip", "onnx", "onnxscript", "onnx_ir", "regex"):
    sys.modules[name] = None
from igsp_deploy.cli.main import main
sys.argv = ["igsp", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("command", ["predict", "verify", "inspect"])
def test_torch_is_not_needed(bundled: "Bundled", command: str) -> None:
    arguments = [command, str(bundled.bundle)]
    if command == "predict":
        arguments += [str(bundled.images("stripes")[0]), "--prompts", "a cat, a dog"]
    result = subprocess.run([sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.fixture
def copy(bundled: "Bundled", tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "image.fp32.onnx",
        "text.fp32.onnx",
        "classes.safetensors",
        "tokenizer.json",
        "examples/reference.safetensors",
    ],
)
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_bundle_names_file_and_remedy(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(UserError, match=rf"{re.escape(name)}.*igsp export"):
        verify_bundle(copy, "cpu")


def test_a_newer_format_says_upgrade(copy: Path) -> None:
    values = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**values, "format_version": 99}))
    with pytest.raises(UserError, match=r"format 99.*Upgrade igsp-deploy"):
        verify_bundle(copy, "cpu")


def test_a_bundle_that_computes_something_else_does_not_verify(copy: Path, igsp: Igsp) -> None:
    import safetensors.numpy

    path = copy / "examples/reference.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["features"][3, 0] += 0.01
    path.write_bytes(safetensors.numpy.save(tensors))
    manifest = read_manifest(copy)
    dataclasses.replace(manifest, files=list_files(copy)).write(copy)
    result = igsp("verify", copy)
    assert result.returncode == 1
    assert "NO" in result.stdout
    assert "does not compute what it did when it was made (task auto)" in result.stderr


def test_the_reference_of_another_bundle_is_told_as_such(copy: Path) -> None:
    import safetensors.numpy

    path = copy / "examples/reference.safetensors"
    tensors = safetensors.numpy.load_file(path)
    narrow = {name: tensors[name][:, 1:].copy() for name in ("features", "embeddings")}
    path.write_bytes(safetensors.numpy.save(tensors | narrow))
    dataclasses.replace(read_manifest(copy), files=list_files(copy)).write(copy)
    with pytest.raises(UserError, match=r"reference\.safetensors is of another bundle: .* of 23 numbers and 2 tasks"):
        verify_bundle(copy, "cpu")


def test_what_is_no_bundle_is_said_in_one_line(bundled: "Bundled", igsp: Igsp, tmp_path: Path) -> None:
    for path, message in (
        (bundled.model, "is a model folder, not a bundle"),
        (tmp_path, "is not a bundle"),
        (tmp_path / "absent", "does not exist"),
    ):
        result = igsp("verify", path)
        assert result.returncode == 1
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert "igsp export" in result.stderr
        assert result.stderr.count("\n") == 1


def test_inspect_tells_the_same_of_model_and_bundle(bundled: "Bundled", igsp: Igsp) -> None:
    for path, kind in ((bundled.model, "model"), (bundled.bundle, "bundle")):
        found = describe(path)
        assert found["kind"] == kind
        assert [(t["name"], t["experts"], t["experts_new"]) for t in found["tasks"]] == [
            ("colors", 4, 4),
            ("stripes", 8, 4),
        ]
        assert json.loads(json.dumps(found)) == found
    shown = igsp("inspect", bundled.bundle)
    assert shown.returncode == 0, shown.stderr
    assert "colors: blue, red" in shown.stdout


def test_export_prints_its_table_and_gives_the_same_graphs_again(
    bundled: "Bundled", igsp: Igsp, tmp_path: Path
) -> None:
    result = igsp("export", bundled.model, tmp_path / "bundle")
    assert result.returncode == 0, result.stderr
    assert "fp32 against PyTorch" in result.stdout
    assert result.stdout.splitlines()[-1] == str(tmp_path / "bundle")
    first, second = (read_manifest(path).files for path in (bundled.bundle, tmp_path / "bundle"))
    assert {name: file.sha256 for name, file in first.items()} == {name: file.sha256 for name, file in second.items()}
    again = igsp("export", bundled.model, tmp_path / "bundle")
    assert again.returncode == 1
    assert "exists already" in again.stderr


@pytest.mark.parametrize("more", [[], ["--task", "none", "--json"], ["--prompts", "a cat, a dog"]])
def test_an_answer_is_explained_by_a_picture(bundled: "Bundled", igsp: Igsp, tmp_path: Path, more: list[str]) -> None:
    image = bundled.images("colors")[0]
    plain = igsp("predict", bundled.bundle, image, *more)
    result = igsp("predict", bundled.bundle, image, *more, "--explain", tmp_path / "deep" / "parts.png")
    assert result.returncode == 0, result.stderr
    assert result.stdout == plain.stdout
    assert result.stderr.startswith(f"{tmp_path / 'deep' / 'parts.png'}: ")
    with Image.open(tmp_path / "deep" / "parts.png") as drawn:
        assert drawn.size == (448, 448)
        assert result.stderr.strip().endswith(drawn.info["Description"])


@pytest.mark.parametrize(
    ("images", "out", "message"),
    [(2, "parts.png", "is for one image, got 2"), (1, "parts.jpg", "for example parts.png"), (1, "", "writes a PNG")],
)
def test_what_cannot_be_explained_is_said(
    bundled: "Bundled", igsp: Igsp, tmp_path: Path, images: int, out: str, message: str
) -> None:
    result = igsp("predict", bundled.bundle, *bundled.images("colors")[:images], "--explain", tmp_path / out)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
