"""The graphs of one precision: modules, signatures, files."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from igsp_deploy.bundle.manifest import Variant
from igsp_deploy.bundle.stacks import blank_selector, blank_stacks
from igsp_deploy.runtime.providers import CPU, CUDA
from igsp_export.compact import expert_layout
from igsp_export.image_graph import ImageGraph, PlainGraph, SelectGraph
from igsp_export.onnx_file import Signature, write_onnx
from igsp_export.quantize import quantize_int8
from igsp_export.text_graph import TextGraph
from igsp_export.towers import Towers

PRECISIONS = {"fp32": (CPU, CUDA), "fp16": (CUDA,), "bf16": (CUDA,), "int8": (CPU,)}
"""Precision -> execution providers its graphs may run on.

On the CPU provider an fp16 graph can crash the process, and onnxruntime has no bf16 kernels.
"""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision -> what a module is exported in; int8 graphs are made of fp32 ones."""
EXAMPLES = 3
"""Rows of an example input: the number must not be taken for a constant."""


def write_graphs(towers: Towers, folder: Path, precision: str, opset: int) -> Variant:
    """Write the image graph, the text graph and, where one is needed, the graph that chooses the task.

    The files know no task: experts and selector are inputs.
    """
    if precision == "int8":
        return _quantized(towers, folder, opset)
    in_trunk = towers.place == "trunk"
    variant = Variant(
        precision=precision,
        image=f"image.{precision}.onnx",
        select=None if in_trunk else f"select.{precision}.onnx",
        text=f"text.{precision}.onnx",
        providers=PRECISIONS[precision],
    )
    backbone, config, dtype = towers.backbone, towers.folder.config, DTYPES[precision]
    layout = expert_layout(towers.folder)
    blank = blank_selector(len(towers.selector.center))
    task = torch.zeros(EXAMPLES, dtype=torch.int64)
    image = ImageGraph(
        backbone,
        blank_stacks(layout, "vision"),
        blank if in_trunk else None,
        rank=config.rank,
        router_input=config.router_input,
    )
    outputs = ["features", "used_task", "task_scores"]
    _write(
        image,
        Signature(
            inputs={"images": _pixels(towers), "task": task}, outputs=outputs if in_trunk else outputs[:1], lengths={}
        ),
        folder / variant.image,
        dtype,
        opset,
    )
    if variant.select is not None:
        signature = Signature(inputs={"images": _pixels(towers)}, outputs=outputs, lengths={})
        _write(SelectGraph(backbone, blank), signature, folder / variant.select, dtype, opset)
    length = backbone.context_length
    ids = torch.zeros(EXAMPLES, max(3, length // 2), dtype=torch.int64)
    text = TextGraph(backbone, blank_stacks(layout, "text"), rank=config.rank)
    _write(
        text,
        Signature(inputs={"ids": ids, "task": task}, outputs=["embeddings"], lengths={"ids": ("length", length)}),
        folder / variant.text,
        dtype,
        opset,
    )
    return variant


def _quantized(towers: Towers, folder: Path, opset: int) -> Variant:
    """int8 graphs, of fp32 ones that need not stay."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        full = write_graphs(towers, Path(scratch), "fp32", opset)
        variant = Variant(
            precision="int8",
            image="image.int8.onnx",
            select=None if full.select is None else "select.int8.onnx",
            text="text.int8.onnx",
            providers=PRECISIONS["int8"],
        )
        for source, target in zip(full.files(), variant.files(), strict=True):
            quantize_int8(Path(scratch) / source, folder / target)
    return variant


def write_plain_graph(towers: Towers, path: Path, precision: str, opset: int) -> None:
    """Write plain CLIP's image tower alone, with the input and the output of the image graph."""
    signature = Signature(inputs={"images": _pixels(towers)}, outputs=["features"], lengths={})
    _write(PlainGraph(towers.backbone), signature, path, DTYPES[precision], opset)


def _pixels(towers: Towers) -> Tensor:
    size = towers.backbone.preprocess.size
    return torch.zeros(EXAMPLES, size, size, 3, dtype=torch.uint8)


def _write(
    module: ImageGraph | SelectGraph | PlainGraph | TextGraph,
    signature: Signature,
    path: Path,
    dtype: torch.dtype,
    opset: int,
) -> None:
    module = module if dtype == torch.float32 else module.in_precision(dtype)
    write_onnx(module.eval(), signature, path, opset=opset)
