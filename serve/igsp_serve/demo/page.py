"""The page: its head, its tabs, and what keeps them up to date."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from igsp_serve.demo.backend import DemoBackend
from igsp_serve.demo.context import Context  # before gradio: it switches its reports off
from igsp_serve.demo.teacher import Teacher

import gradio as gr  # isort: skip

from igsp_serve.demo.batch_tab import add_batch_tab
from igsp_serve.demo.checked import CheckedBlocks
from igsp_serve.demo.classify_tab import add_classify_tab
from igsp_serve.demo.learned_html import timeline_html
from igsp_serve.demo.learned_tab import add_learned_tab, learned_html
from igsp_serve.demo.programs import add_endpoints
from igsp_serve.demo.teach_tab import add_teach_tab

TITLE = "One model that keeps learning"
NAME_EXAMPLES = """() => document.querySelectorAll("#examples button").forEach(
  (button, number) => button.setAttribute("aria-label", `Example ${number + 1}`))"""


def build_demo(
    backend: DemoBackend,
    *,
    model: Path | None = None,
    evaluation: Path | None = None,
    teacher: Teacher | None = None,
    examples: Sequence[Path] = (),
) -> gr.Blocks:
    """Make the page. `igsp_serve.demo.mount.mount_demo` puts it into a FastAPI app.

    Args:
        backend: what classifies.
        model: the model folder, for example images; may be absent.
        evaluation: output of `igsp evaluate --json`; may be absent.
        teacher: teaches new tasks; without one the page has no such tab.
        examples: images to try out.
    """
    context = Context(backend=backend, model=model, evaluation=evaluation, teacher=teacher, examples=examples)
    with CheckedBlocks(title=TITLE, analytics_enabled=False, fill_width=False) as demo:
        head = gr.HTML(_head_html(context), elem_id="head")
        with gr.Tabs():
            with gr.Tab("Classify"):
                task = add_classify_tab(context)
            with gr.Tab("Batch"):
                batch_task = add_batch_tab(context)
            with gr.Tab("Learned") as learned_tab:
                learned = add_learned_tab(context)
            if teacher is not None:
                with gr.Tab("Teach"):
                    add_teach_tab(context, teacher)
        shown = gr.State(None)
        add_endpoints(context)

        def refresh(before: Any, *, force: bool = False) -> list[Any]:
            # Names and accuracies: both change while the page is open.
            now = [_names(context), _changed_at(context.evaluation)]
            if before == now and not force:
                return [gr.skip()] * 5
            choices = context.task_choices()
            lists = [gr.Dropdown(choices=choices), gr.Dropdown(choices=choices)]
            return [now, _head_html(context), *lists, learned_html(context)]

        outputs = [shown, head, task, batch_task, learned]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
        demo.load(refresh, shown, outputs, **quiet)
        learned_tab.select(refresh, shown, outputs, **quiet)
        # Their pictures have no words, and only a number tells them apart.
        demo.load(None, js=NAME_EXAMPLES, api_visibility="private")
        if teacher is not None:
            gr.Timer(2.0).tick(refresh, shown, outputs, **quiet)
    demo.queue(default_concurrency_limit=8, max_size=256)
    return demo


def _head_html(context: Context) -> str:
    tasks = context.backend.tasks()
    return (
        f'<header class="igsp-head"><h1>{TITLE}</h1>'
        f"<p>One frozen CLIP learned <b>{len(tasks)} tasks, one after another</b>. Each task added a few small experts "
        "and reuses those of earlier tasks. What was learned before is never changed, so <b>nothing is forgotten</b>."
        f"</p>{timeline_html(tasks)}</header>"
    )


def _names(context: Context) -> list[str]:
    return [f"{task.name} {task.fingerprint}" for task in context.backend.tasks()]


def _changed_at(path: Path | None) -> float:
    try:
        return path.stat().st_mtime if path is not None else 0.0
    except OSError:
        return 0.0
