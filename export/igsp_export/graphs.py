"""The graphs of one precision: modules, signatures, files."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from igsp_deploy.bundle.manifest import Variant
from igsp_deploy.bundle.stacks import blank_selector, blank_stacks
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.runtime.providers import CPU, CUDA
from igsp_export.compact import expert_layout
from igsp_export.image_graph import ImageGraph, PlainGraph, in_precision, with_merged_branches
from igsp_export.onnx_file import Signature, write_onnx
from igsp_export.quantize import quantize_int8
from igsp_export.text_graph import TextGraph

PRECISIONS = {"fp32": (CPU, CUDA), "fp16": (CUDA,), "bf16": (CUDA,), "int8": (CPU,)}
"""Precision -> execution providers its graphs may run on.

On the CPU provider an fp16 graph can crash the process, and onnxruntime has no bf16 kernels.
"""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision -> what a module is exported in; int8 graphs are made of fp32 ones."""
EXAMPLES = 3
"""Rows of an example input: the number must not be taken for a constant."""


def write_graphs(folder: ModelFolder, learned: LearnedClip, out: Path, precision: str, opset: int) -> Variant:
    """Write the image graph and the text graph into `out`.

    The files know no task: experts and selector are inputs.
    """
    if precision == "int8":
        return _quantized(folder, learned, out, opset)
    variant = Variant(
        precision=precision,
        image=f"image.{precision}.onnx",
        text=f"text.{precision}.onnx",
        providers=PRECISIONS[precision],
    )
    backbone, config, dtype, layout = learned.backbone, folder.config, DTYPES[precision], expert_layout(folder)
    assert learned.selector is not None
    image = ImageGraph(
        backbone,
        blank_stacks(layout, "vision"),
        blank_selector(len(learned.selector.center)),
        rank=config.rank,
        router_input=config.router_input,
        head_features=config.head_features,
    )
    task = torch.zeros(EXAMPLES, dtype=torch.int64)
    outputs = ["features", "used_task", "task_scores", "summary"]
    images = {"images": _pixels(backbone), "task": task}
    _write(image, Signature(inputs=images, outputs=outputs, lengths={}), out / variant.image, dtype, opset)
    length = backbone.context_length
    ids = torch.zeros(EXAMPLES, max(3, length // 2), dtype=torch.int64)
    text = TextGraph(backbone, blank_stacks(layout, "text"), rank=config.rank)
    texts = Signature(inputs={"ids": ids, "task": task}, outputs=["embeddings"], lengths={"ids": ("length", length)})
    _write(text, texts, out / variant.text, dtype, opset)
    return variant


def _quantized(folder: ModelFolder, learned: LearnedClip, out: Path, opset: int) -> Variant:
    """int8 graphs, of fp32 ones that need not stay."""
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        full = write_graphs(folder, learned, Path(scratch), "fp32", opset)
        variant = Variant(
            precision="int8",
            image="image.int8.onnx",
            text="text.int8.onnx",
            providers=PRECISIONS["int8"],
        )
        for source, target in zip(full.files(), variant.files(), strict=True):
            quantize_int8(Path(scratch) / source, out / target)
    return variant


def write_plain_graph(backbone: Backbone, path: Path, precision: str, opset: int) -> None:
    """Write plain CLIP's image tower alone, with the input and the output of the image graph."""
    signature = Signature(inputs={"images": _pixels(backbone)}, outputs=["features"], lengths={})
    _write(PlainGraph(backbone), signature, path, DTYPES[precision], opset)


def _pixels(backbone: Backbone) -> Tensor:
    size = backbone.preprocess.size
    return torch.zeros(EXAMPLES, size, size, 3, dtype=torch.uint8)


def _write(module: nn.Module, signature: Signature, path: Path, dtype: torch.dtype, opset: int) -> None:
    module = with_merged_branches(module)
    module = module if dtype == torch.float32 else in_precision(module, dtype)
    write_onnx(module.eval(), signature, path, opset=opset)
