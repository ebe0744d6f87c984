import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from igsp_serve.demo.journal import Journal

if TYPE_CHECKING:
    from tests.conftest import Bundled


def begun(model: Path, task: str, bundle: Path | None) -> Path:
    """A lesson of a server that was killed."""
    journal = Journal(model)
    source = journal.folder / task
    journal.begin(source, task, bundle)
    (source / "red").mkdir(parents=True)
    journal.close()
    return source


def test_what_a_killed_lesson_left_goes(bundled: "Bundled", tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(bundled.model, model)
    bundle, scratch = tmp_path / "bundle-taught-1", tmp_path / ".bundle-taught-1.77.tmp"
    for folder in (bundle, scratch, tmp_path / "bundle-taught-2"):
        folder.mkdir()
    source = begun(model, "stripes", bundle)
    # It was learned, and killed before the bundle was in use.
    record = model / "tasks" / "01-stripes" / "task.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "source": str(source)}))
    journal = Journal(model)
    journal.open()
    assert sorted(path.name for path in (model / "tasks").iterdir()) == ["00-colors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle-taught-2", "model", "model-taught"]
    assert [path.name for path in journal.folder.iterdir() if path.name != ".lock"] == []
    journal.close()


def test_a_task_that_somebody_else_taught_stays(bundled: "Bundled", tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(bundled.model, model)
    begun(model, "stripes", None)
    journal = Journal(model)
    journal.open()
    assert sorted(path.name for path in (model / "tasks").iterdir()) == ["00-colors", "01-stripes"]
    journal.close()


def test_a_lesson_that_came_to_its_end_stays(tmp_path: Path) -> None:
    model = tmp_path / "model"
    source = begun(model, "hues", None)
    Journal(model).end(source)
    journal = Journal(model)
    journal.open()
    assert source.is_dir()
    journal.close()


def test_half_a_note_is_no_obstacle(tmp_path: Path) -> None:
    model = tmp_path / "model"
    source = begun(model, "hues", None)
    (note,) = source.parent.glob("*.lesson.json")
    note.write_text("{")
    journal = Journal(model)
    journal.open()
    assert not source.exists()
    assert not note.exists()
    journal.close()
