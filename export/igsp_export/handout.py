"""What lies beside a graph that is used without this project: its labels, how a picture becomes its input, a README."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from igsp_deploy import __version__
from igsp_deploy.bundle.manifest import CLASSES, TOKENIZER, Manifest
from igsp_deploy.files import explain_os_error, write_json

LABELS, PREPROCESS, README = "labels.json", "preprocess.json", "README.md"
FORMAT = 1
"""Of `labels.json` and `preprocess.json`."""

RESIZE = {
    "shortest": "shortest side to size, the long one size * long / short rounded down",
    "longest": "longest side to size, the short one short / (long / size) rounded, halves to the even number",
    "squash": "both sides to size, whatever the shape",
}
CROP = {
    "shortest": "center, halves rounded to the even number",
    "longest": "none; black at both ends of the short side, what is odd at the far one",
    "squash": "none",
}

_STANDALONE = """\
# Graphs with their tasks inside

Made by {created_by} from a bundle of {backbone}, with the tasks {tasks}.
Any ONNX runtime runs them; they need no other file.

| file | what |
| --- | --- |
{graphs}
| `labels.json` | `tasks` by index, and every label with its task, in the order of the class vectors |
| `preprocess.json` | how a picture becomes `images` |
| `classes.safetensors` | vectors of classes: `task.0` under the task's experts, `plain.0` under plain CLIP, `head.0` |
| `tokenizer.json` | the backbone's tokenizer, for the text graph and the `tokenizers` package |

{inputs}

`task` is a task's index, -1 to choose (images alone), -2 for plain CLIP; any other number gives
NaN. The probabilities of an image of task t are the softmax of {scale:.6g} times the products of its `features` with
the rows of `task.t` plus, where there is a `head.t`, of its `summary` with the rows of that; those of an image of no
task (-2), the same over the rows of all `plain.*`, one under the other.
A graph in which this is done already: `igsp export MODEL BUNDLE --web DIR`.

OpenVINO: ask for float32 (`INFERENCE_PRECISION_HINT: f32`). On processors with bf16 its default is bf16, which is off
by far more than rounding.
"""
_INPUTS = (
    "The image graph takes `images` (uint8 `[B, {size}, {size}, 3]`) and `task` (int64 `[B]`) and gives `features`, "
    "`used_task`, `task_scores` and `summary`."
)


def labels(manifest: Manifest) -> dict[str, Any]:
    """Content of `labels.json`: task names by index, and every label with its task."""
    found = [
        {"label": label, "display_name": shown, "task": task.name}
        for task in manifest.tasks
        for label, shown in zip(task.classes, task.display_names, strict=True)
    ]
    return {
        "format": FORMAT,
        "created_by": f"igsp-deploy {__version__}",
        "tasks": manifest.task_names(),
        "labels": found,
        "tokenizer": texts(manifest),
    }


def texts(manifest: Manifest) -> dict[str, Any]:
    """What is done to a text around `tokenizer.json`, as in the manifest."""
    return dataclasses.asdict(manifest.tokenizer) | {"context_length": manifest.backbone.context_length}


def preprocess(manifest: Manifest, *, inside: bool) -> dict[str, Any]:
    """Content of `preprocess.json`.

    Args:
        manifest: of the bundle.
        inside: the graph resizes and cuts itself.
    """
    spec = manifest.preprocess
    return {
        "format": FORMAT,
        "decode": "first frame, EXIF orientation applied, alpha on white, RGB, 8 bits, no colour profile",
        "decoding": spec.decoding,
        "resize": RESIZE[spec.resize_mode],
        "interpolation": spec.interpolation,
        "antialias": True,
        "crop": CROP[spec.resize_mode],
        "size": spec.size,
        "resize_and_crop_in_graph": inside,
        "normalization": "in graph",
        "mean": list(spec.mean),
        "std": list(spec.std),
        "input": {"type": "uint8", "layout": "HWC" if inside else "BHWC"},
    }


def write_handout(folder: Path, bundle: Path, manifest: Manifest, graphs: list[str]) -> None:
    """Write what belongs to standalone graphs into their folder.

    Raises:
        UserError: it cannot be written.
    """
    write_json(folder / LABELS, labels(manifest))
    write_json(folder / PREPROCESS, preprocess(manifest, inside=False))
    text = _STANDALONE.format(
        created_by=manifest.created_by,
        backbone=manifest.backbone.name,
        tasks=", ".join(f"`{name}`" for name in manifest.task_names()),
        graphs="\n".join(f"| `{name}` | the {name.split('.')[0]} graph, {name.split('.')[1]} |" for name in graphs),
        inputs=_INPUTS.format(size=manifest.preprocess.size),
        scale=manifest.backbone.logit_scale,
    )
    try:
        (folder / README).write_text(text, encoding="utf-8")
        for name in (CLASSES, TOKENIZER):
            shutil.copyfile(bundle / name, folder / name)
    except OSError as error:
        raise explain_os_error(error, folder) from error
