"""A linear probe that people have becomes a task: its class vectors stand in place of those made of words.

A probe is softmax regression on the embeddings x of the frozen backbone, at length 1: `softmax(W x)`. A task without
experts gives these embeddings, and `softmax(scale <x, v>)` of its vectors v (see `igsp_deploy.model.head`), so
`v = W / scale` gives the probe's own probabilities. There is no place for a bias: at length 1 no direction is the same
for all images. One that is the same for all classes changes nothing and is left out.

Shapes: C classes, D numbers of an embedding.
"""

import dataclasses
import json
import time
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open
from torch import Tensor

from igsp_deploy.config import DataConfig, RunConfig
from igsp_deploy.data import TaskData, canonical_source, eval_chunks, load_task_data
from igsp_deploy.data.counts import counts_table, first_skipped
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.head import Head
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.model.loading import load_backbone, settled
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.model.selector import task_statistics
from igsp_deploy.model.task_files import LearnedTask
from igsp_deploy.model_path import locked_model
from igsp_deploy.names import PLAIN
from igsp_train.device import find_device
from igsp_train.evaluate import accuracies
from igsp_train.prompts import check_prompts
from igsp_train.sequence import open_or_create
from igsp_train.statistics import chunked_summaries
from igsp_train.task_warnings import task_warnings

SAVE = (
    "import json, numpy as np; from safetensors.numpy import save_file; "
    "save_file({name: np.ascontiguousarray(value, np.float32) for name, value in "
    '{"weight": np.atleast_2d(probe.coef_), "bias": np.atleast_1d(probe.intercept_)}.items()}, '
    '"probe.safetensors", {"classes": json.dumps([str(name) for name in probe.classes_])})'
)
"""What a user of scikit-learn types."""
NO_BIAS = 1e-6
"""Biases of two classes that differ by no more than this, in logits, are the same."""
ADAPTER_CONFIG = "adapter_config.json"
DATA_SETTINGS = ("val_share", "test_share", "seed")
"""Of the data settings, those that an imported task has a use for: which of its images are measured on."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a file holds.

    Attributes:
        weight: float32 `[C, D]`; logits of embeddings of length 1.
        classes: names, in the order of the rows; None where the file has none.
    """

    weight: Tensor
    classes: list[str] | None


def read_probe(path: Path) -> Probe:
    """Read `weight` `[C, D]`, `bias` `[C]` if any, and the names in the metadata `classes`, a JSON list.

    A weight `[1, D]`, as scikit-learn has it of two classes, tells the second from the first.

    Raises:
        UserError: it is a pickle, an adapter, damaged, or has biases that differ; says what to do.
    """
    if path.is_dir() or path.name == ADAPTER_CONFIG:
        folder = path if path.is_dir() else path.parent
        if (folder / ADAPTER_CONFIG).is_file():
            raise _adapter(folder, _target_modules(folder / ADAPTER_CONFIG))
        raise UserError(f"{path} is a folder. Give the safetensors file of a linear probe.")
    if not path.exists():
        raise UserError(f"{path} does not exist. Give the safetensors file of a linear probe.")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is no safetensors file ({error}). A pickle (joblib, .pkl, .skops) could run code and is never "
            f"opened; save the probe's numbers where it is in memory: {SAVE}"
        ) from error
    if any("lora_" in name for name in tensors):
        raise _adapter(path, sorted({name.partition(".lora_")[0] for name in tensors if "lora_" in name}))
    return _checked(path, tensors, metadata.get("classes"))


def _checked(path: Path, tensors: dict[str, Tensor], names: str | None) -> Probe:
    weight, bias = tensors.pop("weight", None), tensors.pop("bias", None)
    if weight is None or tensors:
        raise UserError(
            f"{path} must hold weight [C, D] and may hold bias [C], has {', '.join(tensors) or 'nothing'} beside them. "
            f"From scikit-learn: {SAVE}"
        )
    if weight.ndim != 2 or not weight.is_floating_point() or not weight.isfinite().all():
        raise UserError(f"{path}: weight must be finite numbers [C, D], is {weight.dtype} {list(weight.shape)}.")
    weight = weight.float()
    bias = torch.zeros(1) if bias is None else bias.float().flatten()
    two = len(weight) == 1
    if len(bias) not in (1, len(weight)):
        raise UserError(f"{path}: bias must have {len(weight)} numbers, one a class, has {len(bias)}.")
    spread = bias.abs().max() if two else bias.max() - bias.min()
    if not spread <= NO_BIAS:
        raise UserError(
            f"{path}: its biases differ between classes by up to {float(spread):.3g}, and class vectors on embeddings "
            "of length 1 have no place for them. Fit the probe again with fit_intercept=False."
        )
    if two:  # sigmoid(z) is the softmax of -z/2 and z/2
        weight = torch.cat([-weight / 2, weight / 2])
    try:
        classes = None if names is None else json.loads(names)
    except ValueError:
        classes = ()
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise UserError(f"{path}: the metadata classes must be a JSON list of names, got {names!r}.")
    if classes is not None:  # as the images' classes are written
        classes = [unicodedata.normalize("NFC", name) for name in classes]
    if classes is not None and (len(classes) != len(weight) or len(set(classes)) != len(classes)):
        raise UserError(f"{path}: it has {len(weight)} rows and names {len(set(classes))} classes. Save it again.")
    return Probe(weight=weight, classes=classes)


def _target_modules(path: Path) -> list[str]:
    try:
        modules = json.loads(path.read_text(encoding="utf-8")).get("target_modules")
    except (OSError, ValueError, AttributeError):
        modules = None
    return [modules] if isinstance(modules, str) else sorted(map(str, modules or ["layers it does not name"]))


def _adapter(path: Path, layers: list[str]) -> UserError:
    shown = ", ".join(dict.fromkeys(layer.rpartition(".")[2] for layer in layers))
    return UserError(
        f"{path} is a low-rank adapter of {shown}. An expert is linear and stands beside a whole MLP, so a change of "
        "one of the MLP's layers, before its nonlinearity or behind it, or of attention, is no expert. Merge it into a "
        "checkpoint and start a model from that (--pretrained PATH), or learn the task from its images: igsp train."
    )


def class_vectors(probe: Probe, where: Path, data: TaskData, backbone: Backbone) -> Tensor:
    """The probe's vectors in the order of the task's classes, in units of a cosine, `[C, D]`.

    Raises:
        UserError: its classes are not those of the images, or it is of another embedding; names both.
    """
    rows, width = probe.weight.shape
    if width != backbone.embed_dim:
        raise UserError(
            f"{where} is of embeddings of {width} numbers; those of {backbone.name} have {backbone.embed_dim}. "
            "Fit it on the embeddings of the backbone of this model."
        )
    names = probe.classes if probe.classes is not None else data.classes
    if rows != len(data.classes) or set(names) != set(data.classes):
        told = f"{rows} classes" if probe.classes is None else f"the classes {_few(names)}"
        raise UserError(
            f"{where} has {told}, the images have {len(data.classes)}: {_few(data.classes)}. Name them alike; a file "
            "without names has its rows in this order."
        )
    order = [names.index(name) for name in data.classes]
    return probe.weight[order] / backbone.logit_scale


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def import_probe(
    model_path: Path,
    name: str,
    path: Path,
    config: RunConfig,
    *,
    console: Console | None = None,
    device: str = "auto",
    given: Collection[str] = (),
) -> TaskRecord:
    """Add a linear probe to the model at `model_path` as a task, which is made if it is not there.

    Args:
        model_path: the model folder.
        name: of the task.
        path: the probe, see `read_probe`.
        config: settings of model, selector and data; `tasks` has the images of `name`, which show the selector what the
            task's images look like, and which the task is measured on.
        console: where progress goes; stderr by default.
        device: where to compute, see `find_device`.
        given: settings that somebody gave, as of `train_sequence`.

    Raises:
        UserError: whatever is wrong with the probe, images, settings or disk; the model is as before.
    """
    console = console or Console(stderr=True)
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{name}: {text}", markup=False, highlight=False, soft_wrap=True)

    _check_data_settings(config.data)
    place, probe = find_device(device), read_probe(path)
    shares = {key: getattr(config.data, key) for key in DATA_SETTINGS}
    data = load_task_data(name, config.tasks[name], **shares)
    config = dataclasses.replace(config, model=settled(config.model))
    with locked_model(model_path):
        backbone = None
        if not (model_path / "config.json").exists():
            backbone = load_backbone(config.model.backbone, config.model.pretrained, config.model.preprocess)
            class_vectors(probe, path, data, backbone)  # before a folder is made
        folder, backbone = open_or_create(model_path, config, backbone, given)
        if name in [task.name for task in folder.tasks]:
            raise UserError(f"{model_path} already has a task {name!r}. Choose another name.")
        head = Head(probe=class_vectors(probe, path, data, backbone))
        for note in data.notes:
            say(note)
        check_prompts(data, backbone, say)
        console.print(counts_table(name, data.counts))
        record = _add(folder, backbone.to(place), data, head, config, path.name, started)
    before, after = record.metrics["val_zero_shot"], record.metrics["val_accuracy"]
    measured = "" if after is None else f"; validation {before:.1f} % by words -> {after:.1f} %"
    for text in record.metrics["warnings"]:
        say(f"warning: {text}.")
    say(f"imported{measured}. Images that the probe was fitted on count in these figures if they are among them")
    return record


def _check_data_settings(data: DataConfig) -> None:
    given = dataclasses.asdict(data).items() - dataclasses.asdict(DataConfig()).items()
    if unused := [f"data.{key}" for key, _ in sorted(given) if key not in DATA_SETTINGS]:
        raise UsageError(
            f"an imported task is not learned: of data.* only {', '.join(DATA_SETTINGS)} say anything here. "
            f"Leave out {' and '.join(unused)}."
        )


def _add(
    folder: ModelFolder,
    backbone: Backbone,
    data: TaskData,
    head: Head,
    config: RunConfig,
    file_name: str,
    started: float,
) -> TaskRecord:
    own = Learned(experts={}, display_names=data.display_names, templates=data.templates, head=head)
    learned = LearnedClip(backbone, folder.sites, [own], head_features=folder.config.head_features)
    measured = accuracies(learned, (0, PLAIN), eval_chunks(data.val, backbone.preprocess)) if len(data.val) else None
    after, before = measured or (None, None)
    seen = chunked_summaries(Clip(backbone, folder.sites), eval_chunks(data.train, backbone.preprocess))
    statistics = task_statistics(*seen, len(data.classes), keep=folder.selector_config.calibration_images)
    record = TaskRecord(
        index=len(folder.tasks),
        name=data.name,
        classes=data.classes,
        display_names=data.display_names,
        templates=data.templates,
        ids={},
        trained_parameters=0,
        kept_parameters=head.num_parameters(),
        selector_parameters=statistics.means.numel(),
        source=canonical_source(config.tasks[data.name]),
        data=dataclasses.asdict(config.data),
        metrics={
            "imported": file_name,
            "val_accuracy": after,
            "val_zero_shot": before,
            "warnings": task_warnings(data.counts, after, before),
            "experts_reused": 0,
            "experts_new": 0,
            "mean_gates": {},
            "seconds": time.monotonic() - started,
        },
        images={label: count.to_json() for label, count in data.counts.items()},
        skipped=first_skipped(data.skipped),
    )
    empty = LearnedTask(experts={}, ids={}, router_weights={}, router_biases={}, statistics=statistics, head=head)
    folder.add_task(record, empty, data.split)
    return record
