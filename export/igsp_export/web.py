"""`igsp export --web DIR`: one graph from a picture to the probabilities of all labels, and a page that runs it.

The same folder serves browsers (onnxruntime-web), node (onnxruntime-node) and C#.
"""

import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime

from igsp_deploy.bundle.manifest import REFERENCE, Manifest, Variant, read_manifest
from igsp_deploy.bundle.reference import Reference
from igsp_deploy.errors import UserError
from igsp_deploy.files import explain_os_error, new_folder, write_json
from igsp_deploy.names import PLAIN
from igsp_deploy.runtime.classifier import Classifier, softmax
from igsp_deploy.runtime.engine import Engine
from igsp_deploy.runtime.providers import CPU
from igsp_deploy.runtime.tasks import TaskSet
from igsp_export.handout import LABELS, PREPROCESS, labels, preprocess
from igsp_export.onnx_file import LARGEST_FILE, save_model
from igsp_export.picture_graph import Classes, picture_graph
from igsp_export.shapes import read_tasks
from igsp_export.standalone import baked

MODEL = "model.onnx"
PAGE = ("index.html", "igsp.mjs", "README.md")
TOLERANCE = 1e-3
"""Largest difference of a probability from the bundle's."""
CHECKED = 24
"""Reference rows at most that the graph is held against."""


def write_web(bundle: Path, out: Path) -> list[str]:
    """Write the folder, its graph held against the bundle before it appears.

    Args:
        bundle: the bundle, with a graph for the CPU.
        out: folder to make.

    Returns:
        Names of the files.

    Raises:
        UserError: the bundle has no graph for the CPU or one too large for a browser, the graph does not give what the
            bundle gives, or `out` exists or cannot be written.
    """
    manifest = read_manifest(bundle)
    fitting = [variant for variant in manifest.variants if CPU in variant.providers]
    if not fitting:
        had = ", ".join(variant.precision for variant in manifest.variants)
        raise UserError(f"{bundle} has no graph that a browser could run (it has {had}). Export fp32 or int8 too.")
    variant = min(fitting, key=lambda v: ["fp32", "int8"].index(v.precision))
    tasks = read_tasks(bundle, manifest, variant)
    with new_folder(out) as scratch:
        image = baked(bundle / variant.image, tasks.image | tasks.selector.stacks())
        model = picture_graph(image, _classes(tasks, manifest), manifest.preprocess)
        save_model(model, scratch / MODEL)
        if (scratch / f"{MODEL}.data").exists():
            raise UserError(
                f"the graph has more than {LARGEST_FILE >> 30} GiB, which a browser cannot load. Export int8 alone "
                "(`--precision int8`), or take --standalone for other runtimes."
            )
        write_json(scratch / LABELS, labels(manifest))
        write_json(scratch / PREPROCESS, preprocess(manifest, inside=True))
        try:
            for name in PAGE:
                with resources.as_file(resources.files("igsp_export") / "page" / name) as path:
                    shutil.copyfile(path, scratch / name)
        except OSError as error:
            raise explain_os_error(error, out) from error
        _check(bundle, variant, scratch / MODEL)
    return [MODEL, LABELS, PREPROCESS, *PAGE]


def _classes(tasks: TaskSet, manifest: Manifest) -> Classes:
    scale = np.float32(manifest.backbone.logit_scale)
    counts = [len(task.classes) for task in tasks.entries]
    own, plain = (np.concatenate(rows) * scale for rows in (tasks.class_embeddings, tasks.plain_embeddings))
    width, head = manifest.head_width(len(tasks.selector.center)), None
    if any(one is not None for one in tasks.heads):
        rows = zip(tasks.heads, counts, strict=True)
        head = scale * np.concatenate([np.zeros((n, width), np.float32) if one is None else one for one, n in rows])
    return own, plain, head, np.repeat(np.arange(len(counts)), counts)


def _check(bundle: Path, variant: Variant, graph: Path) -> None:
    """Hold the graph against the bundle on reference images.

    Raises:
        UserError: it gives something else.
    """
    reference = Reference.read(bundle / REFERENCE)
    engine = Engine.open(bundle, "cpu", precision=variant.precision, check=False)
    classifier = Classifier(engine)
    sets, options = classifier.learned(engine.tasks), onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=[CPU])
    scale, label_task = engine.manifest.backbone.logit_scale, _classes(engine.tasks.task_set, engine.manifest)[-1]
    places = {PLAIN: label_task >= 0} | {t: label_task == t for t in range(len(engine.manifest.tasks))}
    rows = np.linspace(0, len(reference.task) - 1, min(CHECKED, len(reference.task))).astype(int)
    images = reference.images[reference.image_index[rows]]
    output = engine.run_images(images, reference.task[rows])
    worst = 0.0
    for pixels, features, read, used in zip(images, output.features, output.summary, output.task, strict=True):
        # The task is named: a choice between two that are equal within rounding is no difference.
        given = session.run(None, {"image": pixels, "task": np.array([used])})[0][0]
        expected = np.zeros(len(given))
        expected[places[int(used)]] = softmax(sets.of(int(used)).compare(features, read), scale)
        worst = max(worst, float(np.nan_to_num(np.abs(given - expected), nan=np.inf).max()))
    if not worst <= TOLERANCE:
        raise UserError(
            f"the graph of --web does not give what {bundle} gives: probabilities differ by {worst:.2g} (allowed "
            f"{TOLERANCE:g}). Nothing was written there. Please report it with the output of `igsp doctor`."
        )
