"""The page's functions for programs: named endpoints for `gradio_client`, with plain values in and out."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr
from gradio.events import api

from igsp_deploy.errors import UserError
from igsp_deploy.names import DEFAULT_TEMPLATE
from igsp_serve.demo.ask import Question, ask
from igsp_serve.demo.batch_tab import classify_files, write_csv
from igsp_serve.demo.context import Context
from igsp_serve.demo.learned import describe_tasks, shared_experts, sizes
from igsp_serve.demo.teach_tab import STEPS, check_steps, teach_archive
from igsp_serve.demo.uploads import read_upload
from igsp_serve.failures import without_paths

T = TypeVar("T")


def add_endpoints(context: Context) -> None:
    """Add `/classify`, `/classify_batch`, `/tasks`, `/learned` and, where teaching is on, what belongs to it."""
    image = gr.File(visible=False, label="image")
    files = gr.File(visible=False, label="images", file_count="multiple")
    task = gr.Textbox("auto", visible=False, label="task")
    labels = gr.Textbox("task", visible=False, label="labels")
    words = gr.Textbox("", visible=False, label="words")
    template = gr.Textbox(DEFAULT_TEMPLATE, visible=False, label="template")
    least = gr.Number(0, visible=False, label="min_score")
    result = gr.JSON(visible=False, label="result")
    table = gr.File(visible=False, label="csv")

    async def classify(
        image: Any, task: str = "auto", labels: str = "task", words: str = "", template: str = DEFAULT_TEMPLATE
    ) -> dict[str, Any]:
        """Classify one image: labels, scores, the task with the evidence for each, plain CLIP's answer, the time."""
        try:
            question = Question(task=task, labels=labels, words=words, template=template)
            payload = await asyncio.to_thread(read_upload, image)
            return (await ask(context.backend, payload, question)).to_json()
        except UserError as error:
            raise _said(error) from error

    async def classify_batch(
        images: Any, task: str = "auto", min_score: float = 0.0
    ) -> tuple[list[dict[str, Any]], str]:
        """Classify many images: rows, and the same as a CSV file."""
        try:
            rows = await classify_files(context, images or [], task, min_score)
        except UserError as error:
            raise _said(error) from error
        return rows, str(await asyncio.to_thread(write_csv, rows))

    def tasks() -> list[dict[str, Any]]:
        """The tasks known now, in the order they were learned."""
        return describe_tasks(context.backend.tasks())

    def learned() -> dict[str, Any]:
        """Shared experts, sizes in bytes, and the evaluation if there is one."""
        return _or_said(
            lambda: {
                "shared_experts": shared_experts(context.bundle()),
                "sizes": sizes(context.backend),
                "evaluation": context.read_evaluation(),
            }
        )

    _endpoint(classify, [image, task, labels, words, template], [result])
    _endpoint(classify_batch, [files, task, least], [result, table])
    api(tasks, api_name="tasks")
    api(learned, api_name="learned")
    if context.teacher is not None:
        _add_teaching(context, image, result)


def _add_teaching(context: Context, archive: gr.File, result: gr.JSON) -> None:
    teacher = context.teacher
    assert teacher is not None
    name = gr.Textbox(visible=False, label="name")
    words = gr.Textbox("", visible=False, label="words")
    template = gr.Textbox(DEFAULT_TEMPLATE, visible=False, label="template")
    steps = gr.Number(STEPS, visible=False, label="steps", precision=0)

    def teach(
        archive: Any, name: str, words: str = "", template: str = DEFAULT_TEMPLATE, steps: float = STEPS
    ) -> dict[str, Any]:
        """Begin a lesson with a zip of class folders; ask `/lesson` how far it is."""
        return _or_said(lambda: teach_archive(teacher, name, archive, words, template, check_steps(steps)).to_json())

    def lesson(lesson: str) -> dict[str, Any]:
        """How far a lesson is."""
        return _or_said(lambda: teacher.lesson(lesson).to_json())

    def lessons() -> list[dict[str, Any]]:
        """All lessons since the start, oldest first."""
        return [one.to_json() for one in teacher.lessons()]

    def cancel_lesson(lesson: str) -> dict[str, Any]:
        """End a lesson; nothing of it stays."""
        return _or_said(lambda: teacher.cancel(lesson).to_json())

    def remove_task(name: str) -> list[str]:
        """Take a task out of use; the model folder keeps it."""
        return _changed(context, lambda: context.backend.remove_task(name))

    def put_back_task(name: str) -> list[str]:
        """Take a removed task into use again."""
        return _changed(context, lambda: teacher.put_back(name))

    _endpoint(teach, [archive, name, words, template, steps], [result])
    for function in (lesson, lessons, cancel_lesson, remove_task, put_back_task):
        api(function, api_name=function.__name__)


def _changed(context: Context, change: Callable[[], None]) -> list[str]:
    def run() -> list[str]:
        change()
        if context.teacher is not None:
            context.teacher.note()
        return [task.name for task in context.backend.tasks()]

    return _or_said(run)


def _endpoint(function: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    # A hidden button: what is called by name only needs something that could be clicked.
    button = gr.Button(visible=False)
    button.click(function, inputs, outputs, api_name=function.__name__, preprocess=False)


def _or_said(run: Callable[[], T]) -> T:
    try:
        return run()
    except UserError as error:
        raise _said(error) from error


def _said(error: UserError) -> gr.Error:
    return gr.Error(without_paths(str(error)), print_exception=False)
