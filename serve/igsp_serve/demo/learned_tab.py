"""The tab that shows what the model has learned."""

import gradio as gr

from igsp_deploy.errors import UserError
from igsp_serve.demo.answer_html import problem_html
from igsp_serve.demo.context import Context
from igsp_serve.demo.learned import shared_experts, sizes
from igsp_serve.demo.learned_html import matrix_html, sharing_html, sizes_html, tasks_html

NOT_MEASURED = (
    "The accuracies were not measured yet. `igsp evaluate MODEL --out FILE` measures them, and "
    "`igsp demo BUNDLE --evaluation FILE` shows them here."
)


def learned_html(context: Context) -> str:
    """Everything on the tab."""
    tasks = context.backend.tasks()
    try:
        evaluation = context.read_evaluation()
        shared = shared_experts(context.bundle())
    except UserError as error:
        return problem_html(str(error))
    stale = [t.name for t in tasks if evaluation and t.name not in evaluation["tasks"]]
    note = f'<p class="igsp-note">Not measured yet: {", ".join(stale)}.</p>' if stale else ""
    return (
        '<div class="igsp-learned">'
        "<h2>What it has learned, in this order</h2>"
        f"{tasks_html(tasks, context.pictures(), evaluation)}"
        f"<h2>Accuracy, task by task</h2>{matrix_html(evaluation, NOT_MEASURED)}{note}"
        "<h2>Experts: what each task reuses</h2>"
        '<p class="igsp-note">A task brings small experts of its own and uses those of earlier tasks, unchanged. The '
        "colour tells which task brought them.</p>"
        f"{sharing_html(tasks, shared)}"
        f"<h2>Size</h2>{sizes_html(sizes(context.backend), len(tasks))}</div>"
    )


def add_learned_tab(context: Context) -> gr.HTML:
    """Add it; returns what changes when tasks come and go."""
    return gr.HTML(learned_html(context), elem_id="learned")
