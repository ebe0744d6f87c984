"""The whole loop of `igsp quickstart`, with few images and the debug backbone."""

import json
from pathlib import Path

import pytest

from igsp_deploy.cli.quickstart import TASKS, run_quickstart
from igsp_serve.demo.learned import default_evaluation
from igsp_train import quickstart_data

SETTINGS = ["model.backbone=debug", "learn.steps=4"]


def test_quickstart_prints_and_runs_commands_that_learn_export_verify_and_classify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quickstart_data, "TRAIN_IMAGES", 6)
    monkeypatch.setattr(quickstart_data, "TEST_IMAGES", 3)
    out = tmp_path / "out"
    run_quickstart(out, SETTINGS)
    printed = capsys.readouterr()
    for name in TASKS:
        assert f"after {name}" in printed.out
        assert f"{name}/test/" in printed.out
        assert f"{name}: learned" in printed.err
    for words in ("data example", "train", "evaluate", "export", "verify", "predict"):
        assert f"$ igsp {words} " in printed.err
    assert f"bundle  {out / 'bundle'}" in printed.out
    manifest = json.loads((out / "bundle" / "manifest.json").read_text())
    assert tuple(task["name"] for task in manifest["tasks"]) == TASKS

    # What `igsp demo` shows of it: the accuracies that were printed above.
    kept = json.loads(default_evaluation(out / "bundle").read_text())
    assert tuple(kept["tasks"]) == TASKS

    run_quickstart(out, SETTINGS)  # goes on where it stands, and makes the bundle anew
    again = capsys.readouterr().err
    assert again.count("already learned") == len(TASKS)
    assert f"$ rm -r {out / 'bundle'}" in again

    (out / "bundle" / "manifest.json").rename(out / "bundle" / "mine.txt")
    with pytest.raises(Exception, match="exists already"):
        run_quickstart(out, SETTINGS)
    assert (out / "bundle" / "mine.txt").exists()
