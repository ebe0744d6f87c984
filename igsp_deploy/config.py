"""Every setting of the project, with its one default, and a loader that rejects what it does not know."""

import copy
import re
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from igsp_deploy.checked import Count, Flag, Number, PathText, Positive, Share, Whole, checked
from igsp_deploy.errors import UsageError

Penalty = Literal["candidate_mass", "function_residual", "weight_overlap", "gradient_projection", "none"]
Schedule = Literal["fixed", "target_mass"]
PruneRule = Literal["cumulative", "relative", "absolute", "leave_one_out", "held_out", "random"]
Classifier = Literal["text", "blend"]
HeadFeatures = Literal["fourier", "summary"]
RouterInput = Literal["class_token", "mean_token", "static"]
Augment = Literal["crops", "trivial"]
Balance = Literal["none", "classes"]
Precision = Literal["fp32", "bf16"]

AboveZero = Annotated[Number, Field(gt=0)]
FromZero = Annotated[Number, Field(ge=0)]
BelowOne = Annotated[Number, Field(ge=0, lt=1)]
Seed = Annotated[Whole, Field(ge=-(1 << 53), le=1 << 53)]
SplitShare = Annotated[Number, Field(ge=0, le=0.9)]


@checked
class ModelConfig:
    """What a model folder is made of; fixed once its first task is learned."""

    backbone: str = "nano"
    """open_clip model name, `hf-hub:ORG/NAME`, `local-dir:PATH`, a short name, or `nano` for the embedded backbone."""
    pretrained: PathText | None = None
    """open_clip pretrained tag, path of a local checkpoint, or `random`; must be empty for `nano`."""
    preprocess: str | None = None
    """Of a local checkpoint: the tag (or `NAME:TAG`) with whose images and activation its weights were trained."""
    vision_blocks: Count | None = None
    """Adapt the last q vision blocks; 0 adapts all, nothing given the upper half. Those below are the trunk, from whose
    end selector and heads read: with all blocks adapted that is what comes into the first one."""
    text_blocks: Annotated[Whole, Field(ge=-1)] = 0
    """Adapt the last q text blocks; 0 adapts all, -1 none."""
    rank: Annotated[Positive, Field(le=512)] = 16
    """Rank r of one expert."""
    max_experts: Count = 4
    """Experts a task keeps in one block, at most; its router chooses from the new ones and twice as many frozen ones,
    picked from the pool by one batch. It bounds the width of the exported graphs. 0 is no bound."""
    scale: AboveZero = 1.0
    """Factor s on the experts' output."""
    router_input: RouterInput = "class_token"
    """What the vision router reads: the class token, the mean of the other tokens, or nothing (a static gate)."""
    head_features: HeadFeatures = "fourier"
    """What heads are compared with: random Fourier features of the frozen trunk's summary, twice as many as it has
    numbers (igsp_deploy/model/fourier.py), or the `summary` itself."""


@checked
class LearnConfig:
    """How one task is learned."""

    steps: Positive = 200
    """Optimiser steps a task, both phases together."""
    epochs: Count = 0
    """Passes over a task's images in place of `steps`, at most a tenth of them for the warm-up; 0 takes `steps`."""
    batch_size: Positive = 32
    """Images a step."""
    learning_rate: AboveZero = 2e-3
    """Peak learning rate of experts and vision routers (AdamW); the static text gates have their own (optimiser.py)."""
    warmup_steps: Count = 20
    """Linear warm-up of the learning rate, in steps."""
    label_smoothing: Share = 0.1
    """Label smoothing of the cross-entropy."""
    num_candidates: Positive = 3
    """Candidate experts m a block adds in phase 1."""
    initial_candidate_mass: Annotated[Number, Field(gt=0, lt=1)] = 0.7
    """Share of the gates that the candidates of a block hold at the start, however large the pool is."""
    phase1_min_share: Share = 0.15
    """Phase 1 lasts at least this share of the steps."""
    phase1_max_share: Annotated[Share, Field(validate_default=True)] = 0.4
    """Phase 1 lasts at most this share of the steps."""
    penalty: Penalty = "candidate_mass"
    """Phase-1 regularisation that moves gradient onto the frozen experts (igsp_train/reuse.py, penalties.py)."""
    reuse_strength: FromZero = 0.1
    """Strength lambda of the penalty (its start value under `target_mass`)."""
    reuse_schedule: Schedule = "fixed"
    """`fixed` lambda, or dual ascent on lambda until the penalty's value (the candidates' mass) is `target_mass`."""
    target_mass: Share = 0.3
    """Mass of the gates that candidates may hold under `target_mass`."""
    prune_rule: PruneRule = "held_out"
    """Which experts a task keeps after phase 1."""
    keep_ratio: Share = 0.95
    """Level kappa: share of the mass kept (`cumulative`, `random`) or of the worth (`leave_one_out`), share of
    1/(|F|+|C|) (`relative`) or of 1 (`absolute`); `held_out` finds its own level."""
    prune_tolerance: FromZero = 0.2
    """Nats by which pruning may raise the loss on 256 images (held-out ones first), under `held_out`; a quarter of that
    where fewer than 20 are held out, as with `data.shots`."""
    phase2_candidate_mass: BelowOne = 0.7
    """Share of the gates that the kept new experts of a block get at the start of phase 2, at least; 0 leaves them."""
    phase2_restart: Flag = True
    """Whether phase 2 has a learning-rate schedule of its own, from the peak down; else one runs over both phases."""
    train_router_phase2: Flag = True
    """Whether the router is trained in phase 2 too."""
    head: Classifier = "blend"
    """What tells a task's classes apart: their words alone (`text`), or blended with a closed-form head on the frozen
    trunk (`blend`; igsp_train/head.py)."""
    cached_views: Count = 4
    """Augmented views an image whose trunk output is computed once and reused; 0 augments anew in every step."""
    precision: Precision = "fp32"
    """Arithmetic of a step: `bf16` (experimental) runs products in bfloat16; parameters, loss, selector stay fp32."""
    patience: Count = 200
    """Steps of phase 2 without a lower loss on held-out images (20 or more) after which learning ends, and goes back to
    where it was lowest; 0 takes all steps."""
    checkpoint_every: Positive = 50
    """Steps between resumable checkpoints."""
    seed: Seed = 0
    """Seed of initialisation, order of the images and augmentation."""

    @field_validator("epochs")
    @classmethod
    def _not_beside_steps(cls, epochs: int, given: ValidationInfo) -> int:
        steps = given.data.get("steps", cls.steps)
        if epochs and steps != cls.steps:
            raise ValueError(
                f"and learn.steps both say how long to learn ({epochs} and {steps}): leave one of them out"
            )
        return epochs

    @field_validator("phase1_max_share")
    @classmethod
    def _not_under_the_least(cls, share: float, given: ValidationInfo) -> float:
        if share < given.data.get("phase1_min_share", 0.0):
            raise ValueError(f"must be at least learn.phase1_min_share ({given.data['phase1_min_share']}), got {share}")
        return share


@checked
class SelectorConfig:
    """How the task of an image is chosen when nobody says it."""

    shrinkage: Annotated[Number, Field(gt=0, le=1)] = 0.1
    """Weight of the identity (times the mean variance) in the shared covariance."""
    false_alarm: BelowOne = 0.05
    """Share of a task's own images that may fall under its threshold and be left to plain CLIP."""
    background: BelowOne = 0.4
    """Variance of a task over that of all images there are, in [0, 1). More leaves more unseen images to plain CLIP."""
    calibration_images: Positive = 256
    """Training images a task whose features are kept to set its threshold, each as if it had not been learned from."""


@checked
class DataConfig:
    """How a source becomes training, validation and test images, and how they are read."""

    val_share: SplitShare = 0.1
    """Share of the training images held out for validation."""
    test_share: SplitShare = 0.2
    """Share held out for testing where the source has no test split of its own."""
    crop_scale: Annotated[Number, Field(gt=0, le=1)] = 0.9
    """Training images are random crops of at least this share of the area (MTIL: 0.9)."""
    horizontal_flip: Flag = False
    """Mirror training images at random (wrong for digits, letters, signs)."""
    augment: Augment = "crops"
    """What else happens to training images: nothing (`crops`), or one random change of shape or colour (`trivial`)."""
    balance: Balance = "none"
    """What comes equally often while learning: every image (`none`) or every class (`classes`)."""
    shots: Count = 0
    """Few-shot: this many training images a class, and none held out for validation; 0 takes all."""
    num_workers: Count = 0
    """Processes that decode and augment training images; 0 does it in the learning process. The images are the same."""
    cache_mib: Count = 512
    """Memory for decoded training images, in MiB; what does not fit is decoded anew whenever it is needed."""
    seed: Seed = 0
    """Seed of the splits and of the choice of shots."""


@checked
class RunConfig:
    """A whole run of `igsp train`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    selector: SelectorConfig = field(default_factory=SelectorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tasks: dict[str, PathText] = field(default_factory=dict)
    """Task name -> source (folder, manifest, `hf:...`, `torchvision:...`, `mtil:...`), learned in this order."""


def apply_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return `values` with `a.b=c` overrides put in; `c` is read as YAML, so numbers and booleans keep their type.

    Raises:
        UsageError: an override without `=`, or one whose path runs through a plain value.
    """
    import yaml

    result = copy.deepcopy(values)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UsageError(f"--set expects a.b=c, got {override!r}. Example: --set learn.steps=100")
        *parents, last = key.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UsageError(f"--set {override}: {parent} is a value, not a section")
        try:
            node[last] = _numbers(yaml.safe_load(text))
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"--set {override}: {text!r} cannot be read as a value") from error
    return result


def named_settings(values: dict[str, Any]) -> list[str]:
    """Which settings such values name, as `model.rank`, whatever they say."""
    return [f"{section}.{key}" for section, inner in values.items() if isinstance(inner, dict) for key in inner]


def _numbers(value: Any, above: tuple[int, ...] = ()) -> Any:
    """YAML 1.1 reads 1e-3 as text (it wants 1.0e-3); people mean the number."""
    if isinstance(value, dict):
        if id(value) in above:
            raise ValueError("an alias stands within what it names")
        return {key: _numbers(inner, (*above, id(value))) for key, inner in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def load_yaml(path: Any) -> dict[str, Any]:
    """Read a YAML file of settings. Keys are what stands there: a task called `no` or `1` is no truth value or number.

    Raises:
        UsageError: missing, unreadable or not a mapping.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            self.flatten_mapping(node)
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    key.tag = "tag:yaml.org,2002:str"
            return super().construct_mapping(node, deep)

    try:
        with open(path, encoding="utf-8") as handle:
            values = _numbers(yaml.load(handle, Loader) or {})
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}. Check the path.") from error
    except (yaml.YAMLError, ValueError) as error:  # also of dates that are none
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold a mapping of settings, got {type(values).__name__}")
    return values
