"""A graph with the tasks inside: for runtimes in any language that know nothing of bundles.

A bundle's graphs know no task; whoever runs them feeds the stacks (see `igsp_deploy.bundle.stacks`). Here they become
the graph's own.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from igsp_deploy.bundle.stacks import Stacks, is_stack
from igsp_deploy.errors import UserError
from igsp_export.onnx_file import save_model


def bake(graph: Path, stacks: Stacks, out: Path) -> None:
    """Copy a bundle's graph with `stacks` as plain weights instead of inputs; sizes that depend on them are numbers.

    Args:
        graph: image or text graph of a bundle.
        stacks: all stacks of that graph, of any number of tasks.
        out: the file to write, in a folder that exists; `out` with `.data` behind its name beside it where the weights
            are too large for one file. To have both or none, write into a folder of `igsp_deploy.files.new_folder`.

    Raises:
        UserError: the stacks are of another graph, or the file cannot be written.
    """
    save_model(baked(graph, stacks), out)


def baked(graph: Path, stacks: Stacks) -> ir.Model:
    """What `bake` writes.

    Raises:
        UserError: the stacks are of another graph.
    """
    model = ir.load(graph)
    values = {str(value.name): value for value in model.graph.inputs if is_stack(str(value.name))}
    sizes = _check(graph, values, stacks)
    kept = [value for value in model.graph.inputs if value.name not in values]
    model.graph.inputs.clear()
    model.graph.inputs.extend(kept)
    for name, value in values.items():
        value.const_value = ir.tensor(np.ascontiguousarray(stacks[name]), name=name)
        value.shape = ir.Shape(stacks[name].shape)
        model.graph.register_initializer(value)
    set_sizes(model.graph, sizes)
    return model


def _check(graph: Path, values: dict[str, ir.Value], stacks: Stacks) -> dict[str, int]:
    """Hold the stacks against what the graph takes; returns the size of every dimension that has a name."""
    if set(values) != set(stacks):
        odd = sorted(set(values) ^ set(stacks))
        raise UserError(f"{graph} does not take these stacks: {odd[0]} is on one side only. Take both from one bundle.")
    sizes: dict[str, int] = {}
    for name, stack in stacks.items():
        shape, dtype = values[name].shape, values[name].dtype
        assert shape is not None
        assert dtype is not None
        fits = stack.dtype == dtype.numpy() and stack.ndim == len(shape)
        for want, got in zip(shape, stack.shape, strict=False):
            symbol = want.value if isinstance(want, ir.SymbolicDim) else None
            fits &= got == (sizes.setdefault(symbol, got) if symbol is not None else want)
        if not fits:
            wanted = f"{dtype.numpy()} {_written(shape)}, with each name one size"
            raise UserError(
                f"{graph}: {name} must be {wanted}, is {stack.dtype} {list(stack.shape)}. "
                "Take graph and stacks from one bundle, in one precision."
            )
    return sizes


def _written(shape: ir.Shape) -> str:
    return f"[{', '.join(str(d.value if isinstance(d, ir.SymbolicDim) else d) for d in shape)}]"


def set_sizes(graph: Any, sizes: dict[str, int]) -> None:
    """Put numbers for named dimensions, wherever the graph writes down a shape."""
    outputs = [value for node in ir.traversal.RecursiveGraphIterator(graph) for value in node.outputs]
    for value in (*graph.inputs, *graph.outputs, *outputs):
        if value.shape is not None:
            value.shape = ir.Shape([_size(dimension, sizes) for dimension in value.shape])


def _size(dimension: Any, sizes: dict[str, int]) -> Any:
    name = dimension.value if isinstance(dimension, ir.SymbolicDim) else None
    return sizes.get(name, dimension) if name is not None else dimension
