"""`igsp export --fold TASK`: one task alone as a plain classifier, pixels in, probabilities out; no bundle, no engine.

For phones and whatever runs an ONNX file: no stacks, no gather by task, no selector.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from igsp_deploy import __version__
from igsp_deploy.bundle.manifest import TOKENIZER
from igsp_deploy.bundle.reference import FEATURE_TOLERANCE, largest_difference
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.files import new_folder, write_json, write_sums
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.model.tokenizing import describe
from igsp_deploy.runtime.classifier import Labels
from igsp_deploy.runtime.graph import SessionSettings, provider_list
from igsp_deploy.runtime.providers import CPU, choose_provider
from igsp_deploy.runtime.tasks import find_task
from igsp_export.fold_graph import FoldedImage, FoldedText
from igsp_export.image_graph import in_precision, with_merged_branches
from igsp_export.images import CHUNK, CheckImages, check_images
from igsp_export.onnx_file import OPSETS, Signature, forget_origin, quiet, save_model, write_onnx
from igsp_export.parity import DIFFERING_ALLOWED, TIE, what_to_try
from igsp_export.tokenizer import write_tokenizer

IMAGE, TEXT, LABELS = "image.onnx", "text.onnx", "labels.json"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
"""Precision -> what the modules are exported in."""
COSINE_TOLERANCE = {"fp32": 1e-4, "fp16": 4e-3}
"""Largest difference of a feature's cosine with a class from PyTorch's. Rounding errors of a feature's numbers mostly
cancel in it, so it says more than their largest: half precision has 11 bits, an error of 5e-4 in each number."""
HEAD_TOLERANCE = 1e-3
"""Largest difference of a probability from the one that the graph's own features give: the classes, the scale and the
softmax are in float32 in every precision."""
FORMAT = 1
"""Of `labels.json`."""
EXAMPLES = 3
"""Rows of an example input where the batch is free."""


def folded_task(name: str, names: Sequence[str]) -> int:
    """Index of the task that is to be folded.

    Raises:
        UserError: there is none of that name (the nearest is suggested), or it is `auto` or `none`.
    """
    if name in ("auto", "none") and name not in names:
        raise UserError(
            f"a folded graph knows one task and cannot choose, got {name!r}: its experts are inside the weights. "
            f"Name one of {', '.join(names)}, or leave --fold away for a bundle, which chooses."
        )
    return find_task(name, names, of="the model")


def check_options(precision: Sequence[str], opset: int, batch: int | None) -> str:
    """The one precision to fold in.

    Raises:
        UsageError: more than one or an unknown precision, opset or batch.
    """
    if len(precision) != 1 or precision[0] not in DTYPES:
        raise UsageError(
            f"a folded graph takes one precision of {', '.join(DTYPES)}, got {', '.join(precision) or 'none'}. "
            "int8 and bf16 graphs are made of bundles only: leave --fold away for them."
        )
    if opset not in OPSETS:
        raise UsageError(f"opset must be one of {', '.join(map(str, OPSETS))}, got {opset}.")
    if batch is not None and batch < 1:
        raise UsageError(f"the batch of a folded graph must be at least 1, got {batch}. Leave it away for a free one.")
    return precision[0]


def fold_model(model: Path, name: str, out: Path, *, precision: Sequence[str], **options: Any) -> dict[str, Any]:
    """`fold` for the task called `name` of a model folder.

    Raises:
        UserError: no model, no such task, or what `fold` raises.
        UsageError: more than one precision or an unknown one, opset or batch.
    """
    chosen = check_options(precision, options.get("opset", 23), options.get("batch"))
    folder = ModelFolder.open(model)
    task = folded_task(name, [record.name for record in folder.tasks])
    return fold(folder, LearnedClip.open(folder), task, out, precision=chosen, **options)


def fold(
    folder: ModelFolder,
    learned: LearnedClip,
    task: int,
    out: Path,
    *,
    precision: str = "fp32",
    opset: int = 23,
    batch: int | None = None,
    with_text: bool = False,
    check_limit: int = 0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write one task as a folder of plain ONNX graphs, held against PyTorch before it appears.

    `image.onnx`: `images` (uint8 `[B, S, S, 3]`) -> `features` `[B, D]`, `probabilities` `[B, C]`, the softmax of
    logit scale times cosine over the task's classes. With a head its part is added, and what it reads is given as well:
    `summary` `[B, P]`. What the task changed in the text tower is in its class
    embeddings, which are inside. `labels.json` names the classes and says how a picture becomes an input.

    Args:
        folder: the model.
        learned: the same, opened.
        task: index of the task, see `folded_task`.
        out: must not exist yet.
        precision: `fp32` or `fp16`.
        opset: ONNX opset, 23 or 18.
        batch: images a call, fixed, so that every size in the graph is a number; None leaves it free.
        with_text: write `text.onnx` (`ids` int64 `[N, context length]` -> `embeddings` `[N, D]`) and its tokenizer.
        check_limit: test images of the task to check with; 0 takes all.
        console: where progress goes; stderr by default.

    Returns:
        `folder`, `task`, `size_bytes` by file, and `parity` (see `check_folded`).

    Raises:
        UserError: the folder exists or cannot be written, or the graph differs from PyTorch.
    """
    console = console or Console(stderr=True)
    precision = check_options([precision], opset, batch)
    backbone, record = learned.backbone, folder.tasks[task]
    with new_folder(out) as scratch:
        _write_graphs(learned, task, scratch, precision=precision, opset=opset, batch=batch, with_text=with_text)
        split = folder.split(record.index)
        images = check_images(record, backbone, console, check_limit, split, size=batch or CHUNK)
        parity = check_folded(learned, task, scratch, images, precision=precision, batch=batch)
        made = {"precision": precision, "opset": opset, "batch": batch, "parity": parity}
        if with_text:
            texts = dataclasses.replace(describe(backbone.tokenizer), end_id=None)  # the graph takes whole contexts
            made["tokenizer"] = dataclasses.asdict(texts) | {"context_length": backbone.context_length}
        write_json(scratch / LABELS, _about(record, backbone) | made)
        write_sums(scratch)
    return {
        "folder": str(out),
        "task": record.name,
        "size_bytes": {path.name: path.stat().st_size for path in sorted(out.iterdir())},
        "parity": parity,
    }


def _about(record: TaskRecord, backbone: Backbone) -> dict[str, Any]:
    spec = backbone.preprocess
    return {
        "format": FORMAT,
        "created_by": f"igsp-deploy {__version__}",
        "task": record.name,
        "labels": list(record.classes),
        "display_names": list(record.display_names),
        "templates": list(record.templates),
        "backbone": backbone.public_name,
        "image": {"size": spec.size, "layout": "BHWC", "type": "uint8"}
        | {"interpolation": spec.interpolation, "resize_mode": spec.resize_mode},
        "logit_scale": backbone.logit_scale,
    }


def _write_graphs(
    learned: LearnedClip, task: int, folder: Path, *, precision: str, opset: int, batch: int | None, with_text: bool
) -> None:
    backbone, experts = learned.backbone, learned.tasks[task].experts
    size, length = backbone.preprocess.size, backbone.context_length
    example = torch.zeros(batch or EXAMPLES, size, size, 3, dtype=torch.uint8)
    image = FoldedImage(learned, task)
    inputs, outputs = {"images": example}, ["features", "probabilities"]
    if learned.head_vectors(task) is not None:
        outputs.append("summary")
    write_folded(image, inputs, outputs, folder / IMAGE, precision=precision, opset=opset, fixed=batch is not None)
    if with_text:
        ids = torch.zeros(EXAMPLES, length, dtype=torch.int64)
        text = FoldedText(backbone, experts)
        write_folded(text, {"ids": ids}, ["embeddings"], folder / TEXT, precision=precision, opset=opset, fixed=False)
        write_tokenizer(backbone.tokenizer, folder / TOKENIZER)


def write_folded(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: list[str],
    path: Path,
    *,
    precision: str,
    opset: int,
    fixed: bool,
) -> None:
    """Export a module of one task; with `fixed` every size is that of the examples, else the first one is free."""
    graph = in_precision(with_merged_branches(module), DTYPES[precision]).eval()
    if not fixed:
        write_onnx(graph, Signature(inputs=inputs, outputs=outputs, lengths={}), path, opset=opset)
        return
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=outputs,
            verbose=False,
        )
    assert program is not None
    forget_origin(program.model)
    save_model(program.model, path)


def check_folded(
    learned: LearnedClip, task: int, folder: Path, images: CheckImages, *, precision: str, batch: int | None
) -> dict[str, Any]:
    """Hold the graphs in `folder` against the uncompacted model.

    Returns:
        `images`, `origin`, `feature_difference`, `cosine_difference` (of a feature with a class), `head_difference`
        (of a probability from what the graph's own features give), `probability_difference` (from PyTorch's),
        `top1_differing`, `ties`, with labels `accuracy_onnx` and `accuracy_pytorch`, and `text_difference` where there
        is a text graph.

    Raises:
        UserError: they differ by more than the precision allows.
    """
    session = _session(folder / IMAGE, precision)
    head = learned.head_vectors(task)
    classes = Labels(
        names=(), tasks=(), embeddings=learned.class_vectors(task).numpy(), head=None if head is None else head.numpy()
    )
    feature = probability = cosine = end = 0.0
    scale = learned.backbone.logit_scale
    total = wrong = ties = right = right_torch = 0
    for part, labels in images.batches:
        given = [value[: len(part)] for value in session.run(None, {"images": _filled(part, batch)})]
        features, probabilities, read = given[0], given[1], given[-1]
        tokens = learned.trunk(torch.from_numpy(part))
        theirs, their_read = learned.embed(tokens, task).numpy(), learned.read(tokens).numpy()
        cosines, ours = classes.compare(theirs, their_read), classes.compare(features, read)
        feature = max(feature, largest_difference(features, theirs))
        cosine = max(cosine, largest_difference(ours, cosines))
        end = max(end, largest_difference(probabilities, _softmax(scale * ours)))
        probability = max(probability, largest_difference(probabilities, _softmax(scale * cosines)))
        best, other = cosines.argmax(1), probabilities.argmax(1)
        rows, total = np.arange(len(part)), total + len(part)
        tied = (best != other) & (cosines[rows, best] - cosines[rows, other] <= TIE)
        ties += int(tied.sum())
        wrong += int(((best != other) & ~tied).sum())
        if labels is not None:
            right, right_torch = right + int((other == labels).sum()), right_torch + int((best == labels).sum())
    parity: dict[str, Any] = {
        "images": total,
        "origin": images.origin,
        "feature_difference": feature,
        "cosine_difference": cosine,
        "head_difference": end,
        "probability_difference": probability,
        "top1_differing": wrong,
        "ties": ties,
    }
    if images.labelled:
        parity |= {"accuracy_onnx": 100.0 * right / total, "accuracy_pytorch": 100.0 * right_torch / total}
    if (folder / TEXT).exists():
        words = learned.tasks[task]
        ids = learned.backbone.tokenize([words.templates[0].format(name) for name in words.display_names])
        ours = _session(folder / TEXT, precision).run(None, {"ids": ids.numpy()})[0]
        parity["text_difference"] = largest_difference(ours, learned.embed_text(ids, task).numpy())
    judge(parity, precision)
    return parity


def judge(parity: dict[str, Any], precision: str) -> None:
    """Refuse what `check_folded` found.

    Raises:
        UserError: the graph differs from PyTorch by more than the precision allows.
    """
    problems = []
    for what, key, allowed in (
        ("features", "feature_difference", FEATURE_TOLERANCE[precision]),
        ("text embeddings", "text_difference", FEATURE_TOLERANCE[precision]),
        ("cosines with the classes", "cosine_difference", COSINE_TOLERANCE[precision]),
        ("probabilities beside the graph's own features", "head_difference", HEAD_TOLERANCE),
    ):
        # Not `>`: a difference that is no number is no parity either.
        if not parity.get(key, 0.0) <= allowed:
            problems.append(f"{what} differ by {parity[key]:.2g} (allowed {allowed:g})")
    if parity["top1_differing"] > np.ceil(DIFFERING_ALLOWED[precision] * parity["images"]):
        problems.append(f"another class is best for {parity['top1_differing']} of {parity['images']} images")
    if problems:
        raise UserError(
            f"the folded {precision} graph does not give what PyTorch gives: {'; '.join(problems)}. Nothing was "
            f"written. {what_to_try(precision)}"
        )


def _session(path: Path, precision: str) -> Any:
    """fp16 runs on CUDA where that works, else unoptimised: optimising it for the CPU can crash onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    provider = CPU if precision == "fp32" else choose_provider("auto")
    if precision != "fp32" and provider == CPU:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=provider_list(SessionSettings(provider=provider)))


def _filled(images: NDArray[np.uint8], batch: int | None) -> NDArray[np.uint8]:
    """The last batch of a graph with a fixed one is filled up with black."""
    missing = 0 if batch is None else batch - len(images)
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)]) if missing else images


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    result: NDArray[np.float32] = shifted / shifted.sum(1, keepdims=True)
    return result
