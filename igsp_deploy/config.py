"""Every setting of the project, with its one default, and a loader that rejects what it does not know."""

import copy
import dataclasses
import difflib
import re
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from igsp_deploy.errors import UsageError

Penalty = Literal["candidate_mass", "function_residual", "weight_overlap", "gradient_projection", "none"]
Schedule = Literal["fixed", "target_mass"]
PruneRule = Literal["cumulative", "relative", "absolute", "leave_one_out", "held_out", "random"]
T = TypeVar("T")
RouterInput = Literal["class_token", "mean_token", "static"]
SelectorPlace = Literal["trunk", "embedding"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model folder is made of; fixed once its first task is learned."""

    backbone: str = "nano"
    """open_clip model name, or `nano` for the embedded backbone."""
    pretrained: str | None = None
    """open_clip pretrained tag, path of a local checkpoint, or `random`; must be empty for `nano`."""
    vision_blocks: int = 0
    """Adapt the last q vision blocks; 0 adapts all."""
    text_blocks: int = 0
    """Adapt the last q text blocks; 0 adapts all, -1 none."""
    rank: int = 16
    """Rank r of one expert."""
    scale: float = 1.0
    """Factor s on the experts' output."""
    router_input: RouterInput = "class_token"
    """What the vision router reads: the class token, the mean of the other tokens, or nothing (a static gate)."""
    selector_place: SelectorPlace = "trunk"
    """Features the task selector reads: input of the first adapted block, or the plain CLIP embedding."""

    def problems(self) -> list[str]:
        """Values out of range, as `field must be ..., got ...` sentences."""
        found = []
        if not 1 <= self.rank <= 512:
            found.append(f"model.rank must be in [1, 512], got {self.rank}")
        if self.vision_blocks < 0:
            found.append(f"model.vision_blocks must be 0 (all) or the number of last blocks, got {self.vision_blocks}")
        if self.text_blocks < -1:
            found.append(
                f"model.text_blocks must be -1 (none), 0 (all) or a number of last blocks, got {self.text_blocks}"
            )
        if self.scale <= 0:
            found.append(f"model.scale must be positive, got {self.scale}")
        return found


@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """How one task is learned."""

    steps: int = 200
    """Optimiser steps a task, both phases together."""
    batch_size: int = 32
    """Images a step."""
    learning_rate: float = 2e-3
    """Peak learning rate of experts and vision routers (AdamW)."""
    text_gate_learning_rate: float = 0.3
    """Peak learning rate of the static text gates: bare vectors that hardly move at the experts' rate."""
    weight_decay: float = 0.0
    """AdamW weight decay."""
    warmup_steps: int = 20
    """Linear warm-up of the learning rate, in steps."""
    label_smoothing: float = 0.1
    """Label smoothing of the cross-entropy."""
    max_grad_norm: float = 1.0
    """Clip the gradient's norm; 0 switches it off."""
    num_candidates: int = 3
    """Candidate experts m a block adds in phase 1."""
    initial_candidate_mass: float = 0.7
    """Share of the gates that the candidates of a block hold at the start, however large the pool is."""
    phase1_min_share: float = 0.15
    """Phase 1 lasts at least this share of the steps."""
    phase1_max_share: float = 0.4
    """Phase 1 lasts at most this share of the steps."""
    convergence_window: int = 10
    """Steps over which the routers' movement is measured."""
    convergence_threshold: float = 0.01
    """Phase 1 ends when the mean gate moves less than this (total variation) over one window."""
    gate_ema: float = 0.9
    """Decay of the moving average of the gates."""
    penalty: Penalty = "candidate_mass"
    """Phase-1 regularisation that moves gradient onto the frozen experts (igsp_train/reuse.py, penalties.py)."""
    reuse_strength: float = 0.1
    """Strength lambda of the penalty (its start value under `target_mass`)."""
    reuse_schedule: Schedule = "fixed"
    """`fixed` lambda, or dual ascent on lambda until the penalty's value (the candidates' mass) is `target_mass`."""
    target_mass: float = 0.3
    """Mass of the gates that candidates may hold under `target_mass`."""
    dual_step: float = 0.3
    """Step of the dual ascent on log lambda."""
    prune_rule: PruneRule = "held_out"
    """Which experts a task keeps after phase 1."""
    keep_ratio: float = 0.95
    """Level kappa: share of the mass kept (`cumulative`, `random`) or of the worth (`leave_one_out`), share of
    1/(|F|+|C|) (`relative`) or of 1 (`absolute`); `held_out` finds its own level."""
    prune_tolerance: float = 0.05
    """Nats by which pruning may raise the loss on 256 images (held-out ones first), under `held_out`."""
    phase2_candidate_mass: float = 0.7
    """Share of the gates that the kept new experts of a block get at the start of phase 2, at least; 0 leaves them."""
    phase2_restart: bool = True
    """Whether phase 2 has a learning-rate schedule of its own, from the peak down; else one runs over both phases."""
    train_router_phase2: bool = True
    """Whether the router is trained in phase 2 too."""
    cached_views: int = 4
    """Augmented views an image whose trunk output is computed once and reused; 0 augments anew in every step."""
    cache_limit_mib: int = 2048
    """Memory the cached views may take, in MiB; fewer views are kept where they do not fit."""
    precision: Precision = "fp32"
    """Arithmetic of the steps: `bf16` runs products in bfloat16 (autocast); parameters, loss and selector stay fp32."""
    checkpoint_every: int = 50
    """Steps between resumable checkpoints."""
    seed: int = 0
    """Seed of initialisation, order of the images and augmentation."""

    def problems(self) -> list[str]:
        """Values out of range, as `field must be ..., got ...` sentences."""
        found = []
        for name in ("steps", "batch_size", "num_candidates", "convergence_window", "checkpoint_every"):
            if getattr(self, name) < 1:
                found.append(f"learn.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "text_gate_learning_rate", "dual_step"):
            if getattr(self, name) <= 0:
                found.append(f"learn.{name} must be positive, got {getattr(self, name)}")
        for name in (
            "label_smoothing",
            "gate_ema",
            "phase1_min_share",
            "phase1_max_share",
            "target_mass",
            "keep_ratio",
        ):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"learn.{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 < self.initial_candidate_mass < 1:
            found.append(f"learn.initial_candidate_mass must be inside (0, 1), got {self.initial_candidate_mass}")
        if not 0 <= self.phase2_candidate_mass < 1:
            found.append(f"learn.phase2_candidate_mass must be in [0, 1), got {self.phase2_candidate_mass}")
        if self.phase1_min_share > self.phase1_max_share:
            found.append("learn.phase1_min_share must not exceed learn.phase1_max_share")
        for name in (
            "warmup_steps",
            "cached_views",
            "cache_limit_mib",
            "reuse_strength",
            "prune_tolerance",
            "weight_decay",
            "max_grad_norm",
        ):
            if getattr(self, name) < 0:
                found.append(f"learn.{name} must not be negative, got {getattr(self, name)}")
        return found


@dataclass(frozen=True, kw_only=True)
class SelectorConfig:
    """How the task of an image is chosen when nobody says it."""

    shrinkage: float = 0.1
    """Weight of the identity (times the mean variance) in the shared covariance."""
    false_alarm: float = 0.05
    """Share of a task's own held-out images that may fall under its threshold and be left to plain CLIP."""
    background: float = 0.4
    """Variance of a task over that of all images there are, in [0, 1). More leaves more unseen images to plain CLIP."""
    calibration_images: int = 256
    """Held-out images a task whose features are kept to calibrate its threshold."""

    def problems(self) -> list[str]:
        """Values out of range, as `field must be ..., got ...` sentences."""
        found = []
        if not 0 < self.shrinkage <= 1:
            found.append(f"selector.shrinkage must be in (0, 1], got {self.shrinkage}")
        if not 0 <= self.false_alarm < 1:
            found.append(f"selector.false_alarm must be in [0, 1), got {self.false_alarm}")
        if not 0 <= self.background < 1:
            found.append(f"selector.background must be in [0, 1), got {self.background}")
        if self.calibration_images < 1:
            found.append(f"selector.calibration_images must be at least 1, got {self.calibration_images}")
        return found


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How a source becomes training, validation and test images, and how they are read."""

    val_share: float = 0.1
    """Share of the training images held out for validation and calibration."""
    test_share: float = 0.2
    """Share held out for testing where the source has no test split of its own."""
    crop_scale: float = 0.9
    """Training images are random crops of at least this share of the area (MTIL: 0.9)."""
    horizontal_flip: bool = False
    """Mirror training images at random (wrong for digits, letters, signs)."""
    shots: int = 0
    """Few-shot: this many training images a class, and none held out for validation; 0 takes all."""
    num_workers: int = 0
    """Processes that decode and augment training images; 0 does it in the learning process. The images are the same."""
    cache_mib: int = 512
    """Memory for decoded training images, in MiB; what does not fit is decoded anew whenever it is needed."""
    seed: int = 0
    """Seed of the splits and of the choice of shots."""

    def problems(self) -> list[str]:
        """Values out of range, as `field must be ..., got ...` sentences."""
        found = [
            f"data.{name} must be in [0, 0.9], got {getattr(self, name)}"
            for name in ("val_share", "test_share")
            if not 0 <= getattr(self, name) <= 0.9
        ]
        if not 0 < self.crop_scale <= 1:
            found.append(f"data.crop_scale must be in (0, 1], got {self.crop_scale}")
        for name in ("shots", "num_workers", "cache_mib"):
            if getattr(self, name) < 0:
                found.append(f"data.{name} must not be negative, got {getattr(self, name)}")
        return found


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run of `igsp train`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    selector: SelectorConfig = field(default_factory=SelectorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tasks: dict[str, str] = field(default_factory=dict)
    """Task name -> source (folder, manifest, `hf:...`, `torchvision:...`, `mtil:...`), learned in this order."""


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join("null" if k is type(None) else _describe(k) for k in typing.get_args(kind))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, str(kind))


def _accepts(kind: Any, value: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value in typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_accepts(k, value) for k in typing.get_args(kind))
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
    if kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _build(cls: type[Any], values: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(values, dict):
        problems.append(f"{path or 'the configuration'} must be a mapping, got {type(values).__name__}")
        return cls()
    kinds = typing.get_type_hints(cls)
    accepted: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in kinds:
            problems.append(f"{where} is not an option; {_hint(str(key), path, cls)}")
        elif dataclasses.is_dataclass(kinds[key]):
            accepted[key] = _build(typing.cast("type[Any]", kinds[key]), value, where, problems)
        elif not _accepts(kinds[key], value):
            problems.append(f"{where} must be {_describe(kinds[key])}, got {value!r}")
        else:
            accepted[key] = float(value) if kinds[key] is float else value
    result = cls(**accepted)
    if hasattr(result, "problems"):
        problems.extend(result.problems())
    return result


def _hint(key: str, path: str, cls: type[Any]) -> str:
    """The option that was meant, here or in another section; else what there is here."""
    kinds = typing.get_type_hints(cls)
    near = difflib.get_close_matches(key, kinds, n=1)
    if near:
        return f"did you mean {f'{path}.' if path else ''}{near[0]}?"
    inner = [s for s, kind in kinds.items() if dataclasses.is_dataclass(kind) and key in typing.get_type_hints(kind)]
    return f"did you mean {inner[0]}.{key}?" if inner else f"known here: {', '.join(sorted(kinds))}"


def build_config(cls: type[T], values: dict[str, Any], source: str) -> T:
    """Make a config dataclass from plain values (YAML or JSON), reporting every mistake at once.

    Args:
        cls: the dataclass, for example `RunConfig`.
        values: nested mapping of settings; what is absent keeps its default.
        source: file or option the values came from, for the message.

    Raises:
        UsageError: unknown keys, wrong types or values out of range; lists all of them with their path.
    """
    problems: list[str] = []
    result = _build(cls, values, "", problems)
    if problems:
        raise UsageError(f"{source}: " + "; ".join(problems))
    return typing.cast("T", result)


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
        except yaml.YAMLError as error:
            raise UsageError(f"--set {override}: {text!r} cannot be read as a value") from error
    return result


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text (it wants 1.0e-3); people mean the number."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def load_yaml(path: Any) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises:
        UsageError: missing, unreadable or not a mapping.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as handle:
            values = yaml.safe_load(handle) or {}
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}. Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold a mapping of settings, got {type(values).__name__}")
    return _numbers(values)
