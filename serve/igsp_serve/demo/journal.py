"""What lessons have begun: a killed server cannot clear up behind itself, so the next one does."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

from igsp_deploy.errors import UserError
from igsp_deploy.files import read_json, write_json
from igsp_deploy.locks import try_lock
from igsp_serve.demo.learned import default_evaluation
from igsp_serve.demo.model_files import take_back_last

_SUFFIX = ".lesson.json"


class Journal:
    """Notes of the lessons that are not over, beside their images in `MODEL-taught`."""

    def __init__(self, model: Path) -> None:
        """Nothing is read or written yet."""
        self.folder = model.parent / f"{model.name}-taught"
        self._model = model
        self._held = contextlib.ExitStack()

    def open(self) -> None:
        """Clear what lessons of killed servers left, unless another server teaches this model now."""
        if not self.folder.is_dir():
            return
        if self._held.enter_context(try_lock(self.folder / ".lock")):
            for note in sorted(self.folder.glob(f"*{_SUFFIX}")):
                self._undo(note)

    def begin(self, source: Path, task: str, bundle: Path | None = None) -> None:
        """A lesson about `task` has its images in `source`, and will export `bundle`."""
        values: dict[str, Any] = {"task": task, "bundle": str(bundle) if bundle else None}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held.enter_context(try_lock(self.folder / ".lock"))
        write_json(_note(source), values)

    def end(self, source: Path) -> None:
        """That lesson is over, or its task is in use."""
        _note(source).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another server teach this model."""
        self._held.close()

    def _undo(self, note: Path) -> None:
        source = note.with_name(note.name.removesuffix(_SUFFIX))
        try:
            values = read_json(note, "note of a lesson")
            take_back_last(self._model, values["task"], source)
            bundle = Path(values["bundle"]) if values["bundle"] else None
        except (UserError, KeyError, TypeError):
            bundle = None  # it was killed while it wrote the note: nothing had begun
        if bundle is not None:
            for place in (bundle, *bundle.parent.glob(f".{bundle.name}.*.tmp")):
                shutil.rmtree(place, ignore_errors=True)
            default_evaluation(bundle).unlink(missing_ok=True)
        shutil.rmtree(source, ignore_errors=True)
        note.unlink(missing_ok=True)


def _note(source: Path) -> Path:
    return source.with_name(source.name + _SUFFIX)
