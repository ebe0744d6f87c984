"""Learning one task: identify (phase 1), prune, fine-tune (phase 2). See docs/paper_to_code.md for every equation.

The order of images and their augmentation are functions of the seed and the step alone, so a run that was killed and
resumed from a checkpoint takes the very steps an uninterrupted one takes. Processes that learn together (ranks.py) take
parts of the same batches.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from igsp_deploy.config import LearnConfig
from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import Trace
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.sites import Site, site_name
from igsp_train.checkpoint import load_checkpoint, save_checkpoint
from igsp_train.convergence import THRESHOLD, GateTracker
from igsp_train.data.order import Order, batch_indices
from igsp_train.features import TokenBatches, TrunkViews, to_device
from igsp_train.head import FEW
from igsp_train.importance import HeldOutLoss
from igsp_train.learner import new_task_learner
from igsp_train.optimiser import (
    MAX_GRAD_NORM,
    carry_state,
    learning_rate_factor,
    make_optimiser,
    set_learning_rate,
)
from igsp_train.penalties import GradientProjection, function_residual, weight_overlap
from igsp_train.precision import autocast
from igsp_train.prune import LOSS_IMAGES, masks_to_keep
from igsp_train.ranks import ALONE, Ranks
from igsp_train.resume import pack, unpack_learner, unpack_optimiser, unpack_tracker
from igsp_train.reuse import ReuseStrength, candidate_mass, new_expert_share
from igsp_train.shortlist import block_gradients, needs_shortlist, shortlist
from igsp_train.statistics import spread
from igsp_train.steps import LOOK_EVERY, LearnResult, Look, Progress, Reporter, Unread

READ_EVERY = 10
"""Steps of phase 2 on a GPU between two looks at its numbers: a look waits for everything that was begun."""


class TaskRun:
    """One task on its way from candidates to kept experts. `run` takes it to the end."""

    def __init__(
        self,
        backbone: Backbone,
        folder: ModelFolder,
        config: LearnConfig,
        *,
        views: TokenBatches,
        labels: NDArray[np.int64],
        prompts: list[str],
        fingerprint: str,
        ranks: Ranks = ALONE,
        held_out: tuple[Tensor, Tensor] | None = None,
        reuse_ids: dict[Site, list[int]] | None = None,
        keep: Callable[[dict[Site, Tensor]], dict[Site, Tensor]] | None = None,
        balanced: bool = False,
    ) -> None:
        """Prepare the first step, or the one after the last checkpoint.

        Args:
            backbone: the frozen CLIP.
            folder: the model so far; nothing in it is changed.
            config: settings of learning.
            views: trunk tokens of the training images.
            labels: their classes, `[N]`.
            prompts: one prompt a class.
            fingerprint: identifies task, data and settings; a checkpoint of another one is refused.
            ranks: the processes that learn together; only the first writes.
            held_out: trunk tokens `[M, n, d]` and labels `[M]` of images that are not trained on.
            reuse_ids: pool ids a block's router may use; by default all of them, or where these are many a shortlist.
            keep: masks `[K]` of what stays by the mean gates of each block, in place of the pruning rule (a control's).
            balanced: whether every class comes equally often, in place of every image.

        Raises:
            UserError: there is a checkpoint of another task or of other settings, or more processes than images a step.
        """
        ranks.check_batch(config.batch_size)
        self.ranks = ranks
        self.backbone = backbone
        self.folder = folder
        self.config = config
        self.views = views
        self.labels = torch.from_numpy(labels).to(backbone.device)
        self.clip = Clip(backbone, folder.sites, exact=False)
        with torch.no_grad(), autocast(backbone.device, config.precision):
            # The prompts do not change while learning: what lies below the first adapted block is computed once.
            self.ids = self.clip.crop(backbone.tokenize(prompts).to(backbone.device))
            self.prompts = self.clip.text.trunk(self.ids)
        self.fingerprint = fingerprint
        self.held_out, self.keep = held_out, keep
        self.seed = config.seed * 1000 + len(folder.tasks)
        self.order = Order(labels, config.batch_size, self.seed, balanced=balanced)
        self.progress = Progress()
        self.tracker = GateTracker()
        self.reuse = ReuseStrength(config, config.reuse_strength)
        self.read_every = 1 if backbone.device.type == "cpu" else READ_EVERY
        self._unread: list[Unread] = []
        self._best: dict[str, Tensor] = {}
        self.projection: GradientProjection | None = None
        found = load_checkpoint(folder.path)
        if found is not None and found[0].get("learned") != len(folder.tasks):
            found = None  # its task was learned, and the process ended before the checkpoint was removed
        if found is None:
            if reuse_ids is None and needs_shortlist(folder):
                reuse_ids = self._shortlist()
            self.learner = new_task_learner(
                folder, config.num_candidates, self.seed, config.initial_candidate_mass, reuse_ids
            )
            self.progress.trained_parameters = self.learner.to(backbone.device).num_parameters()
            self.optimiser = make_optimiser(self.learner, config)
        else:
            self._resume(*found)

    # --- the two phases -------------------------------------------------------------------------------------------

    def run(self, report: Reporter | None = None, stop: Callable[[], bool] | None = None) -> LearnResult:
        """Take all steps that are left.

        Args:
            report: called after every step.
            stop: asked after every step; True saves a checkpoint and ends with `InterruptedError`.

        Raises:
            UserError: the loss is not finite.
        """
        config, progress = self.config, self.progress
        started = time.monotonic()
        while progress.step < config.steps and not self._lags():
            self._step()
            looked = self._look()
            if looked or progress.phase == 1 or len(self._unread) >= self.read_every or progress.step == config.steps:
                self._read(report)
            if progress.phase == 1 and self._phase1_is_over():
                self._prune()
            if progress.step % config.checkpoint_every == 0 and progress.step < config.steps:
                now = time.monotonic()
                progress.seconds, started = progress.seconds + now - started, now
                self._read(report)
                self._save()
            if stop is not None and stop():
                self._read(report)
                self._save()
                raise InterruptedError("learning was cancelled")
        if progress.phase == 1:
            self._prune()
        back_at = progress.best() if progress.step < config.steps else None
        if back_at is not None:
            with torch.no_grad():
                for name, parameter in self.learner.named_parameters():
                    parameter.copy_(self._best[name])
        progress.seconds += time.monotonic() - started
        self.ranks.check_equal(self.learner.named_parameters(), "the experts they learned")
        return LearnResult(
            learner=self.learner,
            trained_parameters=progress.trained_parameters,
            curves=progress.curves,
            looks=progress.looks,
            back_at=back_at,
            phase1_steps=progress.phase1_steps,
            mean_gates=progress.mean_gates,
            kept=progress.kept,
            seconds=progress.seconds,
        )

    def loss(self, indices: NDArray[np.int64], epochs: NDArray[np.int64]) -> tuple[Tensor, Tensor, Trace]:
        """Cross-entropy of one batch, its accuracy, and every block's gates and hidden states.

        Args:
            indices: images of the batch.
            epochs: the epoch of each.
        """
        tokens = self.views.batch(indices, epochs)
        labels = self.labels[to_device(indices, self.labels.device)]
        experts, trace = self.learner.experts(), Trace()
        with autocast(tokens.device, self.config.precision):
            images = self.clip.embed(tokens, experts, trace=trace)
            classes = self.clip.embed_text(self.ids, experts, trunk=self.prompts, trace=trace)
        logits = self.clip.logit_scale * images @ classes.T
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return loss, accuracy, trace

    def _part(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What of one step's batch this process computes."""
        indices, epochs = self.order.batch(step)
        rows = list(self.ranks.part(range(len(indices))))
        return indices[rows], epochs[rows]

    def _step(self) -> None:
        config, progress = self.config, self.progress
        part = self._part(progress.step)
        ahead = self.views if isinstance(self.views, TrunkViews) else None
        if ahead is not None:
            ahead.prepare(self.order.batch(progress.step)[1])
        loss, accuracy, trace = self.loss(*part)
        gates = trace.gates
        if ahead is not None and progress.step + 1 < config.steps:
            ahead.prefetch(*self._part(progress.step + 1))
        num_frozen = {site: learner.num_frozen for site, learner in self.learner.items()}
        mass = candidate_mass(gates, num_frozen)
        frozen, candidates = self.learner.num_experts()
        total, penalty = loss, mass
        if progress.phase == 1:
            if config.penalty == "function_residual":
                penalty = function_residual(self.learner, gates, trace.hidden)
            elif config.penalty == "weight_overlap":
                penalty = weight_overlap(self.learner)
            total = loss + self.reuse.weight(progress.step, frozen > 0) * penalty
        begun = progress.phase1_steps if config.phase2_restart else 0  # phase 2 may have a schedule of its own
        left = config.steps - begun
        warmup = config.warmup_steps * left // config.steps
        set_learning_rate(self.optimiser, learning_rate_factor(progress.step - begun, left, warmup))
        self.optimiser.zero_grad(set_to_none=True)
        # Means over a part, weighed by the part's share of the batch, sum to the means over the batch.
        share = len(part[0]) / config.batch_size
        (total if self.ranks.count == 1 else total * share).backward()
        self.ranks.sum_gradients(self.learner.parameters())
        if progress.phase == 1 and config.penalty == "gradient_projection":
            self.projection = self.projection or GradientProjection(self.learner)
            self.projection.apply(self.learner)
        torch.nn.utils.clip_grad_norm_([p for p in self.learner.parameters() if p.grad is not None], MAX_GRAD_NORM)
        self.optimiser.step()
        means = [gate.detach().float().mean(0) for gate in gates.values()]
        told = (loss, accuracy, new_expert_share(gates, num_frozen), penalty)
        scalars = [value.detach().float().reshape(1).to(loss.device) for value in told]
        numbers = torch.cat([*scalars, *means])
        self._unread.append(
            Unread(
                step=progress.step,
                phase=progress.phase,
                frozen=frozen,
                candidates=candidates,
                sites=[(site, gate.shape[-1]) for site, gate in gates.items()],
                numbers=numbers if self.ranks.count == 1 else self.ranks.sum(numbers * share),
            )
        )
        progress.step += 1

    def _read(self, report: Reporter | None) -> None:
        """Take the numbers of the steps since the last look from the device, all in one copy, and pass them on.

        Raises:
            UserError: a loss is not finite.
        """
        if not self._unread:
            return
        rows = torch.stack([entry.numbers for entry in self._unread]).cpu()
        for entry, numbers in zip(self._unread, rows, strict=True):
            value, accuracy, share, penalty = numbers[:4].tolist()
            if not np.isfinite(value):
                raise UserError(
                    f"the loss became {value} at step {entry.step}. Lower learn.learning_rate and start again."
                )
            means = numbers[4:].split([count for _, count in entry.sites])
            gates = {site: mean.unsqueeze(0) for (site, _), mean in zip(entry.sites, means, strict=True)}
            self.progress.curves["loss"].append(value)
            self.progress.curves["mass"].append(share)
            self.progress.curves.setdefault("accuracy", []).append(accuracy)  # older checkpoints lack it
            self.progress.curves["movement"].append(self.tracker.update(gates))
            if entry.phase == 1 and entry.frozen:
                self.reuse.update(entry.step, penalty)
            if report is not None:
                report(entry.report(self.config.steps, value, accuracy, share, self.progress.held_out(entry.step + 1)))
        self._unread.clear()

    def _look(self) -> bool:
        """Whether it is time to look at the held-out images, and there are some; if so, keep what is seen."""
        progress = self.progress
        due = progress.step % LOOK_EVERY == 0 or progress.step == self.config.steps
        if not due or self.held_out is None or not len(self.held_out[1]):
            return False
        measured = HeldOutLoss(self.clip, self.learner, (self.ids, self.prompts), self.held_out)
        # The same bits in all processes, for what they decide by it.
        seen = torch.tensor([measured({}), measured.accuracy()], device=self.ranks.device)
        loss, accuracy = (self.ranks.sum(seen) / self.ranks.count).tolist()
        progress.looks.append(Look(step=progress.step, loss=loss, accuracy=accuracy))
        if progress.looks[-1] is progress.best():
            self._best = {name: p.detach().clone() for name, p in self.learner.named_parameters()}
        return True

    def _lags(self) -> bool:
        """Whether the held-out loss has not fallen for so long that learning ends."""
        return self._num_held_out() >= FEW and self.progress.lags(self.config.patience)

    def _num_held_out(self) -> int:
        return 0 if self.held_out is None else len(self.held_out[1])

    def _phase1_is_over(self) -> bool:
        config, step = self.config, self.progress.step
        if step < config.phase1_min_share * config.steps:
            return False
        return self.progress.curves["movement"][-1] < THRESHOLD or step >= config.phase1_max_share * config.steps

    def _shortlist(self) -> dict[Site, list[int]]:
        """Pool ids that the routers choose from, by the first batch; the same in every process."""
        indices, epochs = self.order.batch(0)
        labels = self.labels[torch.from_numpy(indices).to(self.labels.device)]
        tokens, prompts = self.views.batch(indices, epochs).float(), (self.ids, self.prompts.float())
        return shortlist(self.folder, block_gradients(self.clip, self.folder, tokens, labels, prompts))

    def masks(self) -> dict[Site, Tensor]:
        """Which experts the pruning rule keeps now, bool `[K]` for each block; at most `model.max_experts` of them."""
        gates = {site: self.tracker.mean[site] for site, _ in self.learner.items()}
        if self.keep is not None:
            return self.keep(gates)

        def loss(count: int) -> HeldOutLoss:
            return HeldOutLoss(self.clip, self.learner, (self.ids, self.prompts), self.loss_images(count))

        few, limit = self._num_held_out() < FEW, self.folder.config.max_experts
        return masks_to_keep(gates, self.config, limit, loss, self.seed, few_held_out=few)

    def loss_images(self, count: int = LOSS_IMAGES) -> tuple[Tensor, Tensor]:
        """Tokens and labels of `count` images, or as many as there are: held-out ones first, then training ones.

        A small task holds a few dozen images out, too few to measure a loss by, and a few-shot task none. Pruning
        fits nothing, and so early in training one's own images rank experts much as others do.
        """
        parts: list[tuple[Tensor, Tensor]] = []
        if self.held_out is not None and len(self.held_out[1]):
            chosen = torch.from_numpy(spread(len(self.held_out[1]), count))
            parts.append((self.held_out[0][chosen], self.held_out[1][chosen]))
        missing = min(count - sum(len(labels) for _, labels in parts), len(self.labels))
        if missing:
            indices = batch_indices(len(self.labels), missing, 0, self.seed)
            parts.append((self.views.batch(indices, np.zeros_like(indices)), self.labels[indices]))
        tokens, labels = zip(*parts, strict=True)
        return torch.cat([t.to(self.clip.device) for t in tokens]), torch.cat([y.to(self.clip.device) for y in labels])

    def _prune(self) -> None:
        """Fix the structure: keep what the routers use, drop the other candidates for good, go on with phase 2."""
        config, progress = self.config, self.progress
        moved = {}
        masks = self.masks()
        for site, learner in self.learner.items():
            mean, mask = self.tracker.mean[site], masks[site]
            progress.mean_gates[site_name(site)] = [round(v, 5) for v in mean.tolist()]
            progress.kept[site_name(site)] = mask.tolist()
            moved.update(learner.keep(mask))
            learner.open_gates(mean[mask], config.phase2_candidate_mass)
        old = self.optimiser
        self.optimiser = make_optimiser(self.learner, config, train_router=config.train_router_phase2)
        if not config.train_router_phase2:
            for _, learner in self.learner.items():
                learner.bias.requires_grad_(False)
                if learner.weight is not None:
                    learner.weight.requires_grad_(False)
        carry_state(old, self.optimiser, moved)
        self.tracker = GateTracker()
        progress.phase, progress.phase1_steps = 2, progress.step
        self.ranks.check_equal(self.learner.named_parameters(), "which experts to keep")

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if not self.ranks.first:
            return
        state = {
            "fingerprint": self.fingerprint,
            "learned": len(self.folder.tasks),
            "progress": dataclasses.asdict(self.progress),
            "layout": self.learner.layout(),
            "reuse_strength": self.reuse.value,
            "tracker_curve": self.tracker.curve,
        }
        tensors = pack(self.learner, self.optimiser, self.tracker)
        tensors.update({f"best.{name}": tensor for name, tensor in self._best.items()})
        save_checkpoint(self.folder.path, self.progress.step, state, tensors)

    def _resume(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        if state.get("fingerprint") != self.fingerprint:
            raise UserError(
                f"{self.folder.path} holds an unfinished task that was started with another name, other images or "
                "other settings. Repeat that command to finish it, or pass --discard to drop it."
            )
        looks = [Look(**look) for look in state["progress"].pop("looks", [])]  # older checkpoints lack them
        self.progress = Progress(**state["progress"], looks=looks)
        self.learner = unpack_learner(self.folder, state["layout"], tensors).to(self.backbone.device)
        self._best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        train_router = self.progress.phase == 1 or self.config.train_router_phase2
        self.optimiser = unpack_optimiser(self.learner, self.config, tensors, train_router=train_router)
        self.tracker = unpack_tracker(tensors, state["tracker_curve"])
        self.reuse.value = float(state["reuse_strength"])
