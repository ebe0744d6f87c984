"""The sets of a folder, each learned by itself on an empty pool: what benches of heads and of selectors begin with.

Shapes: N images, n tokens, D embedding, F summary, C classes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from igsp_deploy.config import DataConfig, LearnConfig, ModelConfig, SelectorConfig
from igsp_deploy.model.experts import Experts, SiteExperts, frozen
from igsp_deploy.model.head import Head
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.names import PLAIN
from igsp_deploy.sites import Site, site_name
from igsp_train.features import views_seen
from igsp_train.research.baselines.isolated import without_pruning
from igsp_train.research.study.method import Setting
from igsp_train.research.study.pooled import run_task, scratch_folder
from igsp_train.research.study.tokens import CHUNK, TrunkTokens, load_tokens


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Images under a task's experts: `embedding` `[N, D]`, logits `words` and `plain` `[N, C]`, `summary` `[N, F]`, and
    what heads `read` of it `[N, P]`."""

    embedding: Tensor
    summary: Tensor
    read: Tensor
    words: Tensor
    plain: Tensor
    labels: Tensor


def learn(setting: Setting, task: TrunkTokens, steps: int | None = None) -> SiteExperts:
    """Experts of the task on an empty pool."""
    config = without_pruning(replace(setting.learn, steps=steps or setting.learn.steps))
    with scratch_folder(setting) as empty:
        return frozen(run_task(setting, empty, task, config).learner.experts(), "cpu")


def open_tasks(data: Path, cache: Path, base: Setting) -> list[TrunkTokens]:
    """Every set of the folder `data`, as the adapted blocks see it."""
    places = sorted(place for place in data.iterdir() if (place / "classes.json").is_file())
    return [load_tokens(cache, p.name, str(p), base.backbone, base.first_block, DataConfig(), 4) for p in places]


def learned_once(cache: Path, setting: Setting, task: TrunkTokens) -> SiteExperts:
    """Experts of the task, from the cache where they are there."""
    file = cache / f"{task.name}-{task.key[:16]}-{setting.learn.steps}-{setting.learn.seed}.safetensors"
    if not file.exists():
        experts = learn(setting, task)
        tensors = {f"{site_name(site)}/{name}": t for site, one in experts.items() for name, t in one.named_buffers()}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    kept = load_file(file)
    return {site: _experts(setting, site, kept) for site in setting.sites}


def _experts(setting: Setting, site: Site, kept: dict[str, Tensor]) -> Experts:
    """A block's experts out of `kept`, whose names begin with the block's; a static router has no weight."""
    place = site_name(site)
    return Experts(
        down=kept[f"{place}/down"],
        up=kept[f"{place}/up"],
        router_weight=kept.get(f"{place}/router_weight"),
        router_bias=kept[f"{place}/router_bias"],
        scale=setting.model.scale,
        router_input=setting.model.router_input,
    )


def base_setting() -> Setting:
    """The embedded backbone, and experts in its upper three image blocks."""
    model = ModelConfig(vision_blocks=3)
    return Setting(backbone=load_backbone("nano"), model=model, learn=LearnConfig(), selector=SelectorConfig())


def open_clip(setting: Setting, task: TrunkTokens, experts: SiteExperts, head: Head | None = None) -> LearnedClip:
    """The task as the product runs it."""
    own = Learned(experts=experts, display_names=task.classes, templates=task.templates, head=head)
    return LearnedClip(setting.backbone, setting.sites, [own], head_features=setting.model.head_features)


@torch.no_grad()
def look(learned: LearnedClip, tokens: Tensor, labels: Tensor, w: float = 1.0) -> Seen:
    """Everything that heads read of trunk tokens `[N, n, d]`; `w` is a factor on the image experts."""
    rows = [
        (learned.embed(p, 0, w=torch.full((len(p),), w)), learned.clip.summary(p), learned.embed(p, PLAIN))
        for p in tokens.split(CHUNK)
    ]
    embedding, summary, plain = (torch.cat(column) for column in zip(*rows, strict=True))
    scale = learned.clip.logit_scale
    return Seen(
        embedding=embedding,
        summary=summary,
        read=learned.for_heads(summary),
        words=scale * embedding @ learned.class_vectors(0).T,
        plain=scale * plain @ learned.class_vectors(0, PLAIN).T,
        labels=labels,
    )


def views_of(setting: Setting, task: TrunkTokens) -> tuple[Tensor, Tensor]:
    """Tokens and labels of the training images as they are, and then in each view that learning has seen."""
    tokens, labels = task.splits["train"]
    count = views_seen(len(task.views), len(labels), setting.learn.steps, setting.learn.batch_size)
    return torch.cat([tokens, *task.views[:count]]), labels.repeat(1 + count)
