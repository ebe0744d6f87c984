"""Learning one task after another on a tiny random CLIP: who gets gradient, what stays bit-identical, resuming."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from igsp_deploy.config import LearnConfig, ModelConfig, PruneRule, SelectorConfig
from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.model.selector import task_statistics
from igsp_deploy.sites import Site
from igsp_train.checkpoint import clear_checkpoint, load_checkpoint
from igsp_train.features import TrunkViews
from igsp_train.learn import TaskRun
from igsp_train.prune import masks_to_keep
from igsp_train.steps import LearnResult, StepReport

CLASSES = ["red", "green", "blue"]
LEARN = LearnConfig(
    steps=16,
    batch_size=8,
    warmup_steps=2,
    phase1_min_share=0.25,
    phase1_max_share=0.5,
    checkpoint_every=5,
    num_candidates=2,
    reuse_schedule="target_mass",
    reuse_strength=1.0,
    prune_rule="cumulative",
)


class ColourViews:
    """Noisy images of one of three colours; the shade tells tasks apart."""

    def __init__(self, shade: int) -> None:
        generator = np.random.default_rng(shade)
        self.labels = np.arange(24) % 3
        self.images = generator.integers(0, 60, (24, 32, 32, 3), dtype=np.uint8)
        for image, label in zip(self.images, self.labels, strict=True):
            image[..., label] += np.uint8(shade)

    def __len__(self) -> int:
        return len(self.images)

    def view(self, index: int, epoch: int) -> NDArray[np.uint8]:
        return np.roll(self.images[index], epoch, axis=1)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("debug")


def new_folder(path: Path, backbone: Backbone) -> ModelFolder:
    model = ModelConfig(backbone="debug", rank=2, vision_blocks=2)
    return ModelFolder.create(path, backbone, model, SelectorConfig())


def make_run(
    backbone: Backbone, folder: ModelFolder, shade: int, config: LearnConfig = LEARN, *, balanced: bool = False
) -> TaskRun:
    views = ColourViews(shade)
    if balanced:  # one image of the third class
        views.labels = np.array([0] * 12 + [1] * 11 + [2])
    clip = Clip(backbone, folder.sites, exact=False)
    trunk = TrunkViews(clip, views, cached_views=config.cached_views, limit_bytes=1 << 30)
    prompts = [f"a {name} picture" for name in CLASSES]
    return TaskRun(
        backbone,
        folder,
        config,
        views=trunk,
        labels=views.labels,
        prompts=prompts,
        fingerprint=str(shade),
        balanced=balanced,
    )


def finish(folder: ModelFolder, result: LearnResult) -> None:
    features = torch.randn(12, 64, generator=torch.Generator().manual_seed(0))
    statistics = task_statistics(features, torch.arange(12) % 3, 3, features)
    learned = result.learner.learned(folder.pool, statistics)
    index = len(folder.tasks)
    record = TaskRecord(
        index=index,
        name=f"task{index}",
        classes=CLASSES,
        display_names=CLASSES,
        templates=["a {}."],
        ids=learned.ids,
        trained_parameters=result.trained_parameters,
        kept_parameters=0,
        selector_parameters=0,
    )
    folder.add_task(record, learned)


def test_learning_lowers_the_loss_and_a_later_task_leaves_the_earlier_one_bit_identical(
    tmp_path: Path, backbone: Backbone
) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    before = []
    for number, shade in enumerate((180, 120, 60)):
        result = make_run(backbone, folder, shade).run()
        assert np.mean(result.curves["loss"][-3:]) < np.mean(result.curves["loss"][:3])
        finish(folder, result)
        learned = LearnedClip.open(folder, backbone)
        before.append((learned.embed(learned.trunk(images), number), learned.class_vectors(number)))
    reopened = LearnedClip.open(ModelFolder.open(tmp_path / "model"), backbone)
    for number, (features, classes) in enumerate(before):
        assert torch.equal(reopened.embed(reopened.trunk(images), number), features)
        assert torch.equal(reopened.class_vectors(number), classes)
    assert not torch.equal(before[0][0], before[1][0])


def test_only_candidates_and_the_router_receive_gradient(tmp_path: Path, backbone: Backbone) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    finish(folder, make_run(backbone, folder, 180).run())
    run = make_run(backbone, folder, 120)
    for _, learner in run.learner.items():
        with torch.no_grad():
            learner.up.normal_()  # B starts at zero, and then A has no gradient yet
    loss, _, _ = run.loss(np.arange(8), np.zeros(8, np.int64))
    loss.backward()
    trained = {name for name, p in run.learner.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    sites = {"vision_1", "vision_2", "text_0", "text_1"}
    expected = {f"sites.{s}.{part}" for s in sites for part in ("down", "up", "bias")}
    expected |= {f"sites.{s}.weight" for s in sites if s.startswith("vision")}
    assert trained == expected
    assert not [name for name, p in backbone.clip.named_parameters() if p.requires_grad or p.grad is not None]
    assert not [b for b in run.learner.buffers() if b.requires_grad or b.grad is not None]


def test_phase_2_trains_the_kept_experts_and_the_router_and_nothing_else(tmp_path: Path, backbone: Backbone) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    finish(folder, make_run(backbone, folder, 180).run())
    frozen = {site: [t.clone() for t in folder.pool.gather(site, [0], folder.width(site))] for site in folder.sites}
    run = make_run(backbone, folder, 120)
    reports: list[StepReport] = []
    snapshots: dict[int, dict[str, torch.Tensor]] = {}

    def watch(report: StepReport) -> None:
        reports.append(report)
        snapshots[report.step] = {name: p.detach().clone() for name, p in run.learner.named_parameters()}

    result = run.run(watch)
    phase2 = [r.step for r in reports if r.phase == 2]
    assert phase2
    assert result.phase1_steps == phase2[0] - 1
    first, last = snapshots[phase2[0]], snapshots[phase2[-1]]
    assert first.keys() == last.keys()
    assert {n for n in first if first[n].numel() and not torch.equal(first[n], last[n])} == {
        n
        for n, p in run.learner.named_parameters()
        if p.numel() and not (n.endswith("bias") and p.numel() == 1) and not (n.endswith("weight") and p.shape[0] == 1)
    }
    optimised = {id(p) for group in run.optimiser.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in run.learner.parameters()}
    for site, (down, up) in frozen.items():
        assert torch.equal(folder.pool.gather(site, [0], folder.width(site))[0], down)
        assert torch.equal(folder.pool.gather(site, [0], folder.width(site))[1], up)


def test_pruning_does_not_move_what_it_keeps(tmp_path: Path, backbone: Backbone) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    run = make_run(backbone, folder, 180)
    learner = dict(run.learner.items())[("vision", 1)]
    with torch.no_grad():
        learner.up.normal_()
    kept = learner.up[1].clone()
    learner.keep(torch.tensor([False, True]))
    assert torch.equal(learner.up[0], kept)
    assert learner.num_candidates == 1
    assert learner.weight is not None
    assert learner.weight.shape[0] == learner.bias.shape[0] == 1


@pytest.mark.parametrize("steps_before", [3, 5, 12])
@pytest.mark.parametrize(("cached_views", "balanced"), [(0, False), (3, False), (0, True), (3, True)])
def test_a_resumed_run_ends_in_the_very_same_numbers(
    tmp_path: Path, backbone: Backbone, steps_before: int, cached_views: int, balanced: bool
) -> None:
    config = dataclasses.replace(LEARN, cached_views=cached_views)
    through = make_run(backbone, new_folder(tmp_path / "a", backbone), 180, config, balanced=balanced).run()
    folder = new_folder(tmp_path / "b", backbone)
    first = make_run(backbone, folder, 180, config, balanced=balanced)
    with pytest.raises(InterruptedError):
        first.run(stop=lambda: first.progress.step == steps_before)
    second = make_run(backbone, folder, 180, config, balanced=balanced)
    assert second.progress.step == steps_before
    resumed = second.run()
    assert resumed.curves == through.curves
    ours, theirs = dict(resumed.learner.named_parameters()), dict(through.learner.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path, backbone: Backbone) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    run = make_run(backbone, folder, 180)
    with pytest.raises(InterruptedError):
        run.run(stop=lambda: run.progress.step == 3)
    with pytest.raises(UserError, match="--discard"):
        make_run(backbone, folder, 60)


def test_the_penalty_moves_gate_mass_to_the_frozen_experts(tmp_path: Path, backbone: Backbone) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    finish(folder, make_run(backbone, folder, 180).run())
    masses = []
    for strength in (0.0, 20.0):
        config = dataclasses.replace(
            LEARN, steps=30, reuse_strength=strength, reuse_schedule="fixed", phase1_min_share=1.0, phase1_max_share=1.0
        )
        clear_checkpoint(folder.path)
        masses.append(make_run(backbone, folder, 120, config).run().curves["mass"][-1])
    assert masses[1] < 0.8 * masses[0]


def test_the_optimisers_moments_of_kept_experts_survive_pruning(tmp_path: Path, backbone: Backbone) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    config = dataclasses.replace(LEARN, phase1_min_share=1.0, phase1_max_share=1.0, keep_ratio=0.3)
    run = make_run(backbone, folder, 180, config)
    moments: dict[str, torch.Tensor] = {}

    def remember(report: StepReport) -> None:
        for name, parameter in run.learner.named_parameters():
            moments[name] = run.optimiser.state[parameter]["exp_avg"].clone()

    result = run.run(remember)
    assert any(not all(mask) for mask in result.kept.values())
    for name, parameter in result.learner.named_parameters():
        site = name.split(".")[1].replace("_", ".")
        rows = torch.tensor(result.kept[site])
        assert torch.equal(run.optimiser.state[parameter]["exp_avg"], moments[name][rows])
        assert moments[name].abs().sum() > 0


def test_the_model_folder_holds_exactly_what_was_learned(tmp_path: Path, backbone: Backbone) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    for number, shade in enumerate((180, 120)):
        result = make_run(backbone, folder, shade).run()
        learned = result.learner.experts()
        finish(folder, result)
        stored = ModelFolder.open(folder.path).experts(number)
        for site, block in learned.items():
            for name, value in block.named_buffers():
                assert torch.equal(getattr(stored[site], name), value)


def test_the_strength_of_the_penalty_survives_a_resume_in_phase_1(tmp_path: Path, backbone: Backbone) -> None:
    config = dataclasses.replace(LEARN, steps=24, phase1_min_share=1.0, phase1_max_share=1.0)
    folder = new_folder(tmp_path / "model", backbone)
    finish(folder, make_run(backbone, folder, 180).run())
    through = make_run(backbone, folder, 120, config).run()
    clear_checkpoint(folder.path)
    first = make_run(backbone, folder, 120, config)
    with pytest.raises(InterruptedError):
        first.run(stop=lambda: first.progress.step == 12)
    second = make_run(backbone, folder, 120, config)
    assert second.reuse.value == first.reuse.value != config.reuse_strength
    assert second.run().curves == through.curves


def test_each_epoch_sees_its_own_view_and_cached_views_repeat(backbone: Backbone) -> None:
    views = ColourViews(180)
    clip = Clip(backbone, [("vision", 1)], exact=False)
    cached = TrunkViews(clip, views, cached_views=2, limit_bytes=1 << 30)
    fresh = TrunkViews(clip, views, cached_views=0, limit_bytes=1 << 30)
    index = np.array([3, 3, 3, 3])
    epochs = np.array([0, 1, 2, 3])
    kept, new = cached.batch(index, epochs), fresh.batch(index, epochs)
    torch.testing.assert_close(kept[:2], new[:2], atol=1e-5, rtol=1e-5)
    assert torch.equal(kept[0], kept[2])
    assert torch.equal(kept[1], kept[3])
    assert not torch.allclose(kept[0], kept[1], atol=1e-3)
    assert not torch.allclose(new[1], new[3], atol=1e-3)


def test_views_that_do_not_fit_into_the_limit_are_not_cached(backbone: Backbone) -> None:
    bytes_a_view, clip = 24 * 17 * 32 * 4, Clip(backbone, [("vision", 1)])
    assert TrunkViews(clip, ColourViews(9), cached_views=4, limit_bytes=3 * bytes_a_view).cached_views == 3
    assert TrunkViews(clip, ColourViews(9), cached_views=4, limit_bytes=bytes_a_view - 1).cached_views == 0


def test_a_checkpoint_that_was_being_removed_when_the_process_died_is_no_obstacle(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    result = make_run(backbone, folder, 180).run()
    finish(folder, result)

    def die_half_way(path: Path, ignore_errors: bool = False) -> None:
        for state in sorted(path.rglob("state.json")):
            state.unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", die_half_way)
    with pytest.raises(KeyboardInterrupt):
        clear_checkpoint(folder.path)
    monkeypatch.undo()
    assert make_run(backbone, folder, 120).progress.step == 0
    clear_checkpoint(folder.path)
    assert not [path for path in folder.path.iterdir() if path.name.startswith(".inprogress")]


def test_opened_gates_give_new_experts_their_share_and_leave_their_output(tmp_path: Path, backbone: Backbone) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    finish(folder, make_run(backbone, folder, 180).run())
    learner = dict(make_run(backbone, folder, 120).learner.items())[("vision", 1)]
    with torch.no_grad():
        learner.bias[learner.num_frozen :] -= 5.0
        learner.up.normal_()
    hidden = torch.randn(1, 5, 32)
    before = learner.experts().gates(hidden[:, 0])[0]
    up = learner.up.detach().clone()
    assert before[learner.num_frozen :].sum() < 0.1
    learner.open_gates(before.detach(), 0.4)
    after = learner.experts().gates(hidden[:, 0])[0]
    assert after[learner.num_frozen :].sum().item() == pytest.approx(0.4, abs=1e-4)
    torch.testing.assert_close(
        after[learner.num_frozen :, None, None] * learner.up, before[learner.num_frozen :, None, None] * up
    )
    # Gates that are open already stay as they are.
    learner.open_gates(after.detach(), 0.3)
    assert torch.equal(learner.experts().gates(hidden[:, 0])[0], after)


def test_all_of_the_gates_of_a_first_task_are_its_own(tmp_path: Path, backbone: Backbone) -> None:
    reports: list[StepReport] = []
    result = make_run(backbone, new_folder(tmp_path / "model", backbone), 180).run(reports.append)
    assert result.curves["mass"] == pytest.approx([1.0] * LEARN.steps)
    assert [report.new_share for report in reports] == result.curves["mass"]


def test_new_experts_start_phase_2_with_open_gates(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igsp_train.optimiser.TEXT_GATE_RATE", 3e-2)  # slow enough that text keeps some
    folder = new_folder(tmp_path / "model", backbone)
    finish(folder, make_run(backbone, folder, 180).run())
    masses = []
    for share in (0.0, 0.8):
        config = dataclasses.replace(
            LEARN,
            initial_candidate_mass=0.2,
            reuse_strength=20.0,
            reuse_schedule="fixed",
            keep_ratio=1.0,
            phase2_candidate_mass=share,
        )
        clear_checkpoint(folder.path)
        result = make_run(backbone, folder, 120, config).run()
        masses.append(result.curves["mass"][result.phase1_steps])
    assert masses[0] < 0.5
    assert masses[1] == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize("rule", ["held_out", "leave_one_out"])
@pytest.mark.parametrize("held_out", [True, False])
def test_pruning_by_loss_works_with_held_out_images_and_without(
    tmp_path: Path, backbone: Backbone, rule: PruneRule, held_out: bool
) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    finish(folder, make_run(backbone, folder, 180).run())
    run = make_run(backbone, folder, 120, dataclasses.replace(LEARN, prune_rule=rule, prune_tolerance=0.05))
    if held_out:
        indices = np.arange(10)
        run.held_out = (run.views.batch(indices, indices * 0 + 5), run.labels[indices])
    result = run.run()
    kept = [sum(mask) for mask in result.kept.values()]
    assert min(kept) >= 1
    assert sum(kept) < sum(len(mask) for mask in result.kept.values())


@pytest.mark.parametrize(("count", "few"), [(0, True), (19, True), (20, False)])
def test_pruning_knows_whether_few_images_are_held_out(
    tmp_path: Path, backbone: Backbone, count: int, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []

    def watched(*arguments: Any, few_held_out: bool) -> dict[Site, torch.Tensor]:
        told.append(few_held_out)
        return masks_to_keep(*arguments, few_held_out=few_held_out)

    monkeypatch.setattr("igsp_train.learn.masks_to_keep", watched)
    folder = new_folder(tmp_path / "model", backbone)
    run = make_run(backbone, folder, 20)
    if count:
        indices = np.arange(count)
        run.held_out = (run.views.batch(indices, indices * 0 + 5), run.labels[indices])
    run.run()
    assert told == [few]


def test_looking_at_the_numbers_now_and_then_changes_none_of_them(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    finish(folder, make_run(backbone, folder, 180).run())
    config = dataclasses.replace(LEARN, steps=24, checkpoint_every=10)
    saved: list[Any] = []

    def remember(path: Path, step: int, state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        del state["progress"]["seconds"]
        saved.append((step, state, {name: tensor.detach().clone() for name, tensor in tensors.items()}))

    monkeypatch.setattr("igsp_train.learn.save_checkpoint", remember)

    def learn(every: int) -> tuple[LearnResult, list[StepReport], list[int], list[Any]]:
        reports: list[StepReport] = []
        lags: list[int] = []
        run = make_run(backbone, folder, 120, config)
        run.read_every = every

        def watch(report: StepReport) -> None:
            reports.append(report)
            lags.append(run.progress.step - report.step)

        result = run.run(watch)
        return result, reports, lags, [saved.pop(0) for _ in range(len(saved))]

    expected, reports, lags, checkpoints = learn(1)
    assert max(lags) == 0
    assert [step for step, _, _ in checkpoints] == [10, 20]
    assert checkpoints[1][1]["progress"]["phase"] == 2
    for every in (3, 7, 100):
        result, now_and_then, lags, others = learn(every)
        start = result.phase1_steps
        assert max(lags[:start]) == 0  # phase 1 decides by its numbers
        # Before the checkpoint at step 20 it looks in any case.
        assert max(lags[start:]) == min(every, 20 - start) - 1
        assert now_and_then == reports
        assert result.curves == expected.curves
        assert [len(curve) for curve in result.curves.values()] == [24] * 4
        assert (result.kept, result.mean_gates) == (expected.kept, expected.mean_gates)
        theirs = dict(expected.learner.named_parameters())
        assert all(torch.equal(theirs[name], value) for name, value in result.learner.named_parameters())
        assert [(step, state) for step, state, _ in others] == [(step, state) for step, state, _ in checkpoints]
        for (_, _, one), (_, _, other) in zip(checkpoints, others, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("broken_step", "checkpoint"), [(12, 10), (15, 15)])
def test_a_loss_that_is_not_finite_is_an_error_before_the_next_checkpoint_however_rarely_it_looks(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, broken_step: int, checkpoint: int
) -> None:
    folder = new_folder(tmp_path / "model", backbone)
    run = make_run(backbone, folder, 180)
    run.read_every = 100
    whole = run.loss

    def broken(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
        loss, accuracy, gates = whole(*arguments)
        return loss * (float("nan") if run.progress.step == broken_step else 1.0), accuracy, gates

    monkeypatch.setattr(run, "loss", broken)
    with pytest.raises(UserError, match=f"the loss became nan at step {broken_step}"):
        run.run()
    found = load_checkpoint(folder.path)
    assert found is not None
    assert found[0]["step"] == checkpoint
    assert all(torch.isfinite(tensor).all() for tensor in found[1].values())


def test_few_held_out_images_are_joined_by_training_images(tmp_path: Path, backbone: Backbone) -> None:
    run = make_run(backbone, new_folder(tmp_path / "model", backbone), 120)
    indices = np.arange(10)
    run.held_out = (run.views.batch(indices, indices * 0 + 5), run.labels[indices])
    tokens, labels = run.loss_images(24)
    assert torch.equal(tokens[:10], run.held_out[0])
    assert torch.equal(labels[:10], run.held_out[1])
    assert len(labels) == len(tokens) == 24
    drawn = {tuple(image.flatten().tolist()) for image in tokens[10:]}
    trained_on = run.views.batch(np.arange(24), np.zeros(24, np.int64))
    assert len(drawn) == 14
    assert drawn <= {tuple(image.flatten().tolist()) for image in trained_on}
    assert len(run.loss_images(4)[1]) == 4
    assert len(run.loss_images(1000)[1]) == 10 + 24


def _held_out(run: TaskRun) -> tuple[torch.Tensor, torch.Tensor]:
    """Nine training images as they look much later, in place of others."""
    indices = np.arange(9)
    return run.views.batch(indices, indices * 0 + 50), run.labels[indices]


def test_held_out_images_are_looked_at_now_and_then_and_at_the_end(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igsp_train.learn.LOOK_EVERY", 5)
    run = make_run(backbone, new_folder(tmp_path / "model", backbone), 120)
    run.held_out = _held_out(run)
    seen: dict[int, tuple[float, float]] = {}
    told: dict[int, float | None] = {}

    def watch(report: StepReport) -> None:
        told[report.step] = report.held_out
        with torch.no_grad():
            experts = run.learner.experts()
            classes = run.clip.embed_text(run.ids, experts, trunk=run.prompts)
            logits = run.clip.logit_scale * run.clip.embed(run.held_out[0], experts) @ classes.T  # type: ignore[index]
        labels = run.held_out[1]  # type: ignore[index]
        loss, right = torch.nn.functional.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()
        seen[report.step] = (float(loss), float(right))

    looks = run.run(watch).looks
    assert [look.step for look in looks] == [5, 10, 15, 16]
    for look in looks:
        assert (look.loss, look.accuracy) == pytest.approx(seen[look.step], abs=1e-5)
        assert told[look.step] == look.accuracy
    assert told[4] is None
    assert told[9] == looks[0].accuracy
    assert looks[-1].loss < looks[0].loss


def test_looking_changes_nothing_and_survives_a_resume(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igsp_train.learn.LOOK_EVERY", 2)

    def start(name: str) -> TaskRun:
        path = tmp_path / name
        folder = ModelFolder.open(path) if path.exists() else new_folder(path, backbone)
        run = make_run(backbone, folder, 120)
        run.held_out = _held_out(run)
        return run

    blind = start("blind")
    blind.held_out = None
    unseen, through, first = blind.run(), start("through").run(), start("broken")
    with pytest.raises(InterruptedError):
        first.run(stop=lambda: first.progress.step == 11)
    resumed = start("broken").run()
    assert unseen.looks == []
    assert resumed.looks == through.looks
    assert len(through.looks) == 8
    for one in (through, resumed):
        for (name, ours), (_, theirs) in zip(
            one.learner.named_parameters(), unseen.learner.named_parameters(), strict=True
        ):
            assert torch.equal(ours, theirs), name


def _many_held_out(run: TaskRun) -> tuple[torch.Tensor, torch.Tensor]:
    """Twenty images whose labels nothing can learn: the loss on them rises as those learned from are fitted."""
    indices = np.arange(20)
    return run.views.batch(indices, indices * 0 + 50), (run.labels[indices] + 1) % 3


def test_learning_ends_where_the_held_out_loss_rises_and_goes_back(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igsp_train.learn.LOOK_EVERY", 2)

    def start(name: str, patience: int) -> TaskRun:
        path = tmp_path / name
        folder = ModelFolder.open(path) if path.exists() else new_folder(path, backbone)
        run = make_run(backbone, folder, 120, dataclasses.replace(LEARN, steps=40, patience=patience))
        run.held_out = _many_held_out(run)
        return run

    run, states = start("model", 6), dict[int, dict[str, torch.Tensor]]()

    def remember(report: StepReport) -> None:
        if report.phase == 2:
            states[report.step] = {name: p.detach().clone() for name, p in run.learner.named_parameters()}

    result = run.run(remember)
    assert result.back_at is not None
    phase_2 = [look for look in result.looks if look.step > result.phase1_steps]
    assert result.back_at.loss == min(look.loss for look in phase_2)
    assert result.looks[-1].step == result.back_at.step + 6 < 40
    assert len(result.curves["loss"]) == result.looks[-1].step
    assert result.back_at.step != result.looks[-1].step
    for name, parameter in result.learner.named_parameters():
        assert torch.equal(parameter, states[result.back_at.step][name])
        assert not torch.equal(parameter, states[result.looks[-1].step][name]) or not parameter.numel()
    first = start("broken", 6)
    with pytest.raises(InterruptedError):
        first.run(stop=lambda: first.progress.step == result.back_at.step + 3)  # type: ignore[union-attr]
    resumed = start("broken", 6).run()
    assert (resumed.looks, resumed.back_at) == (result.looks, result.back_at)
    for (name, ours), (_, theirs) in zip(
        resumed.learner.named_parameters(), result.learner.named_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert start("all", 0).run().back_at is None
    few = start("few", 6)
    few.held_out = tuple(part[:19] for part in few.held_out or ())  # type: ignore[assignment]
    assert few.run().back_at is None


@pytest.mark.parametrize("restart", [True, False])
def test_phase_2_has_a_schedule_of_its_own_on_demand(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    rates: list[float] = []
    monkeypatch.setattr("igsp_train.learn.set_learning_rate", lambda _, factor: rates.append(factor))
    folder = new_folder(tmp_path / "model", backbone)
    result = make_run(backbone, folder, 180, dataclasses.replace(LEARN, phase2_restart=restart)).run()
    first, second = rates[: result.phase1_steps], rates[result.phase1_steps :]
    assert len(rates) == LEARN.steps
    assert max(first) == 1.0
    assert (max(second) == 1.0) == restart
    assert rates[-1] < 0.1
    assert second == sorted(second, reverse=True)
