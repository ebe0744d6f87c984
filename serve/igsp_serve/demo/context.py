"""What all tabs of the page know."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igsp_deploy.errors import UserError
from igsp_serve.demo.backend import DemoBackend
from igsp_serve.demo.learned import read_evaluation
from igsp_serve.demo.model_files import read_model_tasks
from igsp_serve.demo.pictures import card_pictures
from igsp_serve.demo.teacher import Teacher

# Gradio reads it when it is imported: the page asks nobody else for anything.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

Pictures = dict[str, list[tuple[str, str]]]


@dataclass(kw_only=True)
class Context:
    """What all tabs of the page know."""

    backend: DemoBackend
    """What classifies."""
    model: Path | None = None
    """The model folder, if it is here: for example images."""
    evaluation: Path | None = None
    """What `igsp evaluate --json` printed, if it was kept."""
    teacher: Teacher | None = None
    """Teaches new tasks, where that is allowed."""
    examples: Sequence[Path] = ()
    """Images to try out."""
    _pictures: Pictures = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def task_choices(self) -> list[tuple[str, str]]:
        """What a user may choose as task: text and value."""
        names = [(task.name, task.name) for task in self.backend.tasks()]
        return [("Automatic: the model chooses", "auto"), *names, ("None: plain CLIP", "none")]

    def templates(self) -> list[str]:
        """Templates to choose among."""
        own = [task.templates[0] for task in self.backend.tasks() if task.templates]
        return list(dict.fromkeys(["a photo of a {}.", "{}", *own]))

    def bundle(self) -> Path:
        """A bundle with all tasks, also those taught since the start."""
        return self.teacher.bundle if self.teacher is not None else self.backend.folder

    def read_evaluation(self) -> dict[str, Any] | None:
        """The accuracies, if they were measured."""
        return read_evaluation(self.evaluation) if self.evaluation is not None else None

    def pictures(self) -> Pictures:
        """Small pictures of each task, read once."""
        if self.model is None:
            return {}
        with self._lock:
            missing = {task.name for task in self.backend.tasks()} - set(self._pictures)
            if missing:
                try:
                    found = {task.name: task for task in read_model_tasks(self.model)}
                except UserError:
                    found = {}
                for name in missing:
                    self._pictures[name] = card_pictures(found[name]) if name in found else []
            return dict(self._pictures)
