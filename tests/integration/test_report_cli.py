"""`igsp report` from the command line: a page, or one line that says what to do."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from igsp_deploy.config import ModelConfig, SelectorConfig
from igsp_deploy.installed import install_command
from tests.unit.train.report.page_parts import Parts, external


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, make_model: Any) -> Path:
    made: Path = make_model(
        tmp_path_factory.mktemp("report") / "model", ModelConfig(backbone="debug", rank=2, vision_blocks=2)
    )
    return made


@pytest.fixture(scope="module")
def evaluation(model: Path, igsp: Any) -> Path:
    path = model.parent / "evaluation.json"
    path.write_text(igsp("evaluate", model, "--json").stdout)
    return path


def test_it_measures_and_writes_one_closed_page(model: Path, igsp: Any, tmp_path: Path) -> None:
    result = igsp("report", model, "--title", "Stripes & <colors>", "--images", 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "report.html\n"
    assert "colors: 8 test images" in result.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    parts = Parts(page)
    assert external(page) == []
    wrong = json.loads(igsp("evaluate", model, "--json").stdout)["worst"]
    assert parts.tags.count("img") == 6 + len(wrong) > 6, "the test is too easy"
    assert parts.images_without_text == 0
    assert "Stripes & <colors>" in parts.text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_an_evaluation_is_taken_and_its_numbers_shown(model: Path, evaluation: Path, igsp: Any, tmp_path: Path) -> None:
    values = json.loads(evaluation.read_text())
    values["metrics"]["given"]["last"] = 12.34
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(values))
    result = igsp("report", model, "--evaluation", changed, "--out", tmp_path / "deep/er/r.html", "--images", 0)
    assert result.returncode == 0, result.stderr
    assert "test images" not in result.stderr
    page = (tmp_path / "deep/er/r.html").read_text(encoding="utf-8")
    assert "12.3" in page
    assert "No pictures were asked for." in page


def test_images_that_are_gone_are_said_on_the_page(
    model: Path, evaluation: Path, igsp: Any, tmp_path: Path, task_data: Path
) -> None:
    shutil.copytree(model, tmp_path / "m")
    moved = tmp_path / "elsewhere"
    shutil.copytree(task_data / "colors", moved)
    # The stripes are looked for where there is nothing.
    for record in (tmp_path / "m/tasks").glob("*/task.json"):
        record.write_text(record.read_text().replace(str(task_data), str(tmp_path / "nowhere")))
        _sum_again(record.parent)
    out = tmp_path / "r.html"
    result = igsp("report", tmp_path / "m", "--evaluation", evaluation, "--task", f"colors={moved}", "--out", out)
    assert result.returncode == 0, result.stderr
    parts = Parts(out.read_text(encoding="utf-8"))
    worst = [row for row in json.loads(evaluation.read_text())["worst"] if row["task"] == "colors"]
    assert parts.tags.count("img") == 8 + len(worst) > 8, "the test is too easy"
    text = "".join(parts.text)
    assert text.count("the test images are not where they were") == 1
    assert "any more" in text or "stripes does not exist" in text
    assert str(tmp_path) not in text
    # Measuring anew needs them, and says how to point to them.
    (tmp_path / "fresh").mkdir()
    fresh = ["--out", tmp_path / "fresh" / "r"]
    for command in (["evaluate", tmp_path / "m", *fresh], ["report", tmp_path / "m", "--images", 0, *fresh]):
        refused = igsp(*command, "--task", f"colors={moved}")
        assert refused.returncode == 1
        (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
        assert "stripes does not exist" in line
        assert "take --task stripes=FOLDER" in line
        assert list((tmp_path / "fresh").iterdir()) == []
        found = igsp(*command, "--task", f"colors={moved}", "--task", f"stripes={task_data / 'stripes'}")
        assert found.returncode == 0, found.stderr
        (tmp_path / "fresh" / "r").unlink()


def _sum_again(folder: Path) -> None:
    from igsp_deploy.files import write_sums

    (folder / "SHA256SUMS").unlink()
    write_sums(folder)


def test_what_is_wrong_is_one_line_and_leaves_nothing(model: Path, evaluation: Path, igsp: Any, tmp_path: Path) -> None:
    other = json.loads(evaluation.read_text())
    other["tasks"] = ["cats", "dogs"]
    (tmp_path / "other.json").write_text(json.dumps(other))
    (tmp_path / "half.json").write_text(evaluation.read_text()[:200])
    (tmp_path / "file").write_text("x")
    _empty(tmp_path / "empty")
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments, text in (
        ([tmp_path / "empty"], "has no learned task yet"),
        ([tmp_path / "absent"], "is not a model folder"),
        ([model, "--evaluation", tmp_path / "other.json"], "is about the tasks cats, dogs, the model has colors"),
        ([model, "--evaluation", tmp_path / "half.json"], "half.json is damaged"),
        ([model, "--evaluation", tmp_path / "absent.json"], "does not exist"),
        ([model, "--out", tmp_path], "is a folder"),
        ([model, "--out", tmp_path / "file/r.html"], "is a file, not a folder"),
        ([model, "--task", "cats=x"], "there is no task 'cats'"),
    ):
        result = igsp("report", *arguments, cwd=tmp_path)
        assert result.returncode == 1, (arguments, result.stderr)
        assert result.stderr.startswith("error: ")
        assert text in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def _empty(path: Path) -> None:
    from igsp_deploy.model.folder import ModelFolder
    from igsp_deploy.model.loading import load_backbone

    model = ModelConfig(backbone="debug", rank=2)
    ModelFolder.create(path, load_backbone("debug"), model, SelectorConfig())


def test_without_jinja2_the_extra_is_named(
    model: Path, evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    import igsp_deploy.cli.main

    monkeypatch.setitem(sys.modules, "jinja2", None)
    for name in [name for name in sys.modules if name.startswith("igsp_train.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "argv", ["igsp", "report", str(model), "--out", str(tmp_path / "r.html")])
    with pytest.raises(SystemExit) as leaving:
        igsp_deploy.cli.main.main()
    assert leaving.value.code == 1
    assert f"Install it with: {install_command('train')}" in capsys.readouterr().err


def test_evaluate_shows_classes_and_writes_mistakes(model: Path, igsp: Any, tmp_path: Path) -> None:
    result = igsp("evaluate", model, "--per-class", "--errors", "deep/errors.csv", "--out", "e.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in ("Classes of stripes, task given", "Classes of colors, task given", "precision %", "calibration error"):
        assert text in result.stdout
    with (tmp_path / "deep" / "errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"deep/errors.csv: {len(rows)} images with a wrong answer" in result.stderr
    assert all(Path(row["file"]).is_file() for row in rows)
    values = json.loads((tmp_path / "e.json").read_text())
    given = sum(row["images"] * row["recall"] for row in values["per_class"][0]) / values["test_images"][0]
    assert given == pytest.approx(values["given"][-1][0], abs=0.02)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--errors", "."], "is a folder"),
        (["--out", "."], "is a folder"),
        (["--out", "x", "--errors", "./x"], "is given for two outputs"),
    ],
)
def test_evaluate_looks_at_its_places_first(
    options: list[str], text: str, model: Path, igsp: Any, tmp_path: Path
) -> None:
    result = igsp("evaluate", model, *options, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert text in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_folder_of_this_machine_is_on_the_page(model: Path, igsp: Any, tmp_path: Path, task_data: Path) -> None:
    """Data with a space in its path, a damaged test image, and a page that is passed on."""
    data = tmp_path / "my photos"
    shutil.copytree(task_data, data)
    (data / "colors/test/red/11.png").write_bytes(b"no image")
    settings = ["--set", "model.backbone=debug", "--set", "learn.steps=2", "--set", "data.num_workers=0"]
    tasks = ["--task", f"colors={data / 'colors'}", "--task", f"stripes={data / 'stripes'}"]
    assert igsp("train", tmp_path / "m", *settings, *tasks).returncode == 0
    (data / "colors/test/red/12.png").unlink()
    assert igsp("report", tmp_path / "m", "--out", tmp_path / "r.html").returncode == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    text = "|".join(part.strip() for part in Parts(page).text if part.strip())
    assert re.findall(r"(?<![\w.])/[\w-]+/[^|]*", text) == []
    assert str(tmp_path) not in page
    assert str(tmp_path.parent) not in page
    assert "|test/red/11.png|no image|when it was learned|test/red/11.png|no image|in the evaluation|" in text
    assert "--task 'colors=colors'" in text
    shutil.rmtree(data)
    assert igsp("evaluate", tmp_path / "m").returncode == 1
