"""`igsp demo`: the page in a server of its own."""

from pathlib import Path
from typing import Any

from igsp_deploy.errors import UserError
from igsp_deploy.runtime.classifier import Classifier
from igsp_deploy.runtime.image_files import find_images
from igsp_deploy.runtime.providers import Provider
from igsp_serve.demo.backend import ClassifierBackend
from igsp_serve.demo.learned import default_evaluation
from igsp_serve.demo.model_files import check_same_model, read_model_tasks
from igsp_serve.demo.pictures import copy_examples, example_files, most_telling_first
from igsp_serve.demo.teacher import Teacher

EXAMPLES_SHOWN = 14
"""Images to try out."""


def make_app(
    bundle: Path,
    *,
    model: Path | None = None,
    teach: bool = False,
    evaluation: Path | None = None,
    examples: Path | None = None,
    provider: Provider = "auto",
) -> tuple[Any, Teacher | None]:
    """The application, and its teacher, who has to be closed at the end.

    Args:
        bundle: the bundle.
        model: the model folder it was made from: for example images, and to teach.
        teach: let whoever opens the page teach new tasks.
        evaluation: output of `igsp evaluate --json`; by default `BUNDLE.evaluation.json` beside the bundle.
        examples: folder of images to try out; by default test images of the model folder's tasks.
        provider: where to run.

    Raises:
        UserError: the bundle or the model folder is missing, damaged or does not fit.
    """
    if teach and model is None:
        raise UserError("--teach needs the model folder the bundle was made from: --model MODEL.")
    classifier = Classifier.open(bundle, provider)
    classifier.open_text()
    backend = ClassifierBackend(classifier)
    kept = evaluation or default_evaluation(bundle)
    teacher = None
    tasks = read_model_tasks(model) if model is not None else []
    if model is not None:
        check_same_model(model, tasks, classifier.manifest)
    if examples is not None:
        files = find_images([examples])[:EXAMPLES_SHOWN]
    else:
        each = max(1, EXAMPLES_SHOWN // max(1, len(tasks)))
        found = [one for task in tasks for one in example_files(task.source, task.classes, each)]
        files = most_telling_first(classifier, found)
    if teach and model is not None:
        teacher = Teacher(backend, model, kept)

    # Last: Gradio takes seconds, and what is wrong with the command is said before.
    from fastapi import FastAPI

    from igsp_serve.demo.mount import mount_demo
    from igsp_serve.demo.page import build_demo

    demo = build_demo(backend, model=model, evaluation=kept, teacher=teacher, examples=copy_examples(files))
    return mount_demo(FastAPI(docs_url=None, redoc_url=None, openapi_url=None), demo, path="/"), teacher


def run_demo(bundle: Path, *, host: str = "127.0.0.1", port: int = 7860, **settings: Any) -> None:
    """Serve the page until it is interrupted. Settings as in `make_app`.

    Raises:
        UserError: as in `make_app`, or the port is taken.
    """
    import socket

    import uvicorn

    app, teacher = make_app(bundle, **settings)
    try:
        listener = socket.create_server((host, port), backlog=128)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from error
    try:
        with listener:
            print(f"http://{host}:{listener.getsockname()[1]}/", flush=True)
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3, proxy_headers=True)
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        if teacher is not None:
            teacher.close()
