"""Other shapes of a bundle, for runtimes that are not ours: graphs with the tasks inside, and a Triton repository."""

from pathlib import Path

import numpy as np

from igsp_deploy.bundle.manifest import Manifest, Variant, read_manifest
from igsp_deploy.errors import UserError
from igsp_deploy.files import new_folder
from igsp_deploy.runtime.engine import STACK_TYPES
from igsp_deploy.runtime.providers import CPU, CUDA
from igsp_deploy.runtime.tasks import TaskSet
from igsp_export.handout import write_handout
from igsp_export.onnx_adapter import write_adapters
from igsp_export.standalone import bake
from igsp_export.triton import TritonSettings, graphs_of, write_triton

ADAPTERS = "adapters"
"""Folder of a bundle's `.onnx_adapter` files, one a precision."""


def add_adapters(bundle: Path, manifest: Manifest) -> None:
    """Write `.onnx_adapter` files for every graph into a bundle that is being made."""
    for variant in manifest.variants:
        tasks = read_tasks(bundle, manifest, variant)
        folder = bundle / ADAPTERS / variant.precision
        folder.mkdir(parents=True)
        write_adapters(folder, {"image": tasks.image | tasks.selector.stacks(), "text": tasks.text}, tasks.names())


def write_standalone(bundle: Path, out: Path) -> list[str]:
    """Write the bundle's graphs with the tasks inside, their labels and class vectors: plain files for any runtime.

    Args:
        bundle: the bundle.
        out: folder to make, one ONNX file for each of the bundle's graphs.

    Returns:
        Names of the ONNX files.

    Raises:
        UserError: `out` exists or cannot be written.
    """
    manifest = read_manifest(bundle)
    names = []
    with new_folder(out) as scratch:
        for variant in manifest.variants:
            tasks = read_tasks(bundle, manifest, variant)
            for graph in graphs_of(variant, tasks.image, tasks.text, tasks.selector.stacks()):
                bake(bundle / graph.file, graph.stacks, scratch / graph.file)
                names.append(graph.file)
        write_handout(scratch, bundle, manifest, names)
    return names


def write_triton_repository(bundle: Path, out: Path, device: str) -> list[str]:
    """Write a Triton model repository for a device, of the bundle's best graphs for it.

    Args:
        bundle: the bundle.
        out: folder to make.
        device: `gpu` or `cpu`.

    Returns:
        Names of the models.

    Raises:
        UserError: the bundle has no graphs for the device, or `out` exists or cannot be written.
    """
    manifest = read_manifest(bundle)
    provider = CPU if device == "cpu" else CUDA
    fitting = [v for v in manifest.variants if provider in v.providers and v.precision != "bf16"]
    if not fitting:
        had = ", ".join(variant.precision for variant in manifest.variants)
        raise UserError(f"{bundle} has no graphs that Triton could run on a {device} (it has {had}). Export fp32 too.")
    variant = min(fitting, key=lambda v: ["fp16", "fp32", "int8"].index(v.precision))
    tasks = read_tasks(bundle, manifest, variant)
    graphs = graphs_of(variant, tasks.image, tasks.text, tasks.selector.stacks())
    return write_triton(bundle, out, graphs, TritonSettings(device="cpu" if device == "cpu" else "gpu"))


def read_tasks(bundle: Path, manifest: Manifest, variant: Variant) -> TaskSet:
    """The bundle's tasks, with stacks in the precision of a variant."""
    return TaskSet.read(bundle, manifest, dtype=STACK_TYPES.get(variant.precision, np.float32))
