"""One lesson: a task that the model is to learn, and how far it has come."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Stage = Literal["waiting", "starting", "learning", "exporting", "adding", "measuring", "done", "cancelled", "failed"]
OVER = ("done", "cancelled", "failed")


@dataclass(kw_only=True)
class Lesson:
    """A task to learn. Only the teacher's thread changes it."""

    id: str
    """Names it for programs."""
    task: str
    """Name of the task."""
    source: Path
    """Its images."""
    classes: tuple[str, ...]
    """Its classes."""
    images: int
    """Number of its images."""
    steps: int
    """Optimiser steps."""
    stage: Stage = "waiting"
    """Where it is."""
    reports: list[dict[str, Any]] = field(default_factory=list)
    """What each step did, as the worker says it."""
    result: dict[str, Any] = field(default_factory=dict)
    """What the worker says at the end: accuracies, experts."""
    message: str = ""
    """Why it failed, or what else is to be said."""
    cancelled: bool = False
    """Somebody asked for its end."""
    created: float = field(default_factory=time.time)
    """When it was asked for, in seconds since 1970."""
    ended: float | None = None
    """When it was over."""

    @property
    def over(self) -> bool:
        """Nothing more happens to it."""
        return self.stage in OVER

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        last = self.reports[-1] if self.reports else {}
        return {
            "lesson": self.id,
            "task": self.task,
            "classes": list(self.classes),
            "images": self.images,
            "stage": self.stage,
            "step": last.get("step", 0),
            "steps": self.steps,
            "phase": last.get("phase"),
            "loss": last.get("loss"),
            "accuracy": last.get("accuracy"),
            "message": self.message,
            **self.result,
        }
