"""What each form of the adapted block costs, against plain CLIP: the table in export/README.md.

    python -m tests.bench.adapted_block_forms [--tasks 1 11 100] [--batch 1 8 32] [--provider cuda] [--out FILE.json]

Random weights, all blocks adapted, the task of every image named, onnxruntime alone. The forms:

* gather: every sample gathers its task's slice of the stacks, then batched MatMuls; what a bundle ships;
* common: the whole batch has one task, so one slice and plain MatMuls;
* widened: one task in the weights, as further hidden units of the MLP;
* grouped: the caller sorts the batch by task and runs the `common` graph once a task;
* masked: one GEMM over all tasks' experts, and a mask that leaves each sample its own.

Every form must give what `gather` gives before it is timed. A round runs plain CLIP and every form once, in an order
drawn anew; a ratio is a form's time over plain CLIP's of the same round. Time runs from arrays in the caller's memory
to features there, the stacks being on the device already. `plain again` is plain CLIP as one more form: the noise.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import onnxruntime

from igsp_deploy.errors import UserError
from igsp_deploy.runtime.providers import CPU, Provider
from tests.bench.form_timing import FORMS, Bench, Measurement, Settings


def machine(bench: Bench) -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": bench.settings.threads or "default",
        "onnxruntime": onnxruntime.__version__,
        "provider": bench.provider,
        "python": platform.python_version(),
    }
    if bench.provider != CPU:
        import torch

        facts["gpu"] = torch.cuda.get_device_name(0)
    return facts


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def table(rows: Sequence[Measurement]) -> str:
    """Markdown: a line a batch size and form, a column a number of tasks."""
    tasks = sorted({row.tasks for row in rows})
    lines = [
        "| batch | form | " + " | ".join(f"T = {count}" for count in tasks) + " |",
        "| ---: | --- |" + " --- |" * len(tasks),
    ]
    cells = {(row.batch, row.form, row.tasks): row for row in rows}
    for batch in sorted({row.batch for row in rows}):
        plain = [_plain([cells[batch, form, count] for form in FORMS]) for count in tasks]
        lines.append(f"| {batch} | plain CLIP | " + " | ".join(plain) + " |")
        for form in FORMS:
            line = " | ".join(_cell(cells[batch, form, count]) for count in tasks)
            lines.append(f"| {batch} | {form} | {line} |")
    return "\n".join(lines)


def _plain(rows: Sequence[Measurement]) -> str:
    row = next(row for row in rows if row.plain_milliseconds is not None)
    return f"{_milliseconds(row.plain_milliseconds)}, {row.rounds} rounds, {row.groups} tasks in the batch"


def _cell(row: Measurement) -> str:
    if row.ratio is None:
        return f"({row.skipped})"
    return f"{row.ratio:.3f} ({row.low:.3f} to {row.high:.3f}), {_milliseconds(row.milliseconds)}"


def _milliseconds(value: float | None) -> str:
    assert value is not None
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def report(bench: Bench, rows: Sequence[Measurement], seconds: float) -> str:
    """The table under a line about the machine and the graphs."""
    facts, s = machine(bench), bench.settings
    hardware = f"{facts['gpu']}, " if "gpu" in facts else ""
    largest = max(row.difference for row in rows if row.difference is not None)
    return (
        f"{hardware}{facts['cores']} cores of {facts['cpu']}, onnxruntime {facts['onnxruntime']}, {facts['provider']}, "
        f"threads: {facts['threads']}.\n"
        f"{s.backbone}, {bench.depth} blocks, all adapted, R = {s.rank} of {s.experts} experts, {s.precision}, "
        f"opset {s.opset}; {seconds:.0f} s in all.\n"
        "Time as a multiple of plain CLIP's in the same round (median, 95 % bootstrap interval of it), and the median "
        "time.\n"
        f"Largest difference of a feature from `gather`: {largest:.1e}.\n\n{table(rows)}"
    )


def parse(arguments: Sequence[str] | None) -> tuple[Settings, Path | None]:
    """Settings and the JSON file to write."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.adapted_block_forms",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 11, 100])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rank", type=int, default=64, help="R: of all experts of a task in a block")
    parser.add_argument("--experts", type=int, default=4, help="experts of a task in a block")
    parser.add_argument("--backbone", default="ViT-B-16", help="open_clip name (random weights), nano or debug")
    parser.add_argument("--blocks", type=int, default=0, help="keep the first blocks only; 0 keeps all")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="fp16 with cuda only")
    parser.add_argument("--opset", type=int, choices=(18, 23), default=23)
    parser.add_argument("--threads", type=int, default=0, help="of one operator; 0 lets onnxruntime decide")
    parser.add_argument(
        "--rounds", type=int, default=15, help="at batch 1; at batch B the root of B times fewer, but at least 3"
    )
    parser.add_argument("--memory-limit-mib", type=int, default=256, help="skip `masked` where a block needs more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the measurements here, as JSON")
    given = vars(parser.parse_args(arguments))
    out: Path | None = given.pop("out")
    tasks, batch = (tuple(sorted(set(given.pop(name)))) for name in ("tasks", "batch"))
    settings = Settings(tasks=tasks, batch=batch, provider=cast(Provider, given.pop("provider")), **given)
    if problems := settings.problems():
        parser.error("; ".join(problems))
    return settings, out


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings, out = parse(arguments)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            print("writing the graphs", file=sys.stderr)
            bench = Bench(settings, Path(folder))
            rows = []
            for count in settings.tasks:
                print(f"[{time.monotonic() - started:.0f} s] {count} tasks", file=sys.stderr)
                rows += bench.measure(count)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    seconds = time.monotonic() - started
    if out is not None:
        values = {
            "machine": machine(bench),
            "settings": asdict(settings),
            "seconds": round(seconds, 1),
            "measurements": [asdict(row) for row in rows],
        }
        out.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    print(report(bench, rows, seconds))


if __name__ == "__main__":
    main()
