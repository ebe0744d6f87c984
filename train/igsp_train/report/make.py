"""Making the page: evaluate, choose examples, gather, write. What `igsp report` does."""

import time
from pathlib import Path

from rich.console import Console

from igsp_deploy import __version__
from igsp_deploy.data.source_text import source_root
from igsp_deploy.data.test_items import find_test_items
from igsp_deploy.errors import UserError
from igsp_deploy.files import check_places, write_bytes_atomic
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_train.device import find_device
from igsp_train.evaluate import evaluate_model
from igsp_train.report.evaluation import Evaluation, check_evaluation, load_evaluation
from igsp_train.report.examples import Examples, find_examples, name_mistakes, pictures_of
from igsp_train.report.gather import gather
from igsp_train.report.page import render
from igsp_train.report.places import without_folders


def make_report(
    model: Path,
    out: Path,
    *,
    title: str | None = None,
    images: int = 8,
    evaluation: Path | None = None,
    sources: dict[str, str] | None = None,
    console: Console | None = None,
    device: str = "auto",
) -> Path:
    """Write a page about the model at `model` to `out`, whole or not at all.

    Args:
        model: the model folder.
        out: the HTML file; replaced if it is there.
        title: heading; made from the folder's name by default.
        images: example images a task at most; 0 shows none.
        evaluation: output of `igsp evaluate MODEL --json`; measured anew by default.
        sources: task name -> where its images are now, if not where it was learned from.
        console: where progress goes; stderr by default.
        device: where to compute, see `find_device`.

    Returns:
        `out`.

    Raises:
        UserError: no tasks, an evaluation that is damaged or of another model, no test images to measure on, or `out`
            cannot be written.
    """
    console, place = console or Console(stderr=True), find_device(device)
    check_places(out)
    folder = ModelFolder.open(model)
    if not folder.tasks:
        raise UserError(f"{model} has no learned task yet; `igsp train {model} --task name=folder` adds one.")
    for name in sources or {}:
        folder.task_index(name)
    if evaluation is not None:
        measured = load_evaluation(evaluation, folder.tasks)
    else:
        console.print("measuring on the test images; --evaluation FILE takes an earlier evaluation", highlight=False)
        measured = check_evaluation(
            evaluate_model(model, sources, console=console, device=device), folder.tasks, str(model)
        )
    found, pictures = [Examples(shown=[]) for _ in folder.tasks], dict[tuple[str, str], str]()
    if images:
        found, pictures = _find_pictures(
            folder, folder.load_backbone().to(place), measured, sources or {}, images, console
        )
    values = gather(
        folder,
        measured,
        found,
        None if measured.worst is None else name_mistakes(measured.worst, folder.tasks, pictures),
        title=title or f"What {model.resolve().name} has learned",
        made=time.strftime("%Y-%m-%d %H:%M"),
        version=__version__,
    )
    write_bytes_atomic(out, render(values).encode("utf-8", "backslashreplace"))
    return out


def _find_pictures(
    folder: ModelFolder,
    backbone: Backbone,
    measured: Evaluation,
    sources: dict[str, str],
    count: int,
    console: Console,
) -> tuple[list[Examples], dict[tuple[str, str], str]]:
    """Examples of each task, and pictures of the worst mistakes by task and place."""
    learned = LearnedClip.open(folder, backbone)
    found: list[Examples] = []
    pictures: dict[tuple[str, str], str] = {}
    for record in folder.tasks:
        console.print(f"{record.name}: choosing examples", markup=False, highlight=False)
        source = sources.get(record.name)
        places = [row.file for row in measured.worst or () if row.task == record.name]
        try:
            items = find_test_items(record, source, folder.split(record.index))
            found.append(find_examples(folder, learned, record, items, count=count))
        except UserError as error:
            found.append(Examples(shown=[], problem=without_folders(str(error))))
            continue
        root = source_root(source or record.source)
        for place, picture in pictures_of(places, items, root, backbone.preprocess).items():
            pictures[record.name, place] = picture
    return found, pictures
