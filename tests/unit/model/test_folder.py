"""The model folder: round trip, damage, foreign backbones, full disks."""

import dataclasses
import errno
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch

from igsp_deploy import files
from igsp_deploy.backbones.debug import build_debug
from igsp_deploy.config import ModelConfig, SelectorConfig
from igsp_deploy.errors import UserError
from igsp_deploy.model import folder as folder_module
from igsp_deploy.model import task_files
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.model.selector import HELD_OUT, TaskStatistics
from igsp_deploy.model.task_files import LearnedTask
from igsp_deploy.model_path import locked_model, weights_at


def learned_task(folder: ModelFolder, seed: int) -> tuple[TaskRecord, LearnedTask]:
    """A task with one new random expert a block, reusing all earlier ones."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rank = folder.config.rank
    ids = {site: list(range(folder.pool.size(site) + 1)) for site in folder.sites}
    learned = LearnedTask(
        experts={s: (draw(1, rank, folder.width(s)), draw(1, folder.width(s), rank)) for s in folder.sites},
        ids=ids,
        router_weights={s: draw(len(ids[s]), folder.width(s)) for s in folder.sites if s[0] == "vision"},
        router_biases={s: draw(len(ids[s])) for s in folder.sites},
        statistics=TaskStatistics(
            means=draw(2, 5),
            scatter=2 * torch.eye(5),
            count=9,
            calibration=0.1 * draw(4, 5),
            labels=torch.tensor([0, 1, 1, HELD_OUT]),
            sizes=torch.tensor([4, 5]),
        ),
    )
    record = TaskRecord(
        index=len(folder.tasks),
        name=f"task{seed}",
        classes=["a", "b"],
        display_names=["an a", "a b"],
        templates=["a photo of {}."],
        ids=ids,
        trained_parameters=1,
        kept_parameters=1,
        selector_parameters=1,
    )
    return record, learned


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    backbone = load_backbone("debug")
    folder = ModelFolder.create(
        tmp_path / "model", backbone, ModelConfig(backbone="debug", rank=2, vision_blocks=2), SelectorConfig()
    )
    for seed in (0, 1):
        folder.add_task(*learned_task(folder, seed))
    return folder


def test_a_reopened_folder_gives_the_same_experts(model: ModelFolder) -> None:
    again = ModelFolder.open(model.path)
    assert [t.name for t in again.tasks] == ["task0", "task1"]
    for index in (0, 1):
        ours, theirs = model.experts(index), again.experts(index)
        assert list(ours) == list(theirs) == model.sites
        for site, block in ours.items():
            for name, value in block.named_buffers():
                assert torch.equal(value, getattr(theirs[site], name))
    assert again.first_block == 1
    assert again.pool.num_parameters() == model.pool.num_parameters() == 2 * 4 * 2 * 32 * 2


def test_a_model_that_chooses_by_the_embedding_is_refused_with_what_to_do(model: ModelFolder) -> None:
    config = json.loads((model.path / "config.json").read_text())
    for place in ("trunk", "embedding"):
        config["model"]["selector_place"] = place  # as versions before this one wrote it
        (model.path / "config.json").write_text(json.dumps(config))
        if place == "trunk":
            assert ModelFolder.open(model.path).first_block == 1
    with pytest.raises(UserError, match=r"selector_place=embedding.*learn its tasks again"):
        ModelFolder.open(model.path)


@pytest.mark.parametrize("name", ["task.json", "experts.safetensors", "router.safetensors", "selector.safetensors"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_file_is_named_with_its_remedy(model: ModelFolder, name: str, damage: str) -> None:
    path = model.path / "tasks" / "01-task1" / name
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(UserError, match=rf"01-task1/{name} is .*Restore"):
        ModelFolder.open(model.path)


def test_a_missing_task_folder_is_noticed(model: ModelFolder) -> None:
    (model.path / "tasks" / "00-task0").rename(model.path / "elsewhere")
    with pytest.raises(UserError, match="a task folder is missing"):
        ModelFolder.open(model.path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format_version": 1}'])
def test_a_broken_configuration_is_an_error_not_a_traceback(model: ModelFolder, content: str) -> None:
    (model.path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        ModelFolder.open(model.path)


def test_a_newer_format_says_upgrade(model: ModelFolder) -> None:
    values = json.loads((model.path / "config.json").read_text())
    (model.path / "config.json").write_text(json.dumps({**values, "format_version": 99}))
    with pytest.raises(UserError, match="Upgrade igsp-deploy"):
        ModelFolder.open(model.path)


def test_a_model_from_before_there_was_a_background_keeps_its_selector(model: ModelFolder) -> None:
    values = json.loads((model.path / "config.json").read_text())
    assert values["selector"].pop("background") == ModelFolder.open(model.path).selector_config.background > 0
    (model.path / "config.json").write_text(json.dumps(values))
    folder = ModelFolder.open(model.path)
    assert folder.selector_config.background == 0.0
    selector = folder.selector()
    assert selector is not None
    read = folder.statistics(0).calibration
    assert torch.equal(selector.scores(read), -selector.distances(read))


def test_a_task_from_before_training_images_set_thresholds_keeps_its_own(model: ModelFolder) -> None:
    path = model.path / "tasks" / "01-task1"
    tensors = safetensors.torch.load_file(path / "selector.safetensors")
    del tensors["labels"], tensors["sizes"]
    safetensors.torch.save_file(tensors, path / "selector.safetensors")
    files.write_sums(path)
    folder = ModelFolder.open(model.path)
    selector = folder.selector()
    assert selector is not None
    held_out = selector.scores(folder.statistics(1).calibration)[:, 1]
    torch.testing.assert_close(selector.floors[1], held_out.min(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(selector.thresholds[1], torch.quantile(held_out, 0.05), rtol=1e-4, atol=1e-4)
    assert model.selector().floors[1] < held_out.min() - 0.01  # type: ignore[union-attr]


def test_a_task_of_now_makes_an_older_folder_one_that_older_programs_refuse(model: ModelFolder) -> None:
    config = model.path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "format_version": 1}))
    folder = ModelFolder.open(model.path)
    folder.add_task(*learned_task(folder, 2))
    assert json.loads(config.read_text())["format_version"] == folder_module.FORMAT_VERSION
    assert len(ModelFolder.open(model.path).tasks) == 3


def test_something_else_is_not_a_model_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a model folder"):
        ModelFolder.open(tmp_path)


def test_another_backbone_is_refused(model: ModelFolder) -> None:
    other = Backbone(build_debug(seed=1), "debug", None, lambda texts: torch.zeros(len(texts), 24, dtype=torch.long))
    with pytest.raises(UserError, match="was made with backbone debug"):
        model.check_backbone(other)
    model.check_backbone(load_backbone("debug"))


def test_a_full_disk_leaves_the_model_as_it_was(model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(p.relative_to(model.path) for p in model.path.rglob("*"))
    monkeypatch.setattr(task_files, "save", full)
    with pytest.raises(UserError, match="disk is not full"):
        model.add_task(*learned_task(model, 2))
    monkeypatch.undo()
    assert sorted(p.relative_to(model.path) for p in model.path.rglob("*")) == before
    assert len(ModelFolder.open(model.path).tasks) == 2
    model.add_task(*learned_task(model, 2))


def test_a_full_disk_while_flushing_leaves_nothing_half_written(
    model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def fail_late(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_fsync", fail_late)
    with pytest.raises(UserError, match="nothing was changed"):
        model.add_task(*learned_task(model, 2))
    assert [p.name for p in sorted((model.path / "tasks").iterdir())] == ["00-task0", "01-task1"]


def test_a_name_that_is_taken_is_refused(model: ModelFolder) -> None:
    record, learned = learned_task(model, 1)
    with pytest.raises(UserError, match="already has a task 'task1'"):
        model.add_task(record, learned)


def test_a_task_that_another_process_added_meanwhile_is_not_overwritten(model: ModelFolder) -> None:
    other = ModelFolder.open(model.path)
    other.add_task(*learned_task(other, 7))
    with pytest.raises(UserError, match="another process has added a task"):
        model.add_task(*learned_task(model, 8))
    assert [task.name for task in ModelFolder.open(model.path).tasks] == ["task0", "task1", "task7"]


def test_a_folder_that_somebody_holds_is_not_changed(model: ModelFolder) -> None:
    with ThreadPoolExecutor(1) as pool, locked_model(model.path):
        adding = pool.submit(model.add_task, *learned_task(model, 2))
        assert isinstance(adding.exception(), UserError)
        assert "another process is learning into" in str(adding.exception())
    model.add_task(*learned_task(model, 2))


@pytest.mark.parametrize("inside", [None, "lost+found", ".snapshot", "tasks"])
def test_a_model_may_be_made_in_an_empty_folder_which_stays_where_it_is(tmp_path: Path, inside: str | None) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    if inside:
        (place / inside).mkdir()
    before = place.stat().st_ino
    config = ModelConfig(backbone="debug", rank=2, vision_blocks=2)
    ModelFolder.create(place, load_backbone("debug"), config, SelectorConfig())
    assert place.stat().st_ino == before
    assert ModelFolder.open(place).tasks == []


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty"):
        ModelFolder.create(
            tmp_path / "letters", load_backbone("debug"), ModelConfig(backbone="debug"), SelectorConfig()
        )
    assert [p.name for p in (tmp_path / "letters").iterdir() if not p.name.startswith(".")] == ["a.txt"]


def test_an_unknown_task_suggests_the_nearest(model: ModelFolder) -> None:
    with pytest.raises(UserError, match="Did you mean 'task1'"):
        model.task_index("taks1")


def test_too_many_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.vision_blocks must be at most the tower's 3 blocks, got 9"):
        ModelFolder.create(
            tmp_path / "m", load_backbone("debug"), ModelConfig(backbone="debug", vision_blocks=9), SelectorConfig()
        )
    assert not (tmp_path / "m").exists()


def test_safetensors_alone_are_written(model: ModelFolder) -> None:
    suffixes = {p.suffix for p in model.path.rglob("*") if p.is_file() and p.name not in ("SHA256SUMS", ".lock")}
    assert suffixes == {".json", ".safetensors"}
    safetensors.torch.load_file(model.path / "tasks" / "00-task0" / "experts.safetensors")


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("nano", "openai", "leave `pretrained` empty"),
        ("ViT-B-61", None, "Nearest: ViT-B-16"),
        ("ViT-B-32", "no-such-tag", "Tags: openai"),
        ("ViT-B-32", None, "needs weights: set model.pretrained to a tag .openai"),
    ],
)
def test_a_backbone_that_cannot_be_used_says_why(name: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_backbone(name, pretrained)


def test_files_are_as_readable_as_the_umask_says(model: ModelFolder) -> None:
    (model.path / "probe").write_text("")
    wanted = (model.path / "probe").stat().st_mode
    assert {p.stat().st_mode for p in (model.path / "tasks" / "00-task0").iterdir()} == {wanted}


def test_random_weights_are_the_same_each_time() -> None:
    assert load_backbone("ViT-S-16-alt", "random").weight_hash == load_backbone("ViT-S-16-alt", "random").weight_hash


def test_the_hundredth_task_comes_after_the_ninety_ninth() -> None:
    from igsp_deploy.model.folder import _position

    names = ["100-a", "11-b", "99-c", "02-d", "stray"]
    assert sorted(names, key=_position) == ["02-d", "11-b", "99-c", "100-a", "stray"]


def test_a_model_decodes_images_as_it_was_measured(model: ModelFolder) -> None:
    assert model.load_backbone().preprocess.decoding == "scaled"
    values = json.loads((model.path / "config.json").read_text())
    del values["backbone"]["preprocess"], values["backbone"]["quick_gelu"]  # a model from before there was a choice
    (model.path / "config.json").write_text(json.dumps(values))
    old = ModelFolder.open(model.path)
    assert old.load_backbone().preprocess.decoding == "plain"
    other = load_backbone("debug")
    old.check_backbone(other)
    assert other.preprocess.decoding == "plain"


def test_a_checkpoint_that_moved_is_looked_for_where_one_says(
    model: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str | None] = []

    def load(name: str, place: str | None, preprocess: str | None, *, quick_gelu: bool) -> Backbone:
        asked.append(place)
        if place == "gone.pt":
            raise UserError("no such file exists.")
        return load_backbone("debug")

    monkeypatch.setattr(folder_module, "load_backbone", load)
    model.config = dataclasses.replace(model.config, backbone="ViT-B-32", pretrained="gone.pt")
    with pytest.raises(UserError, match=r"elsewhere now, name its place: --pretrained PATH"):
        model.load_backbone()
    with weights_at(tmp_path / "here.pt"):
        model.load_backbone()
    assert asked == ["gone.pt", str(tmp_path / "here.pt")]
    model.identity["weight_hash"] = "0" * 64
    with weights_at(tmp_path / "here.pt"), pytest.raises(UserError, match="was made with backbone"):
        model.load_backbone()


@pytest.mark.parametrize(
    ("depth", "last", "blocks"),
    [(12, None, [6, 7, 8, 9, 10, 11]), (3, None, [1, 2]), (1, None, [0]), (3, 0, [0, 1, 2]), (3, 1, [2]), (3, -1, [])],
)
def test_the_upper_half_is_adapted_where_nothing_is_said(depth: int, last: int | None, blocks: list[int]) -> None:
    assert folder_module.adapted_blocks(depth, last, "model.vision_blocks") == blocks
