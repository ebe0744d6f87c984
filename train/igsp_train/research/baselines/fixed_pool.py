"""A fixed pool of experts in the manner of MoE-Adapters (Yu et al., CVPR 2024, arXiv 2403.11549).

22 experts a block for all tasks, a router a task, the two experts with the largest gates used for a sample; after a
task the two experts it used most often in a block are frozen. Experts that are not frozen go on changing, so that an
earlier task which used one of them can lose by it.

Where this differs from the published code: experts are linear and stand in the same blocks, with the same rank, as all
methods here (there: 64 with a ReLU, all 24 blocks); the router's noise is drawn once a step instead of once a sample,
with the standard deviation that theirs starts from; the text router is a constant (there it reads the start token under
a causal mask, which is constant too); the task is given (there an autoencoder a task decides for 128 images at once).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from igsp_deploy.model.experts import Experts, SiteExperts, Trace, concatenate_down, concatenate_up, frozen, new_experts
from igsp_deploy.sites import Site
from igsp_train.optimiser import TEXT_GATE_RATE
from igsp_train.research.baselines.training import train_on
from igsp_train.research.baselines.zero_shot import predictor
from igsp_train.research.study.method import Setting, Stage
from igsp_train.research.study.tokens import TrunkTokens

NUM_EXPERTS = 22
TOP_K = 2
NOISE = 0.6931
"""Standard deviation of the noise on the router's logits in training: softplus(0)."""


class PoolBlock:
    """The experts of one block, which of them are frozen, and how often each was used."""

    def __init__(self, setting: Setting, site: Site, generator: torch.Generator) -> None:
        """Draw the experts."""
        self.setting = setting
        self.site = site
        down, up = new_experts(NUM_EXPERTS, setting.model.rank, setting.width(site), generator)
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.frozen = torch.zeros(NUM_EXPERTS, dtype=torch.bool)
        self.used = torch.zeros(NUM_EXPERTS)

    def router(self, generator: torch.Generator) -> tuple[nn.Parameter | None, nn.Parameter]:
        """A fresh router: weight (None in the text tower) and bias."""
        bias = nn.Parameter(0.01 * torch.randn(NUM_EXPERTS, generator=generator))
        if self.site[0] == "text" or self.setting.model.router_input == "static":
            return None, bias
        return nn.Parameter(torch.zeros(NUM_EXPERTS, self.setting.width(self.site))), bias

    def experts(self, weight: Tensor | None, bias: Tensor) -> Experts:
        """The block under one task's router."""
        return Experts(
            down=concatenate_down(self.down),
            up=concatenate_up(self.up),
            router_weight=weight,
            router_bias=bias,
            scale=self.setting.model.scale,
            router_input=self.setting.model.router_input if self.site[0] == "vision" else "static",
            top_k=TOP_K,
        )

    def mask_gradient(self) -> None:
        """Frozen experts get none."""
        for parameter in (self.down, self.up):
            if parameter.grad is not None:
                parameter.grad[self.frozen] = 0.0

    def freeze_most_used(self) -> None:
        """Freeze the experts the task used most often, and start counting anew."""
        self.frozen[self.used.topk(TOP_K).indices] = True
        self.used.zero_()

    def num_trainable(self) -> int:
        """Numbers of the experts that are not frozen."""
        return int((~self.frozen).sum()) * (self.down[0].numel() + self.up[0].numel())


Routers = dict[Site, tuple[nn.Parameter | None, nn.Parameter]]


def learn_fixed_pool(setting: Setting, tasks: list[TrunkTokens]) -> Iterator[Stage]:
    """Learn every task with a router of its own over the one pool."""
    generator = torch.Generator().manual_seed(setting.learn.seed * 1000)
    blocks = {site: PoolBlock(setting, site, generator) for site in setting.sites}
    routers: dict[str, Routers] = {}
    for number, task in enumerate(tasks):
        mine: Routers = {site: block.router(generator) for site, block in blocks.items()}
        routers[task.name] = mine
        sizes = _train_one(setting, task, blocks, mine, number, generator)
        for block in blocks.values():
            block.freeze_most_used()
        learned = {name: frozen(_experts(blocks, r), "cpu") for name, r in routers.items()}
        experts = sum(block.down.numel() + block.up.numel() for block in blocks.values())
        yield Stage(
            predict=predictor(setting, learned),
            trained_phase1=sum(sizes),
            trained_phase2=sum(sizes),
            kept=sizes[1] + (0 if number else experts),
            details={"frozen": sum(int(block.frozen.sum()) for block in blocks.values())},
        )


def _train_one(
    setting: Setting,
    task: TrunkTokens,
    blocks: dict[Site, PoolBlock],
    mine: Routers,
    number: int,
    generator: torch.Generator,
) -> tuple[int, int]:
    """Train the open experts and one router; returns how many numbers each of the two had."""
    experts = [p for block in blocks.values() for p in (block.down, block.up)]
    vision = [p for weight, bias in mine.values() if weight is not None for p in (weight, bias)]
    static = [bias for weight, bias in mine.values() if weight is None]

    def current() -> SiteExperts:
        noise = {site: NOISE * torch.randn(NUM_EXPERTS, generator=generator) for site in mine}
        return _experts(blocks, mine, noise)

    def count(trace: Trace) -> None:
        for site, block in blocks.items():
            block.used += (trace.gates[site].detach() > 0).float().mean(0)

    def mask() -> None:
        for block in blocks.values():
            block.mask_gradient()

    learn = setting.learn
    train_on(
        task,
        setting.clip,
        setting.backbone.tokenize(task.prompts),
        learn,
        learn.seed * 1000 + number,
        [(experts + vision, learn.learning_rate), (static, TEXT_GATE_RATE)],
        current,
        after_backward=mask,
        watch=count,
    )
    return sum(block.num_trainable() for block in blocks.values()), sum(p.numel() for p in vision + static)


def _experts(blocks: dict[Site, PoolBlock], routers: Routers, noise: dict[Site, Tensor] | None = None) -> SiteExperts:
    made: SiteExperts = {}
    for site, block in blocks.items():
        weight, bias = routers[site]
        made[site] = block.experts(weight, bias if noise is None else bias + noise[site])
    return made
