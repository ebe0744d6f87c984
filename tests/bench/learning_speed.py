"""Seconds and peak memory of one learning step at the size of ViT-B/16: this project's, plain LoRA, an MoE loop.

    python -m tests.bench.learning_speed [--rounds 3] [--precision fp32] [--out FILE.json]
    python -m tests.bench.learning_speed --device cuda --precision bf16 --batch 64

Weights are random. Every contender is a process of its own that waits for its turn; in each round every process takes
one step, one after another, so that all see the same machine. Times are medians over the rounds, after one to warm up.
On the CPU the memory is the largest resident set of the process over its whole life, weights and libraries included
(VmHWM of Linux); on a GPU the most that torch had allocated. On a GPU the command also prints images per second and the
share of the step that is the frozen forward of the trunk.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from igsp_export.bench.machine import describe_machine
from tests.bench.learning_contenders import NAMES, RANK

BASE = "lora qkvo"


def serve(name: str, options: argparse.Namespace, line: Connection) -> None:
    """In a process of its own: build a contender, then take one step for every message."""
    import torch

    from tests.bench.learning_contenders import build

    if options.threads:
        torch.set_num_threads(options.threads)
    step = build(name, options.model, options.batch, options.device, options.precision, options.rounds + 1)
    line.send(torch.get_num_threads())
    cuda = options.device == "cuda"
    while line.recv():
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        line.send((seconds, peak))


def measure(names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved steps of all contenders."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    processes = []
    threads = 0
    for name in names:
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(name, options, there), daemon=True)
        process.start()
        there.close()
        processes.append(process)
        lines[name] = here
        threads = here.recv()  # one after another: building must not disturb the others
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, int] = {}
    for number in range(options.rounds + 1):
        for name, line in lines.items():
            line.send(True)
            taken, peaks[name] = line.recv()
            if number:
                seconds[name].append(taken)
    for line in lines.values():
        line.send(False)
    for process in processes:
        process.join()
    rows = {
        name: {
            "seconds": round(statistics.median(seconds[name]), 3),
            "all_seconds": [round(s, 3) for s in seconds[name]],
            "peak_gib": round(peaks[name] / 2**30, 2),
            "images_per_s": round(options.batch / statistics.median(seconds[name]), 1),
        }
        for name in names
    }
    return {
        "machine": asdict(describe_machine(options.device, threads)),
        "threads": threads,
        "settings": vars(options) | {"out": None},
        "rows": rows,
    }


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown, with ratios to plain LoRA and to the MoE loop."""
    rows = found["rows"]
    lines = [
        "| | s a step | of LoRA's time | MoE loop / this | peak GiB | of LoRA's peak | images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():

        def ratio(key: str, other: str, *, inverse: bool = False, row: dict[str, Any] = row) -> str:
            if other not in rows:
                return "-"
            value = row[key] / rows[other][key]
            return f"{1 / value:.2f}" if inverse else f"{value:.2f}"

        times = f"{row['seconds']:.2f} | {ratio('seconds', BASE)} | {ratio('seconds', 'moe loop', inverse=True)}"
        lines.append(
            f"| {name} | {times} | {row['peak_gib']:.2f} | {ratio('peak_gib', BASE)} | {row['images_per_s']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=3, help="steps a contender, after one to warm up")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--model", default="ViT-B-16-quickgelu", help="open_clip model, or debug")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; torch's own choice by default")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    options = parser.parse_args()
    found = measure(options.only, options)
    machine = found["machine"]
    print(f"{options.model}, batch {options.batch}, {options.precision}, {options.device}, {found['threads']} threads")
    print(f"rank {RANK} a block; {machine['gpu'] or machine['cpu']}, torch {machine['torch']}")
    print(table(found))
    if "igsp fresh" in found["rows"] and "igsp cached" in found["rows"]:
        fresh, cached = (found["rows"][f"igsp {kind}"]["seconds"] for kind in ("fresh", "cached"))
        print(f"share of a fresh step that is the frozen forward of the image trunk: {1 - cached / fresh:.2f}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
