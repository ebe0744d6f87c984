"""What int8 graphs gain and cost on real test images: accuracy, agreement, cosine, latency, size.

    python -m tests.bench.int8_gain MODEL [--check-images 200] [--batch 1 8 32] [--rounds 15] [--out FILE.json]

MODEL is a learned model (`igsp quickstart` leaves one in quickstart-out/model) whose tasks' images are where they were
when it learned them (else the images are synthetic, and the table says so). It is exported in fp32 and int8 into a
folder that goes away, through the gate of `igsp export`; then both image graphs run the same mixed tasks, interleaved.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from igsp_deploy.bundle.manifest import Manifest, read_manifest
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.engine import Engine
from igsp_export.bench.machine import describe_machine
from igsp_export.bench.timing import Ratio, interleave, paired_ratio
from igsp_export.export import export_bundle
from igsp_export.images import synthetic_images

FULL, SMALL = "fp32", "int8"


def accuracy_rows(parity: dict[str, Any]) -> list[list[str]]:
    """A row a task: images, accuracy of PyTorch, of fp32 and of int8, other best class, other task, least cosine."""
    rows = []
    for name, full in parity[FULL]["tasks"].items():
        small = parity[SMALL]["tasks"][name]
        known = "accuracy_onnx" in full
        accuracies = [full["accuracy_pytorch"], full["accuracy_onnx"], small["accuracy_onnx"]] if known else []
        rows.append(
            [
                name,
                f"{small['images']} {small['origin']}",
                *([f"{value:.2f}" for value in accuracies] or ["-"] * 3),
                str(small["top1_differing"] + small["ties"]),
                str(small["choices_differing"]),
                f"{small['smallest_cosine']:.5f}",
            ]
        )
    return rows


def sizes(manifest: Manifest) -> dict[str, int]:
    """Bytes of the image and the text graph in each precision, their weights included."""
    found = {}
    for variant in manifest.variants:
        for kind, file in (("image", variant.image), ("text", variant.text)):
            parts = [entry.size_bytes for name, entry in manifest.files.items() if name in (file, f"{file}.data")]
            found[f"{kind} {variant.precision}"] = sum(parts)
    return found


def measure(bundle: Path, batch: int, rounds: int, threads: int) -> dict[str, Any]:
    """Milliseconds of a batch of mixed tasks in both precisions, and int8's time as a share of fp32's."""
    engines = {name: Engine.open(bundle, "cpu", precision=name, num_threads=threads) for name in (FULL, SMALL)}
    manifest = engines[FULL].manifest
    images = synthetic_images(batch, manifest.preprocess.size)
    task: NDArray[np.int64] = np.arange(batch, dtype=np.int64) % len(manifest.tasks)

    def run(engine: Engine) -> Callable[[], object]:
        return lambda: engine.run_images(images, task)

    found = interleave({name: run(engine) for name, engine in engines.items()}, rounds=rounds)
    ratio: Ratio = paired_ratio(found[SMALL], found[FULL])
    medians = {f"{name}_ms": float(np.median(times)) for name, times in found.items()}
    return {"batch": batch, "rounds": rounds, **medians, "ratio": asdict(ratio)}


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(columns) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, rule, *rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.int8_gain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--check-images", type=int, default=0, help="test images a task; 0 takes all")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of one operator; 0 lets onnxruntime decide")
    parser.add_argument("--out", type=Path, help="write everything here, as JSON")
    given = parser.parse_args(arguments)
    if given.check_images < 0 or min(*given.batch, given.rounds) < 1 or given.threads < 0:
        parser.error("--batch and --rounds must be at least 1, --check-images and --threads at least 0")
    try:
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            result = export_bundle(
                given.model,
                bundle,
                precision=(FULL, SMALL),
                check_limit=given.check_images,
                console=Console(file=io.StringIO()),
            )
            manifest = read_manifest(bundle)
            times = [measure(bundle, batch, given.rounds, given.threads) for batch in sorted(set(given.batch))]
    except UserError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    machine, bytes_of = describe_machine("CPUExecutionProvider", given.threads), sizes(manifest)
    if given.out is not None:
        values = {
            "machine": asdict(machine),
            "backbone": manifest.backbone.name,
            "parity": result["parity"],
            "size_bytes": bytes_of,
            "latency": times,
        }
        given.out.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    print(f"{machine.line()}\n{manifest.backbone.name}, {len(manifest.tasks)} tasks\n")
    columns = ["task", "images", "PyTorch, %", "fp32, %", "int8, %", "other class", "other task", "least cosine"]
    print(_table(columns, accuracy_rows(result["parity"])), end="\n\n")
    latency = [
        [
            str(row["batch"]),
            f"{row['fp32_ms']:.1f}",
            f"{row['int8_ms']:.1f}",
            f"{row['ratio']['median']:.2f} ({row['ratio']['low']:.2f} to {row['ratio']['high']:.2f})",
        ]
        for row in times
    ]
    print(_table(["batch", "fp32, ms", "int8, ms", "int8 / fp32"], latency), end="\n\n")
    print(_table(["graph", "MB"], [[name, f"{size / 1e6:.1f}"] for name, size in bytes_of.items()]))


if __name__ == "__main__":
    main()
