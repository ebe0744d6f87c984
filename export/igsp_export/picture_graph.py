"""One graph from a picture of any size to the probabilities of all labels: resize, tasks, classes and softmax inside.

Shapes: H, W sides of the picture, S side of the model's input, D embedding width, T tasks, N labels of all tasks.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.names import PLAIN
from igsp_export.standalone import set_sizes

OUTPUTS = ("probabilities", "used_task", "task_scores", "features")
Classes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.int64]]
"""Of every label the vector under its task's experts, the one under plain CLIP (both `[N, D]`), its head's `[N, F]`
(zero where it has none; None if no task has one), all times the logit scale, and the index of its task `[N]`."""
MASKED = -1e30
"""Added to the logit of a label of another task. Not minus infinity: features that are NaN shall stay NaN."""


def picture_graph(
    image: ir.Model,
    classes: Classes,
    spec: PreprocessSpec,
) -> ir.Model:
    """Build the graph out of a baked one, which it takes over.

    `image` (uint8 `[H, W, 3]`) and `task` (int64 `[1]`: index, -1 to choose, -2 for plain CLIP) -> `probabilities`
    `[1, N]`, 0 for labels of other tasks than the one used; `used_task` `[1]`, `task_scores` `[1, T]`, `features`
    `[1, D]`.

    Args:
        image: the image graph with its tasks inside.
        classes: of every label.
        spec: how the picture becomes the model's input.
    """
    graph, outputs = image.graph, {value.name: value for value in image.graph.outputs}
    images, task = (next(value for value in graph.inputs if value.name == name) for name in ("images", "task"))
    picture = ir.val("image", ir.DataType.UINT8, ["height", "width", 3])
    begin, end = Tape(), Tape()
    pixels = _resized(begin, picture, spec)
    ir.convenience.replace_all_uses_with(images, pixels)
    graph.insert_before(graph[0], begin.nodes)
    outputs["probabilities"] = _probabilities(end, outputs, classes)
    graph.extend(end.nodes)
    for value in (*begin.initializers, *end.initializers):
        graph.register_initializer(value)
    graph.inputs.clear()
    graph.inputs.extend([picture, task])
    graph.outputs.clear()
    graph.outputs.extend([outputs[name] for name in OUTPUTS])
    set_sizes(graph, {"batch": 1})
    return image


def _resized(tape: Tape, picture: ir.Value, spec: PreprocessSpec) -> ir.Value:
    """uint8 `[H, W, 3]` -> uint8 `[1, S, S, 3]`, as `igsp_deploy.bundle.preprocess.to_uint8` does it."""
    size, two, none = _numbers(tape, "size", [spec.size]), _numbers(tape, "two", [2]), None
    planes = _op(tape, "Transpose", [picture], perm=[2, 0, 1])
    batch = _op(tape, "Unsqueeze", [planes, _numbers(tape, "first", [0])])
    axes = _numbers(tape, "sides", [2, 3])
    target = _target(tape, _op(tape, "Shape", [picture], end=2), size, spec)
    shape = _op(tape, "Concat", [_numbers(tape, "planes", [1, 3]), target], axis=0)
    # Pillow's filter: the cubic one with a = -0.5, widened when it shrinks, its weights summing to 1 at the borders.
    mode = "cubic" if spec.interpolation == "bicubic" else "linear"
    how = {"mode": mode, "cubic_coeff_a": -0.5, "antialias": 1, "exclude_outside": 1}
    resized = _op(tape, "Resize", [batch, none, none, shape], coordinate_transformation_mode="half_pixel", **how)
    if spec.resize_mode == "longest":
        # Black at both ends, what is odd at the far one.
        missing = _op(tape, "Sub", [size, target])
        before = _op(tape, "Div", [missing, two])
        planes, after = _numbers(tape, "no_pads", [0, 0]), _op(tape, "Sub", [missing, before])
        cut = _op(tape, "Pad", [resized, _op(tape, "Concat", [planes, before, planes, after], axis=0)])
    else:
        # Half of what is too much, halves rounded to the even number.
        extra = _op(tape, "Sub", [target, size])
        half = _op(tape, "Div", [extra, two])
        up = _op(tape, "Mul", [_op(tape, "Mod", [extra, two]), _op(tape, "Mod", [half, two])])
        start = _op(tape, "Add", [half, up])
        cut = _op(tape, "Slice", [resized, start, _op(tape, "Add", [start, size]), axes])
    pixels = _op(tape, "Transpose", [cut], perm=[0, 2, 3, 1])
    return _output(pixels, "pixels", ir.DataType.UINT8, [1, spec.size, spec.size, 3])


def _target(tape: Tape, sides: ir.Value, size: ir.Value, spec: PreprocessSpec) -> ir.Value:
    """Height and width to resize to, int64 `[2]`."""
    if spec.resize_mode == "squash":
        return _numbers(tape, "square", [spec.size, spec.size])
    if spec.resize_mode == "shortest":
        short = _op(tape, "ReduceMin", [sides], keepdims=1)
        # Whole numbers: the long side is rounded down, as there.
        return _op(tape, "Div", [_op(tape, "Mul", [sides, size]), short])
    exact = _op(tape, "Cast", [sides], to=ir.DataType.DOUBLE)
    side = _numbers(tape, "side", [spec.size], np.float64)
    ratio = _op(tape, "Div", [_op(tape, "ReduceMax", [exact], keepdims=1), side])
    rounded = _op(tape, "Cast", [_op(tape, "Round", [_op(tape, "Div", [exact, ratio])])], to=ir.DataType.INT64)
    return _op(tape, "Max", [rounded, _numbers(tape, "least", [1])])


def _probabilities(
    tape: Tape,
    outputs: dict[str | None, ir.Value],
    classes: Classes,
) -> ir.Value:
    """Softmax over the labels of the task used, or over all of them under plain CLIP."""
    own, plain, head, label_task = classes
    features, used = outputs["features"], outputs["used_task"]
    matrices = (("own", own), ("plain", plain))
    under, apart = (_op(tape, "MatMul", [features, _numbers(tape, n, m.T, np.float32)]) for n, m in matrices)
    if head is not None:
        by_head = _op(tape, "MatMul", [outputs["summary"], _numbers(tape, "head", head.T, np.float32)])
        under = _op(tape, "Add", [under, by_head])
    row = _op(tape, "Unsqueeze", [used, _numbers(tape, "last", [1])])
    is_plain = _op(tape, "Equal", [row, _numbers(tape, "none", [PLAIN])])
    its_own = _op(tape, "Equal", [row, _numbers(tape, "label_task", label_task[None])])
    taken = _op(tape, "Or", [is_plain, its_own])
    zero, masked = _numbers(tape, "zero", 0, np.float32), _numbers(tape, "masked", MASKED, np.float32)
    logits = _op(tape, "Where", [is_plain, apart, under])
    softmax = _op(tape, "Softmax", [_op(tape, "Add", [logits, _op(tape, "Where", [taken, zero, masked])])], axis=-1)
    return _output(softmax, "probabilities", ir.DataType.FLOAT, [1, len(own)])


def _op(tape: Tape, kind: str, inputs: list[Any], **attributes: Any) -> ir.Value:
    return tape.op(kind, inputs, attributes)


def _numbers(tape: Tape, name: str, values: Any, dtype: Any = np.int64) -> ir.Value:
    return tape.initializer(ir.tensor(np.asarray(values, dtype), name=f"picture.{name}"))


def _output(value: ir.Value, name: str, dtype: ir.DataType, shape: list[int]) -> ir.Value:
    value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
    return value
