"""From a model folder to a bundle: compact, stack, export, check against PyTorch, then appear by one rename."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from rich.console import Console

from igsp_deploy import __version__
from igsp_deploy.bundle.arrays import pack_arrays
from igsp_deploy.bundle.experts import ExpertTable
from igsp_deploy.bundle.manifest import (
    CLASSES,
    EXPERTS,
    MANIFEST,
    REFERENCE,
    SELECTOR,
    TOKENIZER,
    BundleBackbone,
    BundleTask,
    BundleTokenizer,
    Manifest,
    Variant,
    check_files,
    list_files,
    read_manifest,
)
from igsp_deploy.bundle.stacks import SelectorTable
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.files import new_folder
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.model.record import count_experts
from igsp_deploy.names import PLAIN
from igsp_deploy.runtime.engine import Engine
from igsp_deploy.runtime.providers import CPU, CUDA, choose_provider
from igsp_export.compact import compact, expert_layout, selector_table, task_sizes
from igsp_export.graphs import PRECISIONS, write_graphs
from igsp_export.images import check_images
from igsp_export.model_card import model_card
from igsp_export.onnx_file import OPSETS
from igsp_export.parity import check_parity, make_reference
from igsp_export.shapes import ADAPTERS, add_adapters
from igsp_export.tokenizer import write_tokenizer

STORED: dict[str, type[np.floating[Any]]] = {"fp32": np.float32, "fp16": np.float16}
"""What experts can be stored in. Graphs take them in their own precision; the gate says what the rounding costs."""


def export_bundle(
    model_path: Path,
    bundle_path: Path,
    *,
    precision: Sequence[str] = ("fp32",),
    opset: int = 23,
    check_limit: int = 0,
    adapters: bool = False,
    experts: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Export a model folder as a bundle, and hold it against PyTorch before it appears.

    Args:
        model_path: the model folder.
        bundle_path: must not exist yet.
        precision: graphs to write.
        opset: ONNX opset, 23 or 18.
        check_limit: test images of each task to check with; 0 takes all.
        adapters: also write the tasks as `.onnx_adapter` files.
        experts: what experts are stored in, `fp32` or `fp16`; None takes what the graphs are in, fp32 if they differ.
        console: where progress goes; stderr by default.

    Returns:
        `bundle`, `tasks`, `task_bytes` (what each adds), `opset`, `size_bytes` by file, and `parity` by precision (see
        `check_parity`).

    Raises:
        UserError: no model, no task, the bundle exists or cannot be written, or the graphs differ from PyTorch.
    """
    console = console or Console(stderr=True)
    stored = _check_options(precision, opset, experts)
    folder = ModelFolder.open(model_path)
    with new_folder(bundle_path) as scratch:
        learned = LearnedClip.open(folder)
        assert learned.selector is not None
        experts_of = [task.experts for task in learned.tasks]
        table = compact(experts_of, [record.ids for record in folder.tasks], folder.config.rank)
        table.write(scratch / EXPERTS, STORED[stored])
        selector = selector_table(learned.selector)
        selector.write(scratch / SELECTOR)
        sizes = task_sizes(
            table,
            selector,
            learned.backbone.embed_dim,
            np.dtype(STORED[stored]).itemsize,
            heads=[
                0 if (head := learned.head_vectors(t)) is None else head.shape[1] for t in range(len(learned.tasks))
            ],
        )
        described = _bundle_tasks(folder, sizes, _experts_sha256(scratch / EXPERTS, folder))
        texts = write_tokenizer(learned.backbone.tokenizer, scratch / TOKENIZER)
        texts = dataclasses.replace(texts, end_id=learned.backbone.text_ends.end_id(texts.end_id))
        _say(console, f"writing the graphs of {learned.backbone.name}, for {len(folder.tasks)} tasks and later ones")
        variants = [write_graphs(folder, learned, scratch, name, opset) for name in precision]
        (scratch / CLASSES).write_bytes(pack_arrays(_class_vectors(learned)))
        make_reference(learned).write(scratch / REFERENCE)
        manifest = _manifest(folder, learned.backbone, opset, variants, described, stored, texts, {})
        Manifest.write(_with_files(manifest, scratch), scratch)
        if adapters:
            add_adapters(scratch, manifest)
        parity = {}
        for variant in variants:
            _say(console, f"checking {variant.precision} against PyTorch")
            told = console if variant is variants[0] else Console(quiet=True)
            images = (check_images(r, learned.backbone, told, check_limit, folder.split(r.index)) for r in folder.tasks)
            parity[variant.precision] = check_parity(learned, _engine(scratch, variant), images, variant.precision)
        manifest = _manifest(folder, learned.backbone, opset, variants, described, stored, texts, parity)
        (scratch / "README.md").write_text(model_card(manifest), encoding="utf-8")
        (manifest := _with_files(manifest, scratch)).write(scratch)
    return _result(bundle_path, manifest)


def reopen_bundle(
    model_path: Path,
    bundle_path: Path,
    *,
    precision: Sequence[str],
    opset: int,
    adapters: bool,
    experts: str | None,
    console: Console | None = None,
) -> dict[str, Any]:
    """What `export_bundle` gave for a bundle that is there already, to go on from.

    Args:
        model_path: the model folder.
        bundle_path: the bundle; compared with its checksums.
        precision: as for `export_bundle`, like all that follows; the bundle must have been made so.
        opset: ONNX opset.
        adapters: whether it holds `.onnx_adapter` files.
        experts: what experts are stored in.
        console: where progress goes; stderr by default.

    Raises:
        UserError: what is there is no bundle, damaged, or of another model or other options.
    """
    stored = _check_options(precision, opset, experts)
    if not (bundle_path / MANIFEST).is_file():
        raise UserError(f"{bundle_path} exists already and is no bundle. Choose another name or remove it first.")
    folder, manifest = ModelFolder.open(model_path), read_manifest(bundle_path)
    check_files(bundle_path, manifest)
    tasks = [folder.fingerprint(t) for t in range(len(folder.tasks))]
    compared = {
        "backbone": (str(folder.identity["weight_hash"]), manifest.backbone.weight_hash),
        "tasks": (tasks, [task.fingerprint for task in manifest.tasks]),
        "settings of the selector": (True, _selects_alike(folder, bundle_path, manifest)),
        "precision": (sorted(precision), sorted(variant.precision for variant in manifest.variants)),
        "opset": (opset, manifest.opset),
        "precision of the experts": (stored, manifest.experts_precision),
        ".onnx_adapter files": (adapters, any(name.startswith(f"{ADAPTERS}/") for name in manifest.files)),
    }
    other = [what for what, (ours, theirs) in compared.items() if ours != theirs]
    if other:
        raise UserError(
            f"{bundle_path} exists already, with other {' and other '.join(other)} than asked for. Choose another name "
            "or remove it first."
        )
    _say(console or Console(stderr=True), f"{bundle_path} is there already, of this model: taking it as it is")
    return _result(bundle_path, manifest)


def _selects_alike(folder: ModelFolder, bundle_path: Path, manifest: Manifest) -> bool:
    """Whether a bundle chooses tasks as its model does now: settings of the selector may be changed in `config.json`.

    True where the tasks are not the same ones. Within rounding: the selector is computed anew.
    """
    selector = folder.selector()
    if selector is None or len(folder.tasks) != len(manifest.tasks):
        return True
    ours = selector_table(selector)
    theirs = SelectorTable.read(bundle_path / SELECTOR, len(manifest.tasks)).fitting(("selector.background",))
    pairs = [(getattr(ours, name), getattr(theirs, name)) for name in ("thresholds", "background")]
    pairs.append((ours.whitening.diagonal(), theirs.whitening.diagonal()))
    return all(a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in pairs)


def _result(bundle_path: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "bundle": str(bundle_path),
        "tasks": manifest.task_names(),
        "task_bytes": {task.name: task.size_bytes for task in manifest.tasks},
        "opset": manifest.opset,
        "size_bytes": {name: file.size_bytes for name, file in manifest.files.items()},
        "parity": manifest.parity,
    }


def _check_options(precision: Sequence[str], opset: int, experts: str | None) -> str:
    """What experts are stored in."""
    unknown = [name for name in precision if name not in PRECISIONS]
    if unknown or not precision or len(set(precision)) != len(precision):
        raise UsageError(
            f"precision must be one or more of {', '.join(PRECISIONS)}, got {', '.join(precision) or 'none'}."
        )
    if "bf16" in precision and opset == 18:
        raise UsageError("bf16 graphs need opset 23: ONNX's convolution knows no bf16 in opset 18. Leave --opset away.")
    if "bf16" in precision and choose_provider("auto") != CUDA:
        raise UsageError(
            "bf16 graphs can be checked against PyTorch on a GPU alone: onnxruntime has no bf16 on the CPU. "
            "Export where CUDA works (`igsp doctor` tells), or take fp16."
        )
    if opset not in OPSETS:
        raise UsageError(f"opset must be one of {', '.join(map(str, OPSETS))}, got {opset}.")
    if experts not in (None, *STORED):
        raise UsageError(f"--experts must be one of {', '.join(STORED)}, got {experts!r}.")
    # Graphs in half precision alone need no more digits than that.
    return experts or ("fp16" if tuple(precision) == ("fp16",) else "fp32")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _class_vectors(learned: LearnedClip) -> dict[str, Any]:
    tensors = {}
    for t in range(len(learned.tasks)):
        tensors[f"task.{t}"] = learned.class_vectors(t).numpy()
        tensors[f"plain.{t}"] = learned.class_vectors(t, PLAIN).numpy()
        head = learned.head_vectors(t)
        if head is not None:
            tensors[f"head.{t}"] = head.numpy()
    return tensors


def _experts_sha256(path: Path, folder: ModelFolder) -> list[str]:
    """Of each task, from what was written: rounded as it is stored."""
    table = ExpertTable.read(path, expert_layout(folder), len(folder.tasks))
    return [table.sha256(t) for t in range(len(folder.tasks))]


def _engine(scratch: Path, variant: Variant) -> Engine:
    """What runs a variant's graphs here, optimised or not."""
    if CPU in variant.providers:
        return Engine.open(scratch, "cpu", precision=variant.precision)
    if choose_provider("auto") == CUDA:
        return Engine.open(scratch, "cuda", precision=variant.precision)
    return Engine.open_unoptimized(scratch, variant)


def _with_files(manifest: Manifest, folder: Path) -> Manifest:
    return dataclasses.replace(manifest, files=list_files(folder))


def _manifest(
    folder: ModelFolder,
    backbone: Backbone,
    opset: int,
    variants: list[Variant],
    tasks: tuple[BundleTask, ...],
    stored: str,
    texts: BundleTokenizer,
    parity: dict[str, Any],
) -> Manifest:
    # A local checkpoint's path means nothing elsewhere, and is nobody's business; its weights are in the hash.
    tag = None if backbone.pretrained is None or Path(backbone.pretrained).is_file() else backbone.pretrained
    return Manifest(
        created_by=f"igsp-deploy {__version__}",
        backbone=BundleBackbone(
            name=backbone.public_name,
            pretrained=tag,
            weight_hash=backbone.weight_hash,
            embed_dim=backbone.embed_dim,
            context_length=backbone.context_length,
            logit_scale=backbone.logit_scale,
            logit_bias=backbone.logit_bias,
        ),
        preprocess=backbone.preprocess,
        tasks=tasks,
        opset=opset,
        variants=tuple(variants),
        experts=expert_layout(folder),
        experts_precision=cast(Literal["fp32", "fp16"], stored),
        parity=parity,
        tokenizer=texts,
        head_features=folder.config.head_features,
    )


def _bundle_tasks(folder: ModelFolder, sizes: list[int], experts: list[str]) -> tuple[BundleTask, ...]:
    records = folder.tasks
    return tuple(
        BundleTask(
            name=record.name,
            classes=tuple(record.classes),
            display_names=tuple(record.display_names),
            templates=tuple(record.templates),
            experts=used,
            experts_new=new,
            size_bytes=size,
            fingerprint=folder.fingerprint(record.index),
            experts_sha256=sha256,
        )
        for record, (used, new), size, sha256 in zip(records, count_experts(records), sizes, experts, strict=True)
    )
