"""The bundle's README: what it knows, how to use it, how it was checked."""

from igsp_deploy.bundle.manifest import Manifest

_TEMPLATE = """---
{license}
library_name: igsp-deploy
pipeline_tag: zero-shot-image-classification
tags: [clip, continual-learning, image-classification, mixture-of-experts, onnx]
---
# {title}

One ONNX graph for {count}: {names}. It classifies an image without being told the task, and falls back to plain CLIP
({backbone}) for images of none of them.

## Use

With igsp-deploy, whose README says which line installs it on which machine:

    igsp predict BUNDLE photo.jpg
    igsp predict BUNDLE photo.jpg --task {first}
    igsp predict BUNDLE photo.jpg --prompts "cat, dog"
    igsp verify BUNDLE

From Python (no torch needed):

    from pathlib import Path
    from igsp_deploy.runtime.classifier import Classifier

    classifier = Classifier.open(Path("BUNDLE"))
    print(classifier.classify([Path("photo.jpg")])[0])

## Tasks

| task | classes | experts used | of these new | checked on | accuracy, task given |
| --- | --- | --- | --- | --- | --- |
{tasks}

Classes:

{classes}

## Files

| file | what |
| --- | --- |
{graphs}
| `experts.safetensors` | every expert once, and which of them each task's routers use |
| `selector.safetensors` | what the task of an image is found out with |
| `classes.safetensors` | embeddings of the class names, under each task's experts and under plain CLIP |
| `tokenizer.json` | the backbone's tokenizer, for the `tokenizers` package |
| `examples/reference.safetensors` | synthetic inputs with PyTorch's outputs, for `igsp verify` |
| `manifest.json` | all of the above with checksums |

{inputs} A batch may mix tasks. Opset {opset}.
The graphs know no task by themselves: experts and selector are inputs, which `igsp_serve` feeds.

## Checked against PyTorch

{parity}

Made by {created_by}. Backbone weights: SHA-256 `{hash}`.
"""
_INPUTS = """\
The image graph takes `images` (uint8, `[B, {size}, {size}, 3]`) and `task` (int64, `[B]`: index of a task, -1 to
choose, -2 for plain CLIP), and gives `features`, `used_task` and `task_scores`."""


def model_card(manifest: Manifest) -> str:
    """Markdown with the metadata block that model hubs read."""
    names = [f"`{name}`" for name in manifest.task_names()]
    count = len(names)
    checked = manifest.parity[manifest.variants[0].precision]["tasks"]
    rows = []
    for task in manifest.tasks:
        figures = checked[task.name]
        accuracy = f"{figures['accuracy_onnx']:.1f} %" if "accuracy_onnx" in figures else "not measured"
        rows.append(
            f"| {task.name} | {len(task.classes)} | {task.experts} | {task.experts_new} "
            f"| {figures['images']} {figures['origin']} | {accuracy} |"
        )
    classes = [f"* {task.name}: {_listed(task.display_names)}" for task in manifest.tasks]
    graphs = [
        f"| `{file}` | {kind} graph, {variant.precision}, for {', '.join(variant.providers)} |"
        for variant in manifest.variants
        for kind, file in (("image", variant.image), ("text", variant.text))
    ]
    return _TEMPLATE.format(
        title=f"{count} {'task' if count == 1 else 'tasks'} on {manifest.backbone.name}",
        count=f"{count} image-classification {'task' if count == 1 else 'tasks'}",
        names=", ".join(names),
        first=manifest.tasks[0].name,
        backbone=manifest.backbone.name,
        tasks="\n".join(rows),
        classes="\n".join(classes),
        graphs="\n".join(graphs),
        inputs=_INPUTS.format(size=manifest.preprocess.size),
        opset=manifest.opset,
        parity="\n".join(_parity(manifest)),
        created_by=manifest.created_by,
        hash=manifest.backbone.weight_hash,
        license=_license(manifest.backbone.name),
    )


def _license(backbone: str) -> str:
    """License of the weights, as model hubs read it. Ours we know; what others' permit is for the publisher to say."""
    own = backbone in ("nano", "debug")
    return "license: apache-2.0" if own else "license: other\nlicense_name: as-the-weights-of-the-backbone"


def _listed(names: tuple[str, ...], most: int = 30) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name.replace("\n", " ") for name in names[:most]) + more


def _parity(manifest: Manifest) -> list[str]:
    lines = ["| graph | what | images | largest difference of a feature | other best class |", "|---|---|---|---|---|"]
    for precision, report in manifest.parity.items():
        parts = {**{f"task {n}": f for n, f in report["tasks"].items()}, "plain CLIP": report["plain"]}
        parts.update({"mixed tasks": report["mixed"], "task chosen": report["auto"]})
        for what, figures in parts.items():
            lines.append(
                f"| {precision} | {what} | {figures['images']} | {figures['feature_difference']:.1e} "
                f"| {figures['top1_differing']} |"
            )
    return lines
