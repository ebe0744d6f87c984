"""Tasks that come and go while the engine runs."""

import dataclasses
import itertools
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from igsp_deploy.bundle.experts import ExpertTable
from igsp_deploy.bundle.manifest import EXPERTS, list_files, read_manifest
from igsp_deploy.errors import UserError
from igsp_deploy.names import AUTO, PLAIN
from igsp_deploy.runtime.classifier import Classifier
from igsp_deploy.runtime.engine import Engine, LoadedTasks
from igsp_deploy.runtime.fixed_batches import FixedBatches
from igsp_deploy.runtime.graph import SessionSettings, provider_list
from igsp_deploy.runtime.providers import CPU, CUDA, TENSORRT
from tests.unit.conftest import DEBUG, Export

if TYPE_CHECKING:
    from tests.conftest import Bundled

Images = np.ndarray[Any, np.dtype[np.uint8]]
COLORS, STRIPES = 0, 1


@pytest.fixture
def engine(first_only: Path) -> Engine:
    return Engine.open(first_only, "cpu", num_threads=1)


@pytest.fixture(scope="module")
def both(bundled: "Bundled") -> Engine:
    return Engine.open(bundled.bundle, "cpu", num_threads=1)


def ask(engine: Engine, images: Images, task: int) -> Any:
    return engine.run_images(images, np.full(len(images), task))


def assert_same(ours: Engine, theirs: Engine, images: Images) -> None:
    for task in (AUTO, PLAIN, *range(len(theirs.tasks.task_set.entries))):
        a, b = ask(ours, images, task), ask(theirs, images, task)
        for name in ("features", "task", "task_scores"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    ids = np.ones((2, 24), np.int64)
    texts = np.arange(2) % len(theirs.tasks.task_set.entries)
    np.testing.assert_array_equal(ours.embed_text(ids, texts), theirs.embed_text(ids, texts))


def test_the_graphs_of_a_model_do_not_change_with_its_tasks(first_only: Path, bundled: "Bundled") -> None:
    before, after = read_manifest(first_only), read_manifest(bundled.bundle)
    for name in ("image.fp32.onnx", "text.fp32.onnx"):
        assert before.files[name] == after.files[name]
    assert before.tasks[0].fingerprint == after.tasks[0].fingerprint != after.tasks[1].fingerprint


def test_a_task_added_while_running_is_as_if_it_had_been_there(
    engine: Engine, both: Engine, bundled: "Bundled", images: Images
) -> None:
    engine.embed_text(np.ones((1, 24), np.int64), np.array([0]))  # its text graph is loaded already
    before = ask(engine, images, AUTO)
    engine.add_task(bundled.bundle, "stripes")
    assert engine.tasks.task_set.names() == ["colors", "stripes"]
    assert_same(engine, both, images)
    assert (before.task[8:] != 1).all()
    assert (ask(engine, images, AUTO).task[8:] == 1).all()


def copied(bundle: Path, to: Path, **task: str) -> Path:
    """A copy of a bundle whose manifest says `task` of every task."""
    copy = Path(shutil.copytree(bundle, to))
    manifest = read_manifest(copy)
    tasks = tuple(dataclasses.replace(each, **task) for each in manifest.tasks)  # type: ignore[arg-type]
    dataclasses.replace(manifest, tasks=tasks, files=list_files(copy)).write(copy)
    return copy


def rounded(bundle: Path, to: Path) -> Path:
    """A copy with experts of half precision, as `igsp export --experts fp16` stores them."""
    copy = Path(shutil.copytree(bundle, to))
    manifest = read_manifest(copy)
    ExpertTable.read(copy / EXPERTS, manifest.experts, len(manifest.tasks)).write(copy / EXPERTS, np.float16)
    table = ExpertTable.read(copy / EXPERTS, manifest.experts, len(manifest.tasks))
    tasks = tuple(dataclasses.replace(task, experts_sha256=table.sha256(t)) for t, task in enumerate(manifest.tasks))
    dataclasses.replace(manifest, tasks=tasks, files=list_files(copy), experts_precision="fp16").write(copy)
    return copy


@pytest.fixture
def whole_tables(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files whose experts were all read, in order."""
    seen: list[Path] = []
    right = ExpertTable.read

    def counted(path: Path, layout: Any, num_tasks: int) -> ExpertTable:
        seen.append(path)
        return right(path, layout, num_tasks)

    monkeypatch.setattr(ExpertTable, "read", counted)
    return seen


def test_of_the_experts_only_the_new_tasks_are_read(
    bundled: "Bundled", both: Engine, images: Images, whole_tables: list[Path], tmp_path: Path
) -> None:
    """So another task's may even be damaged in the file: what is used is what was read, and checked, before."""
    other = copied(bundled.bundle, tmp_path / "other")
    tensors = load_file(other / EXPERTS)
    gone = [name for name in tensors if name.startswith("task.0.") and not name.endswith(".experts")]
    save_file({name: value * 0 if name in gone else value for name, value in tensors.items()}, other / EXPERTS)
    engine = Engine.open(bundled.bundle, "cpu", num_threads=1)
    engine.remove_task("stripes")
    opened = list(whole_tables)
    arrays = engine.tasks.task_set.image
    engine.add_task(other, "stripes")
    assert whole_tables == opened
    assert all(np.shares_memory(arrays[name], stack) for name, stack in engine.tasks.task_set.image.items())
    assert_same(engine, both, images)


def test_a_task_is_added_from_a_bundle_of_an_earlier_version(
    first_only: Path, bundled: "Bundled", both: Engine, images: Images, whole_tables: list[Path], tmp_path: Path
) -> None:
    old = [copied(bundle, tmp_path / bundle.parent.name, experts_sha256="") for bundle in (first_only, bundled.bundle)]
    for opened, added in ((old[0], old[1]), (first_only, old[1]), (old[0], bundled.bundle)):
        engine = Engine.open(opened, "cpu", num_threads=1)
        engine.add_task(added, "stripes")
        assert whole_tables[-2:] == [opened / EXPERTS, added / EXPERTS]
        assert_same(engine, both, images)


def test_experts_with_other_digits_are_all_taken_from_the_new_bundle(
    first_only: Path, bundled: "Bundled", both: Engine, images: Images, tmp_path: Path
) -> None:
    half = rounded(bundled.bundle, tmp_path / "half")
    engine = Engine.open(first_only, "cpu", num_threads=1)
    engine.add_task(half, "stripes")
    assert_same(engine, Engine.open(half, "cpu", num_threads=1), images)
    assert (ask(engine, images, COLORS).features != ask(both, images, COLORS).features).any()


def test_what_was_opened_unchecked_is_not_kept(
    first_only: Path, bundled: "Bundled", both: Engine, images: Images, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(first_only, tmp_path / "damaged"))
    content = bytearray((damaged / EXPERTS).read_bytes())
    content[-1] ^= 0x7F
    (damaged / EXPERTS).write_bytes(content)
    engine = Engine.open(damaged, "cpu", num_threads=1, check=False)
    engine.add_task(bundled.bundle, "stripes")
    assert_same(engine, both, images)


def test_tasks_may_come_and_go_for_long(bundled: "Bundled", images: Images, whole_tables: list[Path]) -> None:
    """Also in fixed batches, and while older sets of tasks are still in use."""
    for bundle, sizes in ((bundled.bundle, ()), (bundled.bundle, (16, 2))):
        fresh, engine = (Engine.open(bundle, "cpu", num_threads=1, batch_sizes=sizes) for _ in range(2))
        opened = len(whole_tables)
        earlier: list[LoadedTasks] = []
        for count in range(20):
            name = ("stripes", "colors")[count % 2]
            held, before = engine.tasks, ask(engine, images, AUTO)
            engine.remove_task(name)
            engine.add_task(bundle, name)
            assert engine.tasks.task_set.names() == ["colors", "stripes"]
            earlier = [*earlier[-3:], held] if count < 15 else []
            if count % 5 == 0:
                assert_same(engine, fresh, images)
                after = engine.run_images(images, np.full(16, AUTO), tasks=held)
                for part in ("features", "task", "task_scores"):
                    np.testing.assert_array_equal(getattr(before, part), getattr(after, part))
        assert_same(engine, fresh, images)
        assert engine.tasks.task_set.image_slots.slots != (0, 1)
        assert len(whole_tables) == opened


def test_a_removed_task_is_not_chosen_and_the_others_stay_as_they_are(bundled: "Bundled", images: Images) -> None:
    engine = Engine.open(bundled.bundle, "cpu", num_threads=1)
    named = ask(engine, images, STRIPES).features
    held = engine.tasks
    engine.remove_task("colors")
    assert engine.tasks.task_set.names() == ["stripes"]
    np.testing.assert_array_equal(ask(engine, images, 0).features, named)
    auto = ask(engine, images, AUTO)
    assert set(auto.task.tolist()) <= {0, PLAIN}
    assert (auto.task[8:] == 0).all()
    assert auto.task_scores.shape == (16, 1)
    # Whoever began before goes on with the tasks of then.
    old = engine.run_images(images, np.full(16, STRIPES), tasks=held)
    np.testing.assert_array_equal(old.features, named)
    engine.add_task(bundled.bundle, "colors")
    assert engine.tasks.task_set.names() == ["colors", "stripes"]
    np.testing.assert_array_equal(ask(engine, images, STRIPES).features, named)


def test_all_tasks_can_be_replaced_at_once(engine: Engine, both: Engine, bundled: "Bundled", images: Images) -> None:
    engine.replace_tasks(bundled.bundle)
    assert_same(engine, both, images)


def test_labels_follow_the_tasks(engine: Engine, bundled: "Bundled", images: Images) -> None:
    classifier = Classifier(engine)
    assert len(classifier.classify([images[0]], "none", top_k=9)[0].labels) == 2
    with pytest.raises(UserError, match="no task 'stripes'"):
        classifier.classify([images[8]], "stripes")
    engine.add_task(bundled.bundle, "stripes")
    assert {*classifier.classify([images[8]], "auto")[0].labels} == {"flat", "steep"}
    assert len(classifier.classify([images[0]], "none", top_k=9)[0].labels) == 4
    engine.remove_task("colors")
    assert {*classifier.classify([images[8]], "none", top_k=9)[0].labels} == {"flat", "steep"}


def test_others_classify_while_tasks_come_and_go(engine: Engine, bundled: "Bundled", images: Images) -> None:
    classifier, stop, problems, answers = Classifier(engine), threading.Event(), [], []

    def work() -> None:
        try:
            while not stop.is_set():
                for prediction in classifier.classify(list(images[:4]) + list(images[8:12]), "auto", top_k=1):
                    answers.append(prediction.task)
                    assert prediction.task is None or prediction.task in prediction.task_scores
                    assert prediction.label_tasks[0] == prediction.task or prediction.zero_shot
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + 120
    try:
        for turn in itertools.count():
            engine.add_task(bundled.bundle, "stripes")
            engine.remove_task("stripes")
            if turn >= 5 and ("colors" in answers or problems or time.monotonic() > give_up):
                break
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not problems
    assert "colors" in answers


def test_each_answer_meanwhile_is_of_the_tasks_before_or_after(bundled: "Bundled", images: Images) -> None:
    engine, one, two = (Engine.open(bundled.bundle, "cpu", num_threads=1) for _ in range(3))
    for each in (engine, one):
        each.remove_task("stripes")
    mixed = np.array([AUTO, COLORS, PLAIN, AUTO] * 4)
    right = [each.run_images(images, mixed) for each in (one, two)]
    stop, wrong, seen = threading.Event(), [], {0: 0, 1: 0}

    def work() -> None:
        while not stop.is_set():
            got = engine.run_images(images, mixed)
            of = right[got.task_scores.shape[1] - 1]
            same = np.array_equal(got.task, of.task) and np.allclose(got.task_scores, of.task_scores, atol=1e-4)
            if not same or not np.allclose(got.features, of.features, atol=1e-5):
                wrong.append(got)
            seen[got.task_scores.shape[1] - 1] += 1

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for count in range(20):
            which = 1 - count % 2
            before = seen[which]
            if which:
                engine.add_task(bundled.bundle, "stripes")
            else:
                engine.remove_task("stripes")
            give_up = time.monotonic() + 120
            while seen[which] == before and time.monotonic() < give_up:
                time.sleep(0.001)
            assert seen[which] > before
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.fixture(scope="module")
def other_rank(exported: Export) -> Path:
    return exported(dataclasses.replace(DEBUG, rank=1, text_blocks=-1), ("stripes",))


def test_what_does_not_fit_is_refused_and_changes_nothing(
    engine: Engine, first_only: Path, bundled: "Bundled", other_rank: Path, tmp_path: Path, images: Images
) -> None:
    foreign = Path(shutil.copytree(bundled.bundle, tmp_path / "foreign"))
    manifest = read_manifest(foreign)
    stranger = dataclasses.replace(manifest.tasks[0], fingerprint="0" * 64)
    dataclasses.replace(manifest, tasks=(stranger, manifest.tasks[1])).write(foreign)
    damaged = Path(shutil.copytree(bundled.bundle, tmp_path / "damaged"))
    (damaged / "experts.safetensors").write_bytes((damaged / "experts.safetensors").read_bytes()[:-1])
    changed = Path(shutil.copytree(bundled.bundle, tmp_path / "changed"))
    content = bytearray((changed / "experts.safetensors").read_bytes())
    content[-1] ^= 1
    (changed / "experts.safetensors").write_bytes(content)
    backbone = Path(shutil.copytree(bundled.bundle, tmp_path / "backbone"))
    other = dataclasses.replace(read_manifest(backbone).backbone, weight_hash="0" * 64)
    dataclasses.replace(read_manifest(backbone), backbone=other).write(backbone)
    bare = Path(shutil.copytree(bundled.bundle, tmp_path / "bare"))
    dataclasses.replace(read_manifest(bare), head_features="summary").write(bare)
    absent = Path(shutil.copytree(bundled.bundle, tmp_path / "absent"))
    (absent / "selector.safetensors").unlink()
    swapped = Path(shutil.copytree(bundled.bundle, tmp_path / "swapped"))
    tensors = load_file(swapped / EXPERTS)
    first, second = sorted(name for name in tensors if name.endswith(".up") and name.startswith("vision."))
    save_file(tensors | {first: tensors[second], second: tensors[first]}, swapped / EXPERTS)
    newer = Path(shutil.copytree(bundled.bundle, tmp_path / "newer"))
    dataclasses.replace(read_manifest(newer), format_version=99).write(newer)
    before = engine.tasks
    cases = [
        (bundled.bundle, "colors", "already has a task 'colors'"),
        (bundled.bundle, "stripe", "Did you mean 'stripes'"),
        (foreign, "stripes", "it lacks colors as it is here"),
        (other_rank, "stripes", "another rank or adapted blocks"),
        (damaged, "stripes", r"experts\.safetensors has .* it is incomplete"),
        (changed, "stripes", r"experts\.safetensors is damaged or was changed"),
        (swapped, "stripes", r"experts\.safetensors is damaged or was changed .* what task 'stripes' uses"),
        (backbone, "stripes", "another backbone"),
        (bare, "stripes", "another kind of head features"),
        (absent, "stripes", r"selector\.safetensors is missing"),
        (newer, "stripes", "format 99; this version reads up to 6"),
        (tmp_path / "nowhere", "stripes", "does not exist"),
    ]
    for bundle, name, message in cases:
        with pytest.raises(UserError, match=message):
            engine.add_task(bundle, name)
    with pytest.raises(UserError, match="'colors' is the only task"):
        engine.remove_task("colors")
    with pytest.raises(UserError, match="no task 'stripes'"):
        engine.remove_task("stripes")
    with pytest.raises(UserError, match="another rank"):
        engine.replace_tasks(other_rank)
    assert engine.tasks is before
    assert_same(engine, Engine.open(first_only, "cpu", num_threads=1), images)


def test_more_tasks_than_allowed_are_refused(first_only: Path, bundled: "Bundled") -> None:
    with pytest.raises(UserError, match="2 tasks are more than the 1"):
        Engine.open(bundled.bundle, "cpu", max_tasks=1)
    engine = Engine.open(first_only, "cpu", max_tasks=1)
    with pytest.raises(UserError, match="2 tasks are more than the 1"):
        engine.add_task(bundled.bundle, "stripes")
    assert engine.tasks.task_set.names() == ["colors"]


def test_a_graph_for_stacks_of_another_rank_is_refused(bundled: "Bundled", other_rank: Path, tmp_path: Path) -> None:
    """Checksums and manifest are right: someone has made them anew around the wrong graph."""
    for bundle, graph_of, taken in ((bundled.bundle, other_rank, "experts_1"), (other_rank, bundled.bundle, r"2\*")):
        copy = Path(shutil.copytree(bundle, tmp_path / bundle.parent.name / "bundle"))
        shutil.copyfile(graph_of / "image.fp32.onnx", copy / "image.fp32.onnx")
        dataclasses.replace(read_manifest(copy), files=list_files(copy)).write(copy)
        with pytest.raises(UserError, match=rf"stacks of another rank or width .* is \[{taken}.* a task"):
            Engine.open(copy, "cpu")


@pytest.mark.parametrize("name", ["image.fp32.onnx", "experts.safetensors", "tokenizer.json"])
def test_a_file_of_the_right_size_with_a_changed_byte_is_refused(bundled: "Bundled", tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is damaged or was changed \(its SHA-256"):
        Engine.open(copy, "cpu")


@pytest.mark.parametrize("name", ["image.fp32.onnx", "text.fp32.onnx", "classes.safetensors", "README.md"])
def test_a_missing_file_is_named(bundled: "Bundled", tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    (copy / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing\. Copy the bundle again"):
        Engine.open(copy, "cpu")


def test_a_newer_format_is_refused(bundled: "Bundled", tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    dataclasses.replace(read_manifest(copy), format_version=99).write(copy)
    with pytest.raises(UserError, match=r"format 99; this version reads up to 6\. Upgrade"):
        Engine.open(copy, "cpu")


def test_experts_that_do_not_fit_the_graph_are_refused(bundled: "Bundled", tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    manifest = read_manifest(copy)
    narrow = dataclasses.replace(manifest.experts, vision_blocks=manifest.experts.vision_blocks[1:])
    dataclasses.replace(manifest, experts=narrow, files=list_files(copy)).write(copy)
    with pytest.raises(UserError, match="of different models"):
        Engine.open(copy, "cpu")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
def test_fixed_batches_give_the_same_rows(bundled: "Bundled", images: Images, count: int) -> None:
    for bundle in (bundled.bundle,):
        free, fixed = Engine.open(bundle, "cpu"), Engine.open(bundle, "cpu", batch_sizes=(4, 1))
        task = np.array([AUTO, 0, PLAIN, 1] * 4)[:count]
        for _ in range(2):
            a, b = free.run_images(images[:count], task), fixed.run_images(images[:count], task)
            np.testing.assert_allclose(a.features, b.features, atol=1e-5)
            np.testing.assert_allclose(a.task_scores, b.task_scores, atol=1e-2, rtol=1e-4)
            np.testing.assert_array_equal(a.task, b.task)


def test_buffers_of_a_captured_batch_are_filled_anew(both: Engine, images: Images) -> None:
    """On the CPU nothing is captured, but buffers and binding are those of a CUDA graph."""
    batches = FixedBatches(both._image, both.tasks.image, (8,), capture=True)
    for part in (images[:8], images[8:], images[:3]):
        features, used, *_ = batches.run({"images": part, "task": np.full(len(part), AUTO)})
        expected = ask(both, part, AUTO)
        np.testing.assert_allclose(features, expected.features, atol=1e-5)
        np.testing.assert_array_equal(used, expected.task)


def test_cuda_graphs_are_not_promised_on_the_cpu(bundled: "Bundled") -> None:
    with pytest.raises(UserError, match="CUDA graphs need the provider cuda and batch sizes"):
        Engine.open(bundled.bundle, "cpu", batch_sizes=(1,), cuda_graph=True)
    with pytest.raises(UserError, match=r"positive numbers, got \[0\]"):
        Engine.open(bundled.bundle, "cpu", batch_sizes=(0,))


def test_a_provider_is_followed_by_those_for_the_rest_of_the_graph(tmp_path: Path) -> None:
    assert provider_list(SessionSettings()) == [CPU]
    full = {"use_tf32": "0"}
    assert provider_list(SessionSettings(provider=CUDA)) == [(CUDA, full), CPU]
    captured = provider_list(SessionSettings(provider=CUDA, cuda_graph=True))
    assert captured == [(CUDA, full | {"enable_cuda_graph": "1"}), CPU]
    (first, options), *rest = provider_list(SessionSettings(provider=TENSORRT, engine_cache=tmp_path))
    assert (first, rest) == (TENSORRT, [(CUDA, full), CPU])
    assert options["trt_engine_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == str(tmp_path)
