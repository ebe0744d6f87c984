"""`igsp quickstart`: the whole loop on small tasks, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from igsp_deploy.config import ModelConfig

EXAMPLES = """Examples:

igsp quickstart

igsp quickstart --out /tmp/tour"""

SHOWN_IMAGES = 3
"""Test images a task that are classified for show."""


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for the data, the model and the bundle.")] = Path("quickstart-out"),
    steps: Annotated[int, typer.Option(min=2, help="Optimiser steps a task.")] = 200,
) -> None:
    """Learn four small tasks one after another, evaluate, export, verify and classify some images.

    Needs no download and a few minutes on two cores. What is in the folder already is used again, so that an
    interrupted quickstart continues.
    """
    from rich.console import Console

    from igsp_deploy.config import ModelConfig

    run_quickstart(out, ModelConfig(), steps, Console(stderr=True))


def run_quickstart(out: Path, model: ModelConfig, steps: int, console: Console) -> None:
    """Run the loop in `out`; progress goes to `console`, results to stdout.

    Raises:
        UserError: `out` cannot be written, or holds an unfinished quickstart with other settings.
    """
    import time

    from igsp_deploy.config import LearnConfig, RunConfig
    from igsp_deploy.runtime.verify import require, verify_bundle
    from igsp_export.export import export_bundle
    from igsp_train.commands.tables import print_evaluation, table_console
    from igsp_train.evaluate import evaluate_model
    from igsp_train.quickstart_data import write_quickstart_data
    from igsp_train.sequence import train_sequence

    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - started:3.0f} s] {text}", markup=False, highlight=False, soft_wrap=True)

    say(f"writing four small tasks to {out / 'data'}")
    folders = write_quickstart_data(out / "data")
    config = RunConfig(
        model=model,
        learn=LearnConfig(steps=steps, cached_views=4),
        tasks={name: str(folder) for name, folder in folders.items()},
    )
    say(f"learning {', '.join(folders)} one after another into {out / 'model'}")
    train_sequence(out / "model", config, console=console)
    say("measuring on the test images")
    result = evaluate_model(out / "model", console=console)
    say(f"exporting to {out / 'bundle'}")
    _remove_bundle(out / "bundle")
    export_bundle(out / "model", out / "bundle", console=console)
    say("verifying the bundle with onnxruntime")
    report = verify_bundle(out / "bundle")
    require(report)
    say("classifying test images with the bundle alone, without saying their task")
    tables = table_console(len(folders))
    print_evaluation(result, tables)
    _print_predictions(out / "bundle", folders, tables)
    example = sorted((folders["digits"] / "test").rglob("*.png"))[0]
    print(f"\nVerified {report['files']} files and {len(report['rows'])} comparisons with PyTorch: all hold.")
    print(f"data    {out / 'data'}\nmodel   {out / 'model'}\nbundle  {out / 'bundle'}")
    print(f"Try     igsp predict {out / 'bundle'} {example}")
    say("done")


def _remove_bundle(bundle: Path) -> None:
    """Make room for a new bundle; only what looks like one is removed."""
    import shutil

    if (bundle / "manifest.json").is_file():
        shutil.rmtree(bundle)


def _print_predictions(bundle: Path, folders: dict[str, Path], console: Console) -> None:
    """Classify a few test images of every task with the exported bundle and print what was found."""
    from rich.table import Table

    from igsp_deploy.runtime.classifier import Classifier

    classifier = Classifier.open(bundle)
    table = Table(title="Classified with the bundle, nothing said about the task", title_justify="left")
    for title in ("image", "class", "task chosen", "label", "%"):
        table.add_column(title, justify="right" if title == "%" else "left")
    for folder in folders.values():
        classes = sorted(path for path in (folder / "test").iterdir() if path.is_dir())
        images = [sorted(one.iterdir())[0] for one in classes[:: max(1, len(classes) // SHOWN_IMAGES)][:SHOWN_IMAGES]]
        for image, found in zip(images, classifier.classify(images, top_k=1), strict=True):
            name = image.relative_to(folder.parent)
            chosen = found.task or "none (plain CLIP)"
            table.add_row(str(name), image.parent.name, chosen, found.labels[0], f"{100 * found.scores[0]:.1f}")
    console.print(table)
