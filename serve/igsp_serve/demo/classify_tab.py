"""The tab where one image is classified."""

import asyncio
from typing import Any

import gradio as gr

from igsp_deploy.errors import UserError
from igsp_deploy.names import DEFAULT_TEMPLATE
from igsp_serve.demo.answer_html import answer_html, explanation_html, hint_html, problem_html
from igsp_serve.demo.ask import Question, ask, explain_answer
from igsp_serve.demo.context import Context
from igsp_serve.demo.uploads import read_upload

LABEL_CHOICES = [
    ("Classes of the task", "task"),
    ("Classes of all tasks", "all"),
    ("My own words", "own"),
]


def add_classify_tab(context: Context) -> gr.Dropdown:
    """Add it; returns its list of tasks, which changes when tasks come and go."""
    with gr.Row(elem_classes="igsp-row"):
        with gr.Column(scale=4, min_width=300):
            image = gr.Image(
                label="Image", sources=["upload", "webcam", "clipboard"], type="filepath", height=280, elem_id="image"
            )
            examples = list(context.examples)
            if examples:
                gr.Examples(
                    [[str(path)] for path in examples],
                    inputs=[image],
                    label="Or take one of these",
                    examples_per_page=14,
                    api_visibility="private",
                    elem_id="examples",
                )
            task = gr.Dropdown(context.task_choices(), value="auto", label="Task", elem_id="task")
            labels = gr.Radio(LABEL_CHOICES, value="task", label="Choose among", elem_id="labels")
            with gr.Group(visible=False) as own:
                words = _words_box()
                template = gr.Dropdown(
                    context.templates(),
                    value=DEFAULT_TEMPLATE,
                    label="Template",
                    info="{} is where your word goes",
                    allow_custom_value=True,
                    elem_id="template",
                )
            button = gr.Button("Classify", variant="primary", elem_id="classify")
        with gr.Column(scale=5, min_width=300):
            answer = gr.HTML(
                hint_html("Give an image: upload one, paste it, take one with the camera or pick an example."),
                elem_id="answer",
            )
            explain = gr.Button("Show the parts this answer hangs on", visible=False, elem_id="explain")
    # Gradio's own limit holds for calls through its queue, and there is a way around that.
    one_at_a_time = asyncio.Lock()

    async def on_question(payload: Any, chosen: str, kind: str, text: str, pattern: str) -> tuple[str, gr.Button]:
        return await _answered(context, payload, _question(chosen, kind, text, pattern))

    async def on_change(payload: Any, chosen: str, kind: str, text: str, pattern: str) -> tuple[str, gr.Button]:
        if kind == "own" and not (text or "").strip():
            return hint_html("Write your own words, one a line, and press Classify."), gr.Button(visible=False)
        return await on_question(payload, chosen, kind, text, pattern)

    async def on_explain(payload: Any, chosen: str, kind: str, text: str, pattern: str) -> tuple[str, gr.Button]:
        async with one_at_a_time:
            return await _answered(context, payload, _question(chosen, kind, text, pattern), explain=True)

    inputs = [image, task, labels, words, template]
    settings: dict[str, Any] = {
        # Uploads come as they are: what cannot be decoded is told in our words.
        "preprocess": False,
        "show_progress": "minimal",
        "api_visibility": "private",
    }
    outputs = [answer, explain]
    explaining = explain.click(on_explain, inputs, outputs, concurrency_limit=1, **settings)
    # Else an explanation that is still on its way would come after the new answer, and take its place.
    settings["cancels"] = explaining
    button.click(on_question, inputs, outputs, **settings)
    gr.on(
        [image.change, task.change, labels.change], on_change, inputs, outputs, trigger_mode="always_last", **settings
    )
    labels.change(lambda kind: gr.Group(visible=kind == "own"), labels, own, api_visibility="private", queue=False)
    return task


def _question(chosen: str, kind: str, text: str, pattern: str) -> Question:
    return Question(task=chosen, labels=kind, words=text or "", template=pattern or "")


async def _answered(
    context: Context, payload: Any, question: Question, *, explain: bool = False
) -> tuple[str, gr.Button]:
    """The answer, and the button that explains it. An explanation comes with its answer, never beside another one."""
    if not payload:
        return hint_html("Give an image first."), gr.Button(visible=False)
    try:
        image = await asyncio.to_thread(read_upload, payload)
        answer = await ask(context.backend, image, question)
    except UserError as error:
        return problem_html(str(error)), gr.Button(visible=False)
    shown = answer_html(answer, question)
    if explain:
        try:
            shown += explanation_html(*await explain_answer(context.backend, image, question, answer.found))
        except UserError as error:
            shown += problem_html(str(error))
    return shown, gr.Button(visible=True)


def _words_box() -> gr.Textbox:
    return gr.Textbox(
        label="My own words, one a line",
        # As many as at most: else Gradio measures the box anew for each line put into it.
        lines=6,
        max_lines=6,
        placeholder="cat\ndog",
        elem_id="words",
    )
