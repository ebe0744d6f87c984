"""A bounded number of experts a task, whatever the size of the pool: which are looked at, which are kept."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from igsp_deploy.config import ModelConfig, SelectorConfig
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.experts import Experts, concatenate_down, concatenate_up
from igsp_deploy.model.folder import ModelFolder
from igsp_train.shortlist import PER_EXPERT, block_gradients, needs_shortlist, shortlist
from tests.unit.train.test_learn import LEARN, backbone, finish, make_run

__all__ = ["backbone"]
KEEP_ALL = dataclasses.replace(LEARN, prune_rule="absolute", keep_ratio=0.0, num_candidates=4)


def bounded_folder(path: Path, backbone: Backbone, max_experts: int) -> ModelFolder:
    model = ModelConfig(backbone="debug", rank=2, vision_blocks=2, max_experts=max_experts)
    return ModelFolder.create(path, backbone, model, SelectorConfig())


def filled(path: Path, backbone: Backbone, tasks: int, max_experts: int) -> ModelFolder:
    """Tasks that bring as many experts as they may."""
    folder = bounded_folder(path, backbone, max_experts)
    for number in range(tasks):
        finish(folder, make_run(backbone, folder, 180 - 20 * number, KEEP_ALL).run())
    return folder


def test_the_experts_looked_at_are_those_that_would_lower_the_loss_most(tmp_path: Path, backbone: Backbone) -> None:
    folder = filled(tmp_path / "model", backbone, 3, 0)
    folder.config = dataclasses.replace(folder.config, max_experts=2)
    run = make_run(backbone, folder, 60)
    labels, prompts = run.labels[:8], (run.ids, run.prompts)
    tokens = run.views.batch(np.arange(8), np.zeros(8, np.int64))
    gradients = block_gradients(run.clip, folder, tokens, labels, prompts)
    chosen = shortlist(folder, gradients)
    for site in folder.sites:
        size, slopes = folder.pool.size(site), []
        assert size == 12
        for expert in range(size):
            down, up = folder.pool.gather(site, [expert], folder.width(site))
            factor = torch.zeros((), requires_grad=True)
            alone = Experts(
                down=concatenate_down(down),
                up=factor * concatenate_up(up),
                router_weight=None,
                router_bias=torch.zeros(1),
                scale=1.0,
            )
            images = run.clip.embed(tokens, {site: alone})
            classes = run.clip.embed_text(run.ids, {site: alone}, trunk=run.prompts)
            loss = F.cross_entropy(run.clip.logit_scale * images @ classes.T, labels)
            slopes.append(float(torch.autograd.grad(loss, factor)[0]))
        best = np.argsort(slopes)[: PER_EXPERT * 2]
        assert chosen[site] == sorted(best.tolist())


def test_a_router_and_a_task_stay_bounded_however_many_tasks_there_are(tmp_path: Path, backbone: Backbone) -> None:
    folder = filled(tmp_path / "model", backbone, 2, 0)
    folder.config = dataclasses.replace(folder.config, max_experts=2)
    shapes = []
    for number in range(2, 5):
        run = make_run(backbone, folder, 180 - 20 * number, KEEP_ALL)
        shapes.append({name: tuple(p.shape) for name, p in run.learner.named_parameters()})
        for _, learner in run.learner.items():
            assert learner.num_frozen <= PER_EXPERT * 2
        finish(folder, run.run())
    assert shapes[0] == shapes[1] == shapes[2]
    assert needs_shortlist(folder)
    for index in range(2, 5):
        assert all(len(block) == 2 for block in folder.experts(index).values())
    reopened = ModelFolder.open(folder.path)
    assert [task.ids for task in reopened.tasks] == [task.ids for task in folder.tasks]


def test_a_small_pool_is_looked_at_whole_and_no_bound_is_no_bound(tmp_path: Path, backbone: Backbone) -> None:
    folder = filled(tmp_path / "model", backbone, 2, 2)
    run = make_run(backbone, folder, 60)
    assert all(learner.frozen_ids == [0, 1, 2, 3][: folder.pool.size(s)] for s, learner in run.learner.items())
    folder.config = dataclasses.replace(folder.config, max_experts=0)
    finish(folder, make_run(backbone, folder, 60, KEEP_ALL).run())
    assert not needs_shortlist(folder)
    assert max(len(block) for block in folder.experts(2).values()) > 4


@pytest.mark.parametrize("steps_before", [5, 13])
def test_a_resumed_run_chooses_and_keeps_the_same_experts(
    tmp_path: Path, backbone: Backbone, steps_before: int
) -> None:
    folders = [filled(tmp_path / name, backbone, 2, 0) for name in "ab"]
    for folder in folders:
        folder.config = dataclasses.replace(folder.config, max_experts=2)
        assert needs_shortlist(folder)
    through = make_run(backbone, folders[0], 60, KEEP_ALL).run()
    first = make_run(backbone, folders[1], 60, KEEP_ALL)
    with pytest.raises(InterruptedError):
        first.run(stop=lambda: first.progress.step == steps_before)
    resumed = make_run(backbone, folders[1], 60, KEEP_ALL).run()
    assert resumed.learner.layout() == through.learner.layout()
    assert resumed.curves == through.curves
    ours, theirs = dict(resumed.learner.named_parameters()), dict(through.learner.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
