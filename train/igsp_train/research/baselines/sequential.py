"""One adapter trained on and on (plain LoRA beside the MLPs), and full fine-tuning: what forgetting costs."""

import copy
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import Experts, SiteExperts, frozen, new_experts
from igsp_deploy.model.head import Head
from igsp_deploy.sites import Site
from igsp_train.research.baselines.training import train_on
from igsp_train.research.baselines.zero_shot import predictor, words_alone
from igsp_train.research.study.method import Setting, Stage
from igsp_train.research.study.pooled import find_head
from igsp_train.research.study.tokens import TrunkTokens

FULL_RATE_SHARE = 0.05
"""Peak learning rate of full fine-tuning, as a share of the experts' (1e-4 for 2e-3)."""


def learn_sequentially(setting: Setting, tasks: list[TrunkTokens]) -> Iterator[Stage]:
    """One expert of rank `num_candidates * rank` a block, trained on every task in turn and used for all of them.

    It has as many numbers as all candidates of one task together, less the routers. A task's head is found once, when
    it was learned: it reads the frozen trunk alone, so later tasks change only what it is weighed against.
    """
    generator = torch.Generator().manual_seed(setting.learn.seed * 1000)
    rank = setting.model.rank * setting.learn.num_candidates
    experts: dict[Site, tuple[nn.Parameter, nn.Parameter]] = {}
    for site in setting.sites:
        down, up = new_experts(1, rank, setting.width(site), generator)
        experts[site] = (nn.Parameter(down[0]), nn.Parameter(up[0]))

    def current() -> SiteExperts:
        return {site: _block(down, up, setting.model.scale) for site, (down, up) in experts.items()}

    size = sum(p.numel() for pair in experts.values() for p in pair)
    heads: dict[str, Head | None] = {}
    for number, task in enumerate(tasks):
        groups = [([p for pair in experts.values() for p in pair], setting.learn.learning_rate)]
        seed = setting.learn.seed * 1000 + number
        ids = setting.backbone.tokenize(task.prompts)
        train_on(task, setting.clip, ids, setting.learn, seed, groups, current)
        now = frozen(current(), "cpu")
        heads[task.name] = head = find_head(setting, task, now)
        shared = {t.name: now for t in tasks}
        yield Stage(
            predict=predictor(setting, shared, dict(heads)),
            words=words_alone(setting, shared, heads),
            trained_phase1=size,
            trained_phase2=size,
            kept=(0 if number else size) + (0 if head is None else head.num_parameters()),
        )


def _block(down: Tensor, up: Tensor, scale: float) -> Experts:
    return Experts(down=down, up=up, router_weight=None, router_bias=torch.zeros(1), scale=scale, router_input="static")


def learn_fully(setting: Setting, tasks: list[TrunkTokens]) -> Iterator[Stage]:
    """Train all weights of both towers from the first adapted block on, task after task.

    The trunk under that block stays as it is, because its features are what a study keeps on disk.
    """
    backbone = copy.deepcopy(setting.backbone)
    clip = Clip(backbone, setting.sites)
    trained = clip.tail()
    for parameter in trained:
        parameter.requires_grad_(True)
    size = sum(p.numel() for p in trained)
    for number, task in enumerate(tasks):
        groups = [(trained, setting.learn.learning_rate * FULL_RATE_SHARE)]
        seed = setting.learn.seed * 1000 + number
        train_on(task, clip, backbone.tokenize(task.prompts), setting.learn, seed, groups, dict)
        yield Stage(
            predict=predictor(dataclasses.replace(setting, backbone=backbone), {}),
            trained_phase1=size,
            trained_phase2=size,
            kept=0 if number else size,
        )
