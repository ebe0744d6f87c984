"""The whole loop of `igsp quickstart`, with few images and the debug backbone."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from igsp_deploy.cli.quickstart import run_quickstart
from igsp_deploy.config import ModelConfig
from igsp_train import quickstart_data


def test_quickstart_learns_exports_verifies_and_classifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quickstart_data, "TRAIN_IMAGES", 6)
    monkeypatch.setattr(quickstart_data, "TEST_IMAGES", 3)
    out = tmp_path / "out"
    run_quickstart(out, ModelConfig(backbone="debug"), 4, Console(stderr=True))
    printed = capsys.readouterr()
    for name in ("digits", "surfaces", "letters", "shapes"):
        assert f"after {name}" in printed.out
        assert f"{name}/test/" in printed.out
        assert f"{name}: learned" in printed.err
    assert f"bundle  {out / 'bundle'}" in printed.out
    manifest = json.loads((out / "bundle" / "manifest.json").read_text())
    assert [task["name"] for task in manifest["tasks"]] == ["digits", "surfaces", "letters", "shapes"]

    run_quickstart(out, ModelConfig(backbone="debug"), 4, Console(stderr=True))
    assert capsys.readouterr().err.count("already learned") == 4


def test_a_folder_that_is_no_bundle_is_not_removed(tmp_path: Path) -> None:
    from igsp_deploy.cli.quickstart import _remove_bundle

    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("keep")
    _remove_bundle(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "mine.txt").exists()
