"""A model repository for NVIDIA's Triton Inference Server: the graphs with their tasks inside, and what a client needs.

Triton batches the requests of many clients. Its onnxruntime backend knows no optional inputs of a batch's size, so the
stacks are baked in (see `igsp_export.standalone`).
"""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from igsp_deploy.bundle.manifest import CLASSES, TOKENIZER, Manifest, Variant, check_files, read_manifest
from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.errors import UserError
from igsp_deploy.files import new_folder, write_json
from igsp_deploy.runtime.providers import CPU, CUDA
from igsp_export.handout import CROP, RESIZE
from igsp_export.standalone import bake

LABELS = "labels.json"
TYPES = {
    ir.DataType.UINT8: "TYPE_UINT8",
    ir.DataType.INT64: "TYPE_INT64",
    ir.DataType.FLOAT: "TYPE_FP32",
    ir.DataType.FLOAT16: "TYPE_FP16",
}
"""ONNX type -> Triton's name of it, for what the graphs take and give."""


@dataclass(frozen=True, kw_only=True)
class TritonGraph:
    """A graph to serve."""

    name: Literal["igsp_image", "igsp_text"]
    """Triton's name of the model."""
    file: str
    """The graph's file in the bundle."""
    stacks: Stacks
    """All of its stacks, in its precision."""


@dataclass(frozen=True, kw_only=True)
class TritonSettings:
    """How Triton shall run the graphs."""

    device: Literal["gpu", "cpu"] = "gpu"
    """Where; a graph of a precision that must not run there is refused."""
    instances: int = 1
    """Copies of each graph, that run at the same time: on every GPU, or on the CPU."""
    max_batch_size: int = 64
    """Rows of one run at most."""
    preferred_batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    """Sizes at which a batch is run without waiting for more."""
    queue_delay_us: int = 1000
    """Microseconds a request waits at most for others to share its batch."""

    def __post_init__(self) -> None:
        """Refuse what Triton would refuse."""
        if min(self.instances, self.max_batch_size) < 1 or self.queue_delay_us < 0:
            raise UserError("instances and max_batch_size must be at least 1, and queue_delay_us at least 0.")
        wrong = [size for size in self.preferred_batch_sizes if not 1 <= size <= self.max_batch_size]
        if wrong:
            raise UserError(
                f"preferred batch sizes must be from 1 to max_batch_size {self.max_batch_size}, got {wrong[0]}."
            )


def graphs_of(variant: Variant, image: Stacks, text: Stacks, selector: Stacks) -> list[TritonGraph]:
    """All graphs of one precision.

    Args:
        variant: the precision's files.
        image: experts and routers of the image graph.
        text: experts of the text graph.
        selector: the selector, which goes to the image graph.
    """
    return [
        TritonGraph(name="igsp_image", file=variant.image, stacks=image | selector),
        TritonGraph(name="igsp_text", file=variant.text, stacks=text),
    ]


def write_triton(
    bundle: Path, out: Path, graphs: Sequence[TritonGraph], settings: TritonSettings | None = None
) -> list[str]:
    """Write a model repository.

    Args:
        bundle: checked first.
        out: the repository, which must not exist yet. It gets a folder a graph with `config.pbtxt` and `1/model.onnx`
            and, beside those, `labels.json`, the class embeddings, the tokenizer and a README for whoever calls it.
        graphs: graphs of the bundle, all of one precision; see `graphs_of`.
        settings: how to run them.

    Returns:
        Names of the models.

    Raises:
        UserError: the bundle is damaged, a graph must not run on the device, the stacks are of other graphs, `out`
            exists or cannot be written.
    """
    settings = settings or TritonSettings()
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    for graph in graphs:
        _check_device(manifest, graph.file, settings.device)
    with new_folder(out) as scratch:
        for graph in graphs:
            version = scratch / graph.name / "1"
            version.mkdir(parents=True)
            bake(bundle / graph.file, graph.stacks, version / "model.onnx")
            config = model_config(version / "model.onnx", graph.name, settings)
            (scratch / graph.name / "config.pbtxt").write_text(config, encoding="utf-8")
        for name in (CLASSES, TOKENIZER):
            shutil.copyfile(bundle / name, scratch / name)
        write_json(scratch / LABELS, _labels(manifest))
        (scratch / "README.md").write_text(_readme(manifest, graphs, settings), encoding="utf-8")
    return [graph.name for graph in graphs]


def _check_device(manifest: Manifest, file: str, device: str) -> None:
    variant = next((v for v in manifest.variants if file in v.files()), None)
    if variant is None:
        raise UserError(f"the bundle has no graph {file!r}. Take the files from its manifest.")
    wanted = CUDA if device == "gpu" else CPU
    if wanted not in variant.providers:
        raise UserError(
            f"{file} ({variant.precision}) may run on {', '.join(variant.providers)} only, not on the {device}. "
            "Choose another precision or device."
        )


def model_config(graph: Path, name: str, settings: TritonSettings) -> str:
    """Text of `config.pbtxt` for a graph, with the inputs and outputs that the file has.

    Source: Triton's model configuration (`model_config.proto` of triton-inference-server/common).
    """
    model = ir.load(graph)
    head = [
        f'name: "{name}"',
        'platform: "onnxruntime_onnx"',
        'backend: "onnxruntime"',
        f"max_batch_size: {settings.max_batch_size}",
    ]
    tensors = [
        "\n".join([f"{kind} [", ",\n".join(_tensor(value) for value in values), "]"])
        for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs))
    ]
    sizes = ", ".join(map(str, settings.preferred_batch_sizes))
    batching = [
        "dynamic_batching {",
        *([f"  preferred_batch_size: [ {sizes} ]"] if sizes else []),
        f"  max_queue_delay_microseconds: {settings.queue_delay_us}",
        "}",
    ]
    group = f"instance_group [\n  {{ kind: KIND_{settings.device.upper()}, count: {settings.instances} }}\n]"
    return "\n".join([*head, *tensors, *batching, group]) + "\n"


def _tensor(value: ir.Value) -> str:
    """One input or output; the batch dimension goes without saying."""
    assert value.shape is not None
    assert value.dtype is not None
    dims = [-1 if isinstance(size, ir.SymbolicDim) else size for size in list(value.shape)[1:]]
    # Triton takes no tensor without dimensions: clients send [B, 1] where the graph takes [B].
    shape = f"dims: [ {', '.join(map(str, dims))} ]" if dims else "dims: [ 1 ], reshape: { shape: [ ] }"
    return f'  {{ name: "{value.name}", data_type: {TYPES[value.dtype]}, {shape} }}'


def _labels(manifest: Manifest) -> dict[str, object]:
    return {
        "tasks": [
            {"name": task.name, "classes": task.classes, "display_names": task.display_names} for task in manifest.tasks
        ],
        "choose": -1,
        "plain": -2,
        "logit_scale": manifest.backbone.logit_scale,
        "preprocess": dataclasses.asdict(manifest.preprocess),
        "context_length": manifest.backbone.context_length,
        "tokenizer": dataclasses.asdict(manifest.tokenizer),
    }


_README = """# Triton model repository

Models: {models}. Tasks: {tasks}. Made by {created_by}.

## Start

    docker run --rm {gpus}-p 8000:8000 -p 8001:8001 -v "$PWD":/models nvcr.io/nvidia/tritonserver:YY.MM-py3 \\
        tritonserver --model-repository=/models

`YY.MM` is a release whose onnxruntime knows opset {opset}{older}. The graphs were made for {device};
`config.pbtxt` holds batch sizes (at most {max_batch_size}), the queue's delay and the number of instances.

## Call

`images` are uint8 `[B, {size}, {size}, 3]`: RGB, resized ({interpolation}): {resize}; then cut or
padded at the center: {crop}; normalisation is in the graph. `task` and `used_task` are int64 `[B, 1]`: the
index of a task in `labels.json`,
-1 to let the selector choose, -2 for plain CLIP. A request holds up to {max_batch_size} rows
and may mix tasks; requests of different tasks share batches.

Beside igsp-deploy (its README says how to install it):

    pip install "tritonclient[http]"

```python
import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from igsp_deploy.bundle.preprocess import PreprocessSpec, read_pixels
from safetensors.numpy import load_file

labels, classes = json.loads(Path("labels.json").read_text()), load_file("classes.safetensors")
spec = PreprocessSpec(**labels["preprocess"])
client = triton.InferenceServerClient("localhost:8000")


def infer(model, **arrays):
    inputs = []
    for name, array in arrays.items():
        inputs.append(triton.InferInput(name, list(array.shape), "UINT8" if array.dtype == np.uint8 else "INT64"))
        inputs[-1].set_data_from_numpy(array)
    return client.infer(model, inputs)


images = np.stack([read_pixels(Path(name), spec) for name in sys.argv[1:]])
result = infer("igsp_image", images=images, task=np.full((len(images), 1), labels["choose"]))
used = result.as_numpy("used_task")[:, 0]
for name, task, vector, read in zip(sys.argv[1:], used, result.as_numpy("features"), result.as_numpy("summary")):
    own = [task] if task >= 0 else range(len(labels["tasks"]))  # plain CLIP: the classes of all tasks
    kind = "task" if task >= 0 else "plain"
    scores = np.concatenate([classes[f"{{kind}}.{{t}}"] for t in own]) @ vector
    if f"head.{{task}}" in classes:
        scores += classes[f"head.{{task}}"] @ read
    logits = labels["logit_scale"] * scores
    names = [label for t in own for label in labels["tasks"][t]["classes"]]
    print(name, names[logits.argmax()], labels["tasks"][task]["name"] if task >= 0 else "plain CLIP")
```

`igsp_text` turns token ids (int64 `[B, n]`, n up to {context_length}, made with `tokenizer.json` as `tokenizer` in
`labels.json` says) and a task (`[B, 1]`) into `embeddings`, for classes named on the spot. Only requests of the same n
share a batch. {padding}
"""


def _readme(manifest: Manifest, graphs: Sequence[TritonGraph], settings: TritonSettings) -> str:
    return _README.format(
        models=", ".join(f"`{graph.name}`" for graph in graphs),
        tasks=", ".join(f"`{name}`" for name in manifest.task_names()),
        created_by=manifest.created_by,
        gpus="--gpus all " if settings.device == "gpu" else "",
        device="GPUs" if settings.device == "gpu" else "the CPU",
        opset=manifest.opset,
        older=" (onnxruntime 1.25 or newer; for older releases export with `--opset 18`)"
        if manifest.opset > 18
        else "",
        max_batch_size=settings.max_batch_size,
        size=manifest.preprocess.size,
        interpolation=manifest.preprocess.interpolation,
        resize=RESIZE[manifest.preprocess.resize_mode],
        crop=CROP[manifest.preprocess.resize_mode],
        context_length=manifest.backbone.context_length,
        padding=_padding(manifest),
    )


def _padding(manifest: Manifest) -> str:
    about = manifest.tokenizer
    if about.end_id is None:
        return f"The tower reads all of it: always pad with {about.pad_id} to n = {manifest.backbone.context_length}."
    return (
        f"Ids behind the end token ({about.end_id}) change nothing: pad with {about.pad_id} to one length, from 2 on."
    )
