"""What the steps of learning tell: each of them to whoever follows, all of them to the record of the task."""

import dataclasses
from typing import Protocol

from torch import Tensor

from igsp_deploy.config import LearnConfig
from igsp_deploy.sites import Site
from igsp_train.learner import TaskLearner

CURVES = ("loss", "accuracy", "mass", "movement")
"""A number of each step: the batch's loss and share of right answers, the share of new experts, how far gates moved."""
LOOK_EVERY = 25
"""Steps between two looks at the held-out images."""


def in_steps(learn: LearnConfig, images: int) -> LearnConfig:
    """The settings with the steps that so many epochs of `images` images take; as they are where steps were given."""
    if not learn.epochs:
        return learn
    steps = -(-learn.epochs * images // learn.batch_size)
    return dataclasses.replace(learn, epochs=0, steps=steps, warmup_steps=min(learn.warmup_steps, steps // 10))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """How the images that are not learned from are told apart after a step.

    Attributes:
        step: steps taken by then.
        loss: mean cross-entropy in nats, by the words alone.
        accuracy: share of right answers, by the words alone.
    """

    step: int
    loss: float
    accuracy: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did, for progress bars.

    Attributes:
        step: steps taken, this one among them.
        steps: all there will be.
        phase: 1 or 2.
        loss: of the batch, in nats.
        accuracy: share of right answers in the batch.
        new_share: share of the gates that new experts hold.
        frozen_in_use: frozen experts in the routers, over all blocks.
        candidates: new ones.
        held_out: share of right answers on held-out images at the last look; None before the first.
    """

    step: int
    steps: int
    phase: int
    loss: float
    accuracy: float
    new_share: float
    frozen_in_use: int
    candidates: int
    held_out: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unread:
    """A step whose numbers are still on the device.

    Attributes:
        step: steps taken before it.
        phase: 1 or 2.
        frozen: frozen experts in the routers.
        candidates: new ones.
        sites: blocks, and how many gates each has.
        numbers: loss, accuracy, share of the new experts, penalty, and the mean gates of every block.
    """

    step: int
    phase: int
    frozen: int
    candidates: int
    sites: list[tuple[Site, int]]
    numbers: Tensor

    def report(self, steps: int, loss: float, accuracy: float, new_share: float, held_out: float | None) -> StepReport:
        """The step as it is told, with the numbers that were read."""
        return StepReport(
            step=self.step + 1,
            steps=steps,
            phase=self.phase,
            loss=loss,
            accuracy=accuracy,
            new_share=new_share,
            frozen_in_use=self.frozen,
            candidates=self.candidates,
            held_out=held_out,
        )


class Reporter(Protocol):
    """Gets a report after every step."""

    def __call__(self, report: StepReport, /) -> None: ...


@dataclasses.dataclass
class Progress:
    """The state of a run that is not a tensor."""

    step: int = 0
    phase: int = 1
    phase1_steps: int = 0
    trained_parameters: int = 0
    seconds: float = 0.0
    curves: dict[str, list[float]] = dataclasses.field(default_factory=lambda: {name: [] for name in CURVES})
    mean_gates: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    kept: dict[str, list[bool]] = dataclasses.field(default_factory=dict)
    looks: list[Look] = dataclasses.field(default_factory=list)

    def held_out(self, step: int) -> float | None:
        """Share of right answers on held-out images at the last look up to a step."""
        return next((look.accuracy for look in reversed(self.looks) if look.step <= step), None)

    def best(self) -> Look | None:
        """The look of the lowest loss since experts were pruned; the first of equals."""
        looks = [look for look in self.looks if self.phase == 2 and look.step > self.phase1_steps]
        return min(looks, key=lambda look: look.loss, default=None)

    def lags(self, patience: int) -> bool:
        """Whether that was `patience` steps ago, or more; never where it is 0."""
        best = self.best()
        return best is not None and patience > 0 and self.step - best.step >= patience


@dataclasses.dataclass(kw_only=True)
class LearnResult:
    """What learning one task gives: the learner with what is left, and the story of how it came about.

    Attributes:
        learner: the experts and routers that the task keeps.
        trained_parameters: numbers that received gradient at the start.
        curves: a number of each step, by the names of `CURVES`.
        looks: at held-out images, in the order of the steps.
        back_at: the look whose state was gone back to, where learning ended early; else None.
        phase1_steps: steps until experts were pruned.
        mean_gates: block -> mean gate of each expert then.
        kept: block -> which of them were kept.
        seconds: that it took.
    """

    learner: TaskLearner
    trained_parameters: int
    curves: dict[str, list[float]]
    looks: list[Look]
    back_at: Look | None
    phase1_steps: int
    mean_gates: dict[str, list[float]]
    kept: dict[str, list[bool]]
    seconds: float
