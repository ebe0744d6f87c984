"""How far OpenVINO's CPU is off from onnxruntime's: `python -m tests.bench.openvino_error BUNDLE [IMAGE...]`.

In float32, and as it runs where nobody asks for a precision: bf16 on processors that have it.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from igsp_deploy.bundle.manifest import REFERENCE, read_manifest
from igsp_deploy.bundle.reference import Reference
from igsp_deploy.runtime.classifier import Classifier
from igsp_export.shapes import write_standalone

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


def run(graph: Path, feeds: dict[str, NDArray[Any]], **options: str) -> dict[str, NDArray[Any]]:
    """Outputs of a graph on OpenVINO's CPU, by name."""
    model = openvino.Core().compile_model(str(graph), "CPU", options)
    return {output.get_any_name(): value for output, value in model(feeds).items()}


def measure(bundle: Path, pixels: NDArray[np.uint8] | None = None) -> dict[str, Any]:
    """Largest differences of features and of probabilities, and choices of another task, by precision.

    Args:
        bundle: its selector reads the trunk, and it has fp32 graphs.
        pixels: uint8 `[N, S, S, 3]`; the bundle's reference images by default.
    """
    classifier, manifest = Classifier.open(bundle, "cpu"), read_manifest(bundle)
    images = Reference.read(bundle / REFERENCE).images if pixels is None else pixels
    task, found = np.full(len(images), -1), {}
    expected = classifier.engine.run_images(images, task)
    with tempfile.TemporaryDirectory() as scratch:
        write_standalone(bundle, Path(scratch) / "out")
        for name, options in (("f32", FLOAT32), ("default", {})):
            given = run(Path(scratch) / "out" / "image.fp32.onnx", {"images": images, "task": task}, **options)
            sets, worst = classifier.learned(classifier.engine.tasks), 0.0
            count = sum(len(task.classes) for task in manifest.tasks)
            theirs = dataclasses.replace(expected, features=given["features"], summary=given["summary"])
            for asked in zip(*(classifier.predict(rows, sets, count) for rows in (theirs, expected)), strict=True):
                shares = [dict(zip(zip(p.label_tasks, p.labels, strict=True), p.scores, strict=True)) for p in asked]
                worst = max(worst, *(abs(shares[0][label] - share) for label, share in shares[1].items()))
            found[name] = {
                "features": float(np.abs(given["features"] - expected.features).max()),
                "probabilities": worst,
                "other task": int((given["used_task"] != expected.task).sum()),
            }
    return {"backbone": manifest.backbone.name, "images": len(images), **found}


def main() -> None:
    """Print what `measure` finds."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.openvino_error")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path, nargs="*", help="instead of the bundle's reference images")
    options = parser.parse_args()
    classifier = Classifier.open(options.bundle, "cpu")
    pixels = np.stack([classifier.load(path) for path in options.images]) if options.images else None
    print(json.dumps(measure(options.bundle, pixels), indent=2))


if __name__ == "__main__":
    main()
