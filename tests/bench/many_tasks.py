"""What a task costs when there are many: learning it, storing it, serving it beside the others.

    python -m tests.bench.many_tasks --tasks 10 60 200 [--backbone debug] [--steps 20] [--set model.max_experts=0]
    python -m tests.bench.many_tasks --made --tasks 10 1000 --backbone nano --steps 100

Draws a set of small pictures for each task (three patterns in colours of the task's own), learns one after another into
one model as `igsp train` does, each by a call of its own, and at every number of `--tasks` exports the model and
measures the bundle. With `--made` all tasks but the last ones are made of random experts, which takes no learning: a
larger backbone can have a thousand; which task is chosen says nothing then.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from igsp_deploy.checked import build
from igsp_deploy.config import RunConfig, apply_overrides
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.names import AUTO, PLAIN
from igsp_deploy.runtime.engine import Engine
from igsp_export.bench.run import NAMED, run_bench
from igsp_export.export import export_bundle
from igsp_train.sequence import train_sequence
from tests.bench.make_model import make_model

SIDE = 32
PATTERNS = ("rows", "columns", "checks")
TRAIN, TEST = 10, 2
LAST = 5
"""Tasks whose time to learn is taken: the median."""
CHECKED = 2
"""Images of each made task that its export is checked with."""
QUIET = Console(quiet=True)
OPEN = r"""
import re, sys, time
from pathlib import Path
from igsp_deploy.runtime.engine import Engine
begun = time.monotonic()
Engine.open(Path(sys.argv[1]), "cpu", num_threads=1)
taken = time.monotonic() - begun
print(taken, int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""
"""Seconds to start and MiB at most (Linux), of a process that does nothing else."""
COLUMNS = (
    "tasks",
    "s to learn one of the last",
    "s to open the model",
    "numbers kept a task",
    "most experts in a block",
    "bundle MB",
    "s to export",
    "s to start",
    "engine MiB",
    "latency / plain CLIP, batch 1",
    "batch 8",
    "right task %",
    "left to plain %",
)


def draw(task: int, pattern: str, random: np.random.Generator) -> NDArray[np.uint8]:
    """One picture `[SIDE, SIDE, 3]`: a pattern in the two colours of a task, with noise."""
    colours = np.random.default_rng(task).integers(0, 256, (2, 3))
    period = int(random.integers(4, 9))
    rows, columns = (np.indices((SIDE, SIDE)) + random.integers(0, 8, (2, 1, 1))) // period % 2
    mask = {"rows": rows, "columns": columns, "checks": rows ^ columns}[pattern]
    pixels = colours[mask] + random.normal(0, 12, (SIDE, SIDE, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_task(folder: Path, task: int) -> None:
    """A set as `igsp train` reads it."""
    random = np.random.default_rng((1, task))
    for split, count in (("train", TRAIN), ("test", TEST)):
        for pattern in PATTERNS:
            place = folder / split / pattern
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw(task, pattern, random)).save(place / f"{number}.png")


def choices(bundle: Path, tasks: int) -> tuple[float, float]:
    """Percent of new pictures of all tasks for which the right task was chosen, and of those left to plain CLIP."""
    engine = Engine.open(bundle, "cpu", num_threads=1)
    size, chosen = engine.manifest.preprocess.size, []
    for task in range(tasks):
        random = np.random.default_rng((2, task))
        pictures = [Image.fromarray(draw(task, pattern, random)).resize((size, size)) for pattern in PATTERNS * 2]
        images = np.stack([np.asarray(picture) for picture in pictures])
        chosen.append(engine.run_images(images, np.full(len(images), AUTO)).task)
    found = np.stack(chosen)
    return 100 * float((found == np.arange(tasks)[:, None]).mean()), 100 * float((found == PLAIN).mean())


def measure(model: Path, scratch: Path, rounds: int, made: bool) -> tuple[float, ...]:
    """A row of the table."""
    begun = time.monotonic()
    folder = ModelFolder.open(model)
    opened = time.monotonic() - begun
    tasks, bundle = len(folder.tasks), scratch / f"bundle-{len(folder.tasks)}"
    begun = time.monotonic()
    export_bundle(model, bundle, check_limit=CHECKED if made else 0, console=QUIET)
    exported = time.monotonic() - begun
    told = subprocess.run([sys.executable, "-c", OPEN, str(bundle)], check=True, capture_output=True, text=True)
    start, memory = map(float, told.stdout.split())
    bench = run_bench(bundle, model, batches=(1, 8), rounds=rounds, threads=1, provider="cpu", console=QUIET)
    ratios = [one.ratio.median for one in bench.measurements if one.candidate == NAMED]
    return (
        tasks,
        float(np.median([record.metrics["seconds"] for record in folder.tasks[-LAST:]])),
        opened,
        float(np.mean([record.kept_parameters for record in folder.tasks[-LAST if made else 0 :]])),
        max(len(ids) for record in folder.tasks for ids in record.ids.values()),
        sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) / 1e6,
        exported,
        start,
        memory,
        *ratios,
        *((np.nan, np.nan) if made else choices(bundle, tasks)),
    )


def shown(value: float) -> str:
    """A cell."""
    return "-" if np.isnan(value) else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.many_tasks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 60, 200])
    parser.add_argument("--made", action="store_true", help="make all tasks but the last ones of random experts")
    parser.add_argument("--backbone", default="debug")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=100, help="timed calls")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as of igsp train")
    given = parser.parse_args(arguments)
    if given.made and min(given.tasks) <= LAST:
        parser.error(f"--made learns the last {LAST} tasks; give more than {LAST}")
    fixed = [f"model.backbone={given.backbone}", "model.vision_blocks=2", f"learn.steps={given.steps}"]
    values = apply_overrides({}, [*fixed, "learn.warmup_steps=2", "learn.batch_size=8", *given.set])
    print("|", " | ".join(COLUMNS), "|")
    print("| ---:" * len(COLUMNS) + " |", flush=True)
    with TemporaryDirectory() as name:
        scratch = Path(name)
        for count in sorted(given.tasks):
            model = scratch / (f"made-{count}" if given.made else "model")
            if given.made:
                made = build(RunConfig, values, "--set").model
                make_model(model, made, tasks=count - LAST, experts=max(made.max_experts, 1), new=1, classes=3)
            learned = len(list(model.glob("tasks/*")))
            for task in range(learned, count):
                place = scratch / f"data of {model.name}" / str(task)
                write_task(place, task)
                tasks = {f"set{task}": str(place)}
                train_sequence(model, build(RunConfig, {**values, "tasks": tasks}, "--set"), console=QUIET)
            row = measure(model, scratch, given.rounds, given.made)
            print("|", " | ".join(map(shown, row)), "|", flush=True)


if __name__ == "__main__":
    main()
