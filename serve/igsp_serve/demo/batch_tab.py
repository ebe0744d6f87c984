"""The tab where many images are classified into a table."""

import asyncio
import dataclasses
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from igsp_deploy.bundle.preprocess import load_image
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.classifier import check_min_score
from igsp_deploy.runtime.table import row_of, row_of_problem, to_csv
from igsp_serve.demo.answer_html import hint_html, problem_html
from igsp_serve.demo.ask import Question, ask_many
from igsp_serve.demo.context import Context
from igsp_serve.demo.pictures import small_picture
from igsp_serve.demo.uploads import new_file, read_upload, upload_path
from igsp_serve.failures import without_paths

MAX_FILES = 500
"""Images of one table."""
SHOWN = 100
"""Rows on the page; the file has all."""
CHUNK = 16
"""Images asked for at once."""


async def classify_files(
    context: Context, payloads: Sequence[Any], task: str, min_score: float = 0.0
) -> list[dict[str, Any]]:
    """A row for each file, with its label or what is wrong with it.

    Raises:
        UserError: no files, too many, an unknown task, or a least score that is no probability.
    """
    if not payloads:
        raise UserError("Choose some images first.")
    if len(payloads) > MAX_FILES:
        raise UserError(
            f"At most {MAX_FILES} images make one table; these are {len(payloads):,}. Send fewer at a time."
        )
    check_min_score(min_score)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(payloads), CHUNK):
        rows += await _chunk(context, payloads[start : start + CHUNK], Question(task=task), min_score)
    return rows


async def _chunk(
    context: Context, payloads: Sequence[Any], question: Question, min_score: float
) -> list[dict[str, Any]]:
    try:
        names, images = await asyncio.to_thread(_read, payloads)
        found = await ask_many(context.backend, images, question)
    except UserError as error:
        if len(payloads) == 1:
            return [row_of_problem(_name(payloads[0]), without_paths(str(error)))]
        # One bad image among them: each by itself, so that the others get their labels.
        rows = []
        for payload in payloads:
            rows += await _chunk(context, [payload], question, min_score)
        return rows
    return [
        row_of(name, dataclasses.replace(one, unsure=one.scores[0] < min_score))
        for name, one in zip(names, found, strict=True)
    ]


def _read(payloads: Sequence[Any]) -> tuple[list[str], list[bytes]]:
    return [upload_path(payload)[1] for payload in payloads], [read_upload(payload) for payload in payloads]


def _name(payload: Any) -> str:
    return str(payload.get("orig_name") or "") if isinstance(payload, dict) else ""


def write_csv(rows: Sequence[dict[str, Any]]) -> Path:
    """The table as a file of its own, which visitors may fetch."""
    path = new_file("labels.csv")
    path.write_bytes(to_csv(rows))
    return path


def thumbnails(rows: Sequence[dict[str, Any]], payloads: Sequence[Any]) -> list[str]:
    """A small picture of each row that is shown, as a data URL; empty where the image cannot be read."""
    shown = []
    for row, payload in list(zip(rows, payloads, strict=True))[:SHOWN]:
        try:
            shown.append("" if row["error"] else small_picture(load_image(read_upload(payload))))
        except UserError:
            shown.append("")
    return shown


def table_html(rows: Sequence[dict[str, Any]], pictures: Sequence[str]) -> str:
    """The first rows with their pictures; on a narrow screen each is a small card."""
    lines = []
    for row, picture in zip(rows, pictures, strict=False):
        shown = f'<img src="{picture}" alt="">' if picture else ""
        if row["error"]:
            cells = f'<td colspan="3" class="igsp-bad" data-name="problem">{escape(row["error"])}</td>'
        else:
            cells = (
                f'<td data-name="label"><b>{escape(row["label"])}</b></td>'
                f'<td data-name="sure">{100 * row["score"]:.1f} %{", unsure" if row["unsure"] else ""}</td>'
                f'<td data-name="task">{escape(row["task"] or "plain CLIP")}</td>'
            )
        lines.append(f'<tr><td>{shown}</td><th scope="row">{escape(row["file"])}</th>{cells}</tr>')
    bad = sum(bool(row["error"]) for row in rows)
    told = f"{len(rows) - bad} images classified" + (f", {bad} could not be read" if bad else "")
    more = f" The first {SHOWN} are shown; the file has all." if len(rows) > SHOWN else ""
    return (
        f'<table class="igsp-table"><caption>{told}.{more}</caption><thead><tr><td></td><th scope="col">file</th>'
        f'<th scope="col">label</th><th scope="col">sure</th><th scope="col">task</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def add_batch_tab(context: Context) -> gr.Dropdown:
    """Add it; returns its list of tasks."""
    with gr.Row(elem_classes="igsp-row"):
        with gr.Column(scale=4, min_width=300):
            files = gr.File(label="Images", file_count="multiple", height=180, elem_id="batch-files")
            task = gr.Dropdown(context.task_choices(), value="auto", label="Task of all of them", elem_id="batch-task")
            least = gr.Number(0, label="Unsure below (0 to 1)", minimum=0, maximum=1, step=0.05, elem_id="batch-least")
            button = gr.Button("Classify all", variant="primary", elem_id="batch-classify")
        with gr.Column(scale=5, min_width=300):
            table = gr.HTML(hint_html("Give many images; get one table, also as a file."), elem_id="batch-table")
            download = gr.DownloadButton("Download as CSV", visible=False, elem_id="batch-download")

    async def on_click(payloads: Any, chosen: str, min_score: float | None) -> tuple[str, Any]:
        try:
            rows = await classify_files(context, payloads or [], chosen, min_score or 0.0)
        except UserError as error:
            return problem_html(str(error)), gr.DownloadButton(visible=False)
        written = await asyncio.to_thread(write_csv, rows)
        pictures = await asyncio.to_thread(thumbnails, rows, payloads)
        return table_html(rows, pictures), gr.DownloadButton(value=str(written), visible=True)

    button.click(on_click, [files, task, least], [table, download], preprocess=False, api_visibility="private")
    return task
