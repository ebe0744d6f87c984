"""`igsp quickstart`: the whole loop on small tasks, offline, as the commands that anybody could type."""

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

igsp quickstart

igsp quickstart --out /tmp/tour"""

TASKS = ("digits", "surfaces", "letters", "shapes")
"""What `igsp data example` writes, in the order to learn them."""

SHOWN_IMAGES = 3
"""Test images a task that are classified for show."""


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for the data, the model and the bundle.")] = Path("quickstart-out"),
    steps: Annotated[int, typer.Option(min=2, help="Optimiser steps a task.")] = 200,
) -> None:
    """Learn four small tasks one after another, evaluate, export, verify and classify some images.

    Prints each command before it runs it. Needs no download and a few minutes on two cores. What is in the folder
    already is used again, so that an interrupted quickstart continues.
    """
    run_quickstart(out, [f"learn.steps={steps}"])


def run_quickstart(out: Path, settings: list[str]) -> None:
    """Run the commands; each is printed to stderr before it runs.

    Args:
        out: folder for the data, the model and the bundle.
        settings: `--set` of the learning, `a.b=c` each.

    Raises:
        UserError: `out` cannot be written, or holds an unfinished quickstart with other settings.
    """
    import igsp_deploy.runtime.verify  # noqa: F401 (a missing onnxruntime is said before minutes of learning)
    from igsp_deploy.cli.main import run

    started = time.monotonic()

    def show(*words: object) -> None:
        print(f"[{time.monotonic() - started:3.0f} s] $ {shlex.join(map(str, words))}", file=sys.stderr, flush=True)

    def igsp(*words: object) -> None:
        show("igsp", *words)
        run([str(word) for word in words])

    data, model, bundle = out / "data", out / "model", out / "bundle"
    igsp("data", "example", "--data-root", data)
    tasks = [word for name in TASKS for word in ("--task", f"{name}={data / name}")]
    igsp("train", model, *tasks, *(word for setting in settings for word in ("--set", setting)))
    igsp("evaluate", model, "--out", f"{bundle}.evaluation.json")
    if (bundle / "manifest.json").is_file():  # of an earlier quickstart; nothing else is ever removed
        show("rm", "-r", bundle)
        shutil.rmtree(bundle)
    igsp("export", model, bundle, "--no-latency")
    igsp("verify", bundle)
    igsp("predict", bundle, *_some_images(data), "--top-k", 1)
    print(f"\ndata    {data}\nmodel   {model}\nbundle  {bundle}")


def _some_images(data: Path) -> list[Path]:
    """The first test image of a few classes of every task."""
    images = []
    for name in TASKS:
        classes = sorted(path for path in (data / name / "test").iterdir() if path.is_dir())
        images += [min(one.iterdir()) for one in classes[:: max(1, len(classes) // SHOWN_IMAGES)][:SHOWN_IMAGES]]
    return images
