"""Studies: resumable, told apart by their settings, and counting what `igsp evaluate` counts."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from igsp_deploy.config import DataConfig, LearnConfig, RunConfig, SelectorConfig
from igsp_deploy.data import load_task_data
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.model.folder import ModelFolder
from igsp_train.data.views import TrainViews
from igsp_train.evaluate import evaluate_model
from igsp_train.features import TrunkViews
from igsp_train.research.study import grid
from igsp_train.research.study.convergence import overlap
from igsp_train.research.study.grid import Plan, Study, make_orders
from igsp_train.research.study.method import Setting
from igsp_train.research.study.planted import COLOURS, COUNTS, write_planted
from igsp_train.research.study.pooled import add_to_pool, run_task, scratch_folder
from igsp_train.research.study.presets import merge, read_ablation
from igsp_train.research.study.run import RunKey, claimed
from igsp_train.research.study.table import collect
from igsp_train.research.study.tokens import TrunkTokens, load_tokens
from igsp_train.sequence import train_sequence

QUIET = Console(quiet=True)
ABLATIONS = sorted((Path(__file__).resolve().parents[4] / "train" / "presets" / "ablations").glob("*.yaml"))


def make_plan(setting: Setting, task_data: Path, **changes: object) -> Plan:
    config = RunConfig(model=setting.model, learn=setting.learn)
    plan = Plan(
        settings={"default": config},
        methods=["zero-shot", "igsp"],
        seeds=[0],
        orders=make_orders(["colors", "stripes"], 1),
        sources={name: str(task_data / name) for name in ("colors", "stripes")},
    )
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


def test_a_study_makes_only_the_runs_that_are_missing(
    setting: Setting, task_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(setting, task_data)
    assert Study(tmp_path, plan, console=QUIET).run(max_runs=1) == 1
    assert [key.method for key, _ in Study(tmp_path, plan, console=QUIET).finished()] == ["zero-shot"]
    assert Study(tmp_path, plan, console=QUIET).run() == 0
    first = {path: path.read_bytes() for path in (tmp_path / "runs").glob("*.json")}
    assert len(first) == 2
    monkeypatch.setattr(grid, "measure", lambda *_: pytest.fail("made again"))
    again = Study(tmp_path, plan, console=QUIET)
    assert again.run() == 0
    assert {path: path.read_bytes() for path in (tmp_path / "runs").glob("*.json")} == first
    monkeypatch.undo()
    other = dataclasses.replace(plan.settings["default"], learn=dataclasses.replace(setting.learn, steps=9))
    assert Study(tmp_path, make_plan(setting, task_data, settings={"longer": other}), console=QUIET).run(0) == 2


def test_a_study_does_not_go_on_with_other_images_of_the_same_names_and_sizes(
    setting: Setting, task_data: Path, tmp_path: Path
) -> None:
    for number, label in enumerate(("red", "blue") * 6):
        (tmp_path / "hues" / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / "hues" / label / f"{number}.bmp")
    sources = {"hues": str(tmp_path / "hues"), "stripes": str(task_data / "stripes")}
    plan = make_plan(setting, task_data, methods=["zero-shot"], sources=sources, orders=[tuple(sources)])
    assert Study(tmp_path / "study", plan, console=QUIET).run() == 0
    was = (tmp_path / "hues" / "red" / "4.bmp").read_bytes()
    Image.new("RGB", (40, 40), (0, 200, 0)).save(tmp_path / "hues" / "red" / "4.bmp")
    for ask in (Study.run, Study.finished):
        with pytest.raises(UserError, match="other images of the same names and sizes"):
            ask(Study(tmp_path / "study", plan, console=QUIET))
    (tmp_path / "hues" / "red" / "4.bmp").write_bytes(was)
    assert len(Study(tmp_path / "study", plan, console=QUIET).finished()) == 1


def test_tokens_of_an_older_version_are_read(setting: Setting, task_data: Path, tmp_path: Path) -> None:
    asked = (tmp_path, "colors", str(task_data / "colors"), setting.backbone, setting.first_block, DataConfig(), 1)
    made = load_tokens(*asked)
    for path in tmp_path.glob("*.safetensors"):
        save_file(load_file(path), path)  # it did not say what they were made of
    assert torch.equal(load_tokens(*asked).views, made.views)


def test_a_run_that_dies_leaves_no_file_and_is_made_again(
    setting: Setting, task_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(setting, task_data, methods=["zero-shot"])

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(grid, "measure", die)
    with pytest.raises(KeyboardInterrupt):
        Study(tmp_path, plan, console=QUIET).run()
    assert not list((tmp_path / "runs").glob("*.json"))
    monkeypatch.undo()
    assert Study(tmp_path, plan, console=QUIET).run() == 0
    assert len(list((tmp_path / "runs").glob("*.json"))) == 1


def test_two_processes_do_not_make_the_same_run(setting: Setting, task_data: Path, tmp_path: Path) -> None:
    plan = make_plan(setting, task_data, methods=["zero-shot"])
    study = Study(tmp_path, plan, console=QUIET)
    (key,) = plan.run_keys()
    with ThreadPoolExecutor(1) as other, claimed(study._path(key)) as mine:
        assert mine
        assert other.submit(study.run).result() == 1
        assert not study.finished()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["magic"]}, "no method 'magic'"),
        ({"orders": [("colors", "colors")]}, "every task once"),
        ({"sources": {"colors": "x"}}, "two tasks"),
        ({"settings": {"default": RunConfig(learn=LearnConfig(epochs=3))}}, "leave learn.epochs and data.balance out"),
        ({"settings": {"default": RunConfig(data=DataConfig(balance="classes"))}}, "leave learn.epochs and data"),
    ],
)
def test_a_wrong_plan_is_refused(
    setting: Setting, task_data: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Study(tmp_path, make_plan(setting, task_data, **changes), console=QUIET)


def test_orders_are_permutations_that_stay_the_same() -> None:
    names = ["a", "b", "c", "d"]
    orders = make_orders(names, 3)
    assert orders[0] == tuple(names)
    assert len(set(orders)) == 3
    assert all(sorted(order) == names for order in orders)
    assert orders == make_orders(names, 3)


def test_cached_tokens_are_those_training_computes(
    setting: Setting, task_data: Path, tokens: list[TrunkTokens]
) -> None:
    data = load_task_data("colors", str(task_data / "colors"))
    views = TrainViews(data.train, setting.backbone.preprocess, seed=0)
    trunk = TrunkViews(setting.clip, views, cached_views=2, limit_bytes=1 << 30)
    indices, epochs = np.array([3, 0, 7, 7]), np.array([0, 1, 2, 3])
    # Run up from block 0 in larger batches, so equal up to rounding.
    assert setting.first_block == 1
    torch.testing.assert_close(tokens[0].batch(indices, epochs), trunk.batch(indices, epochs), atol=1e-5, rtol=1e-5)
    assert len(tokens[0].splits["test"][1]) == len(data.test)


def test_damaged_tokens_are_named(setting: Setting, task_data: Path, tmp_path: Path) -> None:
    def load() -> TrunkTokens:
        source = str(task_data / "colors")
        return load_tokens(tmp_path, "colors", source, setting.backbone, setting.first_block, DataConfig(), 2)

    load()
    paths = list(tmp_path.glob("colors-*.safetensors"))
    assert len(paths) == 2, "block 0, and the first adapted one"
    for path in paths:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="Delete it"):
        load()


def test_a_study_counts_what_evaluate_counts(setting: Setting, task_data: Path, tmp_path: Path) -> None:
    config = RunConfig(
        model=setting.model,
        learn=setting.learn,
        selector=SelectorConfig(),
        tasks={name: str(task_data / name) for name in ("colors", "stripes")},
    )
    train_sequence(tmp_path / "model", config, console=QUIET)
    expected = evaluate_model(tmp_path / "model", console=QUIET)
    study = Study(tmp_path / "study", make_plan(setting, task_data, methods=["igsp"]), console=QUIET)
    study.run()
    ((_, run),) = study.finished()
    np.testing.assert_allclose(run["accuracy"]["test"], expected["given"], atol=0.006)
    selector = run["details"][-1]["selector"]
    np.testing.assert_allclose(selector["matrices"]["given"], expected["given"], atol=0.006)
    np.testing.assert_allclose(selector["matrices"]["looks"], expected["auto"], atol=0.006)
    np.testing.assert_allclose(selector["open_last"], expected["open_last"], atol=0.006)
    np.testing.assert_allclose(selector["right_task"], expected["selector_accuracy"], atol=0.006)
    np.testing.assert_allclose(selector["false_alarm"], expected["left_to_plain"], atol=0.006)
    assert run["kept"] == [task["kept"] for task in expected["parameters"]]
    # Words that no learned task has are left to plain CLIP, whatever the image looks like.
    assert selector["matrices"]["vocabulary"][0][1] == pytest.approx(expected["zero_shot"][1], abs=0.006)


@pytest.mark.parametrize("val_share", [0.0, 0.4])
def test_a_study_keeps_of_a_task_what_training_keeps(
    setting: Setting, task_data: Path, tmp_path: Path, val_share: float
) -> None:
    selector, data = SelectorConfig(calibration_images=3), DataConfig(val_share=val_share)
    names = ("colors", "stripes")
    for name in names:
        # As a user goes on who gave the options of the model for its first task only.
        given = selector if name == "colors" else SelectorConfig()
        tasks = {name: str(task_data / name)}
        config = RunConfig(model=setting.model, learn=setting.learn, selector=given, data=data, tasks=tasks)
        train_sequence(tmp_path / "model", config, console=QUIET)
    product = ModelFolder.open(tmp_path / "model")
    setting = dataclasses.replace(setting, selector=selector)
    with scratch_folder(setting) as folder:
        for name in names:
            source = str(task_data / name)
            task = load_tokens(tmp_path, name, source, setting.backbone, setting.first_block, data, 2)
            add_to_pool(setting, folder, task, run_task(setting, folder, task, setting.learn))
        for index in range(2):
            kept, expected = folder.statistics(index), product.statistics(index)
            assert kept.count == expected.count
            assert len(kept.calibration) == 3
            for values in ("means", "scatter", "calibration", "labels", "sizes"):
                torch.testing.assert_close(getattr(kept, values), getattr(expected, values), atol=1e-4, rtol=1e-4)
            record, trained = folder.tasks[index].to_json(), product.tasks[index].to_json()
            for key in ("source", "data", "metrics", "images"):
                del record[key], trained[key]
            assert record == trained


def test_rows_hold_mean_and_spread_over_runs() -> None:
    def run(last: float, kept: int) -> dict[str, object]:
        matrix = [[last, 10.0], [last, last]]
        return {
            "accuracy": {"test": matrix, "val": matrix},
            "order": ["a", "b"],
            **{name: [kept, kept] for name in ("trained_phase1", "trained_phase2", "kept", "seconds")},
            "learn": {"steps": 100},
            "details": [{}, {}],
        }

    keys = [RunKey(label="x", method="igsp", seed=s, order=("a", "b"), config=RunConfig()) for s in (0, 1)]
    (row,) = collect([(keys[0], run(80.0, 100)), (keys[1], run(90.0, 300))])
    assert row["last"] == [85.0, pytest.approx(7.071, abs=1e-3)]
    assert row["transfer"] == [10.0, 0.0]
    assert row["kept"] == [400.0, pytest.approx(282.843, abs=1e-3)]
    assert (row["runs"], row["seeds"], row["orders"]) == (2, 2, 1)
    assert row["looks_last"] is None
    assert row["last_words"] is None, "runs of before"
    told = {"words": {"test": [70.0, 80.0]}}
    (row,) = collect([(keys[0], {**run(80.0, 100), **told})])
    assert row["last_words"] == [75.0, 0.0]


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_preset_is_accepted_and_documented(path: Path) -> None:
    configs = read_ablation(path, [])
    assert len(configs) >= 3
    assert len({json.dumps(dataclasses.asdict(c), sort_keys=True) for c in configs.values()}) == len(configs)
    lines = path.read_text(encoding="utf-8").splitlines()[:3]
    for line, word in zip(lines, ("Purpose:", "Prerequisite:", "Launch: igsp compare "), strict=True):
        assert line.startswith(f"# {word}")
    assert path.name in lines[2]


def test_a_variant_wins_over_the_command_line_and_that_over_the_base(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("base: {learn: {steps: 5, seed: 7}}\nvariants:\n  a: {}\n  b: {learn: {steps: 9}}\n")
    configs = read_ablation(path, ["learn.steps=6"])
    assert [configs[name].learn.steps for name in "ab"] == [6, 9]
    assert configs["b"].learn.seed == 7
    assert merge({"x": {"y": 1}}, {"x": {"z": 2}}) == {"x": {"y": 1, "z": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: {a: {learn: {stepz: 3}}}", "learn.stepz"),
        ("variants: []", "mapping of labels"),
        ("variant: {a: {}}", "variant is not known"),
        ("variants: {a: {tasks: {b: c}}}", "--task"),
    ],
)
def test_a_wrong_preset_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_ablation(path, [])


def test_planted_tasks_are_the_same_pictures_with_other_labels(tmp_path: Path) -> None:
    sources = write_planted(tmp_path)
    assert list(sources) == ["colour", "count", "colour-again"]
    assert sources["colour-again"] == sources["colour"]
    files = {task: sorted(Path(sources[task]).rglob("*.png")) for task in ("colour", "count")}
    by_name = {path.name + path.parts[-3]: path.read_bytes() for path in files["colour"]}
    assert all(path.read_bytes() == by_name[path.name + path.parts[-3]] for path in files["count"])
    assert {path.parent.name for path in files["colour"]} == set(COLOURS)
    assert {path.parent.name for path in files["count"]} == set(COUNTS)
    for path in files["count"][::17]:
        pixels = np.asarray(Image.open(path)).astype(int)
        coloured = (pixels.max(2) - pixels.min(2)) > 60
        assert blobs(coloured) == COUNTS.index(path.parent.name) + 1, path


def blobs(mask: NDArray[np.bool_]) -> int:
    """Connected regions of more than 30 pixels."""
    left, count = mask.copy(), 0
    while left.any():
        y, x = np.argwhere(left)[0]
        stack, size = [(y, x)], 0
        while stack:
            y, x = stack.pop()
            if 0 <= y < left.shape[0] and 0 <= x < left.shape[1] and left[y, x]:
                left[y, x] = False
                size += 1
                stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        count += size > 30
    return count


def test_overlap_is_shared_over_either() -> None:
    one, other = torch.tensor([True, True, False, False]), torch.tensor([False, True, True, False])
    assert overlap(one, other) == pytest.approx(33.3)
    assert overlap(one, one) == 100.0


def test_settings_of_pruning_tell_runs_of_igsp_apart_and_not_those_of_methods_that_do_not_prune() -> None:
    def name(method: str, **changes: object) -> str:
        learn = dataclasses.replace(RunConfig().learn, **changes)  # type: ignore[arg-type]
        config = dataclasses.replace(RunConfig(), learn=learn)
        return RunKey(label="", method=method, seed=0, order=("a", "b"), config=config).file_name({"a": "1", "b": "2"})

    for method in ("igsp", "isolated"):
        assert (name(method) == name(method, prune_rule="random")) == (method == "isolated")
        assert name(method) != name(method, steps=7)
        assert name(method) == name(method, checkpoint_every=7)
        assert name(method).startswith(f"{method}-s0-")
