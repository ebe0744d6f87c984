"""What is made of a finished bundle: what it takes with it, and what stays when it fails."""

import errno
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from igsp_deploy.errors import UsageError, UserError
from igsp_export.commands.export_options import Shapes, make_shapes
from igsp_export.shapes import write_standalone

if TYPE_CHECKING:
    from tests.conftest import Bundled


def shapes(**given: Any) -> Shapes:
    none: dict[str, Any] = {"standalone": None, "web": None, "triton": None, "device": "cpu", "push": None}
    return Shapes(**{**none, "private": False, **given})


def test_standalone_graphs_come_with_labels_vectors_preprocessing_and_a_readme(
    bundled: "Bundled", tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_standalone(bundled.bundle, out)
    names = {path.name for path in out.iterdir()}
    beside = {"labels.json", "preprocess.json", "README.md", "classes.safetensors", "tokenizer.json"}
    assert names == beside | {"image.fp32.onnx", "text.fp32.onnx"}
    told = json.loads((out / "labels.json").read_text())
    assert told["tasks"] == ["colors", "stripes"]
    assert [entry["label"] for entry in told["labels"]] == ["blue", "red", "flat", "steep"]
    assert json.loads((out / "preprocess.json").read_text())["resize_and_crop_in_graph"] is False
    assert (out / "classes.safetensors").read_bytes() == (bundled.bundle / "classes.safetensors").read_bytes()
    readme = (out / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in names - {"README.md"})
    assert "{" not in readme


@pytest.mark.parametrize("full", ["standalone", "web", "triton"])
def test_a_disk_that_is_full_behind_the_bundle_is_said_with_what_stays(
    bundled: "Bundled", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    order = ["standalone", "web", "triton"]
    wanted = {name: tmp_path / name for name in order}
    made = order[: order.index(full)]

    def stop(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    places = {"standalone": "handout", "web": "web"}
    bundle = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    if full == "triton":
        monkeypatch.setattr("igsp_export.triton.bake", stop)
    else:
        # Only the folder that is being made: what came before it is there.
        right = shutil.copyfile

        def limited(source: Any, target: Any, **options: Any) -> Any:
            return stop() if f".{full}." in str(target) else right(source, target, **options)

        monkeypatch.setattr(f"igsp_export.{places[full]}.shutil.copyfile", limited)
    left = ", ".join(map(str, [bundle, *(wanted[name] for name in made)]))
    without = "".join(f" without --{name}" for name in made)
    with pytest.raises(UserError) as caught:
        make_shapes(bundle, shapes(**wanted))
    assert "No space left on device" in str(caught.value)
    assert f"Whole and left where they are: {left}. Repeat the command{without} to make the rest." in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", *made}


@pytest.mark.parametrize("name", ["standalone", "web", "triton"])
def test_a_folder_that_is_there_is_said_before_anything_begins(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name} .* exists already"):
        shapes(**{name: tmp_path}).check()
