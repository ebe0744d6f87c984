"""Teaching while the page serves: lessons wait in a queue and are learned one at a time in a process of their own.

    learning -> exporting -> adding (the task can be asked for now) -> measuring -> done

A lesson belongs to the server, not to a browser: it goes on when the browser leaves and is found again after a reload.
Whatever ends it early, the model folder is as it was before: nothing is written to it until a task is learned, and a
task whose lesson is cancelled after that is taken back.
"""

import json
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from igsp_deploy.errors import UserError
from igsp_deploy.files import write_json
from igsp_deploy.names import check_task_name
from igsp_serve.demo.backend import DemoBackend
from igsp_serve.demo.journal import Journal
from igsp_serve.demo.learned import default_evaluation
from igsp_serve.demo.lesson import Lesson, Stage
from igsp_serve.demo.model_files import check_same_model, read_model_tasks, take_back_last
from igsp_serve.demo.worker import Stopped, Worker
from igsp_serve.failures import without_paths

logger = logging.getLogger(__name__)

MAX_WAITING = 5
"""Lessons that may wait."""
CHECK_IMAGES = 50
"""Test images of each task the new bundle is checked with."""
NEVER = 10**9
"""Steps between checkpoints: none. An interrupted lesson leaves nothing behind in the model folder."""


class Teacher:
    """Teaches a model folder's model new tasks and adds them to the running backend.

    Attributes:
        model: the model folder.
        evaluation: file where the measured accuracies are kept.
        version: changes whenever there is something new to show.
    """

    def __init__(self, backend: DemoBackend, model: Path, evaluation: Path) -> None:
        """Start the thread that teaches.

        Raises:
            UserError: the model folder is not the one the backend's bundle was made from.
        """
        self.model = model
        self.evaluation = evaluation
        self.version = 0
        self._backend = backend
        self._first_bundle = backend.folder
        self.bundle = backend.folder
        self._worker = Worker()
        self._lessons: list[Lesson] = []
        self._changed = threading.Condition()
        self._closed = False
        self._journal = Journal(model)
        self._journal.open()
        check_same_model(model, read_model_tasks(model), backend.manifest)
        self._thread = threading.Thread(target=self._loop, name="igsp-teacher", daemon=True)
        self._thread.start()

    # What pages and programs ask.

    def lessons(self) -> list[Lesson]:
        """All lessons, oldest first."""
        with self._changed:
            return list(self._lessons)

    def lesson(self, lesson_id: str) -> Lesson:
        """One of them.

        Raises:
            UserError: there is none of that id.
        """
        for lesson in self.lessons():
            if lesson.id == lesson_id:
                return lesson
        raise UserError(f"There is no lesson {lesson_id!r}.")

    def check_name(self, name: str) -> str:
        """Return a name if a new task may have it.

        Raises:
            UserError: bad or taken.
        """
        name = (name or "").strip().lower().replace(" ", "-")
        if not name:
            raise UserError("Give the new task a name, for example: mugs.")
        try:
            check_task_name(name)
        except UserError as error:
            raise UserError(
                f"{name[:64]!r} cannot be the name of a task: use 1 to 64 letters, digits, - and _, and a letter or "
                "digit first; auto, none and plain are taken."
            ) from error
        taken = {task.name for task in read_model_tasks(self.model)} | {x.task for x in self.lessons() if not x.over}
        if name in taken:
            raise UserError(f"There is a task {name!r} already. Choose another name.")
        return name

    def folder_for(self, name: str) -> Path:
        """Where the images of a new task go: they stay there, for measuring and to be looked at.

        From now on a lesson that does not come to its end leaves nothing there; `give_up` says that none begins.
        """
        folder = self._journal.folder / name
        number = 1
        while folder.exists():
            number += 1
            folder = folder.with_name(f"{name}-{number}")
        self._journal.begin(folder, name)
        return folder

    def give_up(self, source: Path) -> None:
        """No lesson comes of the images in `source`, or it came to no end: nothing of it stays."""
        shutil.rmtree(source, ignore_errors=True)
        self._journal.end(source)

    def teach(self, task: str, source: Path, classes: tuple[str, ...], images: int, steps: int) -> Lesson:
        """Put a lesson into the queue.

        Args:
            task: name of the task, from `check_name`.
            source: folder of its images, which becomes the teacher's: it is removed if the task is not learned.
            classes: its classes.
            images: how many there are.
            steps: optimiser steps.

        Raises:
            UserError: the queue is full, or the name is taken.
        """
        self.check_name(task)
        lesson = Lesson(id=uuid.uuid4().hex[:12], task=task, source=source, classes=classes, images=images, steps=steps)
        with self._changed:
            if sum(not x.over for x in self._lessons) > MAX_WAITING:
                raise UserError(f"{MAX_WAITING} lessons are waiting already. Try again when some are done.")
            self._lessons.append(lesson)
            self._note()
        return lesson

    def cancel(self, lesson_id: str) -> Lesson:
        """End a lesson. Nothing of it stays, unless its task was added already.

        Raises:
            UserError: unknown, or over.
        """
        lesson = self.lesson(lesson_id)
        with self._changed:
            if lesson.over:
                raise UserError(f"The lesson about {lesson.task!r} is over already.")
            if lesson.stage in ("adding", "measuring"):
                raise UserError(f"{lesson.task!r} is learned already. You can remove it from the list of tasks.")
            lesson.cancelled = True
            if lesson.stage == "waiting":
                self.give_up(lesson.source)
                self._end(lesson, "cancelled")
            else:
                self._worker.stop()
            self._note()
        return lesson

    def put_back(self, name: str) -> None:
        """Add a task again that was removed from the page.

        Raises:
            UserError: the last bundle does not have it.
        """
        self._backend.add_task(self.bundle, name)
        with self._changed:
            self._note()

    def removed(self) -> list[str]:
        """Tasks of the last bundle that are not in use."""
        from igsp_deploy.bundle.manifest import read_manifest

        present = {task.name for task in self._backend.tasks()}
        return [name for name in read_manifest(self.bundle).task_names() if name not in present]

    def note(self) -> None:
        """Something changed that pages should show."""
        with self._changed:
            self._note()

    def close(self) -> None:
        """End the lesson that runs, and the thread."""
        with self._changed:
            self._closed = True
            for lesson in self._lessons:
                lesson.cancelled = lesson.cancelled or not lesson.over
            self._changed.notify_all()
        self._worker.stop()
        self._thread.join(timeout=15)
        for lesson in self._lessons:
            if lesson.stage == "waiting":
                self.give_up(lesson.source)
        self._journal.close()

    # How.

    def _note(self) -> None:
        self.version += 1
        self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                waiting = [lesson for lesson in self._lessons if lesson.stage == "waiting"]
                if self._closed:
                    return
                if not waiting:
                    self._changed.wait()
                    continue
                lesson = waiting[0]
                self._worker.reset()
                lesson.stage = "starting"
                self._note()
            self._give(lesson)

    def _give(self, lesson: Lesson) -> None:
        bundle = self._new_bundle()
        self._journal.begin(lesson.source, lesson.task, bundle)
        added = False
        outcome: Stage = "failed"
        try:
            self._learn(lesson)
            self._enter(lesson, "exporting")
            self._worker.run(
                ["export", str(self.model), str(bundle), "--check-images", str(CHECK_IMAGES), "--no-latency"]
            )
            self._enter(lesson, "adding")
            self._backend.add_task(bundle, lesson.task)
            added = True
            self._journal.end(lesson.source)
            self._use(bundle)
            lesson.result = {**lesson.result, "bundle": bundle.name}
            self._measure(lesson)
            outcome = "done"
        except Stopped:
            outcome = "done" if added else "cancelled"
        except UserError as error:
            lesson.message = without_paths(str(error))
        except Exception as error:  # the next lesson must not suffer from it
            logger.exception("a lesson failed")
            lesson.message = without_paths(f"Something went wrong here: {error}")
        if not added:
            # Before anybody is told, for the name may be used again then.
            shutil.rmtree(bundle, ignore_errors=True)
            take_back_last(self.model, lesson.task, lesson.source)
            self.give_up(lesson.source)
        with self._changed:
            self._end(lesson, outcome)
            self._note()

    def _learn(self, lesson: Lesson) -> None:
        def heard(event: dict[str, Any]) -> None:
            with self._changed:
                if event.get("event") == "step":
                    lesson.stage = "learning"
                    lesson.reports.append(event)
                elif event.get("event") == "learned":
                    lesson.result = {key: value for key, value in event.items() if key not in ("event", "task")}
                self._note()

        settings = ["--set", f"learn.steps={lesson.steps}", "--set", f"learn.checkpoint_every={NEVER}"]
        arguments = ["train", str(self.model), "--task", f"{lesson.task}={lesson.source}", *settings, "--json"]
        self._worker.run(arguments, heard)

    def _measure(self, lesson: Lesson) -> None:
        """All tasks anew; that they cannot be measured is no fault of the lesson."""
        self._enter(lesson, "measuring")
        try:
            found = measure(self._worker.run, self.model)
            write_json(self.evaluation, found)
            write_json(default_evaluation(self.bundle), found)
        except UserError as error:
            lesson.message = without_paths(f"The accuracies of all tasks could not be measured: {error}")

    def _enter(self, lesson: Lesson, stage: Stage) -> None:
        with self._changed:
            if lesson.cancelled and stage in ("exporting", "adding"):
                raise Stopped
            lesson.stage = stage
            self._note()

    def _end(self, lesson: Lesson, stage: Stage) -> None:
        lesson.stage, lesson.ended = stage, time.time()

    def _new_bundle(self) -> Path:
        number = 1
        while (place := self._first_bundle.with_name(f"{self._first_bundle.name}-taught-{number}")).exists():
            number += 1
        return place

    def _use(self, bundle: Path) -> None:
        """Keep the newest bundle: it has all tasks, also those of the one before."""
        old, self.bundle = self.bundle, bundle
        if old != self._first_bundle:
            shutil.rmtree(old, ignore_errors=True)
            default_evaluation(old).unlink(missing_ok=True)


def measure(run: Callable[[list[str]], str], model: Path) -> Any:
    """Measure all tasks with `igsp evaluate`; returns what it says.

    Raises:
        UserError: it failed, for example because test images are gone.
    """
    return json.loads(run(["evaluate", str(model), "--json"]))
