"""`.onnx_adapter` files: the stacks in the form that onnxruntime itself loads, from C++, C#, Java and Python.

onnxruntime feeds an active adapter's arrays to the inputs of the same names, whatever they are: here all experts,
routers and the selector, in float32, float16 and int64. It does so in `Run` only: under IOBinding it ignores adapters
and misses the inputs, which is why this project's own engine does not use them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnxruntime import AdapterFormat, OrtValue

from igsp_deploy.bundle.manifest import FORMAT_VERSION
from igsp_deploy.bundle.stacks import SelectorTable, Stacks
from igsp_deploy.files import explain_os_error

SUFFIX = ".onnx_adapter"
_SELECTOR = "selector."


def write_adapter(stacks: Stacks, path: Path) -> None:
    """Write one graph's stacks as an adapter.

    Args:
        stacks: name of a graph's input -> its value.
        path: the file, in a folder that exists.

    Raises:
        UserError: it cannot be written.
    """
    adapter = AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(FORMAT_VERSION)
    adapter.set_parameters(
        {name: OrtValue.ortvalue_from_numpy(np.ascontiguousarray(stack)) for name, stack in stacks.items()}
    )
    try:
        path.touch()  # onnxruntime would not say why it cannot write
        adapter.export_adapter(str(path.resolve()))
    except OSError as error:
        raise explain_os_error(error, path) from error


def only_task(stacks: Stacks, task: int) -> Stacks:
    """Stacks of one task alone, which gets index 0; the choice is between it and plain CLIP.

    Args:
        stacks: of any graph, for T tasks: `experts.*` `[T + 1, ...]`, and `selector.*` where the graph chooses.
        task: index of the task to keep.
    """
    kept = {name: stack[[task, -1]] for name, stack in stacks.items() if not name.startswith(_SELECTOR)}
    selector = {name.removeprefix(_SELECTOR): s for name, s in stacks.items() if name.startswith(_SELECTOR)}
    return {**kept, **(SelectorTable(**selector).only([task]).stacks() if selector else {})}


def write_adapters(folder: Path, graphs: Mapping[str, Stacks], tasks: Sequence[str]) -> list[Path]:
    """Write an adapter of all tasks for every graph, and one of every task alone.

    Args:
        folder: exists; gets `image.onnx_adapter` and, for every task, `00-shoes/image.onnx_adapter`; so for all graphs.
        graphs: name of a graph (`image`, `text`) -> its stacks, in the precision of
            the graph they are for.
        tasks: names of the tasks, in the stacks' order.

    Returns:
        The files.

    Raises:
        UserError: they cannot be written.
    """
    files = [folder / f"{graph}{SUFFIX}" for graph in graphs]
    for path, stacks in zip(files, graphs.values(), strict=True):
        write_adapter(stacks, path)
    for index, task in enumerate(tasks):
        alone = folder / f"{index:02d}-{task}"
        try:
            alone.mkdir(exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, alone) from error
        for graph, stacks in graphs.items():
            write_adapter(only_task(stacks, index), alone / f"{graph}{SUFFIX}")
            files.append(alone / f"{graph}{SUFFIX}")
    return files
