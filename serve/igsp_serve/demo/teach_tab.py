"""The tab where the model is taught a new task."""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from igsp_deploy.errors import UserError
from igsp_deploy.files import explain_os_error, write_json
from igsp_deploy.names import DEFAULT_TEMPLATE
from igsp_deploy.runtime.image_files import SUFFIXES
from igsp_deploy.runtime.prompts import check_template
from igsp_serve.demo.answer_html import hint_html, problem_html
from igsp_serve.demo.archive import check_classes, check_label, read_archive, unpack
from igsp_serve.demo.context import Context
from igsp_serve.demo.lesson import Lesson
from igsp_serve.demo.lesson_html import lessons_html
from igsp_serve.demo.teacher import Teacher
from igsp_serve.demo.uploads import read_upload, upload_path

STEPS = 200
"""Optimiser steps a task, unless told otherwise."""
EVERY_S = 1.0
"""How often the page asks how far a lesson is."""

Staged = dict[str, list[str]]
"""Class -> uploaded files, while a user collects classes one by one."""


def teach_archive(teacher: Teacher, name: str, payload: Any, words: str, template: str, steps: int) -> Lesson:
    """Begin a lesson with a zip of images.

    Args:
        teacher: who teaches.
        name: of the new task.
        payload: the uploaded zip.
        words: lines `folder = words` for what stands in prompts; may be empty.
        template: prompt with one `{}`.
        steps: optimiser steps.

    Raises:
        UserError: what is wrong.
    """
    name = teacher.check_name(name)
    template = check_template(template or "")
    members = read_archive(upload_path(payload)[0])
    classes = tuple(sorted({member.label for member in members}))
    display = _read_words(words, classes)
    folder = teacher.folder_for(name)
    with _or_nothing(teacher, folder):
        unpack(upload_path(payload)[0], members, folder)
        write_json(folder / "classes.json", {"template": template, "classes": display})
        return teacher.teach(name, folder, classes, len(members), steps)


def teach_classes(teacher: Teacher, name: str, staged: Staged, template: str, steps: int) -> Lesson:
    """Begin a lesson with images collected class by class.

    Raises:
        UserError: what is wrong.
    """
    name = teacher.check_name(name)
    template = check_template(template or "")
    check_classes({label: len(files) for label, files in staged.items()})
    for label, files in staged.items():
        for file in files:
            if not Path(file).is_file():
                raise UserError(
                    f"The images of class {label!r} are not here any more: they are kept for an hour. Reload the page "
                    "and add the classes again."
                )
    folder = teacher.folder_for(name)
    with _or_nothing(teacher, folder):
        for label, files in staged.items():
            (folder / check_label(label)).mkdir(parents=True)
            for number, file in enumerate(files):
                shutil.copyfile(file, folder / label / f"{number:05d}{Path(file).suffix.lower()}")
        write_json(folder / "classes.json", {"template": template, "classes": {}})
        images = sum(len(files) for files in staged.values())
        return teacher.teach(name, folder, tuple(sorted(staged)), images, steps)


@contextmanager
def _or_nothing(teacher: Teacher, folder: Path) -> Iterator[None]:
    """Nothing stays in `folder` unless a lesson begins."""
    try:
        yield
    except OSError as error:
        teacher.give_up(folder)
        raise explain_os_error(error, folder) from error
    except BaseException:
        teacher.give_up(folder)
        raise


def _read_words(text: str, classes: tuple[str, ...]) -> dict[str, str]:
    words = {}
    for line in (text or "").splitlines():
        if not line.strip():
            continue
        label, equals, word = (part.strip() for part in line.partition("="))
        if not equals or not word or len(word) > 200:
            raise UserError(f"Names of classes are lines such as n02123045 = tabby cat; got {line.strip()[:60]!r}.")
        if label not in classes:
            raise UserError(f"The zip has no class {label[:60]!r}. It has: {', '.join(classes[:8])}.")
        words[label] = word
    return words


def stage_class(staged: Staged, label: str, payloads: Any) -> Staged:
    """Add a class to those collected.

    Raises:
        UserError: bad name, or no image among the files.
    """
    label = check_label(label or "")
    files = []
    for payload in payloads or []:
        path, name = upload_path(payload)
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{name} is not an image ({', '.join(sorted(SUFFIXES))}). Leave it out.")
        read_upload(payload)
        files.append(str(path))
    if not files:
        raise UserError(f"Choose the images of {label!r} first.")
    return {**staged, label: [*staged.get(label, []), *files]}


def _staged_html(staged: Staged) -> str:
    if not staged:
        return hint_html("No class yet. Two are the least; ten images or more of each are good.")
    rows = Counter({label: len(files) for label, files in staged.items()})
    return '<p class="igsp-note">Classes so far: ' + ", ".join(_count(*row) for row in rows.items()) + "</p>"


def _count(label: str, images: int) -> str:
    from html import escape

    return f"<b>{escape(label)}</b> ({images} images)"


def running_choices(teacher: Teacher) -> list[tuple[str, str]]:
    """Lessons that can be cancelled."""
    return [(lesson.task, lesson.id) for lesson in teacher.lessons() if not lesson.over]


def add_teach_tab(context: Context, teacher: Teacher) -> None:
    """Add the form, the progress and the list of tasks to remove."""
    with gr.Row(elem_classes="igsp-row"):
        with gr.Column(scale=4, min_width=300):
            form = _Form()
        with gr.Column(scale=5, min_width=300):
            lessons = _Lessons(teacher)
            tasks = _Removing(context, teacher)
    form.connect(teacher)
    lessons.connect(context, teacher, tasks, form.said)
    tasks.connect(context, teacher, form.said)


_QUIET: dict[str, Any] = {"api_visibility": "private"}
# As they come: what is wrong with a value is told in our words.
_RAW: dict[str, Any] = {**_QUIET, "preprocess": False}


class _Form:
    """What a task is taught from: a zip, or class by class."""

    def __init__(self) -> None:
        self.staged = gr.State({})
        self.name = gr.Textbox(label="Name of the new task", placeholder="for example: mugs", elem_id="teach-name")
        with gr.Tabs():
            with gr.Tab("A zip of folders"):
                self.archive = gr.File(
                    label="Zip with one folder of images for each class", height=170, elem_id="teach-zip"
                )
                self.words = gr.Textbox(
                    label="Names of the classes (optional)",
                    info="Folder names are used; better ones as lines: folder = name",
                    # As many as at most: else Gradio measures the box anew for each line put into it.
                    lines=3,
                    max_lines=3,
                    elem_id="teach-words",
                )
                self.from_zip = gr.Button("Teach it from the zip", variant="primary", elem_id="teach-start")
            with gr.Tab("Class by class"):
                self.label = gr.Textbox(label="Name of a class", placeholder="for example: red mug")
                self.files = gr.File(label="Its images", file_count="multiple", height=170, elem_id="teach-files")
                self.add = gr.Button("Add this class")
                self.collected = gr.HTML(_staged_html({}), elem_id="teach-classes")
                self.from_classes = gr.Button("Teach it these classes", variant="primary")
        with gr.Accordion("More", open=False):
            self.template = gr.Textbox(
                DEFAULT_TEMPLATE, label="Template", info="{} is where the name of a class goes", elem_id="template2"
            )
            self.steps = gr.Number(
                STEPS, label="Steps", info="More steps learn longer", minimum=2, maximum=5000, precision=0,
                elem_id="teach-steps",
            )  # fmt: skip
        self.said = gr.HTML("", elem_id="teach-said")

    def connect(self, teacher: Teacher) -> None:
        """Let the buttons do what they say."""

        def told(begun: Lesson, more: str = "") -> str:
            text = f"{begun.task}: {begun.images} images of {len(begun.classes)} classes.{more}"
            return f'<p class="igsp-good" role="status">{text}</p>'

        def begin_zip(name: str, payload: Any, words: str, template: str, steps: float) -> str:
            try:
                begun = teach_archive(teacher, name, payload, words, template, check_steps(steps))
            except UserError as error:
                return problem_html(str(error))
            return told(begun, " It goes on if you leave.")

        def begin_classes(name: str, staged: Staged, template: str, steps: float) -> tuple[str, Any, str]:
            try:
                begun = teach_classes(teacher, name, staged, template, check_steps(steps))
            except UserError as error:
                return problem_html(str(error)), staged, _staged_html(staged)
            return told(begun), {}, _staged_html({})

        def on_add(staged: Staged, label: str, payloads: Any) -> tuple[Any, str, Any, Any]:
            try:
                staged = stage_class(staged, label, payloads)
            except UserError as error:
                return staged, problem_html(str(error)), gr.skip(), gr.skip()
            return staged, _staged_html(staged), "", None

        zipped = [self.name, self.archive, self.words, self.template, self.steps]
        self.from_zip.click(begin_zip, zipped, self.said, **_RAW)
        classes = [self.name, self.staged, self.template, self.steps]
        self.from_classes.click(begin_classes, classes, [self.said, self.staged, self.collected], **_RAW)
        added = [self.staged, self.collected, self.label, self.files]
        self.add.click(on_add, [self.staged, self.label, self.files], added, **_RAW)


class _Removing:
    """The tasks that may be taken out of use, and those that were."""

    def __init__(self, context: Context, teacher: Teacher) -> None:
        with gr.Accordion("Remove a task, or put it back", open=False):
            gr.Markdown(
                "A removed task is no longer asked here. The model folder keeps it, and it can be put back; the "
                "other tasks do not change."
            )
            self.removable = gr.Dropdown(_names(context), label="Task", value=None, elem_id="remove-task")
            self.remove = gr.Button("Remove it", elem_id="remove")
            self.gone = gr.Dropdown(teacher.removed(), label="Removed tasks", value=None, elem_id="removed-tasks")
            self.back = gr.Button("Put it back", elem_id="put-back")

    def connect(self, context: Context, teacher: Teacher, said: gr.HTML) -> None:
        """Let the buttons do what they say."""

        def on_remove(chosen: str | None) -> tuple[str, Any]:
            if not chosen:
                return problem_html("Choose a task first."), None
            return _change(lambda: context.backend.remove_task(chosen), teacher, f"{chosen} is removed."), None

        def on_back(chosen: str | None) -> tuple[str, Any]:
            if not chosen:
                return problem_html("Choose a task first."), None
            return _change(lambda: teacher.put_back(chosen), teacher, f"{chosen} is back."), None

        self.remove.click(on_remove, self.removable, [said, self.removable], **_RAW)
        self.back.click(on_back, self.gone, [said, self.gone], **_RAW)


class _Lessons:
    """How far the lessons are, and the way to cancel one."""

    def __init__(self, teacher: Teacher) -> None:
        self.progress = gr.HTML(lessons_html(teacher.lessons()), elem_id="teach-progress")
        with gr.Group(visible=False) as self.stopping:
            self.lesson = gr.Dropdown([], label="Lesson to cancel", elem_id="teach-lesson")
            self.cancel = gr.Button("Cancel this lesson", variant="stop", elem_id="teach-cancel")
        self.seen = gr.State(-1)

    def connect(self, context: Context, teacher: Teacher, tasks: _Removing, said: gr.HTML) -> None:
        """Keep it up to date, with the lists of tasks, which lessons change."""

        def on_tick(seen: int) -> list[Any]:
            if teacher.version == seen:
                return [gr.skip()] * 6
            version = teacher.version
            choices = running_choices(teacher)
            return [
                version,
                lessons_html(teacher.lessons()),
                gr.Group(visible=bool(choices)),
                gr.Dropdown(choices=choices, value=choices[0][1] if choices else None),
                gr.Dropdown(choices=_names(context)),
                gr.Dropdown(choices=teacher.removed()),
            ]

        def on_cancel(chosen: str | None) -> str:
            if not chosen:
                return problem_html("Choose a lesson first.")
            try:
                cancelled = teacher.cancel(chosen)
            except UserError as error:
                return problem_html(str(error))
            return hint_html(f"Cancelling {cancelled.task}.")

        outputs = [self.seen, self.progress, self.stopping, self.lesson, tasks.removable, tasks.gone]
        gr.Timer(EVERY_S).tick(on_tick, self.seen, outputs, show_progress="hidden", queue=False, **_QUIET)
        self.cancel.click(on_cancel, self.lesson, said, **_RAW)


def _change(change: Any, teacher: Teacher, text: str) -> str:
    try:
        change()
    except UserError as error:
        return problem_html(str(error))
    teacher.note()
    return hint_html(text)


def _names(context: Context) -> list[str]:
    return [task.name for task in context.backend.tasks()]


def check_steps(value: Any) -> int:
    """Return `value` if it may be the number of steps of a lesson.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, (int, float)) or not 2 <= value <= 5000:
        raise UserError("Steps must be a whole number from 2 to 5,000.")
    return int(value)
