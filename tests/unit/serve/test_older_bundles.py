"""Bundles of older formats: opened, verified, and mixed with newer ones.

Up to format 5 a reference has the scores of each image once for every task, and graphs square
the selector's means themselves. Up to format 4
graphs gave no summary, and no task had a head. Up to format 3 stacks had defaults, under
which every image got plain CLIP. In format 2 graphs and selector know no background.
"""

import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from igsp_deploy.bundle.manifest import REFERENCE, SELECTOR, list_files, read_manifest
from igsp_deploy.bundle.stacks import SelectorTable, blank_selector, blank_stacks
from igsp_deploy.errors import UserError
from igsp_deploy.files import write_sums
from igsp_deploy.names import AUTO, PLAIN
from igsp_deploy.runtime.engine import Engine, ImageOutput
from igsp_deploy.runtime.verify import verify_bundle
from igsp_export.export import export_bundle
from igsp_export.shapes import write_standalone

if TYPE_CHECKING:
    from tests.conftest import Bundled

Images = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(scope="module")
def modern(bundled: "Bundled", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of today, of a model from before there were a background and heads."""
    root = tmp_path_factory.mktemp("older")
    shutil.copytree(bundled.model, root / "model")
    values = json.loads((root / "model" / "config.json").read_text())
    del values["selector"]["background"]
    task = root / "model" / "tasks" / "01-stripes"
    (task / "head.safetensors").unlink()
    write_sums(task)
    (root / "model" / "config.json").write_text(json.dumps(values))
    export_bundle(root / "model", root / "bundle", console=Console(file=io.StringIO()))
    return root / "bundle"


def _square_inside(model: ir.Model) -> None:
    """The squares of the class means, computed in every call as they were up to format 5."""
    inputs = {value.name: value for value in model.graph.inputs}
    means, given = inputs["selector.means"], inputs["selector.squares"]
    squares = ir.node("Mul", [means, means])
    axis = ir.val("axis", const_value=ir.tensor(np.array([1]), name="axis"))
    model.graph.register_initializer(axis)
    total = ir.node("ReduceSum", [squares.outputs[0], axis], attributes={"keepdims": 0})
    ir.convenience.replace_all_uses_with(given, total.outputs[0])
    model.graph.inputs.remove(given)
    model.graph.insert_before(model.graph[0], [squares, total])


@pytest.fixture(scope="module")
def headless(modern: Path) -> Path:
    """The same bundle as format 4 had it."""
    folder = Path(shutil.copytree(modern, modern.parent / "headless"))
    graph = ir.load(folder / "image.fp32.onnx")
    assert [value.name for value in graph.graph.outputs][3:] == ["summary"]
    del graph.graph.outputs[3:]
    _square_inside(graph)
    ir.save(graph, folder / "image.fp32.onnx")
    table = SelectorTable.read(folder / SELECTOR, 2)
    dataclasses.replace(table, squares=None).write(folder / SELECTOR)
    arrays = load_file(folder / REFERENCE)  # scores stood beside every row
    rows = {name: arrays[name][arrays["image_index"]] for name in ("task_scores", "score_sizes")}
    assert all(len(rows[name]) > len(arrays[name]) for name in rows)
    save_file(arrays | rows, folder / REFERENCE)
    dataclasses.replace(read_manifest(folder), format_version=4, files=list_files(folder)).write(folder)
    return folder


@pytest.fixture(scope="module")
def previous(headless: Path) -> Path:
    """The same bundle as format 3 had it."""
    folder = Path(shutil.copytree(headless, headless.parent / "previous"))
    layout = read_manifest(folder).experts
    selector = blank_selector(len(load_file(folder / SELECTOR)["center"])).stacks()
    del selector["selector.squares"]
    for name, stacks in {
        "image": blank_stacks(layout, "vision") | selector,
        "text": blank_stacks(layout, "text"),
    }.items():
        model = ir.load(folder / f"{name}.fp32.onnx")
        inputs = {value.name: value for value in model.graph.inputs}
        for stack, default in stacks.items():
            inputs[stack].const_value = ir.tensor(default, name=stack)
            model.graph.register_initializer(inputs[stack])
        ir.save(model, folder / f"{name}.fp32.onnx")
    dataclasses.replace(read_manifest(folder), format_version=3, files=list_files(folder)).write(folder)
    return folder


@pytest.fixture(scope="module")
def old(previous: Path) -> Path:
    """The same bundle as format 2 had it."""
    folder = Path(shutil.copytree(previous, previous.parent / "old"))
    graph = ir.load(folder / "image.fp32.onnx")
    kept = [value for value in graph.graph.inputs if value.name != "selector.background"]
    assert len(kept) == len(graph.graph.inputs) - 1
    graph.graph.inputs.clear()
    graph.graph.inputs.extend(kept)
    ir.save(graph, folder / "image.fp32.onnx")
    for file, gone in ((SELECTOR, "background"), (REFERENCE, "score_sizes")):
        arrays = load_file(folder / file)
        del arrays[gone]
        save_file(arrays, folder / file)
    dataclasses.replace(read_manifest(folder), format_version=2, files=list_files(folder)).write(folder)
    return folder


def ask(engine: Engine, images: Images) -> list[ImageOutput]:
    return [engine.run_images(images, np.full(len(images), task)) for task in (AUTO, PLAIN, 0, 1)]


def assert_same(ours: Engine, theirs: Engine, images: Images) -> None:
    for a, b in zip(ask(ours, images), ask(theirs, images), strict=True):
        for name in ("features", "task"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        np.testing.assert_allclose(a.task_scores, b.task_scores, rtol=1e-5)  # squares were summed in another order


@pytest.mark.parametrize(("which", "version"), [("old", 2), ("previous", 3), ("headless", 4)])
def test_a_bundle_of_an_older_format_computes_what_it_did(
    which: str, version: int, modern: Path, images: Images, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(which)
    engine = Engine.open(folder, "cpu", num_threads=1)
    assert engine.manifest.format_version == version
    assert_same(engine, Engine.open(modern, "cpu", num_threads=1), images)
    assert verify_bundle(folder, "cpu")["holds"]


def test_its_tasks_come_and_go(old: Path, modern: Path, bundled: "Bundled", images: Images) -> None:
    engine = Engine.open(old, "cpu", num_threads=1)
    engine.remove_task("stripes")
    engine.add_task(modern, "stripes")  # what an old model exports today
    assert_same(engine, Engine.open(modern, "cpu", num_threads=1), images)
    newer = Engine.open(bundled.bundle, "cpu", num_threads=1)
    newer.replace_tasks(old)
    assert_same(newer, engine, images)


def test_tasks_whose_selector_has_a_background_do_not_enter_it(old: Path, bundled: "Bundled", images: Images) -> None:
    engine = Engine.open(old, "cpu", num_threads=1)
    engine.remove_task("stripes")
    before = engine.tasks
    with pytest.raises(UserError, match="graphs are of a bundle of format 2, which know none"):
        engine.add_task(bundled.bundle, "stripes")
    assert engine.tasks is before


def test_tasks_with_a_head_do_not_enter_graphs_that_give_no_summary(
    headless: Path, bundled: "Bundled", images: Images
) -> None:
    engine = Engine.open(headless, "cpu", num_threads=1)
    before = engine.tasks
    with pytest.raises(UserError, match=r"task 'stripes' has a head, and .* of format 4, whose graphs give nothing to"):
        engine.replace_tasks(bundled.bundle)
    assert engine.tasks is before
    newer = Engine.open(bundled.bundle, "cpu", num_threads=1)
    newer.remove_task("stripes")
    newer.replace_tasks(headless)
    assert newer.tasks.task_set.heads == (None, None)


@pytest.mark.parametrize("which", ["old", "previous", "headless"])
def test_it_can_be_written_with_its_tasks_inside(
    which: str, images: Images, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    old: Path = request.getfixturevalue(which)
    write_standalone(old, tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "image.fp32.onnx", providers=["CPUExecutionProvider"])
    task = np.full(len(images), AUTO)
    _, used, scores, *_ = session.run(None, {"images": images, "task": task})
    expected = Engine.open(old, "cpu", num_threads=1).run_images(images, task)
    np.testing.assert_array_equal(used, expected.task)
    np.testing.assert_allclose(scores, expected.task_scores, atol=1e-2, rtol=1e-4)
