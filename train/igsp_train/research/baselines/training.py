"""The loop of the baselines that do not learn into a pool: same images, steps, loss and schedule as `TaskRun`."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.config import LearnConfig
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import SiteExperts, Trace
from igsp_train.data.order import batch_indices
from igsp_train.optimiser import MAX_GRAD_NORM, WEIGHT_DECAY, learning_rate_factor, set_learning_rate
from igsp_train.research.study.tokens import TrunkTokens


def train_on(
    task: TrunkTokens,
    clip: Clip,
    ids: Tensor,
    config: LearnConfig,
    seed: int,
    groups: Sequence[tuple[Iterable[nn.Parameter], float]],
    experts: Callable[[], SiteExperts],
    *,
    after_backward: Callable[[], None] | None = None,
    watch: Callable[[Trace], None] | None = None,
) -> None:
    """Minimise the cross-entropy of one task.

    Args:
        task: images and prompts.
        clip: the CLIP to run.
        ids: token ids of the prompts.
        config: steps, batch size, schedule, label smoothing and clipping.
        seed: of the order of the images.
        groups: parameters to train, each with its peak learning rate.
        experts: gives the experts of this step, attached to the graph; none of them trains the CLIP itself.
        after_backward: called when the gradients are there.
        watch: gets the gates of every step.
    """
    parameters = [(list(members), rate) for members, rate in groups]
    optimiser = torch.optim.AdamW(
        [{"params": members, "base": rate} for members, rate in parameters if members],
        weight_decay=WEIGHT_DECAY,
    )
    ids = clip.crop(ids)
    labels = torch.from_numpy(task.labels)
    count = len(labels)
    for step in range(config.steps):
        indices = batch_indices(count, config.batch_size, step, seed)
        epochs = (step * config.batch_size + np.arange(config.batch_size)) // count
        current, trace = experts(), Trace()
        images = clip.embed(task.batch(indices, epochs), current, trace=trace)
        classes = clip.embed_text(ids, current, trace=trace)
        logits = clip.logit_scale * images @ classes.T
        loss = F.cross_entropy(logits, labels[indices], label_smoothing=config.label_smoothing)
        set_learning_rate(optimiser, learning_rate_factor(step, config.steps, config.warmup_steps))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if after_backward is not None:
            after_backward()
        with_gradient: list[Tensor] = [p for members, _ in parameters for p in members if p.grad is not None]
        nn.utils.clip_grad_norm_(with_gradient, MAX_GRAD_NORM)
        optimiser.step()
        if watch is not None:
            watch(trace)
