"""What is made of a finished bundle: what it takes with it, and what stays when it fails."""

import errno
import json
import shutil
from collections.abc import Callable
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


@pytest.mark.parametrize("given", [[], ["--fold", "colors"], ["--web"]])
def test_nothing_is_made_where_a_model_keeps_its_tasks(
    bundled: "Bundled", tmp_path: Path, igsp: Callable[..., Any], given: list[str]
) -> None:
    """It would be taken for a task, and the model for a damaged one."""
    model = Path(shutil.copytree(bundled.model, tmp_path / "model"))
    (tmp_path / "link").symlink_to(model / "tasks")
    inside = tmp_path / "link" / "new"
    places = [tmp_path / "bundle", "--web", inside] if given == ["--web"] else [inside, *given]
    result = igsp("export", model, *places, "--no-latency")
    assert result.returncode == 2
    assert f"{inside} is where {model} keeps its tasks. Choose a folder outside of it." in result.stderr
    assert sorted(path.name for path in (model / "tasks").iterdir()) == ["00-colors", "01-stripes"]
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", ["standalone", "web", "triton"])
def test_a_folder_that_is_there_is_said_before_anything_begins(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name} .* exists already"):
        shapes(**{name: tmp_path}).check(tmp_path / "bundle", ["fp32"])


@pytest.mark.parametrize("given", [{"web": "bundle"}, {"web": "all"}, {"standalone": "web", "triton": "./web"}])
def test_a_folder_where_another_is_to_be_made_is_said_before_anything_begins(
    tmp_path: Path, given: dict[str, str]
) -> None:
    bundle = tmp_path / ("all/bundle" if "all" in given.values() else "bundle")
    places: dict[str, Any] = {name: tmp_path / place for name, place in given.items()}
    with pytest.raises(UsageError, match="is where another folder is to be made"):
        shapes(**places).check(bundle, ["fp32"])
    shapes(web=bundle / "web").check(bundle, ["fp32"])


@pytest.mark.parametrize(
    ("given", "precision", "fitting"),
    [
        ({"web": "web"}, ["fp16"], "--web needs graphs in fp32 or int8, got fp16"),
        ({"triton": "models", "device": "cpu"}, ["fp16", "bf16"], "--triton needs graphs in fp32 or int8"),
        ({"triton": "models", "device": "gpu"}, ["int8"], "--triton needs graphs in fp16 or fp32, got int8"),
    ],
)
def test_graphs_that_a_shape_cannot_be_made_of_are_refused_before_anything_begins(
    bundled: "Bundled",
    igsp: Callable[..., Any],
    tmp_path: Path,
    given: dict[str, str],
    precision: list[str],
    fitting: str,
) -> None:
    places: dict[str, Any] = {name: tmp_path / text if name != "device" else text for name, text in given.items()}
    with pytest.raises(UsageError, match=fitting):
        shapes(**places).check(tmp_path / "bundle", precision)
    shapes(**places).check(tmp_path / "bundle", [*precision, "fp32"])
    done = igsp("export", bundled.model, tmp_path / "bundle", "--precision", "fp16", "--web", tmp_path / "web")
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_not_taken_for_one_of_a_model_whose_selector_was_set_otherwise(
    bundled: "Bundled", igsp: Callable[..., Any], tmp_path: Path
) -> None:
    """docs/formats.md says how to give a model a background."""
    model = Path(shutil.copytree(bundled.model, tmp_path / "model"))
    settings = json.loads((model / "config.json").read_text())
    same = igsp("export", model, bundled.bundle, "--no-latency", "--web", tmp_path / "web")
    assert same.returncode == 0, same.stderr
    for name, value in {"background": 0.1, "shrinkage": 0.3, "false_alarm": 0.5}.items():
        changed = {**settings, "selector": {**settings["selector"], name: value}}
        (model / "config.json").write_text(json.dumps(changed))
        other = igsp("export", model, bundled.bundle, "--no-latency", "--web", tmp_path / "other")
        assert other.returncode == 1
        assert "exists already, with other settings of the selector than asked for" in other.stderr
    assert not (tmp_path / "other").exists()
