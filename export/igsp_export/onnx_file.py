"""From a module to an ONNX file: dynamic batch, and stacks that are inputs.

Another number of tasks is another array, not another export. A stack has no default: an answer of a graph that was not
given its tasks would look like an answer.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn
from torch.export import Dim

from igsp_deploy import __version__
from igsp_deploy.bundle.stacks import is_stack
from igsp_deploy.files import explain_os_error
from igsp_deploy.model.kernels import attention_nodes

OPSETS = (18, 23)
"""Opsets to choose from: 23 knows `Attention`, 18 is for older consumers."""


LARGEST_FILE = 1 << 30
"""Bytes of weights one ONNX file takes; more go into a second file beside it. Protobuf ends at 2 GiB, and while a file
is written the weights within it are in memory three times, those beside it once."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a graph takes and gives.

    Attributes:
        inputs: name -> example; the first dimension is the batch.
        outputs: names.
        lengths: input name -> name of its second dimension, where that is free, with its largest size.
    """

    inputs: dict[str, Tensor]
    outputs: list[str]
    lengths: dict[str, tuple[str, int]]


class _WithStacks(nn.Module):
    """The module with some of its buffers passed in: what is traced must not bake in their sizes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, arguments: dict[str, Tensor], stacks: dict[str, Tensor]) -> Any:
        return torch.func.functional_call(self.inner, stacks, tuple(arguments.values()))


def stack_names(module: nn.Module) -> list[str]:
    """Buffers that grow with the number of tasks."""
    return [name for name, _ in module.named_buffers() if is_stack(name)]


def write_onnx(module: nn.Module, signature: Signature, path: Path, *, opset: int) -> list[str]:
    """Export `module` to `path`.

    Args:
        module: in eval mode.
        signature: its inputs and outputs.
        path: the file; weights that are too large for it go into a second one beside it.
        opset: ONNX opset.

    Returns:
        Names of its stacks.
    """
    buffers = dict(module.named_buffers())
    names = stack_names(module)
    free = {name: _free_stack(module, name) for name in names}
    # Larger than they are: a dimension of 1 would be taken for a constant.
    examples = {name: _enlarged(buffers[name], free[name]) for name in names}
    shapes: dict[str, Any] = {
        "arguments": {name: _free(signature, name) for name in signature.inputs},
        "stacks": free,
    }
    with quiet(), torch.no_grad(), attention_nodes(opset >= 23):
        program = torch.onnx.export(
            _WithStacks(module).eval(),
            (),
            kwargs={"arguments": signature.inputs, "stacks": examples},
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=shapes,
            input_names=[*signature.inputs, *names],
            output_names=signature.outputs,
            verbose=False,
        )
    assert program is not None
    model = program.model
    fix_reshapes(model)
    keep_picked_dimensions(model)
    forget_origin(model)
    save_model(model, path)
    return names


def save_model(model: ir.Model, out: Path) -> None:
    """Write a model, its weights beside it where they are too large for one file.

    Raises:
        UserError: it cannot be written.
    """
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    try:
        ir.save(model, out, external_data=f"{out.name}.data" if weights > LARGEST_FILE else None)
    except OSError as error:
        raise explain_os_error(error, out) from error


def _enlarged(buffer: Tensor, free: dict[int, Any]) -> Tensor:
    """Three times as long in every free dimension."""
    return buffer.repeat([3 if dimension in free else 1 for dimension in range(buffer.ndim)])


def _free_stack(module: nn.Module, name: str) -> dict[int, Any]:
    """Dimensions of a stack that depend on the tasks: their number, their experts in a block, their classes."""
    if name.startswith("experts."):
        _, block, kind = name.split(".")
        experts = Dim(f"experts_{block}", min=1)
        size = {0: Dim("slots", min=2)}
        if kind in ("down", "up"):
            rank = getattr(module.get_submodule(f"experts.{block}"), "rank")  # noqa: B009
            return {**size, 1 if kind == "down" else 2: rank * experts if rank > 1 else experts}
        return {**size, 1: experts}
    if name == "selector.thresholds":
        return {0: Dim("tasks", min=1)}
    if name in ("selector.means", "selector.class_task", "selector.squares"):
        return {0: Dim("classes", min=1)}
    return {}


def _free(signature: Signature, name: str) -> dict[int, Any]:
    free: dict[int, Any] = {0: Dim("batch", min=1)}
    if name in signature.lengths:
        dimension, largest = signature.lengths[name]
        free[1] = Dim(dimension, min=2, max=largest)
    return free


def fix_reshapes(model: Any) -> None:
    """Give reshapes a constant shape, where the exporter writes one put together from sizes of tensors.

    A dimension that stays at its place is 0, which ONNX copies from the input; one more may be free, -1. Each is nodes
    less, and none of them on the CPU.
    """
    for node in model.graph:
        if node.op_type != "Reshape" or node.inputs[1].const_value is not None:
            continue
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if (
            before is None
            or after is None
            or any(isinstance(size, ir.SymbolicDim) and size.value is None for size in after)
        ):
            continue
        shape = [
            size if isinstance(size, int) else 0 if place < len(before) and before[place] == size else -1
            for place, size in enumerate(after)
        ]
        if shape.count(-1) <= 1:
            constant = ir.Value(name=f"{node.outputs[0].name}_shape", const_value=ir.tensor(shape))
            model.graph.register_initializer(constant)
            node.replace_input_with(1, constant)
            node.attributes.pop("allowzero", None)
    RemoveUnusedNodesPass()(model)


def keep_picked_dimensions(model: Any) -> None:
    """Pick by a list of one index where a dimension that one index took away is put back at once: a node less."""
    for node in model.graph:
        picked = node.inputs[0].producer() if node.op_type == "Unsqueeze" else None
        if picked is None or picked.op_type != "Gather" or len(picked.outputs[0].uses()) > 1:
            continue
        index, axes = (value.const_value for value in (picked.inputs[1], node.inputs[1]))
        if index is None or axes is None or index.shape.rank():
            continue
        if axes.numpy().tolist() not in (picked.attributes["axis"].value, [picked.attributes["axis"].value]):
            continue
        listed = ir.Value(name=f"{node.outputs[0].name}_index", const_value=ir.tensor(index.numpy().reshape(1)))
        model.graph.register_initializer(listed)
        picked.replace_input_with(1, listed)
        picked.outputs[0].shape = node.outputs[0].shape
        ir.convenience.replace_all_uses_with(node.outputs[0], picked.outputs[0])
    RemoveUnusedNodesPass()(model)


def forget_origin(model: Any) -> None:
    """Remove the exporter's notes: stack traces with paths of this machine."""
    model.producer_name, model.producer_version, model.doc_string = "igsp-deploy", __version__, None
    model.metadata_props.clear()
    graphs = [model.graph, *model.functions.values()]
    for graph in graphs:
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in (*graph.inputs, *getattr(graph, "initializers", {}).values()):
            value.metadata_props.clear()
            value.doc_string = None
        for node in ir.traversal.RecursiveGraphIterator(graph):
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
                value.doc_string = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch.onnx prints and warns about its own business."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
