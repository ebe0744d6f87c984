"""What a bundle is compared with: plain CLIP's graph alone, and the same model in PyTorch.

All that depends on how the graphs are built is in this file.
"""

import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from igsp_deploy.bundle.manifest import Manifest
from igsp_deploy.bundle.stacks import expert_stacks
from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.runtime.graph import Graph, SessionSettings
from igsp_deploy.runtime.providers import CPU
from igsp_export.compact import compact, expert_layout, selector_table
from igsp_export.graphs import DTYPES, write_plain_graph
from igsp_export.image_graph import ImageGraph, in_precision

Embed = Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.float32]]
"""Images `[B, S, S, 3]` and a task each `[B]` -> normalised embeddings `[B, D]`."""


def open_learned(model: Path, manifest: Manifest) -> tuple[ModelFolder, LearnedClip]:
    """The model a bundle was made of, as a folder and in PyTorch.

    Raises:
        UserError: no model, or another one: says what differs.
    """
    folder = ModelFolder.open(model)
    theirs, ours = str(folder.identity["weight_hash"]), manifest.backbone.weight_hash
    names = [record.name for record in folder.tasks]
    if theirs != ours:
        difference = f"its backbone has the weights {theirs[:12]}, the bundle's {ours[:12]}"
    elif names != manifest.task_names():
        difference = f"it has the tasks {_listed(names)}, the bundle {_listed(manifest.task_names())}"
    elif [folder.fingerprint(t) for t in range(len(names))] != [task.fingerprint for task in manifest.tasks]:
        difference = "its tasks have the same names, but were learned anew"
    else:
        return folder, LearnedClip.open(folder)
    raise UserError(
        f"{model} is not the model this bundle was made of: {difference}. Give that model, or make the bundle anew "
        f"with `igsp export {model} BUNDLE`."
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def plain_session(backbone: Backbone, precision: str, opset: int, settings: SessionSettings) -> Graph:
    """Plain CLIP's image tower without experts, selector or stacks, in a session like the bundle's.

    Raises:
        UserError: onnxruntime cannot load it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"plain.{precision}.onnx"
        write_plain_graph(backbone, path, precision, opset)
        return Graph(path, settings)


def eager_module(folder: ModelFolder, learned: LearnedClip, precision: str, provider: str) -> torch.nn.Module:
    """The compacted image graph as a PyTorch module, stacked from the model folder, on the device of `provider`."""
    assert learned.selector is not None
    experts = [task.experts for task in learned.tasks]
    table = compact(experts, [record.ids for record in folder.tasks], folder.config.rank)
    stacks = expert_stacks(table, expert_layout(folder), "vision", range(len(folder.tasks)))
    module = ImageGraph(
        learned.backbone,
        stacks,
        selector_table(learned.selector),
        rank=folder.config.rank,
        router_input=folder.config.router_input,
        head_features=folder.config.head_features,
    )
    # A copy, so that the model's weights stay where and as they are; a precision torch does not run is float32.
    copied = in_precision(module, DTYPES.get(precision, torch.float32))
    return copied.eval().to("cpu" if provider == CPU else "cuda")


def open_clip_embed(backbone: Backbone, precision: str, provider: str) -> Embed:
    """Plain CLIP as open_clip's users run it: its own modules, with `nn.MultiheadAttention`, whatever task is asked."""
    device = "cpu" if provider == CPU else "cuda"
    dtype = DTYPES.get(precision, torch.float32)
    clip = copy.deepcopy(backbone.clip).to(device, dtype).eval()
    own = Clip(backbone, [])

    @torch.no_grad()
    def embed(images: NDArray[np.uint8], task: NDArray[np.int64]) -> NDArray[np.float32]:
        pixels = own.pixels(torch.from_numpy(images)).to(device, dtype)
        result: NDArray[np.float32] = clip.encode_image(pixels, normalize=True).float().cpu().numpy()
        return result

    return embed


def torch_embed(module: Any) -> Embed:
    """Run a module of `eager_module`, compiled or not, on arrays."""
    device = next(module.parameters()).device

    @torch.no_grad()
    def embed(images: NDArray[np.uint8], task: NDArray[np.int64]) -> NDArray[np.float32]:
        output = module(torch.from_numpy(images).to(device), torch.from_numpy(task).to(device))
        features = output[0] if isinstance(output, tuple) else output
        result: NDArray[np.float32] = features.cpu().numpy()
        return result

    return embed


def has_compiler(provider: str) -> bool:
    """Whether `torch.compile` can work here: on the CPU it needs a C++ compiler."""
    return provider != CPU or any(shutil.which(name) for name in ("g++", "c++", "clang++"))


def compiled_module(module: torch.nn.Module) -> Any:
    """`torch.compile` of a module, anew for every batch size, so that each gets code of its own."""
    torch.compiler.reset()
    return torch.compile(module, dynamic=False)
