"""The tab where one image is classified."""

import asyncio
from typing import Any

import gradio as gr

from igsp_deploy.errors import UserError
from igsp_deploy.names import DEFAULT_TEMPLATE
from igsp_serve.demo.answer_html import answer_html, hint_html, problem_html
from igsp_serve.demo.ask import Question, ask
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

    async def on_question(payload: Any, chosen: str, kind: str, text: str, pattern: str) -> str:
        if not payload:
            return hint_html("Give an image first.")
        question = Question(task=chosen, labels=kind, words=text or "", template=pattern or "")
        try:
            image = await asyncio.to_thread(read_upload, payload)
            return answer_html(await ask(context.backend, image, question), question)
        except UserError as error:
            return problem_html(str(error))

    async def on_change(payload: Any, chosen: str, kind: str, text: str, pattern: str) -> str:
        if kind == "own" and not (text or "").strip():
            return hint_html("Write your own words, one a line, and press Classify.")
        return await on_question(payload, chosen, kind, text, pattern)

    inputs = [image, task, labels, words, template]
    settings: dict[str, Any] = {
        # Uploads come as they are: what cannot be decoded is told in our words.
        "preprocess": False,
        "show_progress": "minimal",
        "api_visibility": "private",
    }
    button.click(on_question, inputs, answer, **settings)
    gr.on([image.change, task.change, labels.change], on_change, inputs, answer, trigger_mode="always_last", **settings)
    labels.change(lambda kind: gr.Group(visible=kind == "own"), labels, own, api_visibility="private", queue=False)
    return task


def _words_box() -> gr.Textbox:
    return gr.Textbox(
        label="My own words, one a line",
        # As many as at most: else Gradio measures the box anew for each line put into it.
        lines=6,
        max_lines=6,
        placeholder="cat\ndog",
        elem_id="words",
    )
