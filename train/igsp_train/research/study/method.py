"""What a method is, to a study: it learns tasks one after another and says after each how it would classify."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from igsp_deploy.config import LearnConfig, ModelConfig, SelectorConfig
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.folder import adapted_blocks
from igsp_deploy.sites import Site
from igsp_train.research.study.tokens import TrunkTokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything of a run but the tasks: the same for all methods of a comparison."""

    backbone: Backbone
    model: ModelConfig
    learn: LearnConfig
    selector: SelectorConfig

    @property
    def sites(self) -> list[Site]:
        """All adapted blocks, vision first."""
        vision = adapted_blocks(self.backbone.vision_depth, self.model.vision_blocks, "model.vision_blocks")
        text = adapted_blocks(self.backbone.text_depth, self.model.text_blocks, "model.text_blocks")
        return [("vision", block) for block in vision] + [("text", block) for block in text]

    @property
    def first_block(self) -> int:
        """First adapted vision block."""
        return min(block for tower, block in self.sites if tower == "vision")

    @cached_property
    def clip(self) -> Clip:
        """The backbone as it stands in all methods."""
        return Clip(self.backbone, self.sites)

    def width(self, site: Site) -> int:
        """Width d of one block."""
        return self.backbone.vision_width if site[0] == "vision" else self.backbone.text_width


STRUCTURE = (
    "penalty",
    "reuse_strength",
    "reuse_schedule",
    "target_mass",
    "prune_rule",
    "keep_ratio",
    "prune_tolerance",
    "phase1_min_share",
    "phase1_max_share",
    "phase2_candidate_mass",
    "phase2_restart",
)
"""Settings of learning that only methods with `prunes` read."""

Predict = Callable[[TrunkTokens, Tensor], Tensor]
"""Task whose classes are given, trunk tokens `[B, n, d]` -> class of each image `[B]`."""


@dataclasses.dataclass(kw_only=True)
class Stage:
    """A method after one more task.

    Attributes:
        predict: classifies images of any task, learned or not, with the task given.
        trained_phase1: numbers that received gradient at the start of learning, candidates included.
        trained_phase2: numbers that received gradient to the end.
        kept: numbers this task added to what has to be stored, selector not counted.
        words: as `predict`, but by the words alone, where some task has a head beside them.
        details: whatever else was measured, plain values.
    """

    predict: Predict
    trained_phase1: int
    trained_phase2: int
    kept: int
    words: Predict | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


class Learn(Protocol):
    """Learns the tasks in the order given, and yields after each of them."""

    def __call__(self, setting: Setting, tasks: list[TrunkTokens], /) -> Iterator[Stage]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A method of a comparison.

    Attributes:
        learn: how it learns.
        summary: one line for people.
        changes_old: learning a task can change what an earlier one predicts. Where it cannot, a task is measured once.
        reads_order: results depend on the order of the tasks. Where they do not, one run serves all orders.
        prunes: it looks for a structure and prunes. The settings of that (`STRUCTURE`) do not concern the others.
    """

    learn: Learn
    summary: str
    changes_old: bool = False
    reads_order: bool = True
    prunes: bool = False
