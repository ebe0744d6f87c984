"""int8 for the CPU: the large frozen weights of an exported graph in 8 bits, all that decides for a task as it was.

Dynamic quantisation (onnxruntime.quantization): a weight has one scale an output channel, fixed here; an activation
has one a call, found while running. No calibration images, and no number of tasks, enter the file.

Weights are uint8: signed ones make pairs of products that overflow 16 bits on x86 processors without VNNI (measured:
cosines down to 0.98; https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
"""

import contextlib
import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from igsp_deploy import __version__
from igsp_deploy.errors import UserError

COSINE_FLOOR = 0.995
"""Least cosine of a feature with fp32's."""
DIFFERING_ALLOWED = 0.02
"""Share of images, rounded up, that may get another best class."""
CHOICE = ("used_task", "task_scores", "summary")
"""Outputs whose values stay those of the fp32 graph."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What became of a graph's constant weight matrices.

    Attributes:
        quantized: names of the nodes whose weight is now int8.
        kept: names of those left in float32: what the choice of the task rests on, and the last projection.
    """

    quantized: tuple[str, ...]
    kept: tuple[str, ...]


def quantize_int8(fp32_graph: Path, out: Path, *, exact_choice: bool = True) -> Quantized:
    """Write an int8 form of an exported fp32 graph, for the CPU provider. Inputs, outputs and stacks stay as they are.

    The products of activations with constant matrices become integer products. Left alone are: attention, convolutions
    and normalisations; products with stacks, which stay float inputs; the last projection; what heads read; and, with
    `exact_choice`, every node before `used_task` and `task_scores`, so that the same task is chosen as in fp32, to the
    bit.

    Args:
        fp32_graph: image or text graph of a bundle, or a folded one. While this runs, files lie beside it.
        out: file to write.
        exact_choice: leave what the choice of the task rests on in fp32.

    Raises:
        UserError: the graph is not one of fp32.
    """
    model = onnx.load(str(fp32_graph), load_external_data=False)
    _check_fp32(model.graph, fp32_graph)
    nodes = weight_products(model.graph)
    on_the_way = _before(model.graph, [model.graph.output[0].name])
    embedding = [name for name in nodes if name in on_the_way]
    # The last projection of the embedding, and what heads read beside it.
    kept = {*nodes} - {*embedding[:-1]}
    if exact_choice:
        kept |= _before(model.graph, CHOICE)
    chosen = [name for name in nodes if name not in kept]
    if chosen:  # for onnxruntime an empty list means: all of them
        with _quiet(), _without_shapes_of_weights(model, fp32_graph) as source:
            quantize_dynamic(
                source,
                out,
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_quantize=chosen,
                per_channel=True,
                weight_type=QuantType.QUInt8,
            )
        _sign(out)
    elif fp32_graph != out:
        shutil.copyfile(fp32_graph, out)
    return Quantized(quantized=tuple(chosen), kept=tuple(name for name in nodes if name in kept))


def weight_products(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that multiply by a constant matrix, in order. A stack is an input, not a constant."""
    inputs = {value.name for value in graph.input}
    constant = {t.name for t in graph.initializer if len(t.dims) == 2 and t.name not in inputs}
    return [node.name for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in constant]


def _before(graph: onnx.GraphProto, outputs: Iterable[str]) -> set[str]:
    """Names of all nodes that some of `outputs` depend on."""
    maker = {output: node for node in graph.node for output in node.output}
    found: set[str] = set()
    waiting = [value.name for value in graph.output if value.name in set(outputs)]
    while waiting:
        node = maker.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting.extend(node.input)
    return found


def _check_fp32(graph: onnx.GraphProto, path: Path) -> None:
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    if any(t.data_type in halves for t in graph.initializer) or any("Quantize" in n.op_type for n in graph.node):
        raise UserError(f"{path} is not a graph of fp32, and int8 is made from fp32. Give it the fp32 graph.")


def _sign(path: Path) -> None:
    """Name the maker as every other graph of a bundle does."""
    model = onnx.load(str(path))
    model.producer_name, model.producer_version = "igsp-deploy", __version__
    onnx.save(model, str(path))


@contextlib.contextmanager
def _without_shapes_of_weights(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """A copy of `model`, read from `path`, beside it: it says nothing of its weights' shapes but by the weights.

    onnxruntime turns those of a `Gemm` over, and would then refuse the graph for the shapes said before.
    """
    weights = {t.name for t in model.graph.initializer}
    told = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(told)
    copy = path.with_name(f".{path.name}.tmp")  # beside it, where the weights of a large graph lie
    try:
        onnx.save(model, str(copy))
        yield copy
    finally:
        copy.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime advises through the root logger to prepare the graph; torch's exporter has done so."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in [h for h in root.handlers if h not in handlers]:
            root.removeHandler(handler)
